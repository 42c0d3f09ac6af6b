// StubFilter: classic BPF over struct seccomp_data.
#include "engine/soft/direct/stub_filter.h"

#include <bit>
#include <cstring>
#include <vector>

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/check.h"

namespace strata::engine::soft {
namespace {

static_assert(sizeof(sock_filter) == 8);

class Program {
  public:
    /// Goes on if the 32-bit word at `offset` of the data is `value`, else to the next mark().
    void require_word(std::uint32_t offset, std::uint32_t value) {
        code_.push_back({BPF_LD | BPF_W | BPF_ABS, 0, 0, offset});
        pending_.push_back(code_.size());
        code_.push_back({BPF_JMP | BPF_JEQ | BPF_K, 0, 0, value});
    }
    void require_long(std::uint32_t offset, std::uint64_t value) {
        require_word(offset, static_cast<std::uint32_t>(value));
        require_word(offset + 4, static_cast<std::uint32_t>(value >> 32U));
    }
    /// … in the bits of `mask`.
    void require_bits(std::uint32_t offset, std::uint32_t mask, std::uint32_t value) {
        code_.push_back({BPF_LD | BPF_W | BPF_ABS, 0, 0, offset});
        code_.push_back({BPF_ALU | BPF_AND | BPF_K, 0, 0, mask});
        pending_.push_back(code_.size());
        code_.push_back({BPF_JMP | BPF_JEQ | BPF_K, 0, 0, value});
    }
    void require_call(int number, std::uint64_t from) {
        require_word(offsetof(seccomp_data, nr), static_cast<std::uint32_t>(number));
        require_long(offsetof(seccomp_data, instruction_pointer), from);
    }
    void require_argument(std::uint32_t index, std::uint64_t value) {
        require_long(static_cast<std::uint32_t>(offsetof(seccomp_data, args)) + 8 * index, value);
    }
    /// The end of a rule; where those that did not fit it go on.
    void answer(std::uint32_t action) {
        code_.push_back({BPF_RET | BPF_K, 0, 0, action});
        for (const std::size_t at : pending_) {
            code_[at].jf = static_cast<std::uint8_t>(code_.size() - at - 1);
        }
        pending_.clear();
    }
    std::uint32_t write(std::span<std::uint64_t, kStubFilterWords> out) const {
        STRATA_CHECK(code_.size() <= out.size(), "a filter is longer than its place");
        std::memcpy(out.data(), code_.data(), code_.size() * sizeof(sock_filter));
        return static_cast<std::uint32_t>(code_.size());
    }
    /// Everything but this architecture is answered with `action`.
    void require_architecture(std::uint32_t action) {
        code_.push_back({BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, arch)});
        code_.push_back({BPF_JMP | BPF_JEQ | BPF_K, 1, 0, AUDIT_ARCH_X86_64});
        code_.push_back({BPF_RET | BPF_K, 0, 0, action});
    }

  private:
    std::vector<sock_filter> code_;
    std::vector<std::size_t> pending_;
};

std::uint64_t place_of(std::uint64_t base, std::size_t orders_offset) {
    return base + offsetof(StubArea, orders) + orders_offset;
}

}  // namespace

std::uint32_t write_guest_filter(std::uint64_t base,
                                 std::span<std::uint64_t, kStubFilterWords> out) {
    Program program;
    program.require_architecture(SECCOMP_RET_TRAP);
    program.require_call(SYS_futex, stub_place(base, strata_stub_wait_call));
    program.require_argument(0, place_of(base, offsetof(StubOrders, gate)));
    program.require_argument(1, FUTEX_WAIT);
    program.require_argument(3, 0);
    program.answer(SECCOMP_RET_ALLOW);
    program.require_call(SYS_futex, stub_place(base, strata_stub_wake_call));
    program.require_argument(0, base + offsetof(StubArea, reports) + offsetof(StubReports, done));
    program.require_argument(1, FUTEX_WAKE);
    program.answer(SECCOMP_RET_ALLOW);
    program.require_call(SYS_rt_sigprocmask, stub_place(base, strata_stub_mask_call));
    program.require_argument(0, SIG_SETMASK);
    program.require_argument(1, place_of(base, offsetof(StubOrders, no_signals)));
    program.require_argument(2, 0);
    program.answer(SECCOMP_RET_ALLOW);
    program.answer(SECCOMP_RET_TRAP);
    return program.write(out);
}

std::uint32_t write_notifying_filter(std::uint64_t base,
                                     std::span<std::uint64_t, kStubFilterWords> out) {
    Program program;
    program.require_architecture(SECCOMP_RET_ALLOW);  // the filters behind it refuse it
    for (const char* call : {strata_stub_wait_call, strata_stub_helper_wait_call}) {
        program.require_call(SYS_futex, stub_place(base, call));
        program.answer(SECCOMP_RET_USER_NOTIF);
    }
    program.answer(SECCOMP_RET_ALLOW);
    return program.write(out);
}

std::uint32_t write_helper_filter(std::uint64_t base,
                                  std::span<std::uint64_t, kStubFilterWords> out) {
    static_assert(sizeof(StubArea::code) == 0x1000);
    Program program;
    program.require_architecture(SECCOMP_RET_KILL_PROCESS);
    constexpr std::uint32_t kFileArgument = 4, kFlagsArgument = 3;
    constexpr std::uint32_t kPlace = offsetof(seccomp_data, instruction_pointer);
    constexpr std::uint32_t kFlags = offsetof(seccomp_data, args) + 8 * kFlagsArgument;
    // All code of the stub is on one page that the guest's thread cannot change; which of its calls
    // it is does not matter.
    for (const int number : {SYS_mmap, SYS_munmap, SYS_futex}) {
        program.require_word(offsetof(seccomp_data, nr), static_cast<std::uint32_t>(number));
        program.require_bits(kPlace, ~0xfffU, static_cast<std::uint32_t>(base));
        program.require_word(kPlace + 4, static_cast<std::uint32_t>(base >> 32U));
        if (number == SYS_mmap) {
            program.require_argument(kFileArgument, kStubRamFd);
            program.require_bits(kFlags, ~static_cast<std::uint32_t>(MAP_POPULATE),
                                 MAP_SHARED | MAP_FIXED);
            program.require_word(kFlags + 4, 0);
        }
        program.answer(SECCOMP_RET_ALLOW);
    }
    program.answer(SECCOMP_RET_KILL_PROCESS);
    return program.write(out);
}

}  // namespace strata::engine::soft
