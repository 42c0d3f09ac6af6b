// PcLayout: the arithmetic of the memory map.
#include "machine/pc/pc_layout.h"

#include <algorithm>

#include <fmt/core.h>

#include "base/text.h"

namespace strata::machine::pc {
namespace {

constexpr std::uint64_t kFourGib = 1ULL << 32;
constexpr std::uint64_t kMinimum = 2ULL << 20;
constexpr std::uint64_t kEbda = 0x9fc00;  ///< extended BIOS data area: reserved by convention
constexpr std::uint64_t kConventionalEnd = 0xa0000;
constexpr std::uint64_t kFirmware = 0xe0000;  ///< tables lie here
constexpr std::uint64_t kOneMib = 0x100000;

}  // namespace

Result<PcLayout> PcLayout::plan(const MachineType& type, std::uint64_t memory,
                                unsigned physical_bits) {
    using boot::MemoryType;
    const std::uint64_t reach = 1ULL << std::clamp(physical_bits, 32U, 52U);
    if (memory < kMinimum) {
        return Error(ErrorKind::InvalidArgument,
                     fmt::format("memory of {} is too small: at least {}", format_size(memory),
                                 format_size(kMinimum)));
    }
    if (memory % 4096 != 0) {
        return Error(ErrorKind::InvalidArgument,
                     fmt::format("memory of {} bytes is not a multiple of 4 KiB", memory));
    }
    PcLayout layout;
    layout.low_ram = std::min(memory, type.low_ram_limit);
    layout.high_ram = memory - layout.low_ram;
    const std::uint64_t room = reach - std::min(reach, kFourGib);
    if (layout.high_ram > room) {
        return Error(
            ErrorKind::InvalidArgument,
            fmt::format("memory of {} does not fit into the CPU's {} physical address bits",
                        format_size(memory), physical_bits));
    }
    const std::uint64_t size = type.pci_memory64_size;
    const std::uint64_t start = (kFourGib + layout.high_ram + size - 1) & ~(size - 1);
    if (start < reach && size <= reach - start) {
        layout.pci_memory64 = {start, start + size - 1};
    }
    layout.memory_map = {
        {0, kEbda, MemoryType::Ram},
        {kEbda, kConventionalEnd - kEbda, MemoryType::Reserved},
        {kFirmware, kOneMib - kFirmware, MemoryType::Reserved},
        {kOneMib, layout.low_ram - kOneMib, MemoryType::Ram},
        {type.ecam, type.ecam_size, MemoryType::Reserved},
    };
    if (layout.high_ram != 0) {
        layout.memory_map.push_back({kFourGib, layout.high_ram, MemoryType::Ram});
    }
    return layout;
}

}  // namespace strata::machine::pc
