// AsyncIo: when commands reach the kernel.
#include "block/async_io.h"

#include <array>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>

#include "base/unique_fd.h"

namespace strata::block {
namespace {

TEST(AsyncIo, ABatchIsNotHeldBackUntilItIsComplete) {
    if (!uring_available()) {
        GTEST_SKIP() << "no io_uring here";
    }
    auto made = make_async_io(IoEngine::Uring, 8);
    ASSERT_TRUE(made.ok());
    const UniqueFd zero(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(zero.valid());
    std::array<std::array<std::byte, 512>, 5> buffers{};
    std::array<iovec, buffers.size()> vectors{};
    for (std::size_t i = 0; i < buffers.size(); ++i) {
        vectors[i] = {buffers[i].data(), buffers[i].size()};
        IoCommand command;
        command.fd = zero.get();
        command.vectors = &vectors[i];
        command.count = 1;
        command.token = i;
        (*made)->submit(command);
    }
    // Nobody has said kick() yet; the fifth waits for it.
    pollfd done{(*made)->completion_fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&done, 1, 10000), 1);
    std::vector<IoCompletion> completions;
    while (completions.size() < buffers.size()) {
        (*made)->wait();
        (*made)->reap(completions);
    }
    for (std::size_t i = 0; i < completions.size(); ++i) {
        EXPECT_EQ(completions[i].result, 512);
    }
}

}  // namespace
}  // namespace strata::block
