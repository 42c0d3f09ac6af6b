// Serial backends: sockets, pipes, files, pty and listener against a UART's side that the test
// controls.
#include "devices/serial/backends/stream_backend.h"

#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace strata::devices {
namespace {

using std::chrono::milliseconds;

/// Takes up to `room` bytes.
class FakePeer final : public SerialPeer {
  public:
    std::size_t receive(std::span<const std::byte> data) override {
        const std::size_t count = std::min(room, data.size());
        for (const std::byte byte : data.first(count)) {
            text.push_back(static_cast<char>(byte));
        }
        room -= count;
        return count;
    }
    void output_ready() override { ++ready; }
    std::string text;
    std::size_t room = 1'000'000;
    unsigned ready = 0;
};

class StreamBackendTest : public ::testing::Test {
  protected:
    StreamBackendTest() { (void)std::signal(SIGPIPE, SIG_IGN); }
    ~StreamBackendTest() override {
        if (!folder.empty()) {
            (void)::unlink(path("s").c_str());
            (void)::rmdir(folder.c_str());
        }
    }
    void turn(int times = 8) {
        while (times-- > 0) {
            loop->run_once(milliseconds(1));
        }
    }
    static std::span<const std::byte> bytes(std::string_view text) {
        return std::as_bytes(std::span(text));
    }
    static std::string drain(int fd) {
        std::array<char, 4096> buffer{};
        const ssize_t count = ::recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
        return count > 0 ? std::string(buffer.data(), static_cast<std::size_t>(count))
                         : std::string();
    }
    std::string path(const char* name) {
        if (folder.empty()) {
            std::string pattern = ::testing::TempDir() + "serialXXXXXX";
            folder = ::mkdtemp(pattern.data());
        }
        return folder + "/" + name;
    }
    static UniqueFd dial(const std::string& where) {
        UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, where.data(), where.size());
        // SAFETY: the common initial part of all socket addresses.
        if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) !=
            0) {
            fd.reset();
        }
        return fd;
    }

    std::unique_ptr<io::EventLoop> loop = std::move(io::EventLoop::create()).value();
    FakePeer peer;
    std::string folder;
};

struct Pair {
    Pair() {
        std::array<int, 2> fds{};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()), 0);
        ours.reset(fds[0]);
        theirs.reset(fds[1]);
    }
    UniqueFd ours;
    UniqueFd theirs;
};

TEST_F(StreamBackendTest, BytesGoBothWays) {
    const Pair pair;
    auto backend = open_fd_backend(*loop, pair.ours.get(), pair.ours.get());
    ASSERT_TRUE(backend.ok());
    (*backend)->connect(&peer);
    EXPECT_EQ((*backend)->write(bytes("out")), 3U);
    ASSERT_EQ(::write(pair.theirs.get(), "in", 2), 2);
    turn();
    EXPECT_EQ(drain(pair.theirs.get()), "out");
    EXPECT_EQ(peer.text, "in");
}

TEST_F(StreamBackendTest, InputWaitsForRoom) {
    const Pair pair;
    auto backend = open_fd_backend(*loop, pair.ours.get(), -1);
    ASSERT_TRUE(backend.ok());
    peer.room = 1;
    (*backend)->connect(&peer);
    ASSERT_EQ(::write(pair.theirs.get(), "abc", 3), 3);
    turn();
    EXPECT_EQ(peer.text, "a");
    peer.room = 100;
    (*backend)->input_ready();
    turn();
    ASSERT_EQ(::write(pair.theirs.get(), "d", 1), 1);
    turn();
    EXPECT_EQ(peer.text, "abcd");
}

TEST_F(StreamBackendTest, FullBufferRefusesAndReportsRoomLater) {
    const Pair pair;
    auto backend = open_fd_backend(*loop, -1, pair.ours.get());
    ASSERT_TRUE(backend.ok());
    (*backend)->connect(&peer);
    const std::string block(1 << 20, 'x');
    const std::size_t taken = (*backend)->write(bytes(block));
    EXPECT_LT(taken, block.size());
    std::size_t received = 0;
    for (int round = 0; round < 200 && received < taken; ++round) {
        turn(1);
        received += drain(pair.theirs.get()).size();
    }
    EXPECT_EQ(received, taken);
    EXPECT_EQ(peer.ready, 1U);
}

TEST_F(StreamBackendTest, ClosedReaderMeansOutputIsDropped) {
    Pair pair;
    auto backend = open_fd_backend(*loop, -1, pair.ours.get());
    ASSERT_TRUE(backend.ok());
    (*backend)->connect(&peer);
    pair.theirs.reset();
    (void)(*backend)->write(bytes("lost"));
    turn();
    const std::string block(1 << 20, 'x');
    EXPECT_EQ((*backend)->write(bytes(block)), block.size());
}

TEST_F(StreamBackendTest, EndOfInputKeepsOutput) {
    Pair in;
    const Pair out;
    auto backend = open_fd_backend(*loop, in.ours.get(), out.ours.get());
    ASSERT_TRUE(backend.ok());
    (*backend)->connect(&peer);
    in.theirs.reset();
    turn();
    (void)(*backend)->write(bytes("still"));
    turn();
    EXPECT_EQ(drain(out.theirs.get()), "still");
}

