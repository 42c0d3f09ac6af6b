// LinuxPayload: the kernel proper that a bzImage carries, unpacked by the loader instead of the
// bzImage's own stub.
//
// The stub (arch/x86/boot/compressed) decompresses the payload, an ELF with a table of relocations
// behind it, moves its segments into place and shifts the addresses in it by a random distance
// (KASLR). That is most of what a software CPU does during a boot, and pure data processing, so it
// is done here: same file, same result, but for the physical address, which stays the preferred
// one. The file is hostile: sizes are bounded, every relocation must hit the bytes of a segment,
// and whatever is unusual is left to the stub.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/mmap_region.h"
#include "machine/boot/elf.h"

namespace strata::machine::boot {

/// Where a bzImage's setup header says that its payload is, and what it needs to know.
struct LinuxPayload {
    std::span<const std::byte> bytes;
    std::uint64_t load_address = 0;  ///< pref_address
    std::uint64_t memory_size = 0;   ///< init_size: the most that the unpacked kernel may take
    std::uint64_t alignment = 0;     ///< kernel_alignment
};

struct UnpackedKernel {
    MmapRegion image;  ///< the ELF file; its segments' ranges lie inside
    ElfFile elf;
    bool randomized = false;
};

/// Decompresses (xz, zstd, gzip) and checks the kernel. With `random`, a kernel that has
/// relocations is moved to the virtual address that this number chooses. Errors, all of which mean
/// "leave it to the stub": another compression, damage, an ELF or relocation table of unknown
/// shape.
Result<UnpackedKernel> unpack_kernel(const LinuxPayload& payload,
                                     std::optional<std::uint64_t> random);

/// What follows decompression: `image` is judged and moved. For fuzzing.
Result<UnpackedKernel> place_kernel(MmapRegion image, const LinuxPayload& payload,
                                    std::optional<std::uint64_t> random);

/// True if `word` is one of the command line's words.
[[nodiscard]] bool has_word(std::string_view command_line, std::string_view word);

}  // namespace strata::machine::boot
