// Secrets: passphrases as command lines name them: plain, in a file, in base64, or encrypted under
// another one.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace strata::block {

struct SecretSource {
    std::optional<std::string> data{}, file{};  ///< one of them
    bool base64 = false;
    std::optional<std::string>
        key{};  ///< 32 bytes of AES; the secret is encrypted under it (CBC, padded)
    std::optional<std::string> iv{};  ///< base64; with `key`
};

/// The secret itself. A file may have up to 16 MiB; a line's end at its end belongs to it.
Result<std::string> load_secret(const SecretSource& source);

/// `text` is well-formed UTF-8, as QEMU wants passphrases to be.
bool is_utf8(std::string_view text);

}  // namespace strata::block
