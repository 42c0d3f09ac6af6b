// XvaDescription: ova.xml of a new export: a machine with one disk, as XenServer imports it.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace strata::block::xva {

struct NewMachine {
    std::string name = "strata";
    std::uint64_t cpus = 1, memory = 1U << 30;
    std::uint64_t disk_size = 0;  ///< bytes
};

/// The disk's reference: the folder of its blocks.
inline constexpr std::string_view kNewDisk = "Ref:3";

Result<std::string> describe_machine(const NewMachine& machine);

}  // namespace strata::block::xva
