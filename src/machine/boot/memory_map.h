// MemoryMap: what lies where in guest physical memory, as firmware would tell it (E820).
//
// Made by the board, handed to every boot protocol in its own form. Entries are ascending and do
// not overlap.
#pragma once

#include <cstdint>
#include <vector>

namespace strata::machine::boot {

/// The numbers are those of ACPI 6.4, 15 (System Address Map), which all three boot protocols use.
enum class MemoryType : std::uint32_t { Ram = 1, Reserved = 2, AcpiTables = 3, AcpiNvs = 4 };

struct MemoryMapEntry {
    std::uint64_t start = 0;
    std::uint64_t size = 0;
    MemoryType type = MemoryType::Ram;
    bool operator==(const MemoryMapEntry&) const = default;
};

using MemoryMap = std::vector<MemoryMapEntry>;

}  // namespace strata::machine::boot
