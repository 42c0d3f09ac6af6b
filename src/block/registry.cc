// The registry: the table of formats, references, options.
#include "block/registry.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include <fmt/format.h>
#include <unistd.h>

#include "base/text.h"
#include "block/formats/bochs/bochs.h"
#include "block/formats/cloop/cloop.h"
#include "block/formats/cow/cow.h"
#include "block/formats/dmg/dmg.h"
#include "block/formats/luks/luks.h"
#include "block/formats/ova/ova.h"
#include "block/formats/parallels/parallels.h"
#include "block/formats/qcow1/qcow1.h"
#include "block/formats/qcow2/qcow2.h"
#include "block/formats/qed/qed.h"
#include "block/formats/raw/raw.h"
#include "block/formats/vdi/vdi.h"
#include "block/formats/vhd/vhd.h"
#include "block/formats/vhdx/vhdx.h"
#include "block/formats/vmdk/vmdk.h"
#include "block/formats/xva/xva.h"
#include "block/nbd/client/nbd_node.h"
#include "block/protocols/file/file_node.h"
#include "block/wording.h"

namespace strata::block {
namespace {

constexpr std::size_t kProbeBytes = 2048;

const std::vector<FormatDriver>& table() {
    static const std::vector<FormatDriver> kTable = [] {
        std::vector<FormatDriver> all{
            ova::driver(),   xva::driver(),   bochs::driver(), cloop::driver(),
            cow::driver(),   dmg::driver(),   luks::driver(),  parallels::driver(),
            qcow1::driver(), qcow2::driver(), qed::driver(),   raw::driver(),
            vdi::driver(),   vhd::driver(),   vhdx::driver(),  vmdk::driver(),
        };
        std::sort(all.begin(), all.end(),
                  [](const FormatDriver& a, const FormatDriver& b) { return a.name < b.name; });
        return all;
    }();
    return kTable;
}

class FollowReferences final : public ReferencePolicy {
  public:
    Result<Resolved> resolve(const Reference& reference) const override {
        const std::string& name = reference.name;
        const std::size_t colon = name.find(':');
        if (name.empty() || (colon != std::string::npos && colon < name.find('/'))) {
            return Error{ErrorKind::NotSupported,
                         fmt::format("'{}' names '{}', which is no plain file name",
                                     reference.referrer, name)};
        }
        const auto folder = std::filesystem::path(reference.referrer).parent_path();
        return Resolved{.path = (folder / name).string(), .fd = {}, .format = reference.format};
    }
};

std::string_view last_of(const OptionList& options, std::string_view name,
                         std::string_view fallback) {
    const auto found = std::find_if(options.rbegin(), options.rend(),
                                    [&](const auto& each) { return each.first == name; });
    return found != options.rend() ? std::string_view(found->second) : fallback;
}

constexpr std::string_view role(Reference::Kind kind) {
    return kind == Reference::Kind::Backing ? "backing file"
           : kind == Reference::Kind::Data  ? "data file"
                                            : "extent";
}

}  // namespace

std::span<const FormatDriver> format_drivers() {
    return table();
}

Result<const FormatDriver*> find_format(std::string_view name) {
    std::string known;
    for (const FormatDriver& each : table()) {
        if (each.name == name) {
            return &each;
        }
        known += fmt::format("{}{}", known.empty() ? "" : ", ", each.name);
    }
    if (wording() == Wording::Qemu) {
        return Error{ErrorKind::NotSupported, fmt::format("Unknown driver '{}'", name)};
    }
    return Error{ErrorKind::NotSupported,
                 fmt::format("the format '{}' is not supported; known are {}", name, known)};
}

std::shared_ptr<const ReferencePolicy> follow_references() {
    static const auto kPolicy = std::make_shared<const FollowReferences>();
    return kPolicy;
}

std::string_view OpenOptions::extra_of(std::string_view name, std::string_view fallback) const {
    return last_of(extra, name, fallback);
}

std::string_view CreateRequest::option(std::string_view name, std::string_view fallback) const {
    return last_of(options, name, fallback);
}

Result<bool> CreateRequest::flag(std::string_view name, bool fallback) const {
    const std::string_view value = option(name, fallback ? "on" : "off");
    if (value != "on" && value != "off") {
        return Error{ErrorKind::InvalidArgument, fmt::format("{}={}: use on or off", name, value)};
    }
    return value == "on";
}

Result<std::uint64_t> CreateRequest::number(std::string_view name, std::uint64_t fallback) const {
    const std::string_view value = option(name);
    return value.empty() ? Result<std::uint64_t>(fallback) : parse_size(value);
}

Task<std::string> probe_format(Node& file) {
    std::vector<std::byte> start(std::min<std::uint64_t>(file.size(), kProbeBytes));
    STRATA_CO_TRY_VOID(co_await file.read(0, Buffers(std::span(start))));
    unsigned best = 0;
    std::string name = "raw";
    for (const FormatDriver& each : table()) {
        const unsigned score = each.probe != nullptr ? each.probe(start, file.name()) : 0;
        if (score > best) {
            best = score;
            name = each.name;
        }
    }
    co_return name;
}

bool is_location(std::string_view name) {
    return nbd::is_location(name);
}

Result<> set_location(OpenOptions& options, std::string_view name) {
    const nbd::Location location = STRATA_TRY(nbd::parse_location(name));
    options.path = name;
    options.protocol = "nbd";
    options.protocol_options = nbd::location_options(location);
    return ok();
}

Task<NodePtr> open_format(NodePtr file, OpenOptions options) {
    auto driver = find_format(options.format);
    if (!driver.ok()) {
        co_return std::move(driver).error().context(fmt::format("image '{}'", options.path));
    }
    co_return co_await (*driver)->open(std::move(file), std::move(options));
}

namespace {

Task<NodePtr> open_nbd(Loop& loop, OpenOptions options) {
    STRATA_CO_TRY(nbd::Location location, nbd::take_location(options.protocol_options));
    if (!options.protocol_options.empty()) {
        co_return Error{ErrorKind::InvalidArgument,
                        fmt::format("Block protocol 'nbd' doesn't support the option '{}'",
                                    options.protocol_options[0].first)};
    }
    if (options.above.size() >= kMaxChain) {
        co_return Error{ErrorKind::Failed,
                        fmt::format("image '{}' is the end of a chain of more than {} layers",
                                    options.path, kMaxChain),
                        ELOOP};
    }
    STRATA_CO_TRY(NodePtr node,
                  co_await nbd::NbdNode::open(loop, std::move(location), options.read_only));
    if (options.format == "file") {
        co_return node;
    }
    if (options.path.empty()) {
        options.path = node->name();
    }
    options.above.emplace_back(
        ~0ULL, options.above.size());  // counts: whether a server leads back to us cannot be known
    NodePtr file = node;
    auto top = co_await open_format(std::move(node), std::move(options));
    if (!top.ok()) {
        (void)co_await file->close();  // the other error is told
    }
    co_return top;
}

}  // namespace

OpenOptions OpenOptions::below() const {
    OpenOptions options;
    options.read_only = read_only;
    options.cache = cache;
    options.lock = lock;
    options.lock_backing = lock_backing;
    options.discard = discard;
    options.references = references;
    options.open_backing = true;
    options.guess = guess;
    options.depth = depth;
    options.named_by_image = named_by_image;
    options.above = above;
    return options;
}

Task<NodePtr> open_node(Loop& loop, OpenOptions options) {
    if (!options.tree.empty()) {
        co_return co_await open_tree(loop, std::move(options));
    }
    const FormatDriver* driver = nullptr;
    if (options.format != "file") {
        auto found = find_format(options.format);
        if (!found.ok()) {
            co_return std::move(found).error().context(fmt::format("image '{}'", options.path));
        }
        driver = *found;
    }
    if (options.protocol == "nbd") {
        co_return co_await open_nbd(loop, std::move(options));
    }
    STRATA_CO_TRY(std::shared_ptr<FileNode> file, FileNode::open(loop, options));
    const auto identity = file->identity();
    if (std::find(options.above.begin(), options.above.end(), identity) != options.above.end()) {
        co_return Error{
            ErrorKind::Failed,
            fmt::format("image '{}' is its own backing file, by a detour perhaps", options.path),
            ELOOP};
    }
    if (options.above.size() >= kMaxChain) {
        co_return Error{ErrorKind::Failed,
                        fmt::format("image '{}' is the end of a chain of more than {} layers",
                                    options.path, kMaxChain),
                        ELOOP};
    }
    options.above.push_back(identity);
    if (driver == nullptr) {
        co_return NodePtr(std::move(file));
    }
    co_return co_await driver->open(std::move(file), std::move(options));
}

Task<NodePtr> open_new(Loop& loop, std::string path, std::uint64_t size) {
    if (is_location(path)) {
        STRATA_CO_TRY(nbd::Location location, nbd::parse_location(path));
        STRATA_CO_TRY(NodePtr node, co_await nbd::NbdNode::open(loop, std::move(location), false));
        if (size > node->size()) {
            const std::uint64_t has = node->size();
            (void)co_await node->close();  // the other error is told
            co_return Error{ErrorKind::Failed,
                            fmt::format("'{}' has {} bytes, {} are needed", path, has, size),
                            ENOSPC};
        }
        co_return node;
    }
    STRATA_CO_TRY(std::shared_ptr<FileNode> file, FileNode::create(loop, path, size));
    co_return NodePtr(std::move(file));
}

namespace {

/// The options of the layer that `reference` of `parent` was found at, but for its format and lock.
OpenOptions options_of(const OpenOptions& parent, Resolved found) {
    OpenOptions options = parent.below();
    options.path = std::move(found.path);
    options.fd = std::move(found.fd);
    options.tree = std::move(found.tree);
    options.format = std::move(found.format);
    options.protocol = std::move(found.protocol);
    options.protocol_options = std::move(found.protocol_options);
    options.named_by_image = true;
    options.depth = 0;  // `above` bounds a chain
    return options;
}

/// What the options beside the format's own say of a backing file: "backing.NAME" for it alone,
/// "layers.NAME" for every layer below.
void pass_on(const OptionList& extra, OptionList& below) {
    constexpr std::string_view kBelow = "backing.", kLayers = "layers.";
    for (const auto& [name, value] : extra) {
        if (name.starts_with(kBelow)) {
            below.emplace_back(name.substr(kBelow.size()), value);
        }
    }
    for (const auto& [name, value] : extra) {
        if (name.starts_with(kLayers)) {
            below.emplace_back(name.substr(kLayers.size()), value);
            below.emplace_back(name, value);
        }
    }
}

}  // namespace

Task<NodePtr> open_reference(Loop& loop, const OpenOptions& parent, Reference reference,
                             bool read_only) {
    const bool backing = reference.kind == Reference::Kind::Backing;
    const std::string what = fmt::format("{} of '{}'", role(reference.kind), parent.path);
    if (backing && parent.backing) {
        OpenOptions options = parent.below();
        options.tree = *parent.backing;
        options.read_only = read_only;
        options.lock = parent.lock && parent.lock_backing;
        co_return co_await open_tree(loop, std::move(options));
    }
    if (parent.references == nullptr) {
        co_return Error{
            ErrorKind::PermissionDenied,
            fmt::format("image '{}' names {} {}, which an image may do only if it is "
                        "trusted: if this one is, say so (--disk "
                        "FILE,format=...,follow; strata image convert --follow)",
                        parent.path, reference.kind == Reference::Kind::Extent ? "an" : "a",
                        role(reference.kind))};
    }
    reference.referrer = parent.path;
    auto found = parent.references->resolve(reference);
    if (!found.ok()) {
        co_return std::move(found).error().context(what);
    }
    if (found->node != nullptr) {
        co_return std::move(found->node);
    }
    OpenOptions options = options_of(parent, std::move(*found));
    if (options.format.empty() && options.tree.empty()) {
        if (backing) {
            co_return Error{
                ErrorKind::NotSupported,
                fmt::format("{}: its format is not told; name it with 'qemu-img rebase -u -F'",
                            what)};
        }
        options.format = "file";
    }
    options.read_only = read_only;
    options.lock = parent.lock && (parent.lock_backing || !backing);
    if (backing) {
        pass_on(parent.extra, options.extra);
    }
    const std::string path = options.path;
    const bool plain = options.tree.empty() && options.protocol.empty();
    auto node = co_await open_node(loop, std::move(options));
    if (!node.ok()) {
        if (wording() == Wording::Qemu && backing && plain && ::access(path.c_str(), F_OK) != 0) {
            const int code = node.error().system_errno();
            co_return Error{node.error().kind(),
                            fmt::format("Could not open backing file: Could not open '{}': {}",
                                        path, std::strerror(code)),
                            code};
        }
        co_return std::move(node).error().context(what);
    }
    co_return std::move(node).value();
}

Task<> create_image(Loop& loop, std::string format, CreateRequest request) {
    STRATA_CO_TRY(const FormatDriver* driver, find_format(format));
    if (driver->create == nullptr) {
        co_return Error{ErrorKind::NotSupported,
                        fmt::format("images of format '{}' can be read, not made", format)};
    }
    for (const auto& option : request.options) {
        const std::string& name = option.first;
        const auto known =
            std::find_if(driver->create_options.begin(), driver->create_options.end(),
                         [&](const CreateOption& each) { return each.name == name; });
        if (known == driver->create_options.end()) {
            std::string all;
            for (const CreateOption& each : driver->create_options) {
                all += fmt::format("{}{}", all.empty() ? "" : ", ", each.name);
            }
            co_return Error{
                ErrorKind::InvalidArgument,
                fmt::format("{} images have no option '{}'; known are {}", format, name, all)};
        }
    }
    if (request.size > (1ULL << 62)) {
        co_return Error{ErrorKind::InvalidArgument,
                        fmt::format("a size of {} bytes is too large", request.size)};
    }
    const auto size = last_of(request.options, "size", "");
    if (request.size == 0 && !size.empty()) {
        STRATA_CO_TRY(request.size, parse_size(size));
    }
    co_return co_await driver->create(loop, std::move(request));
}

}  // namespace strata::block
