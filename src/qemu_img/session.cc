// Session: turns what the command line names into nodes of a graph.
#include "qemu_img/session.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>

#include <fmt/format.h>

#include "api/json.h"
#include "base/unique_fd.h"
#include "block/secrets.h"
#include "qemu_img/report.h"

namespace strata::qemu_img {
namespace {

using block::OpenOptions;

constexpr std::size_t kProbeBytes = 2048;

using Pairs = std::vector<std::pair<std::string, std::string>>;

std::string text_of(const api::Json& value) {
    if (value.is_boolean()) {
        return value.get<bool>() ? "on" : "off";
    }
    return value.is_string() ? value.get<std::string>() : api::dump_json(value);
}

/// {"a": {"b": 1}} becomes a.b=1.
void flatten(const api::Json& value, const std::string& prefix, Pairs& out) {
    if (!value.is_structured()) {
        out.emplace_back(prefix, text_of(value));
        return;
    }
    std::size_t index = 0;
    for (const auto& item : value.items()) {
        const std::string name = value.is_array() ? std::to_string(index++) : item.key();
        flatten(item.value(), prefix.empty() ? name : prefix + "." + name, out);
    }
}

std::optional<std::string> take(Pairs& pairs, std::string_view name) {
    const auto place = std::ranges::find_if(pairs, [&](const auto& pair) { return pair.first == name; });
    if (place == pairs.end()) {
        return std::nullopt;
    }
    std::string value = std::move(place->second);
    pairs.erase(place);
    return value;
}

/// 'single' quotes become "double" ones, as the peer's parser takes both.
std::string double_quoted(std::string_view text) {
    std::string result;
    char open = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (open != 0 && c == '\\' && i + 1 < text.size()) {
            result += c;
            result += text[++i];
        } else if (open == 0 && (c == '\'' || c == '"')) {
            open = c;
            result += '"';
        } else if (c == open) {
            open = 0;
            result += '"';
        } else {
            result += c == '"' ? "\\\"" : std::string(1, c);
        }
    }
    return result;
}

/// The options of "json:{…}" by flat names.
Result<Pairs> json_pairs(std::string_view name) {
    Pairs pairs;
    flatten(STRATA_TRY(api::parse_json(double_quoted(name.substr(std::string_view("json:").size())))), "", pairs);
    return pairs;
}

/// Files that images name, as the peer finds them: beside the image, format guessed if the image does not say.
class PeerReferences : public block::ReferencePolicy {
  public:
    Result<block::Resolved> resolve(const block::Reference& reference) const override {
        std::string name = reference.name;
        std::string format = reference.format;
        if (block::is_location(name)) {
            OpenOptions options;
            STRATA_TRY_VOID(block::set_location(options, name));
            block::Resolved resolved;
            resolved.path = name;
            resolved.format = format;
            resolved.protocol = options.protocol;
            resolved.protocol_options = std::move(options.protocol_options);
            return resolved;
        }
        if (name.starts_with("json:")) {
            Pairs pairs = STRATA_TRY(json_pairs(name));
            name = take(pairs, "file.filename").value_or(take(pairs, "filename").value_or(""));
            format = take(pairs, "driver").value_or(format);
        } else {
            name = STRATA_TRY(plain_path(name));
        }
        block::Resolved resolved;
        resolved.path = beside(reference.referrer, name);
        resolved.format = format;
        if (format.empty() && reference.kind == block::Reference::Kind::Backing) {
            resolved.format = STRATA_TRY(probe_path(resolved.path));
        }
        return resolved;
    }
};

void apply_flags(Pairs& pairs, OpenOptions& options) {
    if (const auto value = take(pairs, "read-only")) {
        options.read_only = *value == "on" || *value == "true";
    }
    if (const auto value = take(pairs, "cache.direct"); value && *value == "on") {
        options.cache = block::CacheMode::None;
    }
    if (const auto value = take(pairs, "file.locking"); value && *value == "off") {
        options.lock = false;
    }
    if (const auto value = take(pairs, "force-share"); value && *value == "on") {
        options.lock = false;
    }
    if (const auto value = take(pairs, "discard")) {
        options.discard = *value == "unmap" || *value == "on";
    }
    for (const std::string_view ignored : {"cache.no-flush", "cache.writeback", "node-name", "file.node-name", "detect-zeroes", "file.aio", "aio",
                                           "file.discard", "auto-read-only", "file.read-only"}) {
        (void)take(pairs, ignored);
    }
}

/// What says where an NBD server is: all of a driver's own options, or those of "file.".
void take_protocol(Pairs& pairs, bool nested, OpenOptions& options) {
    options.protocol = "nbd";
    for (auto each = pairs.begin(); each != pairs.end();) {
        const bool inner = each->first.starts_with("file.");
        if (inner == nested && each->first != "backing") {
            options.protocol_options.emplace_back(nested ? each->first.substr(5) : each->first, std::move(each->second));
            each = pairs.erase(each);
        } else {
            ++each;
        }
    }
}

/// Options by name, from --image-opts or json:.
Result<OpenOptions> from_pairs(Pairs pairs, OpenOptions options) {
    options.format = take(pairs, "driver").value_or("");
    if (options.format == "nbd") {
        apply_flags(pairs, options);
        take_protocol(pairs, false, options);
        options.format = "file";  // the bare export
        return options;
    }
    std::string protocol = take(pairs, "file.driver").value_or("file");
    auto path = take(pairs, "file.filename");
    if (!path) {
        path = take(pairs, "filename");
    }
    if (!path && (path = take(pairs, "file")) && !block::is_location(*path)) {
        path = STRATA_TRY(plain_path(*path));
    }
    if (options.format == "file" || options.format == "host_device") {
        protocol = std::exchange(options.format, "raw");
    }
    if (protocol == "nbd") {
        apply_flags(pairs, options);
        take_protocol(pairs, true, options);
        options.extra = std::move(pairs);
        return options;
    }
    if (path && block::is_location(*path)) {
        STRATA_TRY_VOID(block::set_location(options, *path));
        apply_flags(pairs, options);
        options.extra = std::move(pairs);
        return options;
    }
    if (protocol != "file" && protocol != "host_device") {
        return failure(fmt::format("Unknown driver '{}'", protocol));
    }
    if (!path || path->empty()) {
        return failure("A block device must be specified for \"file\"");
    }
    options.path = *path;
    apply_flags(pairs, options);
    if (const auto backing = take(pairs, "backing"); backing && backing->empty()) {
        options.open_backing = false;
    }
    options.extra = std::move(pairs);
    if (options.format.empty()) {
        options.format = STRATA_TRY(probe_path(options.path));
    }
    return options;
}

void warn_of_guess(const std::string& name) {
    (void)std::fflush(stdout);
    fmt::print(stderr,
               "WARNING: Image format was not specified for '{}' and probing guessed raw.\n"
               "         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n"
               "         Specify the 'raw' format explicitly to remove the restrictions.\n",
               name);
}

std::string open_reason(const Error& error, const std::string& path) {
    if (error.system_errno() != 0 && ::access(path.c_str(), F_OK) != 0) {
        return fmt::format("Could not open '{}': {}", path, reason(error));
    }
    return error.text();
}

}  // namespace

