// Stack: PUSH, POP, ENTER, LEAVE, PUSHA, POPA, PUSHF, POPF.
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp/handlers.h"
#include "engine/soft/interp/operands.h"
#include "engine/soft/mmu/mmu.h"

namespace strata::engine::soft {
namespace {

namespace fl = x86::rflags;

/// Item size: 64-bit mode knows 8 and (with a 66 prefix) 2.
unsigned item_size(const CpuState& cpu, const Instruction& insn) {
    if (!code64(cpu)) {
        return insn.operand_size;
    }
    return insn.operand_size == 2 ? 2 : 8;
}

StepResult op_push(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    const unsigned size = item_size(cpu, insn);
    std::uint64_t value = 0;
    if (insn.imm_count != 0) {
        value = static_cast<std::uint64_t>(insn.imm[0]);
    } else if (insn.modrm_offset == kNoOffset) {
        value = cpu.gpr[insn.opcode_reg];
    } else if (!read_operand(cpu, insn, size, value)) {
        return StepResult::Exception;
    }
    StackCursor stack(cpu);
    if (!stack.push(size, value)) {
        return StepResult::Exception;
    }
    stack.commit();
    return done(cpu, insn);
}

StepResult op_pop(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    const unsigned size = item_size(cpu, insn);
    StackCursor stack(cpu);
    std::uint64_t value = 0;
    if (!stack.pop(size, value)) {
        return StepResult::Exception;
    }
    if (insn.modrm_offset == kNoOffset || !insn.mem.present) {
        stack.commit();
        set_gpr(cpu, insn.modrm_offset == kNoOffset ? insn.opcode_reg : insn.rm, size, value);
        return done(cpu, insn);
    }
    // An address based on rsp uses its value after the pop.
    const std::uint64_t before = cpu.gpr[x86::Rsp];
    stack.commit();
    if (!write_operand(cpu, insn, size, value)) {
        cpu.gpr[x86::Rsp] = before;
        return StepResult::Exception;
    }
    return done(cpu, insn);
}

StepResult op_pusha(CpuState& cpu, Op& op) noexcept {
    StackCursor stack(cpu);
    for (unsigned reg = 0; reg < 8; ++reg) {
        if (!stack.push(op.insn.operand_size, cpu.gpr[reg])) {
            return StepResult::Exception;
        }
    }
    stack.commit();
    return done(cpu, op.insn);
}

StepResult op_popa(CpuState& cpu, Op& op) noexcept {
    StackCursor stack(cpu);
    std::uint64_t values[8];
    for (unsigned reg = 8; reg-- > 0;) {
        if (!stack.pop(op.insn.operand_size, values[reg])) {
            return StepResult::Exception;
        }
    }
    stack.commit();
    for (unsigned reg = 0; reg < 8; ++reg) {
        if (reg != x86::Rsp) {
            set_gpr(cpu, reg, op.insn.operand_size, values[reg]);
        }
    }
    return done(cpu, op.insn);
}

StepResult op_leave(CpuState& cpu, Op& op) noexcept {
    const unsigned size = item_size(cpu, op.insn);
    const std::uint64_t mask = size_mask(stack_address_size(cpu));
    std::uint64_t value = 0;
    if (!load_sized(cpu, x86::Ss, cpu.gpr[x86::Rbp] & mask, size, value)) {
        return StepResult::Exception;
    }
    const std::uint64_t top = (cpu.gpr[x86::Rbp] + size) & mask;
    cpu.gpr[x86::Rsp] = mask == 0xffff ? (cpu.gpr[x86::Rsp] & ~mask) | top : top;
    set_gpr(cpu, x86::Rbp, size, value);
    return done(cpu, op.insn);
}

StepResult op_enter(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    const unsigned size = item_size(cpu, insn);
    const std::uint64_t mask = size_mask(stack_address_size(cpu));
    const std::uint64_t bytes = static_cast<std::uint64_t>(insn.imm[0]) & 0xffffU;
    const unsigned level = static_cast<unsigned>(insn.imm[1]) & 31U;
    StackCursor stack(cpu);
    if (!stack.push(size, cpu.gpr[x86::Rbp])) {
        return StepResult::Exception;
    }
    const std::uint64_t frame = stack.value();
    std::uint64_t link = cpu.gpr[x86::Rbp];
    for (unsigned i = 1; i < level; ++i) {
        std::uint64_t value = 0;
        link = (link - size) & mask;
        if (!load_sized(cpu, x86::Ss, link, size, value) || !stack.push(size, value)) {
            return StepResult::Exception;
        }
    }
    if (level > 0 && !stack.push(size, frame)) {
        return StepResult::Exception;
    }
    stack.add(~bytes + 1);
    // The new top must be writable: SDM 2A, ENTER.
    std::uint64_t linear = 0;
    if (!segment_linear(cpu, x86::Ss, stack.value() & mask, size, true, linear) ||
        !probe_write(cpu, linear, size)) {
        (void)memory_fault(cpu, x86::Ss);
        return StepResult::Exception;
    }
    stack.commit();
    set_gpr(cpu, x86::Rbp, size, frame);
    return done(cpu, insn);
}

/// PUSHF and POPF in virtual-8086 mode need IOPL 3 or VME. SDM 3B, 20.2.
bool v8086_trap(CpuState& cpu, unsigned size) {
    if (!v8086(cpu) || iopl(cpu) == 3) {
        return false;
    }
    if (size == 2 && (cpu.cr4 & x86::cr4::kVme) != 0) {
        return false;
    }
    (void)raise_gp(cpu);
    return true;
}

StepResult op_pushf(CpuState& cpu, Op& op) noexcept {
    const unsigned size = item_size(cpu, op.insn);
    if (v8086_trap(cpu, size)) {
        return StepResult::Exception;
    }
    std::uint64_t flags = cpu.rflags & ~(fl::kRf | fl::kVm);
    if (v8086(cpu) && iopl(cpu) < 3) {  // VME: IF is VIF, IOPL reads as 3
        flags = (flags & ~fl::kIf) | ((flags & fl::kVif) != 0 ? fl::kIf : 0) | fl::kIopl;
    }
    StackCursor stack(cpu);
    if (!stack.push(size, flags)) {
        return StepResult::Exception;
    }
    stack.commit();
    return done(cpu, op.insn);
}

StepResult op_popf(CpuState& cpu, Op& op) noexcept {
    const unsigned size = item_size(cpu, op.insn);
    if (v8086_trap(cpu, size)) {
        return StepResult::Exception;
    }
    StackCursor stack(cpu);
    std::uint64_t value = 0;
    if (!stack.pop(size, value)) {
        return StepResult::Exception;
    }
    std::uint64_t mask = fl::kArithmetic | fl::kTf | fl::kDf | fl::kNt;
    if (size >= 4) {
        mask |= fl::kAc | fl::kId | fl::kRf;
        value &= ~fl::kRf;
    }
    if (v8086(cpu) && iopl(cpu) < 3) {
        if ((value & fl::kTf) != 0 || ((value & fl::kIf) != 0 && (cpu.rflags & fl::kVip) != 0)) {
            return raise_gp(cpu);
        }
        mask |= fl::kVif;
        value = (value & ~fl::kVif) | ((value & fl::kIf) != 0 ? fl::kVif : 0);
    } else {
        if (cpu.cpl == 0 || !protected_mode(cpu)) {
            mask |= v8086(cpu) ? 0 : fl::kIopl;
        }
        if (!protected_mode(cpu) || cpu.cpl <= iopl(cpu)) {
            mask |= fl::kIf;
        }
    }
    stack.commit();
    cpu.rflags = (cpu.rflags & ~mask) | (value & mask);
    update_mode(cpu);
    privilege_changed(cpu);  // RFLAGS.AC under SMAP
    return done_end_block(cpu, op.insn);
}

}  // namespace

Handler select_stack(const Instruction& insn) noexcept {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_PUSH:
            return op_push;
        case ZYDIS_MNEMONIC_POP:
            return op_pop;
        case ZYDIS_MNEMONIC_PUSHA:
        case ZYDIS_MNEMONIC_PUSHAD:
            return op_pusha;
        case ZYDIS_MNEMONIC_POPA:
        case ZYDIS_MNEMONIC_POPAD:
            return op_popa;
        case ZYDIS_MNEMONIC_LEAVE:
            return op_leave;
        case ZYDIS_MNEMONIC_ENTER:
            return op_enter;
        case ZYDIS_MNEMONIC_PUSHF:
        case ZYDIS_MNEMONIC_PUSHFD:
        case ZYDIS_MNEMONIC_PUSHFQ:
            return op_pushf;
        case ZYDIS_MNEMONIC_POPF:
        case ZYDIS_MNEMONIC_POPFD:
        case ZYDIS_MNEMONIC_POPFQ:
            return op_popf;
        default:
            return nullptr;
    }
}

}  // namespace strata::engine::soft
