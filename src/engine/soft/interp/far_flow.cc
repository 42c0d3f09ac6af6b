// Far flow: far JMP, CALL, RET through segments, gates and tasks; IRET; INT n; fast system calls. SDM 3A, 5.8 and 7; SDM 2.
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp/events.h"
#include "engine/soft/interp/handlers.h"

namespace strata::engine::soft {
namespace {

namespace fl = x86::rflags;

constexpr std::uint64_t kSingleStep = 1ULL << 14U;  // DR6.BS
constexpr std::uint16_t kCode64 = 0xa09b, kCode32 = 0xc09b, kData32 = 0xc093;

Segment flat_segment(std::uint16_t selector, std::uint16_t attributes, unsigned dpl) {
    Segment s;
    s.selector = selector;
    s.attributes = static_cast<std::uint16_t>(attributes | (dpl << 5U));
    s.limit = 0xffffffffU;
    return s;
}

bool target_in(CpuState& cpu, const Segment& cs, std::uint64_t target) {
    const bool is64 = long_mode(cpu) && (cs.attributes & 0x2000U) != 0;
    const bool good = is64 ? canonical_address(target) : target <= cs.limit;
    if (!good) {
        (void)raise_gp(cpu);
    }
    return good;
}

/// The pointer operand of far JMP and CALL: ptr16:16/32 in the bytes, or m16:16/32/64.
bool far_pointer(CpuState& cpu, const Instruction& insn, std::uint16_t& selector, std::uint64_t& offset) {
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
    if (!stack.push(size, cpu.segments[x86::Cs].selector) || !stack.push(size, next_rip(cpu, insn))) {
        return false;
    }
    stack.commit();
    return true;
}

StepResult far_real(CpuState& cpu, const Instruction& insn, std::uint16_t selector, std::uint64_t offset, bool call) {
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

/// CALL through a gate to a more privileged segment: new stack, parameters copied (not in long mode).
StepResult call_inward(CpuState& cpu, const Instruction& insn, const Descriptor& gate, const Segment& cs, std::uint64_t target) {
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
    } else if (!read_tss_stack(cpu, cpl, ss_selector, rsp) || !check_stack_segment(cpu, ss_selector, cpl, vec::kTs, ss)) {
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

StepResult through_call_gate(CpuState& cpu, const Instruction& insn, std::uint16_t selector, Descriptor gate, bool call) {
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
    const Segment cs = segment_from(static_cast<std::uint16_t>((gate.gate_selector() & ~3U) | cpl), d);
    const unsigned size = long_mode(cpu) ? 8 : (gate.type() & 8U) != 0 ? 4 : 2;
    const std::uint64_t target = size == 8 ? gate.gate_offset64() : gate.gate_offset32() & size_mask(size);
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

StepResult to_task(CpuState& cpu, const Instruction& insn, std::uint16_t selector, const Descriptor& d, bool call) {
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
    const bool ok = switch_task(cpu, tss, call ? TaskSwitch::Call : TaskSwitch::Jump, next_rip(cpu, insn));
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

StepResult op_far_jmp(CpuState& cpu, Op& op) noexcept { return far_transfer(cpu, op.insn, false); }
StepResult op_far_call(CpuState& cpu, Op& op) noexcept { return far_transfer(cpu, op.insn, true); }

/// The code segment that a far return or IRET goes back to.
bool return_segment(CpuState& cpu, std::uint16_t selector, Segment& cs) {
    if (is_null(selector)) {
        (void)raise_gp(cpu);
        return false;
    }
    Descriptor d;
    if (!read_descriptor(cpu, selector, vec::kGp, d)) {
        return false;
    }
    const unsigned rpl = selector & 3U;
    const bool allowed = d.code() && rpl >= cpu.cpl && (d.conforming() ? d.dpl() <= rpl : d.dpl() == rpl) &&
                         !(long_mode(cpu) && d.long_code() && d.default_big());
    if (!allowed) {
        return selector_fault(cpu, vec::kGp, selector);
    }
    if (!d.present()) {
        return selector_fault(cpu, vec::kNp, selector);
    }
    if (!mark_accessed(cpu, selector, d)) {
        return false;
    }
    cs = segment_from(selector, d);
    return true;
}

/// SS of an outer return: null is good for 64-bit code below ring 3.
bool return_stack_segment(CpuState& cpu, std::uint16_t selector, unsigned cpl, bool to64, Segment& ss) {
    if (is_null(selector) && to64 && cpl < 3 && (selector & 3U) == cpl) {
        ss = null_segment(selector);
        ss.attributes = static_cast<std::uint16_t>(cpl << 5U);
        return true;
    }
    return check_stack_segment(cpu, selector, cpl, vec::kGp, ss);
}

/// Data segments that the outer level may not see become null. SDM 2, RET.
void drop_inner_segments(CpuState& cpu, unsigned cpl) {
    for (const unsigned number : {x86::Es, x86::Ds, x86::Fs, x86::Gs}) {
        const Segment& s = cpu.segments[number];
        const bool conforming_code = (s.attributes & 0x1cU) == 0x1c;
        if (!s.unusable && !conforming_code && ((s.attributes >> 5U) & 3U) < cpl) {
            const std::uint64_t base = s.base;
            cpu.segments[number] = null_segment(0);
            cpu.segments[number].base = long_mode(cpu) ? base : 0;
        }
    }
}

struct ReturnFrame {
    std::uint64_t rip = 0, flags = 0, rsp = 0;
    std::uint16_t cs = 0, ss = 0;
};

/// Everything after the pops that RETF and IRET have in common. `stack` stands behind the frame.
StepResult return_far(CpuState& cpu, const ReturnFrame& f, const StackCursor& stack, const Segment& cs, bool pops_stack,
                      std::uint64_t release) {
    const unsigned cpl = f.cs & 3U;
    const bool to64 = long_mode(cpu) && (cs.attributes & 0x2000U) != 0;
    if (!target_in(cpu, cs, f.rip)) {
        return StepResult::Exception;
    }
    const bool outer = cpl > cpu.cpl;
    if (pops_stack) {
        Segment ss;
        if (!return_stack_segment(cpu, f.ss, cpl, to64, ss)) {
            return StepResult::Exception;
        }
        cpu.segments[x86::Ss] = ss;
        const std::uint64_t mask = to64 ? ~0ULL : (ss.attributes & 0x4000U) != 0 ? 0xffffffffU : 0xffffU;
        const std::uint64_t top = (f.rsp + release) & mask;
        cpu.gpr[x86::Rsp] = mask == 0xffff ? (f.rsp & ~mask & 0xffffffffU) | top : top;
    } else {
        stack.commit();
    }
    cpu.rip = f.rip;
    set_cs(cpu, cs, cpl);
    if (outer) {
        drop_inner_segments(cpu, cpl);
        update_mode(cpu);
    }
    return StepResult::EndBlock;
}

bool pop16(StackCursor& stack, unsigned size, std::uint16_t& value) {
    std::uint64_t wide = 0;
    const bool good = stack.pop(size, wide);
    value = static_cast<std::uint16_t>(wide);
    return good;
}

StepResult op_far_ret(CpuState& cpu, Op& op) noexcept {
    const unsigned size = op.insn.operand_size;
    const std::uint64_t release = op.insn.imm_count != 0 ? static_cast<std::uint64_t>(op.insn.imm[0]) & 0xffffU : 0;
    StackCursor stack(cpu);
    ReturnFrame f;
    if (!stack.pop(size, f.rip) || !pop16(stack, size, f.cs)) {
        return StepResult::Exception;
    }
    stack.add(release);
    if (!protected_mode(cpu)) {
        if (f.rip > cpu.segments[x86::Cs].limit) {
            return raise_gp(cpu);
        }
        stack.commit();
        cpu.segments[x86::Cs] = real_mode_segment(cpu, x86::Cs, f.cs);
        cpu.rip = f.rip;
        update_mode(cpu);
        return StepResult::EndBlock;
    }
    Segment cs;
    if (!return_segment(cpu, f.cs, cs)) {
        return StepResult::Exception;
    }
    const bool outer = (f.cs & 3U) > cpu.cpl;
    if (outer && (!stack.pop(size, f.rsp) || !pop16(stack, size, f.ss))) {
        return StepResult::Exception;
    }
    return return_far(cpu, f, stack, cs, outer, release);
}

/// Which flags IRET may load. SDM 2, IRET.
std::uint64_t iret_mask(const CpuState& cpu, unsigned size) {
    std::uint64_t mask = fl::kArithmetic | fl::kTf | fl::kDf | fl::kNt;
    if (size >= 4) {
        mask |= fl::kRf | fl::kAc | fl::kId;
    }
    const bool real = (cpu.mode & ModeBits::kProtected) == 0;
    if (real || cpu.cpl <= iopl(cpu)) {
        mask |= fl::kIf;
    }
    if ((real || cpu.cpl == 0) && !v8086(cpu)) {
        mask |= fl::kIopl;
        if (size >= 4) {
            mask |= fl::kVif | fl::kVip;
        }
    }
    return mask;
}

void load_flags(CpuState& cpu, std::uint64_t value, std::uint64_t mask) {
    cpu.rflags = (cpu.rflags & ~mask) | (value & mask) | fl::kFixed;
    update_mode(cpu);
    privilege_changed(cpu);
}

StepResult iret_real(CpuState& cpu, unsigned size) {
    if (v8086(cpu) && iopl(cpu) < 3) {
        return raise_gp(cpu);
    }
    StackCursor stack(cpu);
    ReturnFrame f;
    if (!stack.pop(size, f.rip) || !pop16(stack, size, f.cs) || !stack.pop(size, f.flags)) {
        return StepResult::Exception;
    }
    if (f.rip > cpu.segments[x86::Cs].limit) {
        return raise_gp(cpu);
    }
    stack.commit();
    const std::uint64_t mask = iret_mask(cpu, size);
    cpu.segments[x86::Cs] = real_mode_segment(cpu, x86::Cs, f.cs);
    cpu.rip = f.rip;
    load_flags(cpu, f.flags, mask);
    cpu.nmi_masked = false;
    return StepResult::EndBlock;
}

StepResult iret_to_v8086(CpuState& cpu, const ReturnFrame& f, StackCursor& stack) {
    std::uint64_t rsp = 0;
    std::uint16_t selectors[5] = {};  // SS, ES, DS, FS, GS
    if (!stack.pop(4, rsp)) {
        return StepResult::Exception;
    }
    for (std::uint16_t& selector : selectors) {
        if (!pop16(stack, 4, selector)) {
            return StepResult::Exception;
        }
    }
    constexpr std::uint64_t kAll = 0x3f7fd5U;
    cpu.rflags = (f.flags & kAll) | fl::kFixed | fl::kVm;
    update_mode(cpu);
    constexpr unsigned kNumbers[] = {x86::Ss, x86::Es, x86::Ds, x86::Fs, x86::Gs};
    for (unsigned i = 0; i < 5; ++i) {
        cpu.segments[kNumbers[i]] = real_mode_segment(cpu, kNumbers[i], selectors[i]);
    }
    cpu.gpr[x86::Rsp] = rsp;
    cpu.rip = f.rip & 0xffffU;
    cpu.segments[x86::Cs] = real_mode_segment(cpu, x86::Cs, f.cs);
    update_mode(cpu);
    privilege_changed(cpu);
    cpu.nmi_masked = false;
    return StepResult::EndBlock;
}

StepResult iret_task(CpuState& cpu, const Instruction& insn) {
    std::uint16_t link = 0;
    if (!read_linear(cpu, cpu.tr.base, &link, 2, Privilege::ImplicitSupervisor)) {
        return StepResult::Exception;
    }
    cpu.nmi_masked = false;
    return switch_task(cpu, link, TaskSwitch::Return, next_rip(cpu, insn)) ? StepResult::EndBlock : StepResult::Exception;
}

StepResult op_iret(CpuState& cpu, Op& op) noexcept {
    const unsigned size = op.insn.operand_size;
    if (!protected_mode(cpu)) {
        return iret_real(cpu, size);
    }
    if ((cpu.rflags & fl::kNt) != 0) {
        return long_mode(cpu) ? raise_gp(cpu) : iret_task(cpu, op.insn);
    }
    StackCursor stack(cpu);
    ReturnFrame f;
    if (!stack.pop(size, f.rip) || !pop16(stack, size, f.cs) || !stack.pop(size, f.flags)) {
        return StepResult::Exception;
    }
    if ((f.flags & fl::kVm) != 0 && size == 4 && cpu.cpl == 0 && !long_mode(cpu)) {
        return iret_to_v8086(cpu, f, stack);
    }
    Segment cs;
    if (!return_segment(cpu, f.cs, cs)) {
        return StepResult::Exception;
    }
    const bool pops_stack = code64(cpu) || (f.cs & 3U) > cpu.cpl;
    if (pops_stack && (!stack.pop(size, f.rsp) || !pop16(stack, size, f.ss))) {
        return StepResult::Exception;
    }
    const std::uint64_t mask = iret_mask(cpu, size);
    const StepResult result = return_far(cpu, f, stack, cs, pops_stack, 0);
    if (result != StepResult::Exception) {
        load_flags(cpu, f.flags, mask);
        cpu.nmi_masked = false;
    }
    return result;
}

StepResult op_int(CpuState& cpu, Op& op) noexcept {
    if (v8086(cpu) && iopl(cpu) < 3) {
        return raise_gp(cpu);
    }
    return software_interrupt(cpu, static_cast<std::uint8_t>(op.insn.imm[0]), next_rip(cpu, op.insn));
}

StepResult op_int3(CpuState& cpu, Op& op) noexcept { return software_interrupt(cpu, vec::kBp, next_rip(cpu, op.insn)); }

StepResult op_into(CpuState& cpu, Op& op) noexcept {
    return (cpu.rflags & fl::kOf) != 0 ? software_interrupt(cpu, vec::kOf, next_rip(cpu, op.insn)) : done(cpu, op.insn);
}

/// INT1 is a #DB without DR6 bits, delivered like a hardware trap.
StepResult op_int1(CpuState& cpu, Op& op) noexcept {
    cpu.rip = next_rip(cpu, op.insn);
    (void)raise(cpu, vec::kDb);
    cpu.exception.trap = true;
    return StepResult::Exception;
}

StepResult op_syscall(CpuState& cpu, Op& op) noexcept {
    if ((cpu.efer & x86::efer::kSce) == 0 || !protected_mode(cpu)) {
        return raise_ud(cpu);
    }
    const auto selector = static_cast<std::uint16_t>((cpu.star >> 32U) & 0xfffcU);
    const bool from64 = code64(cpu);
    cpu.gpr[x86::Rcx] = next_rip(cpu, op.insn);
    if (long_mode(cpu)) {
        cpu.gpr[x86::R11] = cpu.rflags & ~fl::kRf;
        cpu.rip = from64 ? cpu.lstar : cpu.cstar;
        cpu.rflags = (cpu.rflags & ~cpu.sfmask & ~fl::kRf) | fl::kFixed;
    } else {
        cpu.rip = cpu.star & 0xffffffffU;
        cpu.rflags &= ~(fl::kVm | fl::kIf | fl::kRf);
    }
    cpu.segments[x86::Ss] = flat_segment(static_cast<std::uint16_t>(selector + 8), kData32, 0);
    set_cs(cpu, flat_segment(selector, long_mode(cpu) ? kCode64 : kCode32, 0), 0);
    return StepResult::EndBlock;
}

StepResult op_sysret(CpuState& cpu, Op& op) noexcept {
    if ((cpu.efer & x86::efer::kSce) == 0 || !protected_mode(cpu)) {
        return raise_ud(cpu);
    }
    if (cpu.cpl != 0) {
        return raise_gp(cpu);
    }
    const bool to64 = long_mode(cpu) && (op.insn.rex & 8U) != 0;
    if (to64 && !canonical_address(cpu.gpr[x86::Rcx])) {
        return raise_gp(cpu);
    }
    const auto base = static_cast<std::uint16_t>(cpu.star >> 48U);
    cpu.rip = to64 ? cpu.gpr[x86::Rcx] : cpu.gpr[x86::Rcx] & 0xffffffffU;
    if (long_mode(cpu)) {
        cpu.rflags = (cpu.gpr[x86::R11] & 0x3c7fd7U) | fl::kFixed;
    } else {
        cpu.rflags |= fl::kIf;
    }
    cpu.segments[x86::Ss] = flat_segment(static_cast<std::uint16_t>((base + 8U) | 3U), kData32, 3);
    const auto selector = static_cast<std::uint16_t>(to64 ? base + 16U : base);
    set_cs(cpu, flat_segment(static_cast<std::uint16_t>(selector | 3U), to64 ? kCode64 : kCode32, 3), 3);
    if ((cpu.rflags & fl::kTf) != 0) {
        // Unlike after IRET and POPF, the trap comes before the next instruction: TF counts as SYSRET leaves it.
        cpu.dr6 |= kSingleStep;
        (void)raise(cpu, vec::kDb);
        cpu.exception.trap = true;
        return StepResult::Exception;
    }
    return StepResult::EndBlock;
}

StepResult op_sysenter(CpuState& cpu, Op& /*op*/) noexcept {
    if (!protected_mode(cpu) && !v8086(cpu)) {
        return raise_gp(cpu);
    }
    const auto selector = static_cast<std::uint16_t>(cpu.sysenter_cs & 0xfffcU);
    if (selector == 0) {
        return raise_gp(cpu);
    }
    cpu.rflags &= ~(fl::kVm | fl::kIf | fl::kRf);
    cpu.rip = long_mode(cpu) ? cpu.sysenter_eip : cpu.sysenter_eip & 0xffffffffU;
    cpu.gpr[x86::Rsp] = long_mode(cpu) ? cpu.sysenter_esp : cpu.sysenter_esp & 0xffffffffU;
    cpu.segments[x86::Ss] = flat_segment(static_cast<std::uint16_t>(selector + 8), kData32, 0);
    set_cs(cpu, flat_segment(selector, long_mode(cpu) ? kCode64 : kCode32, 0), 0);
    return StepResult::EndBlock;
}

StepResult op_sysexit(CpuState& cpu, Op& op) noexcept {
    const auto base = static_cast<std::uint16_t>(cpu.sysenter_cs & 0xfffcU);
    if (!protected_mode(cpu) || cpu.cpl != 0 || base == 0) {
        return raise_gp(cpu);
    }
    const bool to64 = long_mode(cpu) && (op.insn.rex & 8U) != 0;
    const std::uint64_t rip = cpu.gpr[x86::Rdx];
    const std::uint64_t rsp = cpu.gpr[x86::Rcx];
    if (to64 && (!canonical_address(rip) || !canonical_address(rsp))) {
        return raise_gp(cpu);
    }
    const std::uint64_t mask = to64 ? ~0ULL : 0xffffffffU;
    cpu.rip = rip & mask;
    cpu.gpr[x86::Rsp] = rsp & mask;
    cpu.segments[x86::Ss] = flat_segment(static_cast<std::uint16_t>((base + (to64 ? 40U : 24U)) | 3U), kData32, 3);
    const auto selector = static_cast<std::uint16_t>((base + (to64 ? 32U : 16U)) | 3U);
    set_cs(cpu, flat_segment(selector, to64 ? kCode64 : kCode32, 3), 3);
    return StepResult::EndBlock;
}

}  // namespace

Handler select_far(const Instruction& insn) noexcept {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_JMP: return op_far_jmp;
        case ZYDIS_MNEMONIC_CALL: return op_far_call;
        case ZYDIS_MNEMONIC_RET: return op_far_ret;
        case ZYDIS_MNEMONIC_IRET:
        case ZYDIS_MNEMONIC_IRETD:
        case ZYDIS_MNEMONIC_IRETQ: return op_iret;
        case ZYDIS_MNEMONIC_INT: return op_int;
        case ZYDIS_MNEMONIC_INT3: return op_int3;
        case ZYDIS_MNEMONIC_INT1: return op_int1;
        case ZYDIS_MNEMONIC_INTO: return op_into;
        case ZYDIS_MNEMONIC_SYSCALL: return op_syscall;
        case ZYDIS_MNEMONIC_SYSRET: return op_sysret;
        case ZYDIS_MNEMONIC_SYSENTER: return op_sysenter;
        case ZYDIS_MNEMONIC_SYSEXIT: return op_sysexit;
        default: return nullptr;
    }
}

}  // namespace strata::engine::soft
