// Zygote: hosts and policies that refuse what it needs.
#include "engine/soft/direct/zygote.h"

#include <array>
#include <cstddef>

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/soft/direct/direct_probe.h"
#include "engine/soft/direct/stub_layout.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kBase = 0x123400000000;

/// From now on this process's calls of this number are answered so.
bool answer_calls(std::uint32_t number, std::uint32_t action) {
    std::array<sock_filter, 4> code{{{BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
                                     {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, number},
                                     {BPF_RET | BPF_K, 0, 0, action},
                                     {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}}};
    const sock_fprog program{code.size(), code.data()};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}

UniqueFd file_of(std::size_t bytes) {
    UniqueFd file(memfd_create("test", MFD_CLOEXEC));
    EXPECT_EQ(ftruncate(file.get(), static_cast<off_t>(bytes)), 0);
    return file;
}

TEST(ZygoteTest, OneThatCannotLockItselfUpIsAnError) {
    const auto refuse = []() -> Result<> { return Error(ErrorKind::Failed, "refused"); };
    const auto zygote = Zygote::start(refuse);
    ASSERT_TRUE(zygote.ok());
    EXPECT_FALSE((*zygote)->set_ram(file_of(4096).get()).ok());
    EXPECT_FALSE((*zygote)->make_stub(file_of(sizeof(StubArea)).get(), kBase).ok());
}

// The child dies at its first call: nobody else would ever send what the VMM waits for.
TEST(ZygoteTest, StubThatDiesBeforeItBeginsIsAnError) {
    const auto kill_listeners = []() -> Result<> {
        if (!answer_calls(SYS_seccomp, SECCOMP_RET_KILL_PROCESS)) {
            return Error::from_errno("a filter");
        }
        return ok();
    };
    const auto zygote = Zygote::start(kill_listeners, true);
    ASSERT_TRUE(zygote.ok());
    ASSERT_TRUE((*zygote)->set_ram(file_of(4096).get()).ok());
    EXPECT_FALSE((*zygote)->make_stub(file_of(sizeof(StubArea)).get(), kBase).ok());
}

// As on kernels before 5.9, and in containers whose policy does not know it.
TEST(ZygoteTest, DoesWithoutCloseRange) {
    if (!probe_direct_execution().ok()) {
        GTEST_SKIP() << "this host refuses stubs";
    }
    const auto probe = [] {
        constexpr std::uint32_t kNoSuchCall = SECCOMP_RET_ERRNO | 38U;
        _exit(answer_calls(SYS_close_range, kNoSuchCall) && probe_direct_execution().ok() ? 0 : 1);
    };
    EXPECT_EXIT(probe(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace strata::engine::soft
