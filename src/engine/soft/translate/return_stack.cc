// ReturnStack: its memory, and sliding.
#include "engine/soft/translate/return_stack.h"

#include <csignal>
#include <cstring>

#include <sys/mman.h>

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kGuard = 4096;
constexpr std::uint64_t kBytes = 64U << 10U;  // 4096 calls deep
constexpr std::uint64_t kEndPair =
    64;  // the lowest pair, and room so that the base is aligned to a cache line
constexpr std::uint64_t kKept = 512;  // more than any glue has on the stack when it pushes

}  // namespace

Result<ReturnStack> ReturnStack::create(std::uint64_t end) {
    ReturnStack stack;
    stack.memory_ = STRATA_TRY(
        MmapRegion::map(kGuard + kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
    if (mprotect(stack.memory_.data(), kGuard, PROT_NONE) != 0) {
        return Error::from_errno("protecting the end of a return stack");
    }
    const std::array<std::uint64_t, 2> pair = {end, 0};
    std::memcpy(stack.memory_.data() + kGuard + kBytes - kEndPair, pair.data(), sizeof pair);
    return stack;
}

std::uint64_t ReturnStack::base() const {
    return reinterpret_cast<std::uint64_t>(memory_.data()) + kGuard + kBytes - kEndPair;
}

bool ReturnStack::on_guard_fault(const CpuState& cpu, HostFault& fault) noexcept {
    const std::uint64_t base = cpu.translator.return_base;
    const std::uint64_t lowest = base + kEndPair - kBytes;
    if (fault.signal != SIGSEGV || base == 0 || fault.address >= lowest ||
        fault.address < lowest - kGuard || fault.sp < lowest || fault.sp > lowest + kKept) {
        return false;
    }
    // SAFETY: [sp, sp + kKept) and the target lie in the stack's own memory, far apart.
    std::memcpy(reinterpret_cast<void*>(base - kKept), reinterpret_cast<const void*>(fault.sp),
                kKept);
    fault.sp = base - kKept;
    return true;
}

}  // namespace strata::engine::soft
