// Far flow: far JMP and CALL through segments, gates and tasks. SDM 3A, 5.8 and 7; SDM 2.
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp/events.h"
#include "engine/soft/interp/handlers.h"

namespace strata::engine::soft {
namespace {

/// The pointer operand of far JMP and CALL: ptr16:16/32 in the bytes, or m16:16/32/64.
bool far_pointer(CpuState& cpu, const Instruction& insn, std::uint16_t& selector,
                 std::uint64_t& offset) {
    const unsigned size = insn.operand_size;
    if (!insn.mem.present) {
        offset = 0;
        __builtin_memcpy(&offset, insn.bytes + insn.length - 2 - size, size);
        __builtin_memcpy(&selector, insn.bytes + insn.length - 2, 2);
        return true;
    }
    std::uint8_t image[10];
    const std::uint64_t at = effective_address(cpu, insn);
    if (!load_bytes(cpu, insn.mem.segment, at, image, size + 2)) {
        return false;
    }
    offset = 0;
    __builtin_memcpy(&offset, image, size);
    __builtin_memcpy(&selector, image + size, 2);
    return true;
}

/// A code segment that a JMP or CALL at this privilege may enter directly.
bool direct_code_segment(CpuState& cpu, std::uint16_t selector, Descriptor& d, Segment& cs) {
    const unsigned rpl = selector & 3U;
    const bool allowed = d.conforming() ? d.dpl() <= cpu.cpl : rpl <= cpu.cpl && d.dpl() == cpu.cpl;
    if (!allowed || (long_mode(cpu) && d.long_code() && d.default_big())) {
        return selector_fault(cpu, vec::kGp, selector);
    }
    if (!d.present()) {
        return selector_fault(cpu, vec::kNp, selector);
    }
    if (!mark_accessed(cpu, selector, d)) {
        return false;
    }
    cs = segment_from(static_cast<std::uint16_t>((selector & ~3U) | cpu.cpl), d);
    return true;
}

/// Pushes CS:next for a call on the current stack.
bool push_return(CpuState& cpu, const Instruction& insn, unsigned size) {
    StackCursor stack(cpu);
    if (!stack.push(size, cpu.segments[x86::Cs].selector) ||
        !stack.push(size, next_rip(cpu, insn))) {
        return false;
    }
    stack.commit();
    return true;
}

StepResult far_real(CpuState& cpu, const Instruction& insn, std::uint16_t selector,
                    std::uint64_t offset, bool call) {
    if (offset > cpu.segments[x86::Cs].limit) {
        return raise_gp(cpu);
    }
    if (call && !push_return(cpu, insn, insn.operand_size)) {
        return StepResult::Exception;
    }
    cpu.segments[x86::Cs] = real_mode_segment(cpu, x86::Cs, selector);
    cpu.rip = offset;
    update_mode(cpu);
    return StepResult::EndBlock;
}

bool read_gate_target(CpuState& cpu, const Descriptor& gate, Descriptor& d) {
    const std::uint16_t selector = gate.gate_selector();
    if (is_null(selector)) {
        (void)raise_gp(cpu);
        return false;
    }
    if (!read_descriptor(cpu, selector, vec::kGp, d)) {
        return false;
    }
    const bool long_gate = long_mode(cpu);
    if (!d.code() || d.dpl() > cpu.cpl || (long_gate && (!d.long_code() || d.default_big()))) {
        return selector_fault(cpu, vec::kGp, selector);
    }
    return d.present() || selector_fault(cpu, vec::kNp, selector);
}

/// CALL through a gate to a more privileged segment: new stack, parameters copied (not in long
/// mode).
StepResult call_inward(CpuState& cpu, const Instruction& insn, const Descriptor& gate,
                       const Segment& cs, std::uint64_t target) {
    const unsigned cpl = (cs.attributes >> 5U) & 3U;
    const unsigned size = long_mode(cpu) ? 8 : (gate.type() & 8U) != 0 ? 4 : 2;
    Segment ss;
    std::uint16_t ss_selector = 0;
    std::uint64_t rsp = 0;
    if (size == 8) {
        if (!read_tss64(cpu, 4 + cpl * 8, rsp)) {
            return StepResult::Exception;
        }
        ss = null_segment(static_cast<std::uint16_t>(cpl));
        ss.attributes = static_cast<std::uint16_t>(cpl << 5U);
    } else if (!read_tss_stack(cpu, cpl, ss_selector, rsp) ||
               !check_stack_segment(cpu, ss_selector, cpl, vec::kTs, ss)) {
        return StepResult::Exception;
    }
    FrameWriter frame(cpu, ss, rsp, cpl, size, size == 8);
    frame.add(cpu.segments[x86::Ss].selector);
    frame.add(cpu.gpr[x86::Rsp]);
    const unsigned parameters = size == 8 ? 0 : static_cast<unsigned>(gate.low >> 32U) & 31U;
    const std::uint64_t mask = size_mask(stack_address_size(cpu));
    for (unsigned i = parameters; i-- > 0;) {
        std::uint64_t value = 0;
        if (!load_sized(cpu, x86::Ss, (cpu.gpr[x86::Rsp] + i * size) & mask, size, value)) {
            return StepResult::Exception;
        }
        frame.add(value);
    }
    frame.add(cpu.segments[x86::Cs].selector);
    frame.add(next_rip(cpu, insn));
    if (!frame.write()) {
        return StepResult::Exception;
    }
    cpu.segments[x86::Ss] = ss;
    cpu.gpr[x86::Rsp] = frame.rsp();
    cpu.rip = target;
    set_cs(cpu, cs, cpl);
    return StepResult::EndBlock;
}

StepResult through_call_gate(CpuState& cpu, const Instruction& insn, std::uint16_t selector,
                             Descriptor gate, bool call) {
    if (gate.dpl() < cpu.cpl || gate.dpl() < (selector & 3U)) {
        (void)selector_fault(cpu, vec::kGp, selector);
        return StepResult::Exception;
    }
    if (!gate.present()) {
        (void)selector_fault(cpu, vec::kNp, selector);
        return StepResult::Exception;
    }
    if (long_mode(cpu) && !read_descriptor_high(cpu, selector, vec::kGp, gate)) {
        return StepResult::Exception;
    }
    Descriptor d;
    if (!read_gate_target(cpu, gate, d)) {
        return StepResult::Exception;
    }
    const bool inward = call && !d.conforming() && d.dpl() < cpu.cpl;
    if (!call && !d.conforming() && d.dpl() != cpu.cpl) {
        (void)selector_fault(cpu, vec::kGp, gate.gate_selector());
        return StepResult::Exception;
    }
    if (!mark_accessed(cpu, gate.gate_selector(), d)) {
        return StepResult::Exception;
    }
    const unsigned cpl = inward ? d.dpl() : cpu.cpl;
    const Segment cs =
        segment_from(static_cast<std::uint16_t>((gate.gate_selector() & ~3U) | cpl), d);
    const unsigned size = long_mode(cpu) ? 8 : (gate.type() & 8U) != 0 ? 4 : 2;
    const std::uint64_t target =
        size == 8 ? gate.gate_offset64() : gate.gate_offset32() & size_mask(size);
    if (!target_in(cpu, cs, target)) {
        return StepResult::Exception;
    }
    if (inward) {
        return call_inward(cpu, insn, gate, cs, target);
    }
    if (call && !push_return(cpu, insn, size)) {
        return StepResult::Exception;
    }
    cpu.rip = target;
    set_cs(cpu, cs, cpl);
    return StepResult::EndBlock;
}

StepResult to_task(CpuState& cpu, const Instruction& insn, std::uint16_t selector,
                   const Descriptor& d, bool call) {
    if (d.dpl() < cpu.cpl || d.dpl() < (selector & 3U)) {
        (void)selector_fault(cpu, vec::kGp, selector);
        return StepResult::Exception;
    }
    std::uint16_t tss = selector;
    if (d.type() == 5) {
        if (!d.present()) {
            (void)selector_fault(cpu, vec::kNp, selector);
            return StepResult::Exception;
        }
        tss = d.gate_selector();
    }
    const bool ok =
        switch_task(cpu, tss, call ? TaskSwitch::Call : TaskSwitch::Jump, next_rip(cpu, insn));
    return ok ? StepResult::EndBlock : StepResult::Exception;
}

StepResult far_transfer(CpuState& cpu, const Instruction& insn, bool call) {
    std::uint16_t selector = 0;
    std::uint64_t offset = 0;
    if (!far_pointer(cpu, insn, selector, offset)) {
        return StepResult::Exception;
    }
    if (!protected_mode(cpu)) {
        return far_real(cpu, insn, selector, offset, call);
    }
    if (is_null(selector)) {
        return raise_gp(cpu);
    }
    Descriptor d;
    if (!read_descriptor(cpu, selector, vec::kGp, d)) {
        return StepResult::Exception;
    }
    if (d.code()) {
        Segment cs;
        if (!direct_code_segment(cpu, selector, d, cs) || !target_in(cpu, cs, offset) ||
            (call && !push_return(cpu, insn, insn.operand_size))) {
            return StepResult::Exception;
        }
        cpu.rip = offset;
        set_cs(cpu, cs, cpu.cpl);
        return StepResult::EndBlock;
    }
    if (!d.code_or_data()) {
        const unsigned type = d.type();
        if (type == 12 || (type == 4 && !long_mode(cpu))) {
            return through_call_gate(cpu, insn, selector, d, call);
        }
        if (!long_mode(cpu) && (type == 5 || type == 1 || type == 9)) {
            return to_task(cpu, insn, selector, d, call);
        }
    }
    (void)selector_fault(cpu, vec::kGp, selector);
    return StepResult::Exception;
}

StepResult op_far_jmp(CpuState& cpu, Op& op) noexcept {
    return far_transfer(cpu, op.insn, false);
}
StepResult op_far_call(CpuState& cpu, Op& op) noexcept {
    return far_transfer(cpu, op.insn, true);
}

}  // namespace

Handler select_far(const Instruction& insn) noexcept {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_JMP:
            return op_far_jmp;
        case ZYDIS_MNEMONIC_CALL:
            return op_far_call;
        default:
            return select_far_return(insn);
    }
}

}  // namespace strata::engine::soft
