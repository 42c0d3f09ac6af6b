// ReferenceWalk: address translation as SDM 3A, chapter 4 tells it, one level after the other, on a
// copy of memory.
//
// Written for plainness and apart from engine/soft/mmu, so that the two do not share mistakes: no
// TLB, no packed state, one question at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace strata::fuzz {

/// The part of a processor's state that paging looks at.
struct PagingState {
    bool paging = false, pae = false, long_mode = false, page_size_extension = false;
    bool write_protect = false, smep = false, smap = false, protection_keys = false,
         no_execute = false;
    std::uint64_t cr3 = 0;
    std::uint32_t pkru = 0;
    unsigned physical_bits = 46;
    std::uint64_t ram_size =
        0;  ///< RAM beyond the bytes given is zeros; past this, entries read as all ones
    bool gigabyte_pages = true;
};

/// One access. `supervisor`: with supervisor rights; `open`: EFLAGS.AC allows user pages in spite
/// of SMAP.
struct Access {
    std::uint64_t linear = 0;
    bool write = false, fetch = false, supervisor = false, open = false;
};

enum class Verdict : std::uint8_t { Translated, PageFault, GeneralProtection };

struct Translation {
    Verdict verdict = Verdict::Translated;
    std::uint32_t error = 0;  ///< of a page fault
    std::uint64_t physical = 0;
};

/// Translates, and sets accessed and dirty bits in `memory` as a processor would that does so only
/// for allowed accesses. Bit N of `tables` is set for each page N of `memory` that held an entry
/// which was read.
Translation translate(const PagingState& state, const Access& access, std::span<std::byte> memory,
                      std::uint64_t& tables);

/// The four PAE pointers at CR3 would be accepted by MOV CR3.
bool pointers_acceptable(const PagingState& state, std::uint64_t cr3,
                         std::span<const std::byte> memory);

}  // namespace strata::fuzz
