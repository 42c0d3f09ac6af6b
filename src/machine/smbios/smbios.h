// SMBIOS: the tables by which a guest names its machine (dmidecode, systemd, udev).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace strata::machine::smbios {

struct SmbiosConfig {
    std::string product;  ///< e.g. "pc-1.0"
    std::string version;  ///< of Strata
    std::uint64_t memory_bytes = 0;
};

/// Entry point and structures as one block for guest address `address` (16-byte aligned, within
/// F0000h-FFFFFh).
[[nodiscard]] std::vector<std::byte> build_tables(const SmbiosConfig& config,
                                                  std::uint64_t address);

}  // namespace strata::machine::smbios
