// TestCase, Outcome: one piece of random user-mode code with everything it starts from, and what
// became of it.
//
// Both a guest and a child process of the host show the code the same linear addresses (Layout), so
// that the same bytes with the same registers mean the same. Code ends in INT3; any other exception
// ends it too, and is part of the outcome.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "arch/x86/arch_state.h"
#include "differential/flag_flow.h"

namespace strata::differential {

inline constexpr std::uint64_t kPage = 4096;

/// The user part of the address space, page by page. What is not listed is not mapped.
struct Layout {
    static constexpr std::uint64_t kCode =
        0x10000000;  ///< two pages, executable; the page after is not mapped
    static constexpr std::uint64_t kCodePages = 2;
    static constexpr std::uint64_t kData =
        0x20000000;  ///< two writable pages, then a hole, a read-only page, a writable page
    static constexpr std::uint64_t kHole = kData + 2 * kPage;
    static constexpr std::uint64_t kReadOnly = kData + 3 * kPage;
    static constexpr std::uint64_t kAfterReadOnly = kData + 4 * kPage;
    static constexpr std::uint64_t kStack = 0x30000000;  ///< one writable page between holes
};
/// Pages whose bytes are part of a case: data 0, data 1, read-only, after read-only, stack.
inline constexpr std::size_t kDataPages = 5;
inline constexpr std::array<std::uint64_t, kDataPages> kDataPageAddress = {
    Layout::kData, Layout::kData + kPage, Layout::kReadOnly, Layout::kAfterReadOnly,
    Layout::kStack};

using DataBytes = std::array<std::array<std::byte, kPage>, kDataPages>;

/// Where an XSAVE component lies in the standard format, by the host's CPUID leaf 0Dh.
struct XsaveComponent {
    std::uint32_t offset = 0, size = 0;
};
XsaveComponent xsave_component(unsigned number);

struct Registers {
    std::array<std::uint64_t, 16> gpr{};  ///< ModRM order
    std::uint64_t rip = 0;
    std::uint64_t rflags = 0x202;
    alignas(64) std::array<std::byte, arch::x86::kXsaveBytes> xsave{};  ///< standard format
};

struct TestCase {
    std::uint64_t seed = 0;
    Registers start;
    std::uint64_t gs_base = 0;
    std::vector<std::uint8_t> code;     ///< placed at start.rip; the rest of the code pages is INT3
    std::vector<std::uint8_t> lengths;  ///< of its instructions, for reports
    struct Traits {
        const char* mnemonic;
        const char* isa_set;
        bool either_operand = false;  ///< which of its two memory operands faults is not compared
        bool two_parts =
            false;        ///< which of its two parts faults is not compared if the vectors differ
        bool gs = false;  ///< has an operand in gs
    };
    std::vector<Traits> traits;  ///< of its instructions
    DataBytes data{};
    std::vector<LooseFlags> loose_flags;  ///< per instruction, and at the end
};

struct Outcome {
    Registers end;
    std::uint8_t vector = 0;
    std::uint64_t error = 0;
    std::uint64_t fault_address = 0;  ///< for #PF
    DataBytes data{};
    bool timed_out = false;
};

}  // namespace strata::differential
