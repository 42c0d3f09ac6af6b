// Descriptors: see descriptors.h.
#include "engine/soft/interp/descriptors.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint16_t kTableIndicator = 4;

/// Linear address of a descriptor; false if it lies outside its table.
bool locate(const CpuState& cpu, std::uint16_t selector, std::uint32_t bytes,
            std::uint64_t& linear) {
    const std::uint64_t offset = selector & 0xfff8U;
    if ((selector & kTableIndicator) != 0) {
        linear = cpu.ldtr.base + offset;
        return !cpu.ldtr.unusable && offset + bytes - 1 <= cpu.ldtr.limit;
    }
    linear = cpu.gdtr.base + offset;
    return offset + bytes - 1 <= cpu.gdtr.limit;
}

bool load_data_or_stack(CpuState& cpu, unsigned number, std::uint16_t selector, Segment& out) {
    if (number == x86::Ss) {
        if (is_null(selector)) {
            // 64-bit mode below ring 3 may hold a null SS. SDM 3A, 5.4.1.1.
            if (code64(cpu) && cpu.cpl < 3 && (selector & 3U) == cpu.cpl) {
                out = null_segment(selector);
                out.attributes = static_cast<std::uint16_t>(cpu.cpl << 5U);
                return true;
            }
            (void)raise_gp(cpu, context(cpu).external);
            return false;
        }
        return check_stack_segment(cpu, selector, cpu.cpl, vec::kGp, out);
    }
    if (is_null(selector)) {
        out = null_segment(selector);
        return true;
    }
    Descriptor d;
    if (!read_descriptor(cpu, selector, vec::kGp, d)) {
        return false;
    }
    const bool readable = d.code_or_data() && (!d.code() || d.readable());
    const bool privileged = !(d.code() && d.conforming());
    if (!readable || (privileged && (d.dpl() < cpu.cpl || d.dpl() < (selector & 3U)))) {
        return selector_fault(cpu, vec::kGp, selector);
    }
    if (!d.present()) {
        return selector_fault(cpu, vec::kNp, selector);
    }
    if (!mark_accessed(cpu, selector, d)) {
        return false;
    }
    out = segment_from(selector, d);
    return true;
}

}  // namespace

bool selector_fault(CpuState& cpu, std::uint8_t vector, std::uint16_t selector) noexcept {
    (void)raise_error(cpu, vector, (selector & 0xfffcU) | context(cpu).external);
    return false;
}

bool find_descriptor(CpuState& cpu, std::uint16_t selector, Descriptor& out, bool& found) noexcept {
    std::uint64_t linear = 0;
    found = locate(cpu, selector, 8, linear);
    return !found || read_linear(cpu, linear, &out.low, 8, Privilege::ImplicitSupervisor);
}

bool read_descriptor(CpuState& cpu, std::uint16_t selector, std::uint8_t vector,
                     Descriptor& out) noexcept {
    bool found = false;
    if (!find_descriptor(cpu, selector, out, found)) {
        return false;
    }
    return found || selector_fault(cpu, vector, selector);
}

bool read_descriptor_high(CpuState& cpu, std::uint16_t selector, std::uint8_t vector,
                          Descriptor& out) noexcept {
    std::uint64_t linear = 0;
    if (!locate(cpu, selector, 16, linear)) {
        return selector_fault(cpu, vector, selector);
    }
    return read_linear(cpu, linear + 8, &out.high, 8, Privilege::ImplicitSupervisor);
}

bool mark_accessed(CpuState& cpu, std::uint16_t selector, Descriptor& descriptor) noexcept {
    if ((descriptor.type() & 1U) != 0) {
        return true;
    }
    std::uint64_t linear = 0;
    (void)locate(cpu, selector, 8, linear);  // it was read a moment ago
    descriptor.low |= 1ULL << 40U;
    const auto access = static_cast<std::uint8_t>(descriptor.low >> 40U);
    return write_linear(cpu, linear + 5, &access, 1, Privilege::ImplicitSupervisor);
}

