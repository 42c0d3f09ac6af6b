// SectorCipher: encryption of sectors of 512 bytes, each with its number: AES-XTS and AES-CBC as
// dm-crypt names them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <openssl/evp.h>

#include "base/result.h"

namespace strata::block::luks {

/// Bytes that are wiped before their memory goes.
class Secret {
  public:
    explicit Secret(std::size_t size) : bytes_(size) {}
    Secret(Secret&&) = default;
    Secret& operator=(Secret&&) = default;
    Secret(const Secret&) = delete;
    Secret& operator=(const Secret&) = delete;
    ~Secret();
    [[nodiscard]] std::span<std::byte> bytes() { return bytes_; }
    [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }

  private:
    std::vector<std::byte> bytes_;
};

class SectorCipher {
  public:
    /// `mode`: "xts-plain64", "xts-plain", "cbc-plain64", "cbc-plain", "cbc-essiv:sha256".
    /// NotSupported otherwise, and if the key's length is not the cipher's. `sector_bytes`: of what
    /// is enciphered at once; sectors are counted by 512 bytes all the same.
    static Result<SectorCipher> create(std::string_view cipher, std::string_view mode,
                                       std::span<const std::byte> key,
                                       std::size_t sector_bytes = 512);
    /// In place; whole sectors from number `sector` on. Callable from any thread.
    Result<> decrypt(std::uint64_t sector, std::span<std::byte> bytes) const {
        return run(sector, bytes, false);
    }
    Result<> encrypt(std::uint64_t sector, std::span<std::byte> bytes) const {
        return run(sector, bytes, true);
    }

  private:
    enum class Iv { Plain, Plain64, Essiv };
    SectorCipher(const EVP_CIPHER* cipher, Iv iv, Secret key, Secret essiv,
                 std::size_t sector_bytes)
        : cipher_(cipher),
          iv_(iv),
          key_(std::move(key)),
          essiv_(std::move(essiv)),
          sector_bytes_(sector_bytes) {}
    Result<> run(std::uint64_t sector, std::span<std::byte> bytes, bool encrypting) const;
    const EVP_CIPHER* cipher_;
    Iv iv_;
    Secret key_, essiv_;
    std::size_t sector_bytes_;
};

/// The cipher of QEMU's old encrypted images (qcow, qcow2): the passphrase's first 16 bytes are the
/// key, sectors are counted on the disk.
Result<SectorCipher> passphrase_cipher(std::string_view passphrase);

}  // namespace strata::block::luks
