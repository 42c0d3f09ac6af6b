// Vector memory: instructions that touch only some bytes of their operand, or bytes at addresses
// held in vectors.
//
// Masked AVX-512 operands, VMASKMOV, MASKMOVDQU, compress and expand, gathers and scatters. Faults
// are exact: a byte whose mask bit is clear is never touched, and gathers keep what they had done
// when a later element faults. SDM 2, 15.6 and the pages themselves.
#include <Zydis/Zydis.h>

#include "engine/soft/interp/handlers.h"
#include "engine/soft/interp/operands.h"
#include "engine/soft/interp/xsave_image.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kAvx512State = 0xe6, kAvxState = 6;

std::uint64_t low_bits(unsigned count) {
    return count >= 64 ? ~0ULL : (1ULL << count) - 1;
}

/// What of a masked operand is active.
struct Active {
    std::uint64_t elements = 0;  ///< one bit each
    unsigned size = 0;           ///< bytes of an element
    unsigned count = 0;
};

bool is_run(const Instruction& insn) {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_VCOMPRESSPD:
        case ZYDIS_MNEMONIC_VCOMPRESSPS:
        case ZYDIS_MNEMONIC_VPCOMPRESSB:
        case ZYDIS_MNEMONIC_VPCOMPRESSD:
        case ZYDIS_MNEMONIC_VPCOMPRESSQ:
        case ZYDIS_MNEMONIC_VPCOMPRESSW:
        case ZYDIS_MNEMONIC_VEXPANDPD:
        case ZYDIS_MNEMONIC_VEXPANDPS:
        case ZYDIS_MNEMONIC_VPEXPANDB:
        case ZYDIS_MNEMONIC_VPEXPANDD:
        case ZYDIS_MNEMONIC_VPEXPANDQ:
        case ZYDIS_MNEMONIC_VPEXPANDW:
            return true;
        default:
            return false;
    }
}

bool is_vmaskmov(const Instruction& insn) {
    return insn.encoding == Encoding::Vex;
}

/// Exception classes without fault suppression: the whole operand is accessed whatever the mask
/// says.
bool no_suppression(const Instruction& insn) {
    switch (insn.mnemonic) {
        // E4NF by the manual; the decoder's tables say E4.
        case ZYDIS_MNEMONIC_VCVTNE2PS2BF16:
        case ZYDIS_MNEMONIC_VDBPSADBW:
        case ZYDIS_MNEMONIC_VGF2P8AFFINEQB:
        case ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB:
            return true;
        default:
            break;
    }
    switch (insn.exception_class) {
        case ZYDIS_EXCEPTION_CLASS_E1NF:
        case ZYDIS_EXCEPTION_CLASS_E2NF:
        case ZYDIS_EXCEPTION_CLASS_E3NF:
        case ZYDIS_EXCEPTION_CLASS_E4NF:
        case ZYDIS_EXCEPTION_CLASS_E5NF:
        case ZYDIS_EXCEPTION_CLASS_E6NF:
        case ZYDIS_EXCEPTION_CLASS_E9NF:
        case ZYDIS_EXCEPTION_CLASS_E10NF:
            return true;
        default:
            return false;
    }
}

Active vmaskmov_active(CpuState& cpu, const Instruction& insn) {
    const bool quad =
        insn.mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD || insn.mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ;
    Active a;
    a.size = quad ? 8 : 4;
    a.count = insn.mem.size / a.size;
    std::uint8_t mask[32];
    read_vector(cpu, insn.vvvv, mask, insn.mem.size);
    for (unsigned i = 0; i < a.count; ++i) {
        if ((mask[i * a.size + a.size - 1] & 0x80U) != 0) {
            a.elements |= 1ULL << i;
        }
    }
    return a;
}