std::string beside(const std::string& referrer, const std::string& name) {
    if (name.starts_with('/') || block::is_location(name)) {
        return name;
    }
    const auto slash = referrer.rfind('/');
    return slash == std::string::npos ? name : referrer.substr(0, slash + 1) + name;
}

Result<std::string> plain_path(const std::string& name) {
    if (block::is_location(name)) {
        return name;
    }
    if (name.starts_with("file:")) {
        return name.substr(5);
    }
    const auto place = name.find_first_of(":/");
    if (place != std::string::npos && name[place] == ':') {
        return failure(fmt::format("Unknown protocol '{}'", name.substr(0, place)));
    }
    return name;
}

Result<std::string> probe_path(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (fd.get() < 0) {
        return Error::from_errno(fmt::format("Could not open '{}'", path));
    }
    std::array<std::byte, kProbeBytes> start{};
    const ssize_t count = ::pread(fd.get(), start.data(), start.size(), 0);
    if (count < 0) {
        return Error::from_errno(fmt::format("Could not read image for determining its format"));
    }
    std::string best = "raw";
    unsigned score = 0;
    for (const block::FormatDriver& driver : block::format_drivers()) {
        const unsigned found = driver.probe == nullptr ? 0 : driver.probe(std::span(start).first(static_cast<std::size_t>(count)), path);
        if (found > score) {
            score = found;
            best = driver.name;
        }
    }
    return best;
}

Result<Caching> parse_caching(std::string_view what, const std::string& text) {
    Caching caching;
    if (text == "none" || text == "off" || text == "directsync") {
        caching.mode = block::CacheMode::None;
    } else if (text == "writethrough") {
        caching.mode = block::CacheMode::Writethrough;
    } else if (text == "unsafe") {
        caching.mode = block::CacheMode::Unsafe;
    } else if (text != "writeback") {
        return failure(fmt::format("{}: {}", what, text));
    }
    return caching;
}

Result<std::unique_ptr<Session>> Session::start() {
    auto loop = STRATA_TRY(block::Loop::create());
    return std::unique_ptr<Session>(new Session(std::move(loop)));
}

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

