// FolderServer: connections that are served, one after the other and at its end; folders that are
// not there.
#include "cli/run/folder_server.h"

#include <array>
#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include "block/nbd/client/connection.h"

namespace strata::cli {
namespace {

class FolderServerTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "folderXXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        std::ofstream(folder_ / "file") << "content";
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }
    /// What the server says first; empty at its end.
    static std::string greeting(const UniqueFd& socket) {
        pollfd wanted{.fd = socket.get(), .events = POLLIN, .revents = 0};
        std::array<char, 8> bytes{};
        if (::poll(&wanted, 1, 10'000) != 1) {
            return "nothing came";
        }
        const ssize_t got = ::read(socket.get(), bytes.data(), bytes.size());
        return {bytes.data(), static_cast<std::size_t>(got < 0 ? 0 : got)};
    }
    /// As a machine has it: writes a sector, then reads it.
    Result<std::vector<std::byte>> written_and_read(FolderServer& server) {
        namespace nbd = block::nbd;
        auto loop = STRATA_TRY(block::Loop::create({.engine = block::IoEngine::Threads}));
        UniqueFd socket = STRATA_TRY(server.connect());
        auto stream = STRATA_TRY(nbd::Stream::adopt(*loop, std::move(socket), "test"));
        const auto connection = STRATA_TRY(loop->run(
            nbd::Connection::begin(std::move(stream), {}, nullptr, std::chrono::seconds(10))));
        std::vector<std::byte> sector(512, std::byte{7}), got(1024);
        STRATA_TRY_VOID(loop->run(connection->request({.type = nbd::CommandType::Write,
                                                       .offset = kAt,
                                                       .length = 512,
                                                       .buffers = Buffers(std::span(sector))},
                                                      nullptr)));
        STRATA_TRY_VOID(loop->run(connection->request(
            {.offset = kAt, .length = 1024, .buffers = Buffers(std::span(got))}, nullptr)));
        STRATA_TRY_VOID(loop->run(connection->disconnect()));
        return got;
    }
    using Buffers = block::Buffers;
    static constexpr std::uint64_t kAt = 1U << 20;
    std::filesystem::path folder_;
};

TEST_F(FolderServerTest, EachConnectionIsServedUntilTheServerGoes) {
    auto server = FolderServer::create({"fat:" + folder_.string()});
    ASSERT_TRUE(server.ok());
    ASSERT_TRUE((*server)->start().ok());
    auto first = (*server)->connect();
    ASSERT_TRUE(first.ok()) << first.error().text();
    EXPECT_EQ(greeting(*first), "NBDMAGIC");
    first->reset();  // as a client that was killed
    const auto second = (*server)->connect();
    ASSERT_TRUE(second.ok());
    EXPECT_EQ(greeting(*second), "NBDMAGIC");
    server->reset();
    std::string rest = greeting(*second);
    while (!rest.empty() && rest != "nothing came") {
        rest = greeting(*second);
    }
    EXPECT_EQ(rest, "");
}

TEST_F(FolderServerTest, FolderThatIsNotThereIsToldToWhoConnects) {
    auto server = FolderServer::create({"fat:" + folder_.string() + "/missing"});
    ASSERT_TRUE(server.ok());
    ASSERT_TRUE((*server)->start().ok());
    const auto refused = (*server)->connect();
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().kind(), ErrorKind::NotFound);
}

TEST_F(FolderServerTest, WritesAreKeptUntilTheServerGoes) {
    for (int round = 0; round < 2; ++round) {
        const auto server = FolderServer::create({"fat:" + folder_.string(), true});
        ASSERT_TRUE(server.ok() && (*server)->start().ok());
        const auto got = written_and_read(**server);
        ASSERT_TRUE(got.ok()) << got.error().text();
        EXPECT_EQ(got->front(), std::byte{7});
        EXPECT_EQ(got->back(), std::byte{0});
    }
    std::ifstream file(folder_ / "file");
    std::string text;
    file >> text;
    EXPECT_EQ(text, "content");
}

TEST_F(FolderServerTest, WithoutThatTheyAreRefused) {
    const auto server = FolderServer::create({"fat:" + folder_.string()});
    ASSERT_TRUE(server.ok() && (*server)->start().ok());
    EXPECT_FALSE(written_and_read(**server).ok());
}

TEST_F(FolderServerTest, ServerThatWasNotStartedGoes) {
    EXPECT_TRUE(FolderServer::create({"fat:" + folder_.string()}).ok());
}

}  // namespace
}  // namespace strata::cli