Active evex_active(CpuState& cpu, const Instruction& insn) {
    Active a;
    const std::uint64_t mask = read_opmask(cpu, insn.mask);
    a.size = insn.mem.element_size != 0 ? insn.mem.element_size : 4;
    a.count = insn.mem.size / a.size;
    if (a.count == 0) {
        a.count = 1;
    }
    if (insn.broadcast) {
        // Lane i shows element i modulo their number.
        const unsigned lanes =
            insn.broadcast_lanes != 0 ? insn.broadcast_lanes : insn.vector_length / 8U / a.size;
        for (unsigned i = 0; i < (lanes != 0 ? lanes : 1); ++i) {
            a.elements |= ((mask >> i) & 1U) << (i % a.count);
        }
    } else if (is_run(insn)) {
        a.elements =
            low_bits(static_cast<unsigned>(__builtin_popcountll(mask & low_bits(a.count))));
    } else {
        a.elements = mask & low_bits(a.count);
    }
    return a;
}

bool fault(CpuState& cpu, const Instruction& insn) {
    return memory_fault(cpu, insn.mem.segment);
}

/// Element by element through a copy.
StepResult run_elements(CpuState& cpu, Op& op, std::uint64_t linear, const Active& active) {
    const Instruction& insn = op.insn;
    std::byte* copy = context(cpu).scratch + (linear & 63U);
    for (unsigned i = 0; i < insn.mem.size; ++i) {
        copy[i] = std::byte{0};
    }
    for (unsigned i = 0; i < active.count; ++i) {
        if (((active.elements >> i) & 1U) == 0) {
            continue;
        }
        const std::uint64_t at = linear + i * active.size;
        const bool good = insn.mem.write
                              ? probe_write(cpu, at, active.size)
                              : read_linear(cpu, at, copy + i * active.size, active.size);
        if (!good) {
            (void)fault(cpu, insn);
            return StepResult::Exception;
        }
    }
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): filled by run_in_frame()
    HostFrame frame;
    if (!run_in_frame(cpu, op, copy, frame)) {
        return StepResult::Exception;
    }
    for (unsigned i = 0; insn.mem.write && i < active.count; ++i) {
        if (((active.elements >> i) & 1U) != 0 &&
            !write_linear(cpu, linear + i * active.size, copy + i * active.size, active.size)) {
            return StepResult::Exception;
        }
    }
    commit_frame(cpu, op, frame);
    return done(cpu, insn);
}

StepResult op_masked(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    if (no_suppression(insn)) {
        return op_on_host(cpu, op);
    }
    if (!vector_allowed(cpu, insn)) {
        return StepResult::Exception;
    }
    save_vector_state(cpu);
    materialize(cpu, is_vmaskmov(insn) ? kAvxState : kAvx512State);
    const Active active = is_vmaskmov(insn) ? vmaskmov_active(cpu, insn) : evex_active(cpu, insn);
    std::uint64_t linear = 0;
    const std::uint64_t offset = effective_address(cpu, insn);
    if (active.elements != 0 &&
        !segment_linear(cpu, insn.mem.segment, offset, insn.mem.size, insn.mem.write, linear)) {
        return StepResult::Exception;
    }
    if (insn.mem.aligned && (linear & (insn.mem.size - 1U)) != 0) {
        return raise_gp(cpu);
    }
    const bool crosses = (linear & 0xfffU) + insn.mem.size > 0x1000;
    if (active.elements != 0 && !crosses) {
        if (std::byte* host = tlb_hit(cpu, linear, insn.mem.size, insn.mem.write)) {
            return run_with_operand(cpu, op, host) ? done(cpu, insn) : StepResult::Exception;
        }
    }
    return run_elements(cpu, op, linear, active);
}

/// The first MMX instruction after x87 ones: TOP becomes 0 and all registers valid. The image holds
/// ST(i), which are other registers then.
void enter_mmx(CpuState& cpu) {
    const unsigned top = static_cast<unsigned>(cpu.xsave[3]) >> 3U & 7U;
    std::byte registers[8][16];
    __builtin_memcpy(registers, cpu.xsave + 32, sizeof(registers));
    for (unsigned i = 0; i < 8; ++i) {
        __builtin_memcpy(cpu.xsave + 32 + ((i + top) & 7U) * 16, registers[i], 16);
    }
    cpu.xsave[3] = static_cast<std::byte>(static_cast<std::uint8_t>(cpu.xsave[3]) & 0xc7U);
    cpu.xsave[4] = std::byte{0xff};
}

