// Segment operations: MOV, PUSH, POP of segment registers, LDS and its like, FS and GS bases.
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp/descriptors.h"
#include "engine/soft/interp/handlers.h"

namespace strata::engine::soft {
namespace {

/// After a load of SS the next instruction runs without interrupts and debug traps.
StepResult loaded(CpuState& cpu, const Instruction& insn, unsigned number) {
    cpu.interrupt_shadow = cpu.interrupt_shadow || number == x86::Ss;
    return done_end_block(cpu, insn);
}

StepResult op_mov_from(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    const unsigned number = insn.reg & 7U;
    if (number > x86::Gs) {
        return raise_ud(cpu);
    }
    const std::uint16_t selector = cpu.segments[number].selector;
    if (insn.mem.present) {
        return write_operand(cpu, insn, 2, selector) ? done(cpu, insn) : StepResult::Exception;
    }
    set_gpr(cpu, insn.rm, insn.operand_size, selector);
    return done(cpu, insn);
}

StepResult op_mov_to(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    const unsigned number = insn.reg & 7U;
    std::uint64_t selector = 0;
    if (number == x86::Cs || number > x86::Gs) {
        return raise_ud(cpu);
    }
    if (!read_operand(cpu, insn, 2, selector) ||
        !load_segment(cpu, number, static_cast<std::uint16_t>(selector))) {
        return StepResult::Exception;
    }
    return loaded(cpu, insn, number);
}

/// 06/07 ES … 1E/1F DS, 0F A0/A1 FS, 0F A8/A9 GS.
unsigned pushed_segment(const Instruction& insn) {
    if (insn.opcode_map == 1) {
        return insn.opcode < 0xa8 ? x86::Fs : x86::Gs;
    }
    return static_cast<unsigned>(insn.opcode >> 3U) & 3U;
}

unsigned item_size(const CpuState& cpu, const Instruction& insn) {
    return code64(cpu) ? (insn.operand_size == 2 ? 2 : 8) : insn.operand_size;
}

StepResult op_push(CpuState& cpu, Op& op) noexcept {
    StackCursor stack(cpu);
    if (!stack.push(item_size(cpu, op.insn), cpu.segments[pushed_segment(op.insn)].selector)) {
        return StepResult::Exception;
    }
    stack.commit();
    return done(cpu, op.insn);
}

StepResult op_pop(CpuState& cpu, Op& op) noexcept {
    const unsigned number = pushed_segment(op.insn);
    StackCursor stack(cpu);
    std::uint64_t selector = 0;
    if (!stack.pop(item_size(cpu, op.insn), selector) ||
        !load_segment(cpu, number, static_cast<std::uint16_t>(selector))) {
        return StepResult::Exception;
    }
    stack.commit();
    return loaded(cpu, op.insn, number);
}

template <unsigned number>
StepResult op_load_pointer(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    if (!insn.mem.present) {
        return raise_ud(cpu);
    }
    std::uint8_t image[10] = {};
    const unsigned size = insn.operand_size;
    if (!load_bytes(cpu, insn.mem.segment, effective_address(cpu, insn), image, size + 2)) {
        return StepResult::Exception;
    }
    std::uint64_t offset = 0;
    std::uint16_t selector = 0;
    __builtin_memcpy(&offset, image, size);
    __builtin_memcpy(&selector, image + size, 2);
    if (!load_segment(cpu, number, selector)) {
        return StepResult::Exception;
    }
    set_gpr(cpu, insn.reg, size, offset);
    return loaded(cpu, insn, number);
}

template <unsigned number, bool write>
StepResult op_base(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    if ((cpu.cr4 & x86::cr4::kFsgsbase) == 0 || !code64(cpu)) {
        return raise_ud(cpu);
    }
    if constexpr (!write) {
        set_gpr(cpu, insn.rm, insn.operand_size, cpu.segments[number].base);
        return done(cpu, insn);
    }
    const std::uint64_t base = get_gpr(cpu, insn.rm, insn.operand_size);
    if (!canonical_address(base)) {
        return raise_gp(cpu);
    }
    cpu.segments[number].base = base;
    return done(cpu, insn);
}

}  // namespace

Handler select_segment(const Instruction& insn) noexcept {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_MOV:
            return insn.opcode == 0x8c ? op_mov_from : op_mov_to;
        case ZYDIS_MNEMONIC_PUSH:
            return op_push;
        case ZYDIS_MNEMONIC_POP:
            return op_pop;
        case ZYDIS_MNEMONIC_LES:
            return op_load_pointer<x86::Es>;
        case ZYDIS_MNEMONIC_LDS:
            return op_load_pointer<x86::Ds>;
        case ZYDIS_MNEMONIC_LSS:
            return op_load_pointer<x86::Ss>;
        case ZYDIS_MNEMONIC_LFS:
            return op_load_pointer<x86::Fs>;
        case ZYDIS_MNEMONIC_LGS:
            return op_load_pointer<x86::Gs>;
        case ZYDIS_MNEMONIC_RDFSBASE:
            return op_base<x86::Fs, false>;
        case ZYDIS_MNEMONIC_RDGSBASE:
            return op_base<x86::Gs, false>;
        case ZYDIS_MNEMONIC_WRFSBASE:
            return op_base<x86::Fs, true>;
        case ZYDIS_MNEMONIC_WRGSBASE:
            return op_base<x86::Gs, true>;
        default:
            return nullptr;
    }
}

}  // namespace strata::engine::soft
