// OvaAppliance: the text of a new appliance's description, and its layout in the archive.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace strata::block::ova {

/// A machine with one disk, as it is offered to whoever imports it.
struct NewAppliance {
    std::string name = "strata";
    std::uint64_t cpus = 1, memory_mib = 1024;
    std::uint64_t capacity = 0;  ///< of the disk, bytes
};

/// The room for the description in the archive, whatever it says.
inline constexpr std::uint64_t kDescriptionBytes = 8192;

/// The description, filled with blanks to kDescriptionBytes. `disk_bytes`: of the disk's file.
Result<std::string> describe_appliance(const NewAppliance& appliance, const std::string& disk_file,
                                       std::uint64_t disk_bytes);

}  // namespace strata::block::ova
