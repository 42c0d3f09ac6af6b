// Paravirt: the registers. Linux Documentation/virt/kvm/x86/msr.rst.
#include "engine/soft/runtime/paravirt.h"

#include "arch/x86/registers.h"

namespace strata::engine::soft {
namespace {

namespace m = arch::x86::msr;

constexpr std::uint64_t kEnable = 1;
// struct kvm_steal_time: u64 steal, u32 version, u32 flags, u8 preempted, …; 64 bytes, aligned to
// them.
constexpr std::uint64_t kStealTimeBytes = 64, kPreemptedAt = 16;
constexpr std::uint8_t kPreempted = 1, kFlushTlb = 2;

}  // namespace

bool Paravirt::read(std::uint32_t index, std::uint64_t& value) const noexcept {
    switch (index) {
        case m::kKvmWallClock:
            value = wall_clock_;
            return true;
        case m::kKvmSystemTime:
            value = system_time_;
            return true;
        case m::kKvmAsyncPf:
            value = 0;
            return true;
        case m::kKvmStealTime:
            value = steal_time_;
            return true;
        case m::kKvmPvEoi:
            value = apic_.pv_eoi();
            return true;
        case m::kKvmPollControl:
            value = poll_control_;
            return true;
        default:
            return false;
    }
}

bool Paravirt::write(std::uint32_t index, std::uint64_t value) noexcept {
    switch (index) {
        case m::kKvmWallClock:
            wall_clock_ = value;
            if (value != 0 && !restoring_) {
                clock_.write_wall_clock(ram_, value);
            }
            return true;
        case m::kKvmSystemTime:
            system_time_ = value;
            refresh_clock(true);
            return true;
        case m::kKvmAsyncPf:
            return (value & kEnable) == 0;
        case m::kKvmStealTime: {
            if ((value & 0x3e) != 0) {
                return false;
            }
            preempted_ = nullptr;
            steal_time_ = value;
            const auto offset =
                ram_.ram_offset(memory::GuestAddress(value & ~(kStealTimeBytes - 1)));
            if ((value & kEnable) != 0 && offset) {
                // SAFETY: 64 aligned bytes from `offset` lie in one page of RAM, which outlives us;
                // only byte atomics are used.
                preempted_ = reinterpret_cast<std::atomic<std::uint8_t>*>(ram_.base() + *offset +
                                                                          kPreemptedAt);
                steal_page_ = *offset;
                (void)steal_clock_.take();  // what was before is not the guest's
            }
            return true;
        }
        case m::kKvmPvEoi:
            return apic_.set_pv_eoi(value);
        case m::kKvmPollControl:
            poll_control_ = value & 1;
            return (value & ~1ULL) == 0;
        default:
            return false;
    }
}

void Paravirt::reset() noexcept {
    wall_clock_ = system_time_ = steal_time_ = 0;
    poll_control_ = 1;
    preempted_ = nullptr;
    (void)apic_.set_pv_eoi(0);  // switching off is never refused
}

void Paravirt::refresh_clock(bool force) noexcept {
    if ((system_time_ & kEnable) != 0 && (force || clock_generation_ != clock_.generation())) {
        clock_generation_ = clock_.generation();
        clock_.write_page(ram_, system_time_ & ~kEnable, cpu_.tsc_offset);
    }
}

void Paravirt::account_steal() noexcept {
    if (preempted_ != nullptr) {
        if (const std::uint64_t stolen = steal_clock_.take(); stolen != 0) {
            add_steal(ram_, steal_page_, stolen);
        }
    }
}

void Paravirt::sleeping() noexcept {
    if (preempted_ != nullptr) {
        preempted_->store(kPreempted, std::memory_order_seq_cst);
    }
}

bool Paravirt::awake() noexcept {
    return preempted_ != nullptr &&
           (preempted_->exchange(0, std::memory_order_seq_cst) & kFlushTlb) != 0;
}

}  // namespace strata::engine::soft
