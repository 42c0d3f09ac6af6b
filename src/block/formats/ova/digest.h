// OvaDigest: digests of members, as manifests have them.
#pragma once

#include <string>

#include "block/formats/archive/tar.h"

namespace strata::block::ova {

/// "SHA1", "SHA256" or "SHA512" of a member, in hexadecimal; empty: another algorithm.
Task<std::string> digest_of(Node& file, archive::Member member, std::string algorithm);

}  // namespace strata::block::ova
