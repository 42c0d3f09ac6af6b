// FuzzCheck: what must hold for every plan that a loader makes of a hostile file. Shared by the
// loaders' fuzz targets.
#pragma once

#include <algorithm>
#include <span>

#include "base/check.h"
#include "machine/boot/boot_plan.h"
#include "machine/boot/test_kernels.h"

namespace strata::machine::boot::testing {

/// Plans with `plan` in a 64 MiB machine with an initrd of 1 MiB; aborts if a placement leaves RAM
/// or the file.
template <typename Plan>
void check_plan(std::span<const std::uint8_t> input, Plan plan) {
    BootEnvironment machine = environment();
    machine.initrd_size = 1 << 20;
    const auto made = plan(std::as_bytes(input), machine);
    if (!made.ok()) {
        return;
    }
    for (const Placement& placement : made->placements) {
        const bool in_ram = std::any_of(
            machine.memory_map.begin(), machine.memory_map.end(), [&](const MemoryMapEntry& entry) {
                return entry.type == MemoryType::Ram && placement.address >= entry.start &&
                       placement.address + placement.size <= entry.start + entry.size;
            });
        STRATA_CHECK(in_ram, "a placement outside RAM");
        const std::uint64_t whole =
            placement.source == Source::Unpacked ? made->unpacked.size() : input.size();
        const bool of_file =
            placement.source == Source::Kernel || placement.source == Source::Unpacked;
        const bool in_file = !of_file || (placement.file_offset <= whole &&
                                          placement.size <= whole - placement.file_offset);
        STRATA_CHECK(in_file, "a placement outside the file");
    }
}

}  // namespace strata::machine::boot::testing