/// MASKMOVDQU, MASKMOVQ: bytes of ModRM.reg where ModRM.rm has its top bits, to DS:rDI.
StepResult op_maskmov_bytes(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    if (!vector_allowed(cpu, insn)) {
        return StepResult::Exception;
    }
    save_vector_state(cpu);
    const bool mmx = insn.vector == VectorKind::Mmx;
    materialize(cpu, mmx ? 1U : 2U);
    if (mmx && (static_cast<unsigned>(cpu.xsave[2]) & 0x80U) != 0) {
        return raise(cpu, vec::kMf);
    }
    const unsigned bytes = mmx ? 8 : 16;
    std::uint8_t data[16];
    std::uint8_t mask[16];
    if (mmx) {
        const unsigned top = static_cast<unsigned>(cpu.xsave[3]) >> 3U & 7U;
        __builtin_memcpy(data, cpu.xsave + 32 + ((insn.reg - top) & 7U) * 16, 8);
        __builtin_memcpy(mask, cpu.xsave + 32 + ((insn.rm - top) & 7U) * 16, 8);
    } else {
        read_vector(cpu, insn.reg, data, 16);
        read_vector(cpu, insn.rm, mask, 16);
    }
    if (mmx) {
        enter_mmx(cpu);  // processors do so even if the store faults
    }
    const unsigned segment = insn.implicit_segment;
    // All bytes are accessed whatever the mask, even an empty one: the manuals allow it, and AMD's
    // processors do it.
    std::uint64_t linear = 0;
    if (!segment_linear(cpu, segment, get_gpr(cpu, x86::Rdi, insn.address_size), bytes, true,
                        linear) ||
        !probe_write(cpu, linear, bytes)) {
        (void)memory_fault(cpu, segment);
        return StepResult::Exception;
    }
    for (unsigned i = 0; i < bytes; ++i) {
        if ((mask[i] & 0x80U) != 0 && !write_linear(cpu, linear + i, &data[i], 1)) {
            return StepResult::Exception;
        }
    }
    return done(cpu, insn);
}

struct GatherShape {
    unsigned index_size, data_size, count;
    bool evex;
};

GatherShape gather_shape(const Instruction& insn) {
    GatherShape s{};
    s.evex = insn.encoding == Encoding::Evex;
    const bool w = (insn.bytes[insn.vex_offset + 2] & 0x80U) != 0;
    s.index_size = (insn.opcode & 1U) != 0 ? 8 : 4;
    s.data_size = w ? 8 : 4;
    const unsigned widest = s.index_size > s.data_size ? s.index_size : s.data_size;
    s.count = insn.vector_length / 8U / widest;
    return s;
}

std::uint64_t element_address(const CpuState& cpu, const Instruction& insn, const GatherShape& s,
                              const std::uint8_t* indices, unsigned i) {
    std::int64_t index = 0;
    if (s.index_size == 8) {
        __builtin_memcpy(&index, indices + i * 8, 8);
    } else {
        std::int32_t narrow = 0;
        __builtin_memcpy(&narrow, indices + i * 4, 4);
        index = narrow;
    }
    return (effective_address(cpu, insn) + static_cast<std::uint64_t>(index) * insn.mem.scale) &
           size_mask(insn.address_size);
}

std::uint64_t vex_gather_mask(const std::uint8_t* mask, const GatherShape& s) {
    std::uint64_t bits = 0;
    for (unsigned i = 0; i < s.count; ++i) {
        bits |= (mask[i * s.data_size + s.data_size - 1] & 0x80U) != 0 ? 1ULL << i : 0;
    }
    return bits;
}

/// At a fault only the bits of what was done are cleared: bits above the last element stay.
void keep_mask(CpuState& cpu, const Instruction& insn, const GatherShape& s, std::uint64_t bits) {
    write_opmask(cpu, insn.mask, (read_opmask(cpu, insn.mask) & ~low_bits(s.count)) | bits);
}

