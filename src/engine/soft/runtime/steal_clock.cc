// StealClock: Linux Documentation/scheduler/sched-stats.rst; struct kvm_steal_time of
// Documentation/virt/kvm/x86/msr.rst.
#include "engine/soft/runtime/steal_clock.h"

#include <atomic>
#include <charconv>
#include <cstring>

#include <fcntl.h>
#include <unistd.h>

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kVersionAt = 8;

}  // namespace

void StealClock::open_for_this_thread() noexcept {
    file_.reset(::open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC));
    taken_ = waited();
}

std::uint64_t StealClock::waited() const noexcept {
    char text[96];
    const ssize_t size = file_.valid() ? ::pread(file_.get(), text, sizeof(text), 0) : 0;
    const auto* end = text + (size > 0 ? size : 0);
    const auto* blank =
        static_cast<const char*>(std::memchr(text, ' ', static_cast<std::size_t>(end - text)));
    std::uint64_t value = taken_;
    if (blank != nullptr) {
        (void)std::from_chars(blank + 1, end, value);  // leaves `value` if it is no number
    }
    return value;
}

std::uint64_t StealClock::take() noexcept {
    const std::uint64_t now = waited();
    const std::uint64_t stolen = now > taken_ ? now - taken_ : 0;
    taken_ = now;
    return stolen;
}

void add_steal(memory::GuestRam& ram, std::uint64_t ram_offset,
               std::uint64_t nanoseconds) noexcept {
    // SAFETY: the caller vouches for 64 aligned bytes of RAM; the guest reads them at any time, so
    // every access is atomic.
    auto& steal = *reinterpret_cast<std::atomic<std::uint64_t>*>(ram.base() + ram_offset);
    auto& version =
        *reinterpret_cast<std::atomic<std::uint32_t>*>(ram.base() + ram_offset + kVersionAt);
    const std::uint32_t old = version.load(std::memory_order_relaxed) & ~1U;
    version.store(old + 1, std::memory_order_seq_cst);
    steal.store(steal.load(std::memory_order_relaxed) + nanoseconds, std::memory_order_seq_cst);
    version.store(old + 2, std::memory_order_seq_cst);
    if (ram.dirty_logging()) {
        ram.dirty().mark(ram_offset >> memory::kPageShift);
    }
}

}  // namespace strata::engine::soft