bool set_tss_busy(CpuState& cpu, std::uint16_t selector, bool busy) noexcept {
    std::uint64_t linear = 0;
    std::uint8_t access = 0;
    (void)locate(cpu, selector, 8, linear);
    if (!read_linear(cpu, linear + 5, &access, 1, Privilege::ImplicitSupervisor)) {
        return false;
    }
    access = static_cast<std::uint8_t>(busy ? access | 2U : access & ~2U);
    return write_linear(cpu, linear + 5, &access, 1, Privilege::ImplicitSupervisor);
}

Segment segment_from(std::uint16_t selector, const Descriptor& d) noexcept {
    Segment s;
    s.selector = selector;
    s.attributes = static_cast<std::uint16_t>(d.low >> 40U) & 0xf0ffU;
    s.limit = static_cast<std::uint32_t>((d.low & 0xffffU) | ((d.low >> 32U) & 0xf0000U));
    if ((s.attributes & 0x8000U) != 0) {
        s.limit = (s.limit << 12U) | 0xfffU;
    }
    s.base = d.base32();
    s.unusable = false;
    return s;
}

Segment null_segment(std::uint16_t selector) noexcept {
    Segment s;
    s.selector = selector;
    s.unusable = true;
    return s;
}

Segment real_mode_segment(const CpuState& cpu, unsigned number, std::uint16_t selector) noexcept {
    Segment s = cpu.segments[number];
    s.selector = selector;
    s.base = static_cast<std::uint64_t>(selector) << 4U;
    s.unusable = false;
    if (v8086(cpu)) {
        s.limit = 0xffff;
        s.attributes = 0xf3;
    } else if (number == x86::Cs) {
        s.attributes = 0x9b;  // limit stays: "unreal" mode keeps hidden parts
    } else if ((s.attributes & 0x10U) == 0) {
        s.attributes = 0x93;
    }
    return s;
}

bool load_segment(CpuState& cpu, unsigned number, std::uint16_t selector) noexcept {
    Segment loaded;
    if (!protected_mode(cpu)) {
        loaded = real_mode_segment(cpu, number, selector);
    } else if (!load_data_or_stack(cpu, number, selector, loaded)) {
        return false;
    }
    cpu.segments[number] = loaded;
    update_mode(cpu);
    return true;
}

bool check_stack_segment(CpuState& cpu, std::uint16_t selector, unsigned cpl, std::uint8_t vector,
                         Segment& out) noexcept {
    if (is_null(selector)) {
        (void)raise_error(cpu, vector, context(cpu).external);
        return false;
    }
    Descriptor d;
    if (!read_descriptor(cpu, selector, vector, d)) {
        return false;
    }
    const bool writable_data = d.code_or_data() && !d.code() && d.readable();
    if ((selector & 3U) != cpl || !writable_data || d.dpl() != cpl) {
        return selector_fault(cpu, vector, selector);
    }
    if (!d.present()) {
        return selector_fault(cpu, vec::kSs, selector);
    }
    if (!mark_accessed(cpu, selector, d)) {
        return false;
    }
    out = segment_from(selector, d);
    return true;
}

void set_cs(CpuState& cpu, const Segment& cs, unsigned cpl) noexcept {
    cpu.segments[x86::Cs] = cs;
    cpu.segments[x86::Cs].selector = static_cast<std::uint16_t>((cs.selector & ~3U) | cpl);
    update_mode(cpu);
    privilege_changed(cpu);
}

bool target_in(CpuState& cpu, const Segment& cs, std::uint64_t target) noexcept {
    const bool is64 = long_mode(cpu) && (cs.attributes & 0x2000U) != 0;
    const bool good = is64 ? canonical_address(target) : target <= cs.limit;
    if (!good) {
        (void)raise_gp(cpu);
    }
    return good;
}

}  // namespace strata::engine::soft
