// Flow: near jumps, calls, returns, loops.
//
// The target is checked before anything is committed: against CS's limit in 16/32-bit modes, for
// canonical form in 64-bit mode (there AMD and Intel let the jump retire and fault at the fetch
// only for some forms; Strata faults at the branch).
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp/handlers.h"
#include "engine/soft/interp/operands.h"

namespace strata::engine::soft {
namespace {

bool canonical(std::uint64_t address) {
    const auto top = static_cast<std::int64_t>(address) >> 47;
    return top == 0 || top == -1;
}

/// Near branches in 64-bit mode always have 64-bit targets.
unsigned branch_size(const CpuState& cpu, const Instruction& insn) {
    return code64(cpu) ? 8 : insn.operand_size;
}

bool target_allowed(CpuState& cpu, std::uint64_t target) {
    const bool good = code64(cpu) ? canonical(target) : target <= cpu.segments[x86::Cs].limit;
    if (!good) {
        (void)raise_gp(cpu);
    }
    return good;
}

std::uint64_t relative_target(const CpuState& cpu, const Instruction& insn) {
    return (cpu.rip + insn.length + static_cast<std::uint64_t>(insn.imm[0])) &
           size_mask(branch_size(cpu, insn));
}

StepResult jump_relative(CpuState& cpu, const Instruction& insn) {
    const std::uint64_t target = relative_target(cpu, insn);
    if (!target_allowed(cpu, target)) {
        return StepResult::Exception;
    }
    cpu.rip = target;
    return StepResult::Done;
}

StepResult op_jcc(CpuState& cpu, Op& op) noexcept {
    if (!condition_holds(cpu.rflags, op.insn.opcode & 15U)) {
        return done(cpu, op.insn);
    }
    return jump_relative(cpu, op.insn);
}

StepResult op_jmp(CpuState& cpu, Op& op) noexcept {
    return jump_relative(cpu, op.insn);
}

StepResult op_jmp_indirect(CpuState& cpu, Op& op) noexcept {
    std::uint64_t target = 0;
    if (!read_operand(cpu, op.insn, branch_size(cpu, op.insn), target) ||
        !target_allowed(cpu, target)) {
        return StepResult::Exception;
    }
    cpu.rip = target;
    return StepResult::Done;
}

StepResult call_to(CpuState& cpu, const Instruction& insn, std::uint64_t target) {
    if (!target_allowed(cpu, target)) {
        return StepResult::Exception;
    }
    StackCursor stack(cpu);
    if (!stack.push(branch_size(cpu, insn), next_rip(cpu, insn))) {
        return StepResult::Exception;
    }
    stack.commit();
    cpu.rip = target;
    return StepResult::Done;
}

StepResult op_call(CpuState& cpu, Op& op) noexcept {
    return call_to(cpu, op.insn, relative_target(cpu, op.insn));
}

StepResult op_call_indirect(CpuState& cpu, Op& op) noexcept {
    std::uint64_t target = 0;
    if (!read_operand(cpu, op.insn, branch_size(cpu, op.insn), target)) {
        return StepResult::Exception;
    }
    return call_to(cpu, op.insn, target);
}

StepResult op_ret(CpuState& cpu, Op& op) noexcept {
    StackCursor stack(cpu);
    std::uint64_t target = 0;
    if (!stack.pop(branch_size(cpu, op.insn), target) || !target_allowed(cpu, target)) {
        return StepResult::Exception;
    }
    stack.add(op.insn.imm_count != 0 ? static_cast<std::uint64_t>(op.insn.imm[0]) & 0xffffU : 0);
    stack.commit();
    cpu.rip = target;
    return StepResult::Done;
}

StepResult op_loop(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    const unsigned size = insn.address_size;
    std::uint64_t count = get_gpr(cpu, x86::Rcx, size);
    bool taken = false;
    if (insn.opcode == 0xe3) {  // JrCXZ
        taken = count == 0;
    } else {
        count = (count - 1) & size_mask(size);
        const bool zero = (cpu.rflags & x86::rflags::kZf) != 0;
        taken = count != 0 && (insn.opcode == 0xe2 || zero == (insn.opcode == 0xe1));
    }
    const StepResult result = taken ? jump_relative(cpu, insn) : done(cpu, insn);
    if (result == StepResult::Done && insn.opcode != 0xe3) {
        set_gpr(cpu, x86::Rcx, size, count);
    }
    return result;
}

}  // namespace

Handler select_flow(const Instruction& insn) noexcept {
    switch (insn.cls) {
        case InsnClass::Jcc:
            return op_jcc;
        case InsnClass::Jmp:
            return op_jmp;
        case InsnClass::JmpIndirect:
            return op_jmp_indirect;
        case InsnClass::Call:
            return op_call;
        case InsnClass::CallIndirect:
            return op_call_indirect;
        case InsnClass::Ret:
            return op_ret;
        default:
            return op_loop;
    }
}

}  // namespace strata::engine::soft
