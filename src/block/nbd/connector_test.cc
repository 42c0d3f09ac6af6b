// Connector and opener: over the channel, and what becomes of a channel that ends.
#include "block/nbd/connector.h"

#include <filesystem>
#include <string>

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

namespace strata::block::nbd {
namespace {

constexpr std::chrono::milliseconds kLimit{10000};

class ConnectorTest : public testing::Test {
  protected:
    void SetUp() override {
        address_.path =
            std::filesystem::path(testing::TempDir()) / ("opener-" + std::to_string(getpid()));
        auto made = ConnectionOpener::create(address_);
        ASSERT_TRUE(made.ok());
        opener_ = std::move(made->first);
        connector_ = std::make_unique<ChannelConnector>(std::move(made->second));
        ASSERT_TRUE(opener_->start().ok());
    }
    void TearDown() override { std::filesystem::remove(address_.path); }
    Result<UniqueFd> connect(std::chrono::milliseconds limit = kLimit) {
        return loop_->run(connector_->connect(*loop_, limit));
    }
    const std::unique_ptr<Loop> loop_ =
        std::move(*Loop::create({.engine = IoEngine::Threads, .depth = 8, .workers = 1}));
    Address address_;
    std::unique_ptr<ConnectionOpener> opener_;
    std::unique_ptr<ChannelConnector> connector_;
};

TEST_F(ConnectorTest, SocketIsHandedOverEachTime) {
    const auto listener = listen_on(address_, 4);
    ASSERT_TRUE(listener.ok());
    for (int round = 0; round < 2; ++round) {
        const auto socket = connect();
        ASSERT_TRUE(socket.ok()) << socket.error().text();
        const UniqueFd peer(::accept(listener->get(), nullptr, nullptr));
        ASSERT_EQ(::send(socket->get(), "x", 1, 0), 1);
        char got = 0;
        EXPECT_EQ(::recv(peer.get(), &got, 1, 0), 1);
        EXPECT_EQ(got, 'x');
    }
}

TEST_F(ConnectorTest, ServerThatIsNotThereIsTold) {
    const auto socket = connect();
    ASSERT_FALSE(socket.ok());
    EXPECT_EQ(socket.error().kind(), ErrorKind::Unreachable);
    EXPECT_NE(socket.error().text().find(address_.path), std::string::npos);
}

TEST_F(ConnectorTest, ChannelThatEndsEndsAllConnections) {
    opener_.reset();
    EXPECT_EQ(connect().error().kind(), ErrorKind::WrongState);
}

TEST(ChannelConnectorTest, AnswersThatComeTooLateAreDropped) {
    auto ends = io::PacketSocket::pair();
    ASSERT_TRUE(ends.ok());
    const auto loop =
        std::move(*Loop::create({.engine = IoEngine::Threads, .depth = 8, .workers = 1}));
    ChannelConnector connector(std::move(ends->second).release());
    auto late = loop->run(connector.connect(*loop, std::chrono::milliseconds(1)));
    EXPECT_EQ(late.error().system_errno(), ETIMEDOUT);
    ASSERT_TRUE(ends->first.send("1", {STDERR_FILENO}).ok());
    ASSERT_TRUE(ends->first.send("nonsense").ok());
    ASSERT_TRUE(ends->first.send("2 nobody there").ok());
    const auto next = loop->run(connector.connect(*loop, kLimit));
    EXPECT_EQ(next.error().kind(), ErrorKind::Unreachable);
    EXPECT_NE(next.error().text().find("nobody there"), std::string::npos);
}

}  // namespace
}  // namespace strata::block::nbd
