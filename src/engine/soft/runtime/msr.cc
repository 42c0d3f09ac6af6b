// MsrFile: reading and writing by the table, and the registers with effects.
#include "engine/soft/runtime/msr.h"

#include <algorithm>

#include <fmt/core.h>

#include "arch/x86/registers.h"
#include "base/log.h"
#include "engine/soft/mmu/mmu.h"
#include "engine/soft/runtime/tsc_clock.h"

namespace strata::engine::soft {
namespace {

namespace x86 = arch::x86;
namespace m = arch::x86::msr;

bool canonical(std::uint64_t address) {
    return static_cast<std::uint64_t>(static_cast<std::int64_t>(address << 16) >> 16) == address;
}

// Memory types: 0, 1, 4, 5, 6; in PAT also 7.
bool memory_type(std::uint64_t type, bool pat) {
    return type == 0 || type == 1 || (type >= 4 && type <= 6) || (pat && type == 7);
}

bool memory_types(std::uint64_t eight, bool pat) {
    for (int i = 0; i < 8; ++i) {
        if (!memory_type((eight >> (i * 8)) & 0xff, pat)) {
            return false;
        }
    }
    return true;
}

bool is_mtrr(std::uint32_t index) {
    return index >= m::kMtrrPhysBase0 && index <= m::kMtrrDefType && index != m::kPat;
}
bool is_paravirtual(std::uint32_t index) {
    return index >= m::kKvmWallClock && index <= m::kKvmPollControl;
}
bool is_x2apic(std::uint32_t index) {
    return index >= m::kX2apicFirst && index <= m::kX2apicLast;
}
bool is_machine_check(std::uint32_t index) {
    return index >= m::kMc0Ctl && index < m::kMc0Ctl + 40;
}

std::uint64_t efer_bits(const x86::CpuidTable& cpuid) {
    const x86::CpuidRegisters extended = cpuid.find(0x80000001, 0);
    std::uint64_t bits = x86::efer::kSce | x86::efer::kLme | x86::efer::kLma;
    bits |= (extended.edx & (1U << 20)) != 0 ? x86::efer::kNxe : 0;
    bits |= (extended.edx & (1U << 25)) != 0 ? x86::efer::kFfxsr : 0;
    bits |= (cpuid.find(0x80000021, 0).eax & (1U << 8)) != 0 ? 1ULL << 21 : 0;  // AutoIBRS
    return bits;
}

// Each has a bit in Intel's leaf and others in AMD's.
bool offers_spec_ctrl(const x86::CpuidTable& cpuid) {
    constexpr std::uint32_t kIntel = (1U << 26) | (1U << 27) | (1U << 31);  // IBRS, STIBP, SSBD
    constexpr std::uint32_t kAmd = (1U << 14) | (1U << 15) | (1U << 24);
    return (cpuid.find(7, 0).edx & kIntel) != 0 || (cpuid.find(0x80000008, 0).ebx & kAmd) != 0;
}

bool offers_pred_cmd(const x86::CpuidTable& cpuid) {
    constexpr std::uint32_t kIbrsAndIbpb = 1U << 26;
    constexpr std::uint32_t kIbpb = 1U << 12;
    constexpr std::uint32_t kSbpb = 1U << 27;
    return (cpuid.find(7, 0).edx & kIbrsAndIbpb) != 0 ||
           (cpuid.find(0x80000008, 0).ebx & kIbpb) != 0 ||
           (cpuid.find(0x80000021, 0).eax & kSbpb) != 0;
}

bool offers_flush_cmd(const x86::CpuidTable& cpuid) {
    return (cpuid.find(7, 0).edx & (1U << 28)) != 0;
}

}  // namespace

MsrFile::MsrFile(CpuState& cpu, MsrEffects& effects, const x86::CpuidTable& cpuid)
    : cpu_(cpu),
      effects_(effects),
      efer_bits_(efer_bits(cpuid)),
      has_spec_ctrl_(offers_spec_ctrl(cpuid)),
      has_pred_cmd_(offers_pred_cmd(cpuid)),
      has_flush_cmd_(offers_flush_cmd(cpuid)) {
    const std::uint32_t bits = cpuid.find(0x80000008, 0).eax & 0xff;
    physical_mask_ = (1ULL << std::clamp(bits, 36U, 52U)) - 1;
    std::size_t slots = 0;
    for (const MsrRow& row : msr_table()) {
        slots += row.count;
    }
    slots_.resize(slots);
    reset();
}

const MsrRow* MsrFile::find(std::uint32_t index) const noexcept {
    const bool hidden = (index == m::kSpecCtrl && !has_spec_ctrl_) ||
                        (index == m::kPredCmd && !has_pred_cmd_) ||
                        (index == m::kFlushCmd && !has_flush_cmd_);
    return hidden ? nullptr : find_msr(index);
}

std::uint64_t& MsrFile::slot(const MsrRow& row, std::uint32_t index) noexcept {
    std::size_t first = 0;
    for (const MsrRow* before = msr_table().data(); before != &row; ++before) {
        first += before->count;
    }
    return slots_[first + (index - row.first)];
}

void MsrFile::reset() noexcept {
    for (const MsrRow& row : msr_table()) {
        for (std::uint32_t i = 0; i < row.count; ++i) {
            slot(row, row.first + i) = row.value;
        }
        if (row.field != nullptr) {
            cpu_.*row.field = row.value;
        }
    }
    cpu_.pat = slot(*find_msr(m::kPat), m::kPat);
    tsc_adjust_ = 0;
}

bool MsrFile::read(std::uint32_t index, std::uint64_t& value) noexcept {
    const MsrRow* row = find(index);
    if (row == nullptr) {
        static log::RateLimit limit;
        if (limit.pass()) {
            log::debug("guest reads an unknown MSR index={:#x}", index);
        }
        return false;
    }
    switch (row->kind) {
        case MsrKind::Field:
        case MsrKind::Canonical:
            value = cpu_.*row->field;
            return true;
        case MsrKind::Stored:
            value = slot(*row, index);
            return true;
        case MsrKind::Constant:
        case MsrKind::Ignored:
            value = row->value;
            return true;
        case MsrKind::Command:
            return false;
        case MsrKind::Special:
            return read_special(index, value);
    }
    return false;
}

bool MsrFile::write(std::uint32_t index, std::uint64_t value) noexcept {
    const MsrRow* row = find(index);
    if (row == nullptr) {
        static log::RateLimit limit;
        if (limit.pass()) {
            log::debug("guest writes an unknown MSR index={:#x}", index);
        }
        return false;
    }
    if (row->kind != MsrKind::Ignored && (value & ~row->mask) != 0) {
        return false;
    }
    switch (row->kind) {
        case MsrKind::Field:
            cpu_.*row->field = value;
            return true;
        case MsrKind::Canonical:
            if (!canonical(value)) {
                return false;
            }
            cpu_.*row->field = value;
            return true;
        case MsrKind::Stored:
            slot(*row, index) = value;
            return true;
        case MsrKind::Constant:
            return false;
        case MsrKind::Ignored:
        case MsrKind::Command:
            return true;
        case MsrKind::Special:
            return write_special(*row, index, value);
    }
    return false;
}

bool MsrFile::read_special(std::uint32_t index, std::uint64_t& value) noexcept {
    if (is_x2apic(index)) {
        return effects_.read_x2apic(index, value);
    }
    if (is_paravirtual(index)) {
        return effects_.read_paravirtual(index, value);
    }
    switch (index) {
        case m::kTsc:
            value = host_tsc() + cpu_.tsc_offset;
            return true;
        case 0x11:
        case 0x12:
            return effects_.read_paravirtual(m::kKvmWallClock + (index - 0x11), value);
        case m::kApicBase:
            value = effects_.apic_base();
            return true;
        case m::kTscAdjust:
            value = tsc_adjust_;
            return true;
        case m::kTscDeadline:
            value = effects_.tsc_deadline();
            return true;
        case m::kEfer:
            value = cpu_.efer;
            return true;
        case m::kFsBase:
            value = cpu_.segments[x86::Fs].base;
            return true;
        case m::kGsBase:
            value = cpu_.segments[x86::Gs].base;
            return true;
        case m::kPat:
            value = cpu_.pat;
            return true;
        default:
            value = slot(*find_msr(index), index);
            return true;
    }
}

bool MsrFile::write_efer(std::uint64_t value) noexcept {
    if ((value & ~efer_bits_) != 0) {
        return false;
    }
    if ((cpu_.cr0 & x86::cr0::kPg) != 0 && ((value ^ cpu_.efer) & x86::efer::kLme) != 0) {
        return false;
    }
    cpu_.efer = (value & ~x86::efer::kLma) | (cpu_.efer & x86::efer::kLma);
    privilege_changed(cpu_);
    update_mode(cpu_);
    return true;
}

// SDM 3A, 12.11.2.
bool MsrFile::write_mtrr(std::uint32_t index, std::uint64_t value) noexcept {
    bool good = false;
    if (index == m::kMtrrDefType) {
        good = memory_type(value & 0xff, false) && (value & ~0xcffULL) == 0;
    } else if (index >= m::kMtrrFix64k) {
        good = memory_types(value, false);
    } else if (index % 2 == 0) {
        good = memory_type(value & 0xff, false) && (value & ~physical_mask_) == 0 &&
               (value & 0xf00) == 0;
    } else {
        good = (value & ~physical_mask_) == 0 && (value & 0x7ff) == 0;
    }
    if (good) {
        slot(*find_msr(index), index) = value;
    }
    return good;
}

bool MsrFile::write_special(const MsrRow& row, std::uint32_t index, std::uint64_t value) noexcept {
    if (is_x2apic(index)) {
        return effects_.write_x2apic(index, value);
    }
    if (is_paravirtual(index)) {
        return effects_.write_paravirtual(index, value);
    }
    if (is_mtrr(index)) {
        return write_mtrr(index, value);
    }
    if (is_machine_check(index)) {
        // Control registers take all or nothing, status registers are only cleared.
        const bool control = index % 4 == 0;
        if (value != 0 && !(control ? (value == ~0ULL || value == ~0ULL - 1) : index % 4 != 1)) {
            return false;
        }
        slot(row, index) = value;
        return true;
    }
    return write_single(row, index, value);
}

bool MsrFile::write_single(const MsrRow& row, std::uint32_t index, std::uint64_t value) noexcept {
    switch (index) {
        case m::kTsc: {
            const std::uint64_t offset = value - host_tsc();
            tsc_adjust_ += offset - cpu_.tsc_offset;
            cpu_.tsc_offset = offset;
            effects_.tsc_moved();
            return true;
        }
        case m::kTscAdjust:
            cpu_.tsc_offset += value - tsc_adjust_;
            tsc_adjust_ = value;
            effects_.tsc_moved();
            return true;
        case 0x11:
        case 0x12:
            return effects_.write_paravirtual(m::kKvmWallClock + (index - 0x11), value);
        case m::kApicBase:
            return effects_.write_apic_base(value);
        case m::kMcgCtl:
            if (value != 0 && value != ~0ULL) {
                return false;
            }
            slot(row, index) = value;
            return true;
        case m::kTscDeadline:
            effects_.write_tsc_deadline(value);
            return true;
        case m::kEfer:
            return write_efer(value);
        case m::kFsBase:
        case m::kGsBase:
            if (!canonical(value)) {
                return false;
            }
            cpu_.segments[index == m::kFsBase ? x86::Fs : x86::Gs].base = value;
            return true;
        case m::kPat:
            if (!memory_types(value, true)) {
                return false;
            }
            cpu_.pat = value;
            return true;
        default:
            return false;
    }
}

std::vector<x86::Msr> MsrFile::save() {
    std::vector<x86::Msr> out;
    for (const MsrRow& row : msr_table()) {
        for (std::uint32_t i = 0; row.saved && i < row.count; ++i) {
            std::uint64_t value = 0;
            if (read(row.first + i, value) && (value != 0 || row.value != 0)) {
                out.push_back({row.first + i, value});
            }
        }
    }
    return out;
}

Result<> MsrFile::load(std::span<const x86::Msr> msrs) {
    reset();
    for (const x86::Msr& msr : msrs) {
        const MsrRow* row = find(msr.index);
        if (row != nullptr && !row->saved) {
            continue;  // derived or constant here
        }
        if (row == nullptr) {
            // Another engine's register: harmless unless it holds something.
            if (msr.value == 0) {
                continue;
            }
            return Error(ErrorKind::NotSupported,
                         fmt::format("the soft engine has no MSR {:#x}", msr.index));
        }
        if (msr.index == m::kTscAdjust) {
            tsc_adjust_ = msr.value;  // the TSC itself is in ArchState
            continue;
        }
        if (is_machine_check(msr.index)) {
            slot(*row, msr.index) = msr.value;
            continue;
        }
        if (!write(msr.index, msr.value)) {
            return Error(ErrorKind::InvalidArgument,
                         fmt::format("MSR {:#x} cannot hold {:#x}", msr.index, msr.value));
        }
    }
    return ok();
}

}  // namespace strata::engine::soft
