// ELF: the little of it that loaders need: both classes, program headers, notes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "machine/boot/boot_plan.h"

namespace strata::machine::boot {

/// One program header, widened to 64 bits.
struct ElfSegment {
    std::uint32_t type = 0;
    std::uint64_t file_offset = 0;
    std::uint64_t virtual_address = 0;
    std::uint64_t physical_address = 0;
    std::uint64_t file_size = 0;
    std::uint64_t memory_size = 0;
    std::uint64_t alignment = 0;
};

/// An x86 executable: every range named here lies inside the file.
struct ElfFile {
    static constexpr std::uint32_t kLoad = 1;
    static constexpr std::uint32_t kNote = 4;

    bool is_64 = false;
    std::uint64_t entry = 0;
    std::vector<ElfSegment> segments;

    /// Errors: truncated, not x86, not an executable, too many program headers, a segment outside
    /// the file.
    static Result<ElfFile> parse(std::span<const std::byte> file);

    /// The contents of the note (name, type) in PT_NOTE segments, or nullopt. Malformed notes end
    /// the search.
    [[nodiscard]] std::optional<std::span<const std::byte>> note(std::span<const std::byte> file,
                                                                 std::string_view name,
                                                                 std::uint32_t type) const;
    /// Adds all PT_LOAD segments at their physical addresses; the file is the kernel's or the
    /// unpacked one. Fails if there is none.
    Result<> load_into(PlanBuilder& plan, Source source = Source::Kernel) const;
    /// The physical address of virtual address `address`, if a segment holds it; `address` itself
    /// otherwise.
    [[nodiscard]] std::uint64_t to_physical(std::uint64_t address) const;
};

/// True if the file begins with the ELF magic.
[[nodiscard]] bool is_elf(std::span<const std::byte> file);

}  // namespace strata::machine::boot
