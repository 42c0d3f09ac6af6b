// Ring and RingStock tests: what a restricted ring refuses, rings that go round, a loop on one.
#include "block/engines/uring/ring.h"

#include <array>
#include <cerrno>
#include <cstddef>
#include <string>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "block/loop.h"

namespace strata::block {
namespace {

class RingTest : public testing::Test {
  protected:
    void SetUp() override {
        if (!Ring::create(2, Ring::Rights::Restricted).ok()) {
            GTEST_SKIP() << "this host gives no restricted io_uring";
        }
        file_ = UniqueFd(::memfd_create("ring", MFD_CLOEXEC));
        ASSERT_TRUE(file_);
        ASSERT_EQ(::ftruncate(file_.get(), 4096), 0);
    }
    static int result_of(Ring& ring) {
        EXPECT_EQ(::io_uring_submit(ring.get()), 1);
        io_uring_cqe* entry = nullptr;
        EXPECT_EQ(::io_uring_wait_cqe(ring.get(), &entry), 0);
        const int result = entry->res;
        ::io_uring_cqe_seen(ring.get(), entry);
        return result;
    }
    UniqueFd file_;
};

TEST_F(RingTest, RestrictedOpensConnectsAndRegistersNothing) {
    const auto ring = Ring::create(4, Ring::Rights::Restricted).value();
    io_uring* raw = ring->get();
    ::io_uring_prep_openat(::io_uring_get_sqe(raw), AT_FDCWD, "/etc/passwd", O_RDONLY, 0);
    EXPECT_EQ(result_of(*ring), -EACCES);
    ::io_uring_prep_socket(::io_uring_get_sqe(raw), 2, 1, 0, 0);
    EXPECT_EQ(result_of(*ring), -EACCES);
    ::io_uring_prep_close(::io_uring_get_sqe(raw), file_.get());
    EXPECT_EQ(result_of(*ring), -EACCES);
    std::array<char, 16> bytes{};
    io_uring_sqe* linked = ::io_uring_get_sqe(raw);
    ::io_uring_prep_read(linked, file_.get(), bytes.data(), bytes.size(), 0);
    ::io_uring_sqe_set_flags(linked, IOSQE_IO_LINK);
    EXPECT_EQ(result_of(*ring), -EACCES);
    EXPECT_LT(::io_uring_register_personality(raw), 0);
    EXPECT_LT(::io_uring_unregister_eventfd(raw), 0);
    ::io_uring_prep_read(::io_uring_get_sqe(raw), file_.get(), bytes.data(), bytes.size(), 0);
    EXPECT_EQ(result_of(*ring), 16);
}

TEST_F(RingTest, StockLendsItsRingsAndGetsThemBack) {
    const auto stock = RingStock::create(2, 8);
    ASSERT_EQ(stock->left(), 2U);
    for (int round = 0; round < 3; ++round) {
        const auto one = stock->take(), other = stock->take();
        ASSERT_NE(one, nullptr);
        ASSERT_NE(other, nullptr);
        EXPECT_EQ(stock->take(), nullptr);
        std::array<char, 4> out{'a', 'b', 'c', 'd'};
        const iovec vector{out.data(), out.size()};
        for (const auto& engine : {one.get(), other.get()}) {
            engine->submit({.op = IoOp::Writev,
                            .fd = file_.get(),
                            .vectors = &vector,
                            .count = 1,
                            .token = 7});
            std::vector<IoCompletion> done;
            while (done.empty()) {
                engine->wait();
                engine->reap(done);
            }
            EXPECT_EQ(done.at(0).token, 7U);
            EXPECT_EQ(done.at(0).result, 4);
        }
    }
    EXPECT_EQ(stock->left(), 2U);
}

// Rings are a convenience; what comes after them needs its descriptors.
TEST_F(RingTest, StockLeavesDescriptorsToOthers) {
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    const UniqueFd first(::dup(file_.get()));
    rlimit few = before;
    few.rlim_cur = static_cast<rlim_t>(first.get()) + 140;
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
    const auto stock = RingStock::create(100, 2);
    std::vector<UniqueFd> others;
    while (others.size() < 100) {
        others.emplace_back(::dup(file_.get()));
        if (!others.back()) {
            break;
        }
    }
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT_GT(stock->left(), 0U);
    EXPECT_LT(stock->left(), 10U);
    EXPECT_EQ(others.size(), 100U);
}

TEST_F(RingTest, RestrictedDoesAllThatDisksAskFor) {
    const auto stock = RingStock::create(1, 8);
    const auto engine = stock->take();
    ASSERT_NE(engine, nullptr);
    std::array<char, 512> first{}, second{};
    std::array<iovec, 2> vectors{iovec{first.data(), first.size()},
                                 iovec{second.data(), second.size()}};
    const std::array commands{
        IoCommand{.op = IoOp::Writev, .fd = file_.get(), .vectors = vectors.data(), .count = 2},
        IoCommand{.op = IoOp::Readv, .fd = file_.get(), .vectors = vectors.data(), .count = 2},
        IoCommand{.op = IoOp::Readv,
                  .fd = file_.get(),
                  .vectors = vectors.data(),
                  .count = 1,
                  .aside = true},
        IoCommand{.op = IoOp::Datasync, .fd = file_.get()},
        IoCommand{.op = IoOp::Fallocate,
                  .fd = file_.get(),
                  .length = 4096,
                  .flags = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE}};
    for (const IoCommand& command : commands) {
        engine->submit(command);
        std::vector<IoCompletion> done;
        while (done.empty()) {
            engine->wait();
            engine->reap(done);
        }
        EXPECT_GE(done.at(0).result, 0);
    }
}

/// As a vCPU's thread: io_uring_enter() is not for it.
bool lock_thread() {
    std::array<sock_filter, 4> filter{{
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_enter, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    }};
    const sock_fprog program{filter.size(), filter.data()};
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

TEST_F(RingTest, WhatAThreadMayNotSubmitGoesWithTheNextThatMay) {
    const auto engine = RingStock::create(1, 8)->take();
    ASSERT_NE(engine, nullptr);
    bool locked = false;
    std::thread([&] {
        locked = lock_thread();
        if (locked) {
            engine->submit({.op = IoOp::Datasync, .fd = file_.get(), .token = 3});
            engine->kick();
        }
    }).join();
    if (!locked) {
        GTEST_SKIP() << "this host lets no thread give up a system call";
    }
    pollfd told{engine->completion_fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&told, 1, 5000), 1);
    std::vector<IoCompletion> done;
    while (done.empty()) {
        engine->reap(done);
        engine->wait();
    }
    EXPECT_EQ(done.at(0).token, 3U);
    EXPECT_EQ(done.at(0).result, 0);
}

Task<> write_text(Loop& loop, int fd, const std::string& text) {
    // SAFETY: only ever the source of a write.
    const iovec vector{const_cast<char*>(text.data()), text.size()};
    const std::int64_t written =
        co_await loop.io({.op = IoOp::Writev, .fd = fd, .vectors = &vector, .count = 1});
    if (written != static_cast<std::int64_t>(text.size())) {
        co_return Error{ErrorKind::Failed, "short"};
    }
    co_return ok();
}

TEST_F(RingTest, LoopTakesOneWhenItsQuietStartEnds) {
    const auto stock = RingStock::create(1, 8);
    RingStock::adopt(stock);
    auto loop = Loop::create({.quiet_start = true}).value();
    const std::string early = "early", late = "later on";
    ASSERT_TRUE(loop->run(write_text(*loop, file_.get(), early)).ok());
    EXPECT_EQ(stock->left(), 1U);
    bool written = false;
    std::thread thread([&] { loop->run_until_stopped(); });
    loop->post([&] {
        loop->spawn(write_text(*loop, file_.get(), late), [&](const Result<>& done) {
            written = done.ok();
            loop->stop();
        });
    });
    thread.join();
    EXPECT_TRUE(written);
    EXPECT_EQ(stock->left(), 0U);
    std::array<char, 8> bytes{};
    EXPECT_EQ(::pread(file_.get(), bytes.data(), bytes.size(), 0), 8);
    EXPECT_EQ(std::string(bytes.data(), bytes.size()), late);
    EXPECT_TRUE(make_async_io(IoEngine::Auto, 4).ok());  // threads
    loop.reset();
    EXPECT_EQ(stock->left(), 1U);
    {
        const auto engine = make_async_io(IoEngine::Auto, 4).value();
        EXPECT_EQ(stock->left(), 0U);
    }
    RingStock::adopt(nullptr);
}

}  // namespace
}  // namespace strata::block