/// A fault at element `at`: what was gathered is kept and its mask bits are clear; the rest of both
/// registers is as before.
void keep_gathered(CpuState& cpu, const Instruction& insn, const GatherShape& s,
                   const std::uint8_t* data, std::uint8_t* mask, std::uint64_t bits, unsigned at) {
    write_vector(cpu, insn.reg, data, 64, 64);
    if (s.evex) {
        keep_mask(cpu, insn, s, bits);
        return;
    }
    for (unsigned b = 0; b < at * s.data_size; ++b) {
        mask[b] = 0;
    }
    write_vector(cpu, insn.vvvv, mask, 64, 64);
}

StepResult op_gather(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    if (!vector_allowed(cpu, insn)) {
        return StepResult::Exception;
    }
    const GatherShape s = gather_shape(insn);
    const auto index = static_cast<unsigned>(insn.mem.index);
    if (insn.reg == index || (!s.evex && (insn.vvvv == index || insn.vvvv == insn.reg)) ||
        (s.evex && insn.mask == 0)) {
        return raise_ud(cpu);
    }
    save_vector_state(cpu);
    materialize(cpu, s.evex ? kAvx512State : kAvxState);
    std::uint8_t indices[64];
    std::uint8_t data[64];
    std::uint8_t mask[64];
    read_vector(cpu, index, indices, 64);
    read_vector(cpu, insn.reg, data, 64);
    read_vector(cpu, insn.vvvv, mask, 64);
    std::uint64_t bits =
        s.evex ? read_opmask(cpu, insn.mask) & low_bits(s.count) : vex_gather_mask(mask, s);
    for (unsigned i = 0; i < s.count; ++i) {
        if (((bits >> i) & 1U) == 0) {
            continue;
        }
        if (!load_bytes(cpu, insn.mem.segment, element_address(cpu, insn, s, indices, i),
                        data + i * s.data_size, s.data_size)) {
            // The element may hold half-read bytes: no, load_bytes() is all or nothing. What came
            // before is kept.
            keep_gathered(cpu, insn, s, data, mask, bits, i);
            return StepResult::Exception;
        }
        bits &= ~(1ULL << i);
    }
    write_vector(cpu, insn.reg, data, s.count * s.data_size, 64);
    if (s.evex) {
        write_opmask(cpu, insn.mask, 0);
    } else {
        const std::uint8_t nothing[32] = {};
        write_vector(cpu, insn.vvvv, nothing, 32, 64);
    }
    return done(cpu, insn);
}

StepResult op_scatter(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    if (!vector_allowed(cpu, insn)) {
        return StepResult::Exception;
    }
    const GatherShape s = gather_shape(insn);
    if (insn.mask == 0) {
        return raise_ud(cpu);
    }
    save_vector_state(cpu);
    materialize(cpu, kAvx512State);
    std::uint8_t indices[64];
    std::uint8_t data[64];
    read_vector(cpu, static_cast<unsigned>(insn.mem.index), indices, 64);
    read_vector(cpu, insn.reg, data, 64);
    std::uint64_t bits = read_opmask(cpu, insn.mask) & low_bits(s.count);
    for (unsigned i = 0; i < s.count; ++i) {
        if (((bits >> i) & 1U) == 0) {
            continue;
        }
        if (!store_bytes(cpu, insn.mem.segment, element_address(cpu, insn, s, indices, i),
                         data + i * s.data_size, s.data_size)) {
            keep_mask(cpu, insn, s, bits);
            return StepResult::Exception;
        }
        bits &= ~(1ULL << i);
    }
    write_opmask(cpu, insn.mask, 0);
    return done(cpu, insn);
}

}  // namespace

Handler select_vector_memory(const Instruction& insn) noexcept {
    if (insn.mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU || insn.mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU ||
        insn.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ) {
        return op_maskmov_bytes;
    }
    if (insn.mem.vsib) {
        return insn.mem.write ? op_scatter : op_gather;
    }
    return insn.mem.present && insn.mem.size != 0 && insn.mem.size <= 64 ? op_masked : nullptr;
}

}  // namespace strata::engine::soft
