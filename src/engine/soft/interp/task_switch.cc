// Task switch: saving the old task into its TSS, loading the new one. SDM 3A, 7.3.
#include "engine/soft/interp/events.h"

namespace strata::engine::soft {
namespace {

namespace fl = x86::rflags;

constexpr std::uint32_t kTss32Bytes = 104, kTss16Bytes = 44;

/// The dynamic part of either TSS.
struct TaskState {
    std::uint32_t cr3 = 0, eip = 0, eflags = 0, gpr[8] = {};
    std::uint16_t selectors[6] = {};
    std::uint16_t ldt = 0;
    bool trap = false;
};

std::uint32_t get32(const std::uint8_t* at) {
    std::uint32_t value = 0;
    __builtin_memcpy(&value, at, 4);
    return value;
}
std::uint16_t get16(const std::uint8_t* at) {
    std::uint16_t value = 0;
    __builtin_memcpy(&value, at, 2);
    return value;
}
void put32(std::uint8_t* at, std::uint64_t value) {
    __builtin_memcpy(at, &value, 4);
}
void put16(std::uint8_t* at, std::uint64_t value) {
    __builtin_memcpy(at, &value, 2);
}

TaskState parse(const std::uint8_t* t, bool wide) {
    TaskState s;
    if (wide) {
        s.cr3 = get32(t + 28);
        s.eip = get32(t + 32);
        s.eflags = get32(t + 36);
        for (unsigned i = 0; i < 8; ++i) {
            s.gpr[i] = get32(t + 40 + i * 4);
        }
        for (unsigned i = 0; i < 6; ++i) {
            s.selectors[i] = get16(t + 72 + i * 4);
        }
        s.ldt = get16(t + 96);
        s.trap = (t[100] & 1U) != 0;
        return s;
    }
    s.eip = get16(t + 14);
    s.eflags = get16(t + 16);
    for (unsigned i = 0; i < 8; ++i) {
        s.gpr[i] = 0xffff0000U | get16(t + 18 + i * 2);
    }
    for (unsigned i = 0; i < 4; ++i) {
        s.selectors[i] = get16(t + 34 + i * 2);
    }
    s.ldt = get16(t + 42);
    return s;
}

bool save_old(CpuState& cpu, bool wide, std::uint64_t eip, std::uint64_t eflags) {
    std::uint8_t t[kTss32Bytes] = {};
    const std::uint32_t bytes = wide ? kTss32Bytes : kTss16Bytes;
    if (!read_linear(cpu, cpu.tr.base, t, bytes, Privilege::ImplicitSupervisor)) {
        return false;
    }
    if (wide) {
        put32(t + 32, eip);
        put32(t + 36, eflags);
        for (unsigned i = 0; i < 8; ++i) {
            put32(t + 40 + i * 4, cpu.gpr[i]);
        }
        for (unsigned i = 0; i < 6; ++i) {
            put16(t + 72 + i * 4, cpu.segments[i].selector);
        }
    } else {
        put16(t + 14, eip);
        put16(t + 16, eflags);
        for (unsigned i = 0; i < 8; ++i) {
            put16(t + 18 + i * 2, cpu.gpr[i]);
        }
        for (unsigned i = 0; i < 4; ++i) {
            put16(t + 34 + i * 2, cpu.segments[i].selector);
        }
    }
    return write_linear(cpu, cpu.tr.base, t, bytes, Privilege::ImplicitSupervisor);
}

bool task_fault(CpuState& cpu, std::uint8_t vector, std::uint16_t selector) {
    return selector_fault(cpu, vector, selector);
}

/// LDT of the new task: after the point of no return.
bool load_task_ldt(CpuState& cpu, std::uint16_t selector) {
    cpu.ldtr = null_segment(selector);
    if (is_null(selector)) {
        return true;
    }
    Descriptor d;
    if ((selector & 4U) != 0) {
        return task_fault(cpu, vec::kTs, selector);
    }
    if (!read_descriptor(cpu, selector, vec::kTs, d)) {
        return false;
    }
    if (d.code_or_data() || d.type() != 2 || !d.present()) {
        return task_fault(cpu, vec::kTs, selector);
    }
    cpu.ldtr = segment_from(selector, d);
    return true;
}

bool load_task_cs(CpuState& cpu, std::uint16_t selector) {
    Descriptor d;
    if (is_null(selector)) {
        return task_fault(cpu, vec::kTs, selector);
    }
    if (!read_descriptor(cpu, selector, vec::kTs, d)) {
        return false;
    }
    const unsigned rpl = selector & 3U;
    if (!d.code() || (d.conforming() ? d.dpl() > rpl : d.dpl() != rpl)) {
        return task_fault(cpu, vec::kTs, selector);
    }
    if (!d.present()) {
        return task_fault(cpu, vec::kNp, selector);
    }
    if (!mark_accessed(cpu, selector, d)) {
        return false;
    }
    set_cs(cpu, segment_from(selector, d), rpl);
    return true;
}

bool load_task_data(CpuState& cpu, unsigned number, std::uint16_t selector, unsigned cpl) {
    if (is_null(selector)) {
        return true;
    }
    Descriptor d;
    if (!read_descriptor(cpu, selector, vec::kTs, d)) {
        return false;
    }
    const bool readable = d.code_or_data() && (!d.code() || d.readable());
    const bool privileged = !(d.code() && d.conforming());
    if (!readable || (privileged && (d.dpl() < cpl || d.dpl() < (selector & 3U)))) {
        return task_fault(cpu, vec::kTs, selector);
    }
    if (!d.present()) {
        return task_fault(cpu, vec::kNp, selector);
    }
    if (!mark_accessed(cpu, selector, d)) {
        return false;
    }
    cpu.segments[number] = segment_from(selector, d);
    return true;
}

bool load_task_segments(CpuState& cpu, const TaskState& s) {
    if ((s.eflags & fl::kVm) != 0) {
        for (unsigned i = 0; i < 6; ++i) {
            cpu.segments[i] = real_mode_segment(cpu, i, s.selectors[i]);
        }
        update_mode(cpu);
        privilege_changed(cpu);
        return true;
    }
    // Selectors are visible before their descriptors are checked: a fault happens in the new task.
    for (unsigned i = 0; i < 6; ++i) {
        cpu.segments[i] = null_segment(s.selectors[i]);
    }
    if (!load_task_ldt(cpu, s.ldt)) {
        return false;
    }
    const unsigned cpl = s.selectors[x86::Cs] & 3U;
    Segment ss;
    if (!check_stack_segment(cpu, s.selectors[x86::Ss], cpl, vec::kTs, ss)) {
        return false;
    }
    cpu.segments[x86::Ss] = ss;
    if (!load_task_cs(cpu, s.selectors[x86::Cs])) {
        return false;
    }
    for (const unsigned number : {x86::Es, x86::Ds, x86::Fs, x86::Gs}) {
        if (!load_task_data(cpu, number, s.selectors[number], cpl)) {
            return false;
        }
    }
    update_mode(cpu);
    if (s.eip > cpu.segments[x86::Cs].limit) {
        (void)raise_gp(cpu, context(cpu).external);
        return false;
    }
    return true;
}

bool check_target(CpuState& cpu, std::uint16_t selector, TaskSwitch reason, Descriptor& d) {
    const std::uint8_t vector = reason == TaskSwitch::Return ? vec::kTs : vec::kGp;
    if (is_null(selector) || (selector & 4U) != 0) {
        return task_fault(cpu, vector, selector);
    }
    if (!read_descriptor(cpu, selector, vector, d)) {
        return false;
    }
    const unsigned available = reason == TaskSwitch::Return ? 3U : 1U;
    if (d.code_or_data() || (d.type() & 7U) != available) {
        return task_fault(cpu, vector, selector);
    }
    if (!d.present()) {
        return task_fault(cpu, vec::kNp, selector);
    }
    const std::uint32_t needed = (d.type() & 8U) != 0 ? kTss32Bytes : kTss16Bytes;
    if (segment_from(selector, d).limit < needed - 1) {
        return task_fault(cpu, vec::kTs, selector);
    }
    return true;
}

}  // namespace

bool switch_task(CpuState& cpu, std::uint16_t selector, TaskSwitch reason,
                 std::uint64_t return_rip) noexcept {
    Descriptor d;
    if (!check_target(cpu, selector, reason, d)) {
        return false;
    }
    Segment next = segment_from(selector, d);
    const bool wide = (d.type() & 8U) != 0;
    const bool old_wide = (cpu.tr.attributes & 8U) != 0;
    const std::uint16_t old_selector = cpu.tr.selector;
    std::uint8_t image[kTss32Bytes] = {};
    if (!read_linear(cpu, next.base, image, wide ? kTss32Bytes : kTss16Bytes,
                     Privilege::ImplicitSupervisor)) {
        return false;
    }
    const bool nests = reason == TaskSwitch::Call || reason == TaskSwitch::Interrupt;
    const std::uint64_t old_flags =
        reason == TaskSwitch::Return ? cpu.rflags & ~fl::kNt : cpu.rflags;
    if (!save_old(cpu, old_wide, return_rip, old_flags)) {
        return false;
    }
    if (nests && !write_linear(cpu, next.base, &old_selector, 2, Privilege::ImplicitSupervisor)) {
        return false;
    }
    if (!nests && !set_tss_busy(cpu, old_selector, false)) {
        return false;
    }
    if (reason != TaskSwitch::Return && !set_tss_busy(cpu, selector, true)) {
        return false;
    }
    const TaskState s = parse(image, wide);
    next.attributes |= 2U;
    cpu.tr = next;
    cpu.cr0 |= x86::cr0::kTs;
    if (wide && (cpu.cr0 & x86::cr0::kPg) != 0) {
        cpu.cr3 = s.cr3;
        address_space_changed(cpu, false);
    }
    cpu.rip = s.eip;
    cpu.rflags = (s.eflags & 0x3f7fd5U) | fl::kFixed | (nests ? fl::kNt : 0);
    for (unsigned i = 0; i < 8; ++i) {
        cpu.gpr[i] = s.gpr[i];
    }
    cpu.dr7 &= ~0x155ULL;  // local breakpoints
    update_mode(cpu);
    if (!load_task_segments(cpu, s)) {
        return false;
    }
    if (s.trap) {
        cpu.dr6 |= 1ULL << 15U;
        (void)raise(cpu, vec::kDb);
        cpu.exception.trap = true;
        return false;
    }
    return true;
}

}  // namespace strata::engine::soft