TEST_F(StreamBackendTest, PipeOfOthersStaysBlocking) {
    std::array<int, 2> fds{};
    ASSERT_EQ(::pipe2(fds.data(), O_CLOEXEC), 0);
    const UniqueFd reader(fds[0]);
    const UniqueFd writer(fds[1]);
    auto backend = open_fd_backend(*loop, -1, writer.get());
    ASSERT_TRUE(backend.ok());
    EXPECT_EQ(::fcntl(writer.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(StreamBackendTest, FlushWritesWithoutTheLoop) {
    const Pair pair;
    auto backend = open_fd_backend(*loop, -1, pair.ours.get());
    ASSERT_TRUE(backend.ok());
    (void)(*backend)->write(bytes("last words"));
    (*backend)->flush(milliseconds(100));
    EXPECT_EQ(drain(pair.theirs.get()), "last words");
}

TEST_F(StreamBackendTest, FileTakesOutputAndIsItsInput) {
    const std::string name = path("s");
    {
        auto backend = open_file_backend(*loop, name);
        ASSERT_TRUE(backend.ok());
        (void)(*backend)->write(bytes("to disk"));
        turn();
    }
    std::ifstream file(name);
    std::stringstream text;
    text << file.rdbuf();
    EXPECT_EQ(text.str(), "to disk");
    const UniqueFd input(::open(name.c_str(), O_RDONLY | O_CLOEXEC));
    auto reader = open_fd_backend(*loop, input.get(), -1);
    ASSERT_TRUE(reader.ok());
    (*reader)->connect(&peer);
    turn();
    EXPECT_EQ(peer.text, "to disk");
}

TEST_F(StreamBackendTest, FileThatCannotBeMadeIsAnError) {
    const auto backend = open_file_backend(*loop, "/nonexistent/file");
    ASSERT_FALSE(backend.ok());
    EXPECT_EQ(backend.error().kind(), ErrorKind::NotFound);
}

TEST_F(StreamBackendTest, ListenerServesOneClientAfterTheOther) {
    const std::string name = path("s");
    auto backend = open_unix_backend(*loop, name);
    ASSERT_TRUE(backend.ok());
    (*backend)->connect(&peer);
    EXPECT_EQ((*backend)->write(bytes("nobody")), 6U);
    UniqueFd first = dial(name);
    UniqueFd second = dial(name);
    ASSERT_TRUE(first.valid() && second.valid());
    turn();
    (void)(*backend)->write(bytes("one"));
    turn();
    EXPECT_EQ(drain(first.get()), "one");
    EXPECT_EQ(drain(second.get()), "");
    first.reset();
    turn();
    (void)(*backend)->write(bytes("two"));
    ASSERT_EQ(::write(second.get(), "hi", 2), 2);
    turn();
    EXPECT_EQ(drain(second.get()), "two");
    EXPECT_EQ(peer.text, "hi");
}

TEST_F(StreamBackendTest, LivingListenerIsNotReplaced) {
    const std::string name = path("s");
    auto backend = open_unix_backend(*loop, name);
    ASSERT_TRUE(backend.ok());
    const auto second = open_unix_backend(*loop, name);
    ASSERT_FALSE(second.ok());
    EXPECT_EQ(second.error().kind(), ErrorKind::AlreadyExists);
}

TEST_F(StreamBackendTest, StaleSocketFileIsReplaced) {
    const std::string name = path("s");
    {
        const UniqueFd stale(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, name.data(), name.size());
        // SAFETY: the common initial part of all socket addresses.
        ASSERT_EQ(::bind(stale.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
                  0);
    }
    EXPECT_TRUE(open_unix_backend(*loop, name).ok());
}

TEST_F(StreamBackendTest, PtyDropsOutputUntilSomebodyOpensIt) {
    std::string name;
    auto backend = open_pty_backend(*loop, name);
    if (!backend.ok()) {
        GTEST_SKIP() << "no pseudo-terminals here: " << backend.error().text();
    }
    (*backend)->connect(&peer);
    turn();
    EXPECT_EQ((*backend)->write(bytes("lost")), 4U);
    const UniqueFd terminal(::open(name.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
    ASSERT_TRUE(terminal.valid());
    for (int round = 0; round < 30; ++round) {
        loop->run_once(milliseconds(10));
    }
    (void)(*backend)->write(bytes("seen"));
    ASSERT_EQ(::write(terminal.get(), "keys", 4), 4);
    // A thread of the kernel's carries bytes from one side to the other.
    for (int round = 0; round < 1000 && peer.text.size() < 4; ++round) {
        loop->run_once(milliseconds(10));
    }
    pollfd wait{terminal.get(), POLLIN, 0};
    ASSERT_EQ(::poll(&wait, 1, 10'000), 1);
    std::array<char, 16> buffer{};
    EXPECT_EQ(::read(terminal.get(), buffer.data(), buffer.size()), 4);
    EXPECT_STREQ(buffer.data(), "seen");
    EXPECT_EQ(peer.text, "keys");
}

}  // namespace
}  // namespace strata::devices
