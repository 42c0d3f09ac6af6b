// LocalApic: registers and state.
#include "engine/soft/apic/local_apic.h"

#include "arch/x86/registers.h"
#include "engine/soft/apic/apic_registers.h"
#include "engine/soft/runtime/tsc_clock.h"

namespace strata::engine::soft {

using namespace apic;  // NOLINT(google-build-using-namespace): its register names

namespace {

constexpr std::uint32_t x2apic_logical_id(std::uint32_t id) {
    return ((id >> 4) << 16) | (1U << (id & 15));
}

// The writable bits of an LVT register. SDM 3A, figure 11-8.
constexpr std::uint32_t lvt_mask(std::uint32_t reg) {
    switch (reg) {
        case kLvtTimer:
            return 0x000700ffU;
        case kLvtLint0:
        case kLvtLint1:
            return 0x0001a7ffU;
        case kLvtError:
            return 0x000100ffU;
        default:
            return 0x000107ffU;
    }
}

bool is_lvt(std::uint32_t reg) {
    return reg >= kLvtTimer && reg <= kLvtError;
}

}  // namespace

LocalApic::LocalApic(ApicBus& bus, ApicHost& host, CpuState& cpu, memory::GuestRam& ram,
                     std::uint32_t apic_id, bool bootstrap)
    : bus_(bus), host_(host), cpu_(cpu), ram_(ram), id_(apic_id), bootstrap_(bootstrap) {
    reset(false);
}

bool LocalApic::globally_enabled() const noexcept {
    return (base() & kBaseEnable) != 0;
}
bool LocalApic::x2apic() const noexcept {
    return (base() & (kBaseEnable | kBaseX2apic)) == (kBaseEnable | kBaseX2apic);
}
bool LocalApic::enabled() const noexcept {
    return globally_enabled() && (get(kSpurious) & kSoftwareEnable) != 0;
}

std::uint64_t LocalApic::mmio_page() const noexcept {
    return globally_enabled() && !x2apic() ? (base() & ~0xfffULL) >> 12 : ~0ULL;
}

void LocalApic::reset(bool keep_base) noexcept {
    if (!keep_base) {
        base_.store(0xfee00000U | kBaseEnable | (bootstrap_ ? kBaseBootstrap : 0),
                    std::memory_order_relaxed);
    }
    for (auto& reg : registers_) {
        reg.store(0, std::memory_order_relaxed);
    }
    set(kId, x2apic() ? id_ : id_ << 24);
    set(kVersion, kVersionValue);
    set(kDfr, 0xffffffffU);
    set(kSpurious, 0xff);
    if (x2apic()) {
        set(kLdr, x2apic_logical_id(id_));
    }
    for (std::uint32_t reg = kLvtTimer; reg <= kLvtError; ++reg) {
        set(reg, kLvtMasked);
    }
    if (bootstrap_) {
        set(kLvtLint0,
            0x700);  // virtual wire: what firmware would set up, and direct boot has none
    }
    cpu_.cr8 = seen_cr8_ = 0;
    icr_high_ = 0;
    pending_errors_.store(0, std::memory_order_relaxed);
    ppr_.store(0, std::memory_order_relaxed);
    tsc_deadline_ = 0;
    pv_eoi_set_ = false;
    arm(kNoDeadline);
}

bool LocalApic::set_base(std::uint64_t value, bool x2apic_offered,
                         std::uint32_t physical_bits) noexcept {
    const std::uint64_t reserved = ~((1ULL << physical_bits) - 1) | 0x2ff;
    const std::uint64_t modes = kBaseEnable | kBaseX2apic;
    const std::uint64_t from = base() & modes;
    const std::uint64_t to = value & modes;
    if ((value & reserved) != 0 || to == kBaseX2apic || (to == modes && !x2apic_offered)) {
        return false;
    }
    // SDM 3A, 11.12.5: x2APIC is entered from xAPIC only, and left by disabling only.
    if ((from == 0 && to == modes) || (from == modes && to == kBaseEnable)) {
        return false;
    }
    base_.store(value, std::memory_order_relaxed);
    if (from == to) {
        return true;
    }
    if (to == 0) {
        reset(true);
        base_.store(value, std::memory_order_relaxed);
    }
    set(kId, x2apic() ? id_ : id_ << 24);
    if (x2apic()) {
        set(kLdr, x2apic_logical_id(id_));
    }
    return true;
}

void LocalApic::mmio_read(std::uint32_t offset, std::span<std::byte> data) noexcept {
    for (std::byte& byte : data) {
        byte = std::byte{0};
    }
    const std::uint32_t within = offset & 15;
    if (within >= 4 || within + data.size() > 16) {
        return;  // between two registers
    }
    const std::uint32_t value = offset >= 0x400 ? 0 : read_register(offset >> 4);
    for (std::uint32_t i = 0; i < data.size() && within + i < 4; ++i) {
        data[i] = static_cast<std::byte>(value >> ((within + i) * 8));
    }
}

void LocalApic::mmio_write(std::uint32_t offset, std::span<const std::byte> data) noexcept {
    if ((offset & 15) != 0 || data.size() < 4 || offset >= 0x400) {
        return;
    }
    std::uint32_t value = 0;
    for (std::uint32_t i = 0; i < 4; ++i) {
        value |= std::to_integer<std::uint32_t>(data[i]) << (i * 8);
    }
    const std::uint32_t reg = offset >> 4;
    switch (reg) {
        case kIcrLow:
            set(kIcrLow, value & ~(1U << 12));  // delivery status: idle
            send_ipi(value, get(kIcrHigh) >> 24);
            break;
        case kIcrHigh:
            set(kIcrHigh, value & 0xff000000U);
            break;
        case kId:
            set(kId, value & 0xff000000U);
            break;
        case kLdr:
            set(kLdr, value & 0xff000000U);
            break;
        case kDfr:
            set(kDfr, value | 0x0fffffffU);
            break;
        case kSelfIpi:
            raise_error(kErrorIllegalRegister);
            break;
        default:
            write_register(reg, value);
            break;
    }
}

bool LocalApic::read_msr(std::uint32_t index, std::uint64_t& value) noexcept {
    const std::uint32_t reg = index - arch::x86::msr::kX2apicFirst;
    if (!x2apic() || reg >= registers_.size()) {
        return false;
    }
    const bool readable = reg == kId || reg == kVersion || reg == kTpr || reg == kPpr ||
                          reg == kLdr || reg == kSpurious || (reg >= kIsr && reg <= kEsr) ||
                          reg == kIcrLow || is_lvt(reg) || reg == kInitialCount ||
                          reg == kCurrentCount || reg == kDivide;
    if (!readable) {
        return false;
    }
    value = read_register(reg);
    if (reg == kIcrLow) {
        value |= icr_high_ << 32;
    }
    return true;
}

bool LocalApic::write_msr(std::uint32_t index, std::uint64_t value) noexcept {
    const std::uint32_t reg = index - arch::x86::msr::kX2apicFirst;
    if (!x2apic() || reg >= registers_.size() || (reg != kIcrLow && (value >> 32) != 0)) {
        return false;
    }
    const auto low = static_cast<std::uint32_t>(value);
    switch (reg) {
        case kEoi:
        case kEsr:
            if (low != 0) {
                return false;
            }
            break;
        case kTpr:
            if (low > 0xff) {
                return false;
            }
            break;
        case kSelfIpi:
            if (low > 0xff) {
                return false;
            }
            send_ipi((1U << 18) | low, 0);
            return true;
        case kIcrLow:
            icr_high_ = value >> 32;
            set(kIcrLow, low & ~(1U << 12));
            send_ipi(low, static_cast<std::uint32_t>(value >> 32));
            return true;
        case kSpurious:
        case kInitialCount:
        case kDivide:
            break;
        default:
            if (!is_lvt(reg)) {
                return false;
            }
            break;
    }
    write_register(reg, low);
    return true;
}

std::uint32_t LocalApic::read_register(std::uint32_t reg) noexcept {
    switch (reg) {
        case kTpr:
            sync_task_priority();
            return get(kTpr);
        case kPpr:
            sync_task_priority();
            return update_priority();
        case kEoi:
        case kSelfIpi:
            return 0;
        case kCurrentCount:
            return current_count();
        case kApr:
        case kRrd:
            return 0;
        default:
            if (reg >= kIsr && reg < kIsr + 8) {
                sync_pv_eoi();
            }
            return reg < registers_.size() ? get(reg) : 0;
    }
}

void LocalApic::write_register(std::uint32_t reg, std::uint32_t value) noexcept {
    switch (reg) {
        case kTpr:
            set(kTpr, value & 0xff);
            cpu_.cr8 = seen_cr8_ = (value >> 4) & 15;
            update_priority();
            host_.kick(cpu_, Request::kInterrupt);
            break;
        case kEoi:
            end_of_interrupt();
            break;
        case kSpurious:
            write_spurious(value);
            break;
        case kEsr:
            set(kEsr, pending_errors_.exchange(0, std::memory_order_relaxed));
            break;
        case kInitialCount:
            if (timer_mode() != TimerMode::TscDeadline) {
                set(kInitialCount, value);
                start_counting();
            }
            break;
        case kDivide:
            set(kDivide, value & 0xb);
            start_counting();
            break;
        default:
            if (is_lvt(reg)) {
                write_lvt(reg, value);
            }
            break;
    }
}

void LocalApic::write_lvt(std::uint32_t reg, std::uint32_t value) noexcept {
    const TimerMode before = timer_mode();
    if (reg == kLvtTimer && before == TimerMode::OneShot && deadline_ != kNoDeadline &&
        monotonic_ns() >= deadline_) {
        timer_expired();  // the count has ended, though the host has not told us yet: in the new
                          // mode it must not go on
    }
    value &= lvt_mask(reg);
    if ((get(kSpurious) & kSoftwareEnable) == 0) {
        value |= kLvtMasked;
    }
    set(reg, value);
    const TimerMode now = timer_mode();
    const bool counts = now == TimerMode::OneShot || now == TimerMode::Periodic;
    const bool counted = before == TimerMode::OneShot || before == TimerMode::Periodic;
    if (reg == kLvtTimer && now != before && !(counts && counted)) {
        // SDM 3A, 11.5.4.1: to and from TSC-deadline mode disarms the timer. Between one-shot and
        // periodic a running count goes on.
        tsc_deadline_ = 0;
        set(kInitialCount, 0);
        arm(kNoDeadline);
    }
    if (reg == kLvtLint0) {
        host_.kick(cpu_, Request::kInterrupt);
    }
}

void LocalApic::write_spurious(std::uint32_t value) noexcept {
    set(kSpurious, value & 0x1ff);
    if ((value & kSoftwareEnable) == 0) {
        for (std::uint32_t reg = kLvtTimer; reg <= kLvtError; ++reg) {
            set(reg, get(reg) | kLvtMasked);
        }
        return;
    }
    host_.kick(cpu_, Request::kInterrupt);
}

void LocalApic::save(std::span<std::byte, arch::x86::kLapicBytes> page) noexcept {
    sync_pv_eoi();
    sync_task_priority();
    update_priority();
    for (std::uint32_t reg = 0; reg < registers_.size(); ++reg) {
        std::uint32_t value = reg == kCurrentCount ? current_count() : get(reg);
        if (reg == kIcrHigh && x2apic()) {
            value = static_cast<std::uint32_t>(icr_high_);
        }
        for (std::uint32_t i = 0; i < 16; ++i) {
            page[reg * 16 + i] = i < 4 ? static_cast<std::byte>(value >> (i * 8)) : std::byte{0};
        }
    }
}

void LocalApic::load(std::span<const std::byte, arch::x86::kLapicBytes> page,
                     std::uint64_t base) noexcept {
    base_.store(base & ~0x2ffULL, std::memory_order_relaxed);
    if (page[kVersion * 16] == std::byte{0}) {
        reset(true);  // no page of any APIC: a power-on state
        return;
    }
    for (std::uint32_t reg = 0; reg < registers_.size(); ++reg) {
        std::uint32_t value = 0;
        for (std::uint32_t i = 0; i < 4; ++i) {
            value |= std::to_integer<std::uint32_t>(page[reg * 16 + i]) << (i * 8);
        }
        set(reg, value);
    }
    // What the guest could not have written is not believed.
    set(kId, x2apic() ? id_ : get(kId) & 0xff000000U);
    set(kVersion, kVersionValue);
    set(kTpr, get(kTpr) & 0xff);
    set(kSpurious, get(kSpurious) & 0x1ff);
    set(kDivide, get(kDivide) & 0xb);
    for (std::uint32_t reg = kLvtTimer; reg <= kLvtError; ++reg) {
        set(reg, get(reg) & lvt_mask(reg));
    }
    set(kDfr, get(kDfr) | 0x0fffffffU);
    set(kLdr, x2apic() ? x2apic_logical_id(id_) : get(kLdr) & 0xff000000U);
    for (const std::uint32_t first : {kIsr, kTmr, kIrr}) {
        set(first, get(first) & 0xffff0000U);
    }
    icr_high_ = x2apic() ? get(kIcrHigh) : 0;
    cpu_.cr8 = seen_cr8_ = get(kTpr) >> 4;
    pv_eoi_set_ = false;
    update_priority();
}

}  // namespace strata::engine::soft
