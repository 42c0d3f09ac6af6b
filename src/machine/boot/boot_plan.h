// BootPlan: the outcome of reading a kernel: which bytes go where in guest RAM, and how the first
// vCPU starts.
//
// A plan is made without touching guest memory, from the kernel file's bytes and the size of the
// initrd, so a hostile file is judged as a whole before anything is placed. apply() of loader.h
// carries it out; a reboot makes and applies it again.
//
// Low memory that every plan uses (all below 192 KiB, free again for the kernel once it has read
// its boot information):
//   0x00500 GDT · 0x06000 hvm_start_info or multiboot information · 0x07000 Linux zero page ·
//   0x09000-0x0efff identity page tables (4 GiB in 2 MiB pages) · 0x20000-0x2ffff command line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "arch/x86/arch_state.h"
#include "base/mmap_region.h"
#include "base/result.h"
#include "machine/boot/memory_map.h"

namespace strata::machine::boot {

inline constexpr std::uint64_t kGdtAddress = 0x500;
inline constexpr std::uint64_t kBootInfoAddress = 0x6000;
inline constexpr std::uint64_t kZeroPageAddress = 0x7000;
inline constexpr std::uint64_t kStackTop = 0x8ff0;
inline constexpr std::uint64_t kPageTableAddress = 0x9000;
inline constexpr std::uint64_t kCommandLineAddress = 0x20000;
inline constexpr std::uint64_t kCommandLineBytes = 0x10000;
/// Below this lies what the loaders put down. Kernels of most protocols must load above; those of
/// multiboot, whose loader needs less, may also lie between its pieces.
inline constexpr std::uint64_t kLoaderAreaEnd = kCommandLineAddress + kCommandLineBytes;

/// Who unpacks the kernel of a bzImage.
enum class KernelEntry {
    Auto,        ///< the loader if it can, otherwise the stub
    Decompress,  ///< the loader, or it is an error
    Stub,        ///< the bzImage's own code
};

/// What a loader must know of the machine.
struct BootEnvironment {
    MemoryMap memory_map;
    std::uint64_t rsdp = 0;  ///< where the ACPI root pointer lies; 0: no ACPI
    std::string command_line;
    std::string kernel_name;  ///< for messages, and multiboot's argv[0]
    std::optional<std::uint64_t> initrd_size;
    KernelEntry kernel_entry = KernelEntry::Auto;
    std::uint64_t random =
        0;  ///< where a kernel that the loader unpacks shall lie, if it can be moved
};

/// Where a placement's bytes come from.
enum class Source {
    Bytes,     ///< Placement::bytes
    Kernel,    ///< the kernel file, from file_offset
    Initrd,    ///< the initrd, from file_offset
    Unpacked,  ///< BootPlan::unpacked, from file_offset
};

/// One range of guest RAM to fill. RAM is zero before a plan is applied, so zero-filled parts are
/// not listed.
struct Placement {
    std::uint64_t address = 0;
    std::uint64_t size = 0;
    Source source = Source::Bytes;
    std::uint64_t file_offset = 0;
    std::vector<std::byte> bytes;
};

enum class KernelKind { LinuxBzImage, Pvh, Multiboot };

/// "Linux bzImage", "PVH", "multiboot".
[[nodiscard]] std::string_view kernel_kind_name(KernelKind kind);

struct BootPlan {
    KernelKind kind = KernelKind::LinuxBzImage;
    std::vector<Placement> placements;
    /// The kernel that the loader took out of its bzImage, if it did.
    MmapRegion unpacked;
    /// The bootstrap vCPU's state at the kernel's entry point.
    arch::x86::ArchState entry;
};

/// Collects placements and refuses what does not fit: outside RAM, overlapping, wrapping around.
class PlanBuilder {
  public:
    struct Range {
        std::uint64_t start;
        std::uint64_t end;
    };

    explicit PlanBuilder(const BootEnvironment& environment)
        : PlanBuilder(environment, {{0, kLoaderAreaEnd}}) {}
    /// `loader_area`: what the protocol's loader writes, closed to the kernel's parts. Ascending.
    PlanBuilder(const BootEnvironment& environment, std::vector<Range> loader_area)
        : environment_(environment), loader_area_(std::move(loader_area)) {}

    /// Loads `file_size` bytes at `file_offset` of `source` (Kernel or Unpacked) to `address` and
    /// claims `memory_size` bytes there. `what` names the part in messages ("segment 2"). The
    /// caller has checked the file range.
    Result<> kernel_part(std::string_view what, std::uint64_t address, std::uint64_t file_offset,
                         std::uint64_t file_size, std::uint64_t memory_size,
                         Source source = Source::Kernel);
    /// Puts `bytes` into the loader area. Not checked: the loaders' own constants.
    void loader_bytes(std::uint64_t address, std::span<const std::byte> bytes);
    /// The NUL-terminated command line `text` at kCommandLineAddress; at most `limit` bytes without
    /// the NUL.
    Result<> command_line(std::string_view text, std::uint64_t limit);
    /// Places the initrd as high as possible with its last byte at most at `highest`; answers its
    /// address, or 0 if there is no initrd. After all kernel parts.
    Result<std::uint64_t> initrd(std::uint64_t highest);

    /// True if [address, address+size) was claimed by one kernel part.
    [[nodiscard]] bool inside_kernel(std::uint64_t address, std::uint64_t size) const;
    /// True if a kernel part lies below `address`, wholly or in part.
    [[nodiscard]] bool kernel_below(std::uint64_t address) const;
    [[nodiscard]] const BootEnvironment& environment() const { return environment_; }
    [[nodiscard]] BootPlan finish(KernelKind kind, const arch::x86::ArchState& entry);

  private:
    [[nodiscard]] bool is_ram(Range range) const;
    [[nodiscard]] std::optional<std::uint64_t> highest_gap(Range ram, std::uint64_t size,
                                                           std::uint64_t end) const;

    const BootEnvironment& environment_;
    std::vector<Range> loader_area_;
    std::vector<Range> kernel_;
    std::vector<Placement> placements_;
};

}  // namespace strata::machine::boot
