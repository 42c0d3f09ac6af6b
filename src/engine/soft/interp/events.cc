// Events: interrupt and exception delivery in real, virtual-8086, protected and long mode. SDM 3A,
// chapter 6.
#include "engine/soft/interp/events.h"

#include "engine/soft/interp/interpreter.h"

namespace strata::engine::soft {
namespace {

namespace fl = x86::rflags;

constexpr std::uint32_t kIdtError = 2;

bool idt_fault(CpuState& cpu, std::uint8_t vector, const Event& event) {
    (void)raise_error(
        cpu, vector,
        (static_cast<std::uint32_t>(event.vector) << 3U) | kIdtError | context(cpu).external);
    return false;
}

std::uint64_t frame_flags(const CpuState& cpu, const Event& event) {
    return event.resume ? cpu.rflags | fl::kRf : cpu.rflags;
}

void finish(CpuState& cpu, std::uint64_t clear) {
    cpu.rflags &= ~clear;
    cpu.interrupt_shadow = false;
    cpu.halted = false;
    update_mode(cpu);
    privilege_changed(cpu);
}

bool enter_real(CpuState& cpu, const Event& event) {
    if (static_cast<std::uint32_t>(event.vector) * 4 + 3 > cpu.idtr.limit) {
        (void)raise_gp(cpu, 0);
        return false;
    }
    std::uint32_t target = 0;
    if (!read_linear(cpu, cpu.idtr.base + event.vector * 4U, &target, 4,
                     Privilege::ImplicitSupervisor)) {
        return false;
    }
    FrameWriter frame(cpu, cpu.segments[x86::Ss], cpu.gpr[x86::Rsp], 0, 2, false);
    frame.add(frame_flags(cpu, event));
    frame.add(cpu.segments[x86::Cs].selector);
    frame.add(event.return_rip);
    if (!frame.write()) {
        return false;
    }
    cpu.gpr[x86::Rsp] = frame.rsp();
    cpu.segments[x86::Cs] =
        real_mode_segment(cpu, x86::Cs, static_cast<std::uint16_t>(target >> 16U));
    cpu.rip = target & 0xffffU;
    finish(cpu, fl::kIf | fl::kTf | fl::kAc | fl::kRf);
    return true;
}

/// The handler's code segment: SDM 3A, 6.12.1. `cpl` is the privilege it runs at.
bool handler_segment(CpuState& cpu, std::uint16_t selector, bool want_long, Segment& out,
                     unsigned& cpl) {
    if (is_null(selector)) {
        (void)raise_gp(cpu, context(cpu).external);
        return false;
    }
    Descriptor d;
    if (!read_descriptor(cpu, selector, vec::kGp, d)) {
        return false;
    }
    if (!d.code() || d.dpl() > cpu.cpl || (want_long && (!d.long_code() || d.default_big()))) {
        return selector_fault(cpu, vec::kGp, selector);
    }
    if (!d.present()) {
        return selector_fault(cpu, vec::kNp, selector);
    }
    if (!mark_accessed(cpu, selector, d)) {
        return false;
    }
    cpl = d.conforming() ? cpu.cpl : d.dpl();
    if (v8086(cpu) && cpl != 0) {
        return selector_fault(cpu, vec::kGp, selector);
    }
    out = segment_from(static_cast<std::uint16_t>((selector & ~3U) | cpl), d);
    return true;
}

bool enter_long(CpuState& cpu, const Event& event, const Descriptor& gate) {
    Segment cs;
    unsigned cpl = 0;
    if (!handler_segment(cpu, gate.gate_selector(), true, cs, cpl)) {
        return false;
    }
    const unsigned ist = static_cast<unsigned>(gate.low >> 32U) & 7U;
    const bool inward = cpl < cpu.cpl;
    std::uint64_t rsp = cpu.gpr[x86::Rsp];
    if (ist != 0 || inward) {
        if (!read_tss64(cpu, ist != 0 ? 0x24 + (ist - 1) * 8 : 4 + cpl * 8, rsp)) {
            return false;
        }
    }
    if (!canonical_address(rsp)) {
        (void)raise_error(cpu, vec::kSs, context(cpu).external);
        return false;
    }
    FrameWriter frame(cpu, cpu.segments[x86::Ss], rsp & ~15ULL, cpl, 8, true);
    frame.add(cpu.segments[x86::Ss].selector);
    frame.add(cpu.gpr[x86::Rsp]);
    frame.add(frame_flags(cpu, event));
    frame.add(cpu.segments[x86::Cs].selector);
    frame.add(event.return_rip);
    if (event.has_error) {
        frame.add(event.error);
    }
    if (!canonical_address(gate.gate_offset64())) {
        (void)raise_gp(cpu, context(cpu).external);
        return false;
    }
    if (!frame.write()) {
        return false;
    }
    if (inward) {
        cpu.segments[x86::Ss] = null_segment(static_cast<std::uint16_t>(cpl));
        cpu.segments[x86::Ss].attributes = static_cast<std::uint16_t>(cpl << 5U);
    }
    cpu.gpr[x86::Rsp] = frame.rsp();
    cpu.rip = gate.gate_offset64();
    const bool interrupt_gate = (gate.type() & 1U) == 0;
    cpu.rflags &= ~(fl::kTf | fl::kNt | fl::kRf | fl::kVm | (interrupt_gate ? fl::kIf : 0));
    set_cs(cpu, cs, cpl);
    finish(cpu, 0);
    return true;
}

void leave_v8086(CpuState& cpu) {
    for (const unsigned number : {x86::Gs, x86::Fs, x86::Ds, x86::Es}) {
        cpu.segments[number] = null_segment(0);
    }
}

bool enter_legacy(CpuState& cpu, const Event& event, const Descriptor& gate) {
    const unsigned size = (gate.type() & 8U) != 0 ? 4 : 2;
    Segment cs;
    Segment ss = cpu.segments[x86::Ss];
    unsigned cpl = 0;
    if (!handler_segment(cpu, gate.gate_selector(), false, cs, cpl)) {
        return false;
    }
    const bool inward = cpl < cpu.cpl;
    std::uint64_t rsp = cpu.gpr[x86::Rsp];
    if (inward) {
        std::uint16_t selector = 0;
        if (!read_tss_stack(cpu, cpl, selector, rsp) ||
            !check_stack_segment(cpu, selector, cpl, vec::kTs, ss)) {
            return false;
        }
    }
    const std::uint64_t target = size == 4 ? gate.gate_offset32() : gate.gate_offset32() & 0xffffU;
    if (target > cs.limit) {
        (void)raise_gp(cpu, context(cpu).external);
        return false;
    }
    FrameWriter frame(cpu, ss, rsp, cpl, size, false);
    const bool from_v8086 = v8086(cpu);
    if (from_v8086) {
        for (const unsigned number : {x86::Gs, x86::Fs, x86::Ds, x86::Es}) {
            frame.add(cpu.segments[number].selector);
        }
    }
    if (inward) {
        frame.add(cpu.segments[x86::Ss].selector);
        frame.add(cpu.gpr[x86::Rsp]);
    }
    frame.add(frame_flags(cpu, event));
    frame.add(cpu.segments[x86::Cs].selector);
    frame.add(event.return_rip);
    if (event.has_error) {
        frame.add(event.error);
    }
    if (!frame.write()) {
        return false;
    }
    const bool interrupt_gate = (gate.type() & 1U) == 0;
    cpu.rflags &= ~(fl::kTf | fl::kNt | fl::kRf | fl::kVm | (interrupt_gate ? fl::kIf : 0));
    if (from_v8086) {
        leave_v8086(cpu);
    }
    cpu.segments[x86::Ss] = ss;
    cpu.gpr[x86::Rsp] = frame.rsp();
    cpu.rip = target;
    set_cs(cpu, cs, cpl);
    finish(cpu, 0);
    return true;
}

bool enter_task(CpuState& cpu, const Event& event, const Descriptor& gate) {
    if (!switch_task(cpu, gate.gate_selector(), TaskSwitch::Interrupt, event.return_rip)) {
        return false;
    }
    if (!event.has_error) {
        return true;
    }
    const unsigned size = (cpu.tr.attributes & 8U) != 0 ? 4 : 2;
    StackCursor stack(cpu);
    if (!stack.push(size, event.error)) {
        return false;
    }
    stack.commit();
    return true;
}

bool gate_type_allowed(const CpuState& cpu, const Descriptor& gate) {
    const unsigned type = gate.type();
    if (gate.code_or_data()) {
        return false;
    }
    if (long_mode(cpu)) {
        return type == 14 || type == 15;
    }
    return type == 5 || type == 6 || type == 7 || type == 14 || type == 15;
}

bool contributory(std::uint8_t vector) {
    return vector == vec::kDe || (vector >= vec::kTs && vector <= vec::kGp);
}

/// SDM 3A, table 6-5.
bool makes_double_fault(std::uint8_t first, std::uint8_t second) {
    if (first == vec::kPf) {
        return second == vec::kPf || contributory(second);
    }
    return contributory(first) && contributory(second);
}

/// Faults (not traps, not aborts) push RF = 1.
bool pushes_rf(const PendingException& e) {
    return !e.trap && !e.software && e.vector != vec::kBp && e.vector != vec::kOf &&
           e.vector != vec::kDf;
}

}  // namespace

bool FrameWriter::write() noexcept {
    const std::uint32_t bytes = count_ * size_;
    std::uint8_t image[kMost * 8];
    for (unsigned i = 0; i < count_; ++i) {
        // The last value pushed has the lowest address.
        __builtin_memcpy(image + (count_ - 1 - i) * size_, &values_[i], 8 < size_ ? 8 : size_);
    }
    const Privilege privilege = cpl_ == 3 ? Privilege::User : Privilege::ImplicitSupervisor;
    if (flat64_) {
        rsp_ -= bytes;
        if (!write_linear(cpu_, rsp_, image, bytes, privilege)) {
            return memory_fault(cpu_, x86::Ss);
        }
        return true;
    }
    const std::uint64_t mask = (ss_.attributes & 0x4000U) != 0 ? 0xffffffffU : 0xffffU;
    const std::uint64_t at = (rsp_ - bytes) & mask;
    const bool expand_down = (ss_.attributes & 0x1cU) == 0x14;
    const bool inside =
        expand_down ? at > ss_.limit && at + bytes - 1 <= mask : at + bytes - 1 <= ss_.limit;
    if (!inside) {
        (void)raise_error(cpu_, vec::kSs,
                          (&ss_ == &cpu_.segments[x86::Ss] ? 0U : ss_.selector & 0xfffcU) |
                              context(cpu_).external);
        return false;
    }
    if (!write_linear(cpu_, (ss_.base + at) & 0xffffffffU, image, bytes, privilege)) {
        return false;
    }
    rsp_ = (rsp_ & ~mask & 0xffffffffU) | at;
    return true;
}

bool read_tss64(CpuState& cpu, std::uint32_t offset, std::uint64_t& value) noexcept {
    if (offset + 7 > cpu.tr.limit) {
        return selector_fault(cpu, vec::kTs, cpu.tr.selector);
    }
    return read_linear(cpu, cpu.tr.base + offset, &value, 8, Privilege::ImplicitSupervisor);
}

bool read_tss_stack(CpuState& cpu, unsigned cpl, std::uint16_t& ss, std::uint64_t& rsp) noexcept {
    const bool wide = (cpu.tr.attributes & 8U) != 0;
    const std::uint32_t offset = wide ? 4 + cpl * 8 : 2 + cpl * 4;
    const std::uint32_t bytes = wide ? 4 : 2;
    if (offset + bytes + 1 > cpu.tr.limit) {
        return selector_fault(cpu, vec::kTs, cpu.tr.selector);
    }
    rsp = 0;
    return read_linear(cpu, cpu.tr.base + offset, &rsp, bytes, Privilege::ImplicitSupervisor) &&
           read_linear(cpu, cpu.tr.base + offset + bytes, &ss, 2, Privilege::ImplicitSupervisor);
}

bool enter_handler(CpuState& cpu, const Event& event) noexcept {
    context(cpu).external = event.kind == EventKind::Software ? 0 : 1;
    if ((cpu.cr0 & x86::cr0::kPe) == 0) {
        return enter_real(cpu, event);
    }
    const std::uint32_t entry = long_mode(cpu) ? 16 : 8;
    if (event.vector * entry + entry - 1 > cpu.idtr.limit) {
        return idt_fault(cpu, vec::kGp, event);
    }
    Descriptor gate;
    if (!read_linear(cpu, cpu.idtr.base + event.vector * entry, &gate.low, 8,
                     Privilege::ImplicitSupervisor) ||
        (entry == 16 && !read_linear(cpu, cpu.idtr.base + event.vector * entry + 8, &gate.high, 8,
                                     Privilege::ImplicitSupervisor))) {
        return false;
    }
    if (!gate_type_allowed(cpu, gate) ||
        (event.kind == EventKind::Software && gate.dpl() < cpu.cpl)) {
        return idt_fault(cpu, vec::kGp, event);
    }
    if (!gate.present()) {
        return idt_fault(cpu, vec::kNp, event);
    }
    if (long_mode(cpu)) {
        return enter_long(cpu, event, gate);
    }
    return gate.type() == 5 ? enter_task(cpu, event, gate) : enter_legacy(cpu, event, gate);
}

StepResult software_interrupt(CpuState& cpu, std::uint8_t vector, std::uint64_t next) noexcept {
    Event event;
    event.vector = vector;
    event.kind = EventKind::Software;
    event.return_rip = next;
    const bool entered = enter_handler(cpu, event);
    context(cpu).external = 0;
    return entered ? StepResult::EndBlock : StepResult::Exception;
}

StepResult deliver_exception(CpuState& cpu) noexcept {
    for (int attempts = 0; attempts < 4; ++attempts) {
        const PendingException e = cpu.exception;
        cpu.exception.pending = false;
        cpu.exception.trap = false;
        if (e.vector == vec::kPf) {
            cpu.cr2 = e.fault_address;
        }
        Event event;
        event.vector = e.vector;
        event.kind = e.software ? EventKind::Software : EventKind::Exception;
        event.has_error = e.has_error && (cpu.cr0 & x86::cr0::kPe) != 0;
        event.error = e.error;
        event.return_rip = cpu.rip;
        event.resume = pushes_rf(e);
        if (e.vector == vec::kDb) {
            cpu.dr7 &= ~(1ULL << 13U);  // GD
        }
        if (enter_handler(cpu, event)) {
            context(cpu).external = 0;
            cpu.exception = PendingException{};
            return StepResult::EndBlock;
        }
        if (e.vector == vec::kDf) {
            break;
        }
        if (makes_double_fault(e.vector, cpu.exception.vector)) {
            (void)raise_error(cpu, vec::kDf, 0);
        }
    }
    context(cpu).external = 0;
    cpu.exception = PendingException{};
    return StepResult::TripleFault;
}

StepResult deliver_interrupt(CpuState& cpu, std::uint8_t vector) noexcept {
    Event event;
    event.vector = vector;
    event.kind = EventKind::Interrupt;
    event.return_rip = cpu.rip;
    if (vector == vec::kNmi) {
        cpu.nmi_masked = true;
    }
    cpu.halted = false;
    if (enter_handler(cpu, event)) {
        context(cpu).external = 0;
        return StepResult::EndBlock;
    }
    return deliver_exception(cpu);
}

}  // namespace strata::engine::soft
