// Session: turns what the command line names into nodes of a graph.
#include "qemu_img/session.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "block/protocols/fat/fat_node.h"
#include "qemu_img/report.h"

namespace strata::qemu_img {
namespace {

using block::NodeTree;
using block::OpenOptions;
using block::OptionList;

constexpr std::size_t kProbeBytes = 2048;

/// The nodes of `name`, which is no path: a format over a protocol, `format` or guessed if that is
/// empty; or (nothing) the protocol alone.
Result<NodeTree> over_protocol(const std::string& name, const std::optional<std::string>& format) {
    NodeTree protocol = STRATA_TRY(tree_of_name(name));
    if (name.starts_with("json:")) {
        if (!protocol.has("driver") && (!format || !format->empty())) {
            protocol.set("driver", format.value_or("file"));
        }
        return protocol;
    }
    if (!format) {
        return protocol;
    }
    NodeTree tree;
    if (!format->empty()) {
        tree.set("driver", *format);
    }
    tree.graft("file", protocol);
    return tree;
}

/// Files that images name, as the peer finds them: beside the image, format guessed if the image
/// does not say.
class PeerReferences : public block::ReferencePolicy {
  public:
    Result<block::Resolved> resolve(const block::Reference& reference) const override {
        if (block::is_location(reference.name)) {
            OpenOptions options;
            STRATA_TRY_VOID(block::set_location(options, reference.name));
            block::Resolved resolved;
            resolved.path = reference.name;
            resolved.format = reference.format;
            resolved.protocol = options.protocol;
            resolved.protocol_options = std::move(options.protocol_options);
            return resolved;
        }
        block::Resolved resolved;
        resolved.format = reference.format;
        if (!path_of_name(reference.name)) {
            resolved.path = reference.name;
            const bool backing = reference.kind == block::Reference::Kind::Backing;
            resolved.tree = STRATA_TRY(over_protocol(
                reference.name, backing ? std::optional(reference.format) : std::nullopt));
            return resolved;
        }
        resolved.path = is_plain_name(reference.name) ? beside(reference.referrer, reference.name)
                                                      : *path_of_name(reference.name);
        if (resolved.format.empty() && reference.kind == block::Reference::Kind::Backing) {
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
    for (const std::string_view ignored :
         {"cache.no-flush", "cache.writeback", "node-name", "file.node-name", "detect-zeroes",
          "file.aio", "aio", "file.discard", "auto-read-only", "file.read-only"}) {
        (void)take(pairs, ignored);
    }
}

/// What says where an NBD server is: all of a driver's own options, or those of "file.".
void take_protocol(Pairs& pairs, bool nested, OpenOptions& options) {
    options.protocol = "nbd";
    for (auto each = pairs.begin(); each != pairs.end();) {
        const bool inner = each->first.starts_with("file.");
        if (inner == nested && each->first != "backing") {
            options.protocol_options.emplace_back(nested ? each->first.substr(5) : each->first,
                                                  std::move(each->second));
            each = pairs.erase(each);
        } else {
            ++each;
        }
    }
}

bool wants_nbd(const NodeTree& tree) {
    return std::ranges::any_of(tree.options(), [](const auto& each) {
        const bool driver = each.first == "driver" || each.first == "file.driver";
        const bool name = each.first == "filename" || each.first == "file.filename";
        return (driver && each.second == "nbd") || (name && block::is_location(each.second));
    });
}

/// Options of an export, alone or with a format over it.
Result<OpenOptions> nbd_options(Pairs pairs, OpenOptions options) {
    options.format = take(pairs, "driver").value_or("");
    apply_flags(pairs, options);
    if (options.format == "nbd") {
        take_protocol(pairs, false, options);
        options.format = "file";  // the bare export
        return options;
    }
    if (take(pairs, "file.driver").value_or("") == "nbd") {
        take_protocol(pairs, true, options);
    } else {
        auto name = take(pairs, "file.filename");
        name = name ? name : take(pairs, "filename");
        STRATA_TRY_VOID(block::set_location(options, name.value_or("")));
    }
    options.extra.insert(options.extra.end(), pairs.begin(), pairs.end());
    return options;
}

void warn_of_guess(const std::string& name) {
    (void)std::fflush(stdout);
    fmt::print(stderr,
               "WARNING: Image format was not specified for '{}' and probing guessed raw.\n"
               "         Automatically detecting the format is dangerous for raw images, write "
               "operations on block 0 will be restricted.\n"
               "         Specify the 'raw' format explicitly to remove the restrictions.\n",
               name);
}

std::string open_reason(const Error& error, const std::string& path) {
    if (error.system_errno() != 0 && !path.empty() && ::access(path.c_str(), F_OK) != 0) {
        return fmt::format("Could not open '{}': {}", path, reason(error));
    }
    return error.text();
}

}  // namespace

Result<std::string> plain_path(const std::string& name) {
    if (block::is_location(name)) {
        return name;
    }
    if (const auto path = path_of_name(name)) {
        return *path;
    }
    if (block::fat::is_location(name)) {
        return failure("Protocol driver 'vvfat' does not support image creation");
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
        const unsigned found =
            driver.probe == nullptr
                ? 0
                : driver.probe(std::span(start).first(static_cast<std::size_t>(count)), path);
        if (found > score) {
            score = found;
            best = driver.name;
        }
    }
    return best;
}

std::shared_ptr<const block::ReferencePolicy> peer_references() {
    return std::make_shared<PeerReferences>();
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

Result<OpenOptions> Session::options_of_tree(const ImageSpec& spec, const OpenMode& mode,
                                             OpenOptions options) const {
    NodeTree tree = STRATA_TRY(spec.options ? tree_of_options(spec.text)
                                            : over_protocol(spec.text, spec.format.value_or("")));
    if (wants_nbd(tree)) {
        options = STRATA_TRY(nbd_options(tree.options(), std::move(options)));
        STRATA_TRY_VOID(expand_credentials(options.protocol_options));
        if (!spec.options && block::is_location(spec.text)) {
            options.path = spec.text;
        }
        STRATA_TRY_VOID(take_secrets(options.extra, mode));
        return options;
    }
    options.path = name_of_tree(tree);
    OptionList list = tree.options();
    list.insert(list.end(), options.extra.begin(), options.extra.end());
    STRATA_TRY_VOID(take_secrets(list, mode));
    options.tree = NodeTree(std::move(list));
    return options;
}

Result<OpenOptions> Session::options_of(const ImageSpec& spec, const OpenMode& mode) const {
    OpenOptions options;
    options.read_only = !mode.write;
    options.cache = mode.caching.mode;
    options.lock = !mode.share;
    options.lock_backing = !mode.share && !mode.free_backing;
    options.discard = mode.unmap || !mode.write;
    options.references = peer_references();
    options.open_backing = mode.backing;
    options.open_data = mode.data;
    options.for_check = mode.check;
    options.guess = true;
    options.extra = mode.extra;
    const auto path = spec.options ? std::nullopt : path_of_name(spec.text);
    if (!path) {
        return options_of_tree(spec, mode, std::move(options));
    }
    options.path = *path;
    options.format = spec.format ? *spec.format : STRATA_TRY(probe_path(options.path));
    if (options.format == "file" || options.format == "host_device") {
        options.format = "raw";
    }
    if (!spec.format && options.format == "raw" && mode.write) {
        warn_of_guess(spec.text);
        options.extra.emplace_back("guessed", "on");
    }
    if (spec.guessed) {
        options.extra.emplace_back("guessed", "on");
    }
    STRATA_TRY_VOID(take_secrets(options.extra, mode));
    return options;
}

Result<> Session::take_secrets(block::OptionList& options, const OpenMode& mode) const {
    if (!mode.data) {
        std::erase_if(options, [](const auto& each) { return each.first.ends_with("-secret"); });
    }
    return resolve_secrets(options);
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
    const std::string path = options->tree.empty() ? options->path : std::string();
    if (!options->protocol.empty() && options->format.empty()) {
        auto node = open_guessing(std::move(options).value(), mode.write);
        return node.ok() ? std::move(node)
                         : failure(fmt::format("Could not open '{}': {}", spec.text,
                                               node.error().text()));
    }
    if (options->tree.empty() && options->format != "file" &&
        !block::find_format(options->format).ok()) {
        return failure(
            fmt::format("Could not open '{}': Unknown driver '{}'", spec.text, options->format));
    }
    auto node = loop_->run(block::open_node(*loop_, std::move(options).value()));
    if (!node.ok()) {
        return failure(
            fmt::format("Could not open '{}': {}", spec.text, open_reason(node.error(), path)));
    }
    return node;
}

std::string without_opening(const Error& error, const ImageSpec& spec) {
    const std::string prefix = fmt::format("Could not open '{}': ", spec.text);
    return error.text().starts_with(prefix) ? error.text().substr(prefix.size()) : error.text();
}

std::string loading_failure(const Error& error, const block::Node& node) {
    const bool lacking = error.text().ends_with("images have no snapshots");
    return fmt::format("Failed to load snapshot: {}",
                       lacking ? fmt::format("Block format '{}' used by device '' does not support "
                                             "temporarily loading internal snapshots",
                                             node.format())
                               : error.text());
}

Result<> Session::close(block::NodePtr& node) {
    if (node == nullptr) {
        return ok();
    }
    Result<> done = loop_->run(node->close());
    node.reset();
    return done;
}

Result<std::string> shown_name(const ImageSpec& spec) {
    if (!spec.options && is_plain_name(spec.text)) {
        return spec.text;
    }
    return name_of_tree(
        STRATA_TRY(spec.options ? tree_of_options(spec.text) : tree_of_name(spec.text)));
}

Result<bool> wants_json(const Arguments& arguments) {
    const std::string output = arguments.last_or("output", "human");
    if (output != "human" && output != "json") {
        return failure("--output must be used with human or json as argument.");
    }
    return output == "json";
}

Result<ImageSpec> image_spec(const Arguments& arguments, std::string text,
                             std::string_view format_key) {
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
        report_error(fmt::format("Invalid parameter '{}'", pairs[0].first));
        return failure(fmt::format("Failed in parsing snapshot param '{}'", text));
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
