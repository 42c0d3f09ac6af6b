// The volume key of a LUKS 1 volume: out of a key slot, with a passphrase.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "block/formats/luks/header.h"
#include "block/formats/luks/sector_cipher.h"

namespace strata::block::luks {

/// The key in `slot`, whose `material` (stripes * key_bytes, whole sectors) was read, if
/// `passphrase` is right: PermissionDenied if not. Takes as long as the slot's iterations do: for a
/// worker thread.
Result<Secret> open_slot(const Header& header, const Slot& slot, std::vector<std::byte> material,
                         std::string_view passphrase);

/// NotSupported if the hash is unknown.
Result<> pbkdf2(std::string_view hash, std::span<const std::byte> secret,
                std::span<const std::byte> salt, std::uint32_t iterations,
                std::span<std::byte> out);
/// The key that `material`, deciphered, was split from.
Result<Secret> merge_stripes(std::string_view hash, std::uint32_t key_bytes, std::uint32_t stripes,
                             std::span<const std::byte> material);

/// What merge_stripes() makes `key` of, all of it but the last stripe random; whole sectors.
Result<std::vector<std::byte>> split_key(std::string_view hash, const Secret& key,
                                         std::uint32_t stripes);

/// Iterations of PBKDF2 for a key of `key_bytes` that take `milliseconds` of this thread's
/// processor time, at least 1000. Takes a tenth of a second itself: for a worker thread.
Result<std::uint32_t> pbkdf2_iterations(std::string_view hash, std::uint32_t key_bytes,
                                        std::uint64_t milliseconds);
/// Nanoseconds of the processor's time that this thread has had.
std::uint64_t thread_nanoseconds();
/// Puts `key` under `passphrase`: sets the slot's salt, iterations and stripes, and answers its
/// material. For a worker thread.
Result<std::vector<std::byte>> fill_slot(const Header& header, Slot& slot, const Secret& key,
                                         std::string_view passphrase, std::uint64_t milliseconds);

/// Sets the header's digest of `key`. For a worker thread.
Result<> seal(Header& header, const Secret& key, std::uint64_t milliseconds);

/// Random bytes good for keys.
Result<> fill_random(std::span<std::byte> bytes);

}  // namespace strata::block::luks
