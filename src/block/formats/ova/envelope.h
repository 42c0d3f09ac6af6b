// OvfEnvelope: what an appliance's OVF description says of disks, checked; its manifest. DMTF
// DSP0243.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace strata::block::ova {

struct OvfDisk {
    std::string id;
    std::string file;            ///< the name of the member that has it
    std::string format;          ///< an address that names the format
    std::uint64_t capacity = 0;  ///< bytes
};

/// The disks that have content, in the order of the description.
Result<std::vector<OvfDisk>> parse_ovf(std::string_view text, std::string_view name);

struct Digest {
    std::string algorithm;  ///< "SHA1", "SHA256", "SHA512"
    std::string hex;        ///< lower case
};
/// By the names of files. Lines that are none are passed over.
std::map<std::string, Digest> parse_manifest(std::string_view text);

}  // namespace strata::block::ova
