// Far return: RET to another segment, IRET to wherever it was interrupted. SDM 3A, 5.8 and 6.12;
// SDM 2.
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp/events.h"
#include "engine/soft/interp/handlers.h"

namespace strata::engine::soft {
namespace {

namespace fl = x86::rflags;

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
    const bool allowed = d.code() && rpl >= cpu.cpl &&
                         (d.conforming() ? d.dpl() <= rpl : d.dpl() == rpl) &&
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
bool return_stack_segment(CpuState& cpu, std::uint16_t selector, unsigned cpl, bool to64,
                          Segment& ss) {
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
StepResult return_far(CpuState& cpu, const ReturnFrame& f, const StackCursor& stack,
                      const Segment& cs, bool pops_stack, std::uint64_t release) {
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
        const std::uint64_t mask = to64                             ? ~0ULL
                                   : (ss.attributes & 0x4000U) != 0 ? 0xffffffffU
                                                                    : 0xffffU;
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
    const std::uint64_t release =
        op.insn.imm_count != 0 ? static_cast<std::uint64_t>(op.insn.imm[0]) & 0xffffU : 0;
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
    return switch_task(cpu, link, TaskSwitch::Return, next_rip(cpu, insn)) ? StepResult::EndBlock
                                                                           : StepResult::Exception;
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

}  // namespace

Handler select_far_return(const Instruction& insn) noexcept {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_RET:
            return op_far_ret;
        case ZYDIS_MNEMONIC_IRET:
        case ZYDIS_MNEMONIC_IRETD:
        case ZYDIS_MNEMONIC_IRETQ:
            return op_iret;
        default:
            return select_call_in(insn);
    }
}

}  // namespace strata::engine::soft
