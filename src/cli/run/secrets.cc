// Secrets: reading and handing on.
#include "cli/run/secrets.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include "api/option_text.h"
#include "block/secrets.h"

namespace strata::cli {

Result<> Secrets::add(std::string_view object) {
    api::SecretText text = STRATA_TRY(api::parse_secret(object));
    block::SecretSource source{.file = text.file, .base64 = text.base64};
    if (!text.key_id.empty()) {
        const auto found = secrets_.find(text.key_id);
        if (found == secrets_.end()) {
            return Error{ErrorKind::NotFound, fmt::format("secret '{}': no secret '{}' before it",
                                                          text.id, text.key_id)};
        }
        source.key = found->second;
        source.iv = text.iv;
    }
    auto secret = block::load_secret(source);
    if (!secret) {
        return std::move(secret).error().context(fmt::format("secret '{}'", text.id));
    }
    if (!secrets_.emplace(text.id, std::move(*secret)).second) {
        return Error{ErrorKind::InvalidArgument, fmt::format("two secrets '{}'", text.id)};
    }
    return ok();
}

Result<UniqueFd> Secrets::as_file(const std::string& id) const {
    const auto found = secrets_.find(id);
    if (found == secrets_.end()) {
        return Error{ErrorKind::NotFound,
                     fmt::format("no secret '{}': --object secret,id={},file=FILE", id, id)};
    }
    const std::string& text = found->second;
    if (!block::is_utf8(text)) {  // as QEMU, which may open the image next
        return Error{ErrorKind::InvalidArgument, fmt::format("secret '{}' is no UTF-8 text", id)};
    }
    UniqueFd file(::memfd_create("strata-secret", MFD_CLOEXEC));
    if (!file.valid() ||
        ::pwrite(file.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
        return Error::from_errno(fmt::format("handing on secret '{}'", id));
    }
    return file;
}

}  // namespace strata::cli
