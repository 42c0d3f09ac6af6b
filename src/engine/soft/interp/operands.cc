// Operands: the out-of-line half of operands.h.
#include "engine/soft/interp/operands.h"

#include "engine/soft/mmu/mmu_state.h"

namespace strata::engine::soft {
namespace {

bool segment_fault(CpuState& cpu, unsigned segment) {
    (void)raise_error(cpu, segment == x86::Ss ? vec::kSs : vec::kGp, 0);
    return false;
}

/// SDM 3A, 5.3: limit check, expand-down segments included.
bool within_limit(const Segment& segment, std::uint64_t offset, std::uint32_t size) {
    const std::uint64_t last = offset + size - 1;
    const bool expand_down = (segment.attributes & 0x1cU) == 0x14;
    if (!expand_down) {
        return last <= segment.limit;
    }
    const std::uint64_t top = (segment.attributes & 0x4000U) != 0 ? 0xffffffffU : 0xffffU;
    return offset > segment.limit && last <= top;
}

}  // namespace

bool segment_check(CpuState& cpu, unsigned number, std::uint64_t offset, std::uint32_t size,
                   bool write, std::uint64_t& linear) noexcept {
    const Segment& segment = cpu.segments[number];
    if (protected_mode(cpu)) {
        const unsigned type = segment.attributes & 0xfU;
        const bool allowed = write ? (type & 0xaU) == 0x2 : (type & 0xaU) != 0x8;
        if (segment.unusable || !allowed) {
            return segment_fault(cpu, number);
        }
    }
    if (!within_limit(segment, offset, size)) {
        return segment_fault(cpu, number);
    }
    linear = (segment.base + offset) & 0xffffffffU;
    return true;
}

bool access_hooks(CpuState& cpu, std::uint64_t linear, std::uint32_t size, bool write) noexcept {
    if ((cpu.mode & ModeBits::kAlignCheck) != 0 && size > 1 && (linear & (size - 1)) != 0 &&
        (size & (size - 1)) == 0) {
        (void)raise_error(cpu, vec::kAc, 0);
        return false;
    }
    if ((cpu.dr7 & 0xffU) == 0) {
        return true;
    }
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned kind = static_cast<unsigned>(cpu.dr7 >> (16U + i * 4U)) & 3U;
        if (((cpu.dr7 >> (i * 2U)) & 3U) == 0 || (kind != 3 && !(kind == 1 && write))) {
            continue;
        }
        constexpr std::uint64_t kLengths[] = {1, 2, 8, 4};
        const std::uint64_t length = kLengths[(cpu.dr7 >> (18U + i * 4U)) & 3U];
        const std::uint64_t start = cpu.dr[i] & ~(length - 1);
        if (linear < start + length && start < linear + size) {
            context(cpu).watch.dr6 |= 1ULL << i;
        }
    }
    return true;
}

bool load_sized(CpuState& cpu, unsigned segment, std::uint64_t offset, unsigned size,
                std::uint64_t& value) noexcept {
    std::uint8_t v8 = 0;
    std::uint16_t v16 = 0;
    std::uint32_t v32 = 0;
    switch (size) {
        case 1:
            if (!load(cpu, segment, offset, v8)) {
                return false;
            }
            value = v8;
            return true;
        case 2:
            if (!load(cpu, segment, offset, v16)) {
                return false;
            }
            value = v16;
            return true;
        case 4:
            if (!load(cpu, segment, offset, v32)) {
                return false;
            }
            value = v32;
            return true;
        default:
            return load(cpu, segment, offset, value);
    }
}

bool store_sized(CpuState& cpu, unsigned segment, std::uint64_t offset, unsigned size,
                 std::uint64_t value) noexcept {
    switch (size) {
        case 1:
            return store(cpu, segment, offset, static_cast<std::uint8_t>(value));
        case 2:
            return store(cpu, segment, offset, static_cast<std::uint16_t>(value));
        case 4:
            return store(cpu, segment, offset, static_cast<std::uint32_t>(value));
        default:
            return store(cpu, segment, offset, value);
    }
}

bool read_operand(CpuState& cpu, const Instruction& insn, unsigned size,
                  std::uint64_t& value) noexcept {
    if (!insn.mem.present) {
        value = get_rm(cpu, insn, size);
        return true;
    }
    return load_sized(cpu, insn.mem.segment, effective_address(cpu, insn), size, value);
}

bool write_operand(CpuState& cpu, const Instruction& insn, unsigned size,
                   std::uint64_t value) noexcept {
    if (!insn.mem.present) {
        set_rm(cpu, insn, size, value);
        return true;
    }
    return store_sized(cpu, insn.mem.segment, effective_address(cpu, insn), size, value);
}

bool load_bytes(CpuState& cpu, unsigned segment, std::uint64_t offset, void* out,
                std::uint32_t size) noexcept {
    std::uint64_t linear = 0;
    return segment_linear(cpu, segment, offset, size, false, linear) &&
           (read_linear(cpu, linear, out, size) || memory_fault(cpu, segment));
}

bool store_bytes(CpuState& cpu, unsigned segment, std::uint64_t offset, const void* data,
                 std::uint32_t size) noexcept {
    std::uint64_t linear = 0;
    return segment_linear(cpu, segment, offset, size, true, linear) &&
           (write_linear(cpu, linear, data, size) || memory_fault(cpu, segment));
}

bool probe_write(CpuState& cpu, std::uint64_t linear, std::uint32_t size) noexcept {
    const std::uint64_t last = linear + size - 1;
    if (long_mode(cpu) && !(check_canonical(cpu, linear) && check_canonical(cpu, last))) {
        return false;
    }
    std::uint64_t physical = 0;
    if (!translate_linear(cpu, linear, MemAccess::Write, Privilege::Current, physical)) {
        return false;
    }
    return (last >> 12U) == (linear >> 12U) ||
           translate_linear(cpu, last & ~0xfffULL, MemAccess::Write, Privilege::Current, physical);
}

}  // namespace strata::engine::soft
