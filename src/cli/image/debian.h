// Debian images: a bootable root disk made from Debian's packages by mmdebstrap, with its kernel
// beside it.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "cli/image/store.h"
#include "cli/image/tiny.h"

namespace strata::cli {

struct DebianOptions {
    std::uint64_t disk_bytes = 4ULL << 30;
    std::string packages;      ///< more packages, separated by commas
    std::string ssh_key_file;  ///< a public key for root; empty: none
    std::string mirror;  ///< URI of a Debian archive; empty: what the host's apt uses for Debian 12
};

/// Builds Debian 12 into `draft`'s folder. Needs the network; as root or, with user namespaces,
/// without.
Result<Image> build_debian(const ImageDraft& draft, const DebianOptions& options,
                           const Progress& progress);

}  // namespace strata::cli
