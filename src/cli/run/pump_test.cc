// Pump tests: pace, loss where it is allowed, endings.
#include "cli/run/pump.h"

#include <array>
#include <csignal>
#include <string>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

namespace strata::cli {
namespace {

using namespace std::chrono_literals;

struct Ends {
    UniqueFd a, b;
    Ends() {
        std::array<int, 2> ends{};
        EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()),
                  0);
        a.reset(ends[0]);
        b.reset(ends[1]);
    }
};

class PumpTest : public testing::Test {
  protected:
    void SetUp() override {
        (void)std::signal(SIGPIPE, SIG_IGN);
        auto loop = io::EventLoop::create();
        ASSERT_TRUE(loop.ok());
        loop_ = std::move(*loop);
    }
    void turn(int times = 20) {
        for (int i = 0; i < times; ++i) {
            loop_->run_once(1ms);
        }
    }
    static std::string read_all(int fd) {
        std::array<char, 65536> bytes{};
        const ssize_t got = read(fd, bytes.data(), bytes.size());
        return got > 0 ? std::string(bytes.data(), static_cast<std::size_t>(got)) : std::string();
    }
    std::unique_ptr<io::EventLoop> loop_;
    Ends in_, out_;
};

TEST_F(PumpTest, CarriesBytesThroughTheFilter) {
    Pump pump(*loop_, std::move(in_.b), {[](std::string& text) { text.resize(3); }, {}, {}});
    ASSERT_TRUE(pump.set_sink(std::move(out_.a)).ok());
    ASSERT_TRUE(pump.start().ok());
    ASSERT_EQ(write(in_.a.get(), "abcdef", 6), 6);
    turn();
    EXPECT_EQ(read_all(out_.b.get()), "abc");
}

TEST_F(PumpTest, FullSinkHoldsTheSourceBackAndLosesNothing) {
    Pump pump(*loop_, std::move(in_.b), {});
    ASSERT_TRUE(pump.set_sink(std::move(out_.a)).ok());
    ASSERT_TRUE(pump.start().ok());
    const std::string chunk(4096, 'x');
    std::size_t sent = 0;
    for (int round = 0; round < 400; ++round) {
        const ssize_t done = write(in_.a.get(), chunk.data(), chunk.size());
        sent += done > 0 ? static_cast<std::size_t>(done) : 0;
        turn(1);
    }
    std::size_t got = 0;
    for (int idle = 0; idle < 5;) {
        turn(1);
        const std::size_t more = read_all(out_.b.get()).size();
        got += more;
        idle = more == 0 ? idle + 1 : 0;
    }
    EXPECT_LT(sent, 400 * chunk.size());
    EXPECT_EQ(got, sent);
}

TEST_F(PumpTest, LossyPumpGoesOnWithoutAReader) {
    Pump pump(*loop_, std::move(in_.b), {}, true);
    ASSERT_TRUE(pump.set_sink(std::move(out_.a)).ok());
    ASSERT_TRUE(pump.start().ok());
    const std::string chunk(4096, 'x');
    for (int round = 0; round < 300; ++round) {
        EXPECT_EQ(write(in_.a.get(), chunk.data(), chunk.size()), 4096);
        turn(2);
    }
}

TEST_F(PumpTest, EndingsAreReportedOnce) {
    int source_closed = 0;
    int sink_closed = 0;
    Pump pump(*loop_, std::move(in_.b), {{}, [&] { ++source_closed; }, [&] { ++sink_closed; }});
    ASSERT_TRUE(pump.set_sink(std::move(out_.a)).ok());
    ASSERT_TRUE(pump.start().ok());
    out_.b.reset();
    turn();
    EXPECT_EQ(sink_closed, 1);
    ASSERT_EQ(write(in_.a.get(), "x", 1), 1);  // still read, and dropped
    in_.a.reset();
    turn();
    EXPECT_EQ(source_closed, 1);
    EXPECT_EQ(sink_closed, 1);
}

TEST_F(PumpTest, RegularFileAsSourceIsReadToItsEnd) {
    std::string name = "/tmp/strata-pump-XXXXXX";
    UniqueFd file(mkstemp(name.data()));
    unlink(name.c_str());
    const std::string text(10000, 'y');
    ASSERT_EQ(write(file.get(), text.data(), text.size()), 10000);
    ASSERT_EQ(lseek(file.get(), 0, SEEK_SET), 0);
    bool closed = false;
    Pump pump(*loop_, std::move(file), {{}, [&] { closed = true; }, {}});
    ASSERT_TRUE(pump.set_sink(std::move(out_.a)).ok());
    ASSERT_TRUE(pump.start().ok());
    turn();
    EXPECT_EQ(read_all(out_.b.get()).size(), text.size());
    EXPECT_TRUE(closed);
}

}  // namespace
}  // namespace strata::cli
