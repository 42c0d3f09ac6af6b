// Descriptors: reading GDT and LDT entries and loading segment registers with all checks. SDM
// 3A, 3.4 and 5.
#pragma once

#include <cstdint>

#include "engine/soft/interp/operands.h"

namespace strata::engine::soft {

/// A descriptor as it stands in memory; `high` only for the 16-byte system descriptors of long
/// mode.
struct Descriptor {
    std::uint64_t low = 0;
    std::uint64_t high = 0;

    [[nodiscard]] unsigned type() const { return static_cast<unsigned>(low >> 40U) & 15U; }
    [[nodiscard]] bool code_or_data() const { return ((low >> 44U) & 1U) != 0; }
    [[nodiscard]] unsigned dpl() const { return static_cast<unsigned>(low >> 45U) & 3U; }
    [[nodiscard]] bool present() const { return ((low >> 47U) & 1U) != 0; }
    [[nodiscard]] bool code() const { return code_or_data() && (type() & 8U) != 0; }
    [[nodiscard]] bool conforming() const { return (type() & 4U) != 0; }
    [[nodiscard]] bool readable() const {
        return (type() & 2U) != 0;
    }  ///< of code; writable of data
    [[nodiscard]] bool long_code() const { return ((low >> 53U) & 1U) != 0; }
    [[nodiscard]] bool default_big() const { return ((low >> 54U) & 1U) != 0; }
    // Gates.
    [[nodiscard]] std::uint16_t gate_selector() const {
        return static_cast<std::uint16_t>(low >> 16U);
    }
    [[nodiscard]] std::uint32_t gate_offset32() const {
        return static_cast<std::uint32_t>((low & 0xffffU) | ((low >> 32U) & 0xffff0000U));
    }
    [[nodiscard]] std::uint64_t gate_offset64() const { return gate_offset32() | (high << 32U); }
    [[nodiscard]] std::uint64_t base32() const {
        return ((low >> 16U) & 0xffffffU) | ((low >> 32U) & 0xff000000U);
    }
};

/// Raises `vector` with a selector error code (RPL bits cleared, EXT added while an event is
/// delivered). Always false.
bool selector_fault(CpuState& cpu, std::uint8_t vector, std::uint16_t selector) noexcept;

/// Reads selector's descriptor; outside its table: `vector`(selector). Null selectors are the
/// caller's business.
[[nodiscard]] bool read_descriptor(CpuState& cpu, std::uint16_t selector, std::uint8_t vector,
                                   Descriptor& out) noexcept;
/// The upper half of a 16-byte descriptor.
[[nodiscard]] bool read_descriptor_high(CpuState& cpu, std::uint16_t selector, std::uint8_t vector,
                                        Descriptor& out) noexcept;
/// As read_descriptor without raising for a limit violation (LAR, LSL, VERR): `found` says.
[[nodiscard]] bool find_descriptor(CpuState& cpu, std::uint16_t selector, Descriptor& out,
                                   bool& found) noexcept;

/// Sets the accessed bit in memory and in `descriptor`.
[[nodiscard]] bool mark_accessed(CpuState& cpu, std::uint16_t selector,
                                 Descriptor& descriptor) noexcept;
/// Sets (or clears) the busy bit of a TSS descriptor in memory.
[[nodiscard]] bool set_tss_busy(CpuState& cpu, std::uint16_t selector, bool busy) noexcept;

[[nodiscard]] Segment segment_from(std::uint16_t selector, const Descriptor& descriptor) noexcept;
[[nodiscard]] Segment null_segment(std::uint16_t selector) noexcept;
[[nodiscard]] Segment real_mode_segment(const CpuState& cpu, unsigned number,
                                        std::uint16_t selector) noexcept;

/// MOV/POP to ES, SS, DS, FS, GS in any mode. False: exception pending, nothing changed.
[[nodiscard]] bool load_segment(CpuState& cpu, unsigned number, std::uint16_t selector) noexcept;
/// SS for a change to privilege `cpl`: raises `vector` (#TS or #GP); gives the segment instead of
/// loading it.
[[nodiscard]] bool check_stack_segment(CpuState& cpu, std::uint16_t selector, unsigned cpl,
                                       std::uint8_t vector, Segment& out) noexcept;

/// Puts CS in place and changes CPL: everything derived follows (mode word, TLB bank).
void set_cs(CpuState& cpu, const Segment& cs, unsigned cpl) noexcept;

/// Whether `target` is a place that code of segment `cs` may be at: #GP if not.
[[nodiscard]] bool target_in(CpuState& cpu, const Segment& cs, std::uint64_t target) noexcept;

inline bool is_null(std::uint16_t selector) {
    return (selector & 0xfffcU) == 0;
}
inline bool canonical_address(std::uint64_t address) {
    const auto top = static_cast<std::int64_t>(address) >> 47;
    return top == 0 || top == -1;
}

}  // namespace strata::engine::soft
