// Session objects: what --object makes (secrets, TLS credentials, names that may come in), and what
// options that name them become.
#include <algorithm>

#include <fmt/format.h>

#include "block/secrets.h"
#include "qemu_img/arguments.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"

namespace strata::qemu_img {

Result<> Session::add_object(const std::string& text) {
    Pairs pairs = STRATA_TRY(parse_pairs(text, "qom-type"));
    const std::string type = take(pairs, "qom-type").value_or("");
    const std::string id = take(pairs, "id").value_or("");
    const bool tls = type == "tls-creds-x509" || type == "tls-creds-psk";
    if (type != "secret" && type != "authz-simple" && !tls) {
        return failure(fmt::format("invalid object type: {}", type));
    }
    if (id.empty()) {
        return failure("Parameter 'id' is missing");
    }
    if (tls) {
        tls_objects_[id] = {.psk = type == "tls-creds-psk",
                            .server = take(pairs, "endpoint").value_or("client") == "server",
                            .verify = take(pairs, "verify-peer").value_or("on") != "off",
                            .folder = take(pairs, "dir").value_or(""),
                            .user = take(pairs, "username").value_or("qemu")};
        return ok();
    }
    if (type == "authz-simple") {
        authorized_[id] = take(pairs, "identity").value_or("");
        return ok();
    }
    block::SecretSource source;
    source.data = take(pairs, "data");
    source.file = take(pairs, "file");
    source.base64 = take(pairs, "format").value_or("raw") == "base64";
    source.iv = take(pairs, "iv");
    if (const auto key = take(pairs, "keyid")) {
        const auto found = secrets_.find(*key);
        if (found == secrets_.end()) {
            return failure(fmt::format("No secret with id '{}'", *key));
        }
        source.key = found->second;
    }
    auto secret = block::load_secret(source);
    if (!secret.ok()) {
        return failure(secret.error().text());
    }
    secrets_[id] = std::move(*secret);
    return ok();
}

Result<Session::TlsObject> Session::tls_object(const std::string& id) const {
    const auto found = tls_objects_.find(id);
    if (found == tls_objects_.end()) {
        return failure(fmt::format("No TLS credentials with id '{}'", id));
    }
    return found->second;
}

Result<std::string> Session::authorized_name(const std::string& id) const {
    const auto found = authorized_.find(id);
    if (found == authorized_.end()) {
        return failure(fmt::format("No authorization object with id '{}'", id));
    }
    return found->second;
}

/// tls-creds=ID becomes what the object says.
Result<> Session::expand_credentials(block::OptionList& options) const {
    const auto id = take(options, "tls-creds");
    if (!id) {
        return ok();
    }
    const TlsObject object = STRATA_TRY(tls_object(*id));
    if (object.server) {
        return failure("Expecting TLS credentials with a client endpoint");
    }
    options.insert(options.end(), {{"tls", "on"}, {"tls-folder", object.folder}});
    if (object.psk) {
        options.insert(options.end(), {{"tls-psk", "on"}, {"tls-user", object.user}});
    }
    if (!object.verify) {
        options.emplace_back("tls-verify", "off");
    }
    return ok();
}

Result<> Session::resolve_secrets(block::OptionList& options) const {
    for (auto& [name, value] : options) {
        if (name.ends_with("-secret")) {
            const auto found = secrets_.find(value);
            if (found == secrets_.end()) {
                return failure(fmt::format("No secret with id '{}'", value));
            }
            if (!block::is_utf8(found->second)) {
                return failure(fmt::format("Data from secret {} is not valid UTF-8", value));
            }
            value = found->second;
        }
    }
    return ok();
}

}  // namespace strata::qemu_img