Result<OpenOptions> Session::options_of(const ImageSpec& spec, const OpenMode& mode) const {
    OpenOptions options;
    options.read_only = !mode.write;
    options.cache = mode.caching.mode;
    options.lock = !mode.share;
    options.lock_backing = !mode.share && !mode.free_backing;
    options.discard = mode.unmap || !mode.write;
    options.references = std::make_shared<PeerReferences>();
    options.open_backing = mode.backing;
    options.open_data = mode.data;
    options.for_check = mode.check;
    if (spec.options) {
        Pairs pairs = STRATA_TRY(parse_pairs(spec.text, "file"));
        options = STRATA_TRY(from_pairs(std::move(pairs), std::move(options)));
    } else if (spec.text.starts_with("json:")) {
        Pairs pairs = STRATA_TRY(json_pairs(spec.text));
        if (spec.format) {
            pairs.emplace_back("driver", *spec.format);
        }
        options = STRATA_TRY(from_pairs(std::move(pairs), std::move(options)));
    } else if (block::is_location(spec.text)) {
        STRATA_TRY_VOID(block::set_location(options, spec.text));
        options.format = spec.format.value_or("");
    } else {
        options.path = STRATA_TRY(plain_path(spec.text));
        options.format = spec.format ? *spec.format : STRATA_TRY(probe_path(options.path));
        if (!spec.format && options.format == "raw" && mode.write) {
            warn_of_guess(spec.text);
        }
    }
    STRATA_TRY_VOID(expand_credentials(options.protocol_options));
    if (!options.protocol.empty()) {
        options.format = options.format == "nbd" ? "file" : options.format;
    } else if (options.format == "file" || options.format == "host_device") {
        options.format = "raw";
    }
    options.extra.insert(options.extra.end(), mode.extra.begin(), mode.extra.end());
    STRATA_TRY_VOID(resolve_secrets(options.extra));
    return options;
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

/// Guesses the format by what a server's export holds, with one connection for both.
Result<block::NodePtr> Session::open_guessing(OpenOptions options, bool warn) {
    OpenOptions bare;
    bare.path = options.path;
    bare.format = "file";
    bare.protocol = options.protocol;
    bare.protocol_options = options.protocol_options;
    bare.read_only = options.read_only;
    block::NodePtr file = STRATA_TRY(loop_->run(block::open_node(*loop_, std::move(bare))));
    options.format = STRATA_TRY(loop_->run(block::probe_format(*file)));
    if (options.path.empty()) {
        options.path = file->name();
    }
    if (options.format == "raw" && warn) {
        warn_of_guess(options.path);
    }
    auto node = loop_->run(block::open_format(file, std::move(options)));
    if (!node.ok()) {
        (void)loop_->run(file->close());  // the other error is told
    }
    return node;
}

Result<block::NodePtr> Session::open(const ImageSpec& spec, const OpenMode& mode) {
    auto options = options_of(spec, mode);
    if (!options.ok()) {
        return failure(fmt::format("Could not open '{}': {}", spec.text, options.error().text()));
    }
    const std::string path = options->path;
    if (!options->protocol.empty() && options->format.empty()) {
        auto node = open_guessing(std::move(options).value(), mode.write);
        return node.ok() ? std::move(node) : failure(fmt::format("Could not open '{}': {}", spec.text, node.error().text()));
    }
    if (options->format != "file" && !block::find_format(options->format).ok()) {
        return failure(fmt::format("Could not open '{}': Unknown driver '{}'", spec.text, options->format));
    }
    auto node = loop_->run(block::open_node(*loop_, std::move(options).value()));
    if (!node.ok()) {
        return failure(fmt::format("Could not open '{}': {}", spec.text, open_reason(node.error(), path)));
    }
    return node;
}

Result<> Session::close(block::NodePtr& node) {
    if (node == nullptr) {
        return ok();
    }
    Result<> done = loop_->run(node->close());
    node.reset();
    return done;
}

Result<bool> wants_json(const Arguments& arguments) {
    const std::string output = arguments.last_or("output", "human");
    if (output != "human" && output != "json") {
        return failure("--output must be used with human or json as argument.");
    }
    return output == "json";
}

Result<ImageSpec> image_spec(const Arguments& arguments, std::string text, std::string_view format_key) {
    ImageSpec spec;
    spec.text = std::move(text);
    spec.format = arguments.last(format_key);
    spec.options = arguments.has("image-opts");
    if (spec.options && spec.format) {
        return failure("--image-opts and --format are mutually exclusive");
    }
    return spec;
}

Result<std::string> snapshot_name(const std::string& text) {
    if (!text.starts_with("snapshot.")) {
        return text;
    }
    Pairs pairs = STRATA_TRY(parse_pairs(text));
    const auto id = take(pairs, "snapshot.id");
    const auto name = take(pairs, "snapshot.name");
    if (!pairs.empty()) {
        return failure(fmt::format("Invalid parameter '{}'", pairs[0].first));
    }
    if (!id && !name) {
        return failure(fmt::format("Failed in parsing snapshot param '{}'", text));
    }
    return id ? *id : *name;
}

Result<> take_objects(Session& session, const Arguments& arguments) {
    for (const std::string& object : arguments.all("object")) {
        STRATA_TRY_VOID(session.add_object(object));
    }
    return ok();
}

}  // namespace strata::qemu_img
