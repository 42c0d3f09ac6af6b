// ControlServer tests: clients that behave, and those that do not.
#include "cli/control/control_server.h"

#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "io/passed_fds.h"

namespace strata::cli {
namespace {

class ControlServerTest : public testing::Test {
  protected:
    struct Request {
        std::uint64_t id;
        api::Json body;
        std::size_t fds;
    };
    void SetUp() override {
        std::string folder =
            (std::filesystem::temp_directory_path() / "strata-control-XXXXXX").string();
        ASSERT_NE(::mkdtemp(folder.data()), nullptr);
        folder_ = folder;
        loop_ = io::EventLoop::create().value();
        server_ = listen().value();
    }
    void TearDown() override {
        server_.reset();
        std::filesystem::remove_all(folder_);
    }
    std::string path() const { return folder_ + "/m.sock"; }
    Result<std::unique_ptr<ControlServer>> listen() {
        return ControlServer::create(
            *loop_, path(), "m",
            [this](std::uint64_t id, api::Json body, std::vector<UniqueFd> fds) {
                requests_.push_back({id, std::move(body), fds.size()});
            });
    }
    UniqueFd connect() {
        UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, path().c_str(), path().size() + 1);
        // SAFETY: the socket API's own cast.
        EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
        turn();
        EXPECT_NE(heard(fd).find(R"("machine":"m")"), std::string::npos);
        return fd;
    }
    void turn() {
        for (int i = 0; i < 20; ++i) {
            loop_->run_once(std::chrono::milliseconds(0));
        }
    }
    void say(const UniqueFd& fd, std::string_view text, int passed = -1) {
        iovec piece{const_cast<char*>(text.data()), text.size()};  // SAFETY: only read
        msghdr message{};
        message.msg_iov = &piece;
        message.msg_iovlen = 1;
        io::FdRoom<1> room;
        if (passed >= 0) {
            io::pass_fds(message, room.bytes, std::span(&passed, 1));
        }
        EXPECT_GT(sendmsg(fd.get(), &message, MSG_NOSIGNAL), 0);
        turn();
    }
    static std::string heard(const UniqueFd& fd) {
        std::array<char, 4096> bytes{};
        const ssize_t got = read(fd.get(), bytes.data(), bytes.size());
        return got > 0 ? std::string(bytes.data(), static_cast<std::size_t>(got)) : std::string();
    }
    static bool closed(const UniqueFd& fd) {
        std::array<char, 4096> bytes{};
        ssize_t got = 1;
        while (got > 0) {
            got = read(fd.get(), bytes.data(), bytes.size());
        }
        return got == 0 || errno != EAGAIN;
    }

    std::string folder_;
    std::unique_ptr<io::EventLoop> loop_;
    std::unique_ptr<ControlServer> server_;
    std::vector<Request> requests_;
};

TEST_F(ControlServerTest, RepliesFindTheirClientAndEventsGoToAll) {
    const UniqueFd first = connect();
    const UniqueFd second = connect();
    say(first, "{\"id\":7,\"execute\":\"pause\"}\n");
    ASSERT_EQ(requests_.size(), 1U);
    EXPECT_EQ(requests_[0].body.dump(), R"({"execute":"pause"})");
    server_->reply(requests_[0].id, {{"result", "x"}});
    EXPECT_EQ(heard(first), "{\"id\":7,\"result\":\"x\"}\n");
    EXPECT_EQ(heard(second), "");
    server_->tell({{"event", "e"}});
    EXPECT_EQ(heard(first), "{\"event\":\"e\"}\n");
    EXPECT_EQ(heard(second), "{\"event\":\"e\"}\n");
}

TEST_F(ControlServerTest, LinesMayComeInPiecesAndTogether) {
    const UniqueFd fd = connect();
    say(fd, "{\"execute\":");
    EXPECT_TRUE(requests_.empty());
    say(fd, "\"a\"}\n{\"execute\":\"b\"}\n{");
    EXPECT_EQ(requests_.size(), 2U);
}

TEST_F(ControlServerTest, DescriptorsGoWithTheLineThatTheyCameWith) {
    const UniqueFd fd = connect();
    const UniqueFd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
    say(fd, "{\"execute\":\"a\"}\n");
    say(fd, "{\"execute\":\"b\"}\n", null.get());
    say(fd, "{\"execute\":", null.get());
    say(fd, "\"c\"}\n{\"execute\":\"d\"}\n");
    ASSERT_EQ(requests_.size(), 4U);
    EXPECT_EQ(requests_[0].fds, 0U);
    EXPECT_EQ(requests_[1].fds, 1U);
    EXPECT_EQ(requests_[2].fds, 1U);
    EXPECT_EQ(requests_[3].fds, 0U);
}

TEST_F(ControlServerTest, NonsenseIsAnsweredAndALineWithoutEndEndsTheConnection) {
    const UniqueFd fd = connect();
    say(fd, "nonsense\n");
    EXPECT_NE(heard(fd).find("\"error\""), std::string::npos);
    EXPECT_TRUE(requests_.empty());
    for (int i = 0; i < 9 && !closed(fd); ++i) {
        say(fd, std::string(8192, 'x'));
    }
    EXPECT_TRUE(closed(fd));
}

TEST_F(ControlServerTest, TooManyRequestsAtOnceEndTheConnection) {
    const UniqueFd fd = connect();
    std::string many;
    for (int i = 0; i < 65; ++i) {
        many += "{\"execute\":\"a\"}\n";
    }
    say(fd, many);
    EXPECT_EQ(requests_.size(), 64U);
    EXPECT_TRUE(closed(fd));
    server_->reply(requests_[0].id, {{"result", 1}});  // nobody is there
}

TEST_F(ControlServerTest, AllClientsTogetherAskABoundedNumber) {
    const UniqueFd first = connect(), second = connect();
    std::string many;
    for (int i = 0; i < 40; ++i) {
        many += "{\"id\":1,\"execute\":\"a\"}\n";
    }
    say(first, many);
    say(second, many);
    EXPECT_EQ(requests_.size(), 64U);
    EXPECT_NE(heard(second).find("busy"), std::string::npos);
    server_->reply(requests_[0].id, {{"result", 1}});
    say(second, "{\"execute\":\"b\"}\n");
    EXPECT_EQ(requests_.size(), 65U);
    EXPECT_FALSE(closed(second));
}

TEST_F(ControlServerTest, AClientThatDoesNotReadIsDropped) {
    const UniqueFd fd = connect();
    const std::string long_text(60000, 'x');
    for (int i = 0; i < 40; ++i) {
        server_->tell({{"event", long_text}});
    }
    EXPECT_TRUE(closed(fd));
}

TEST_F(ControlServerTest, ThePlaceIsTakenWhileSomebodyListens) {
    EXPECT_EQ(listen().error().kind(), ErrorKind::AlreadyExists);
    server_.reset();
    EXPECT_FALSE(std::filesystem::exists(path()));
    EXPECT_TRUE(listen().ok());
}

}  // namespace
}  // namespace strata::cli
