// ParallelsBundle: storages, and the chain of snapshots.
#include "block/formats/parallels/bundle.h"

#include <algorithm>

#include <fmt/format.h>

#include "block/formats/archive/xml.h"
#include "block/formats/common/wire.h"

namespace strata::block::parallels {
namespace {

using archive::child;
using archive::children;

constexpr std::size_t kMaxStorages = 1024, kMaxLayers = 200;
constexpr std::uint64_t kMaxSectors = 1ULL << 48;
constexpr std::string_view kDefaultTop = "{5fbaabe3-6958-40ff-92a7-860e329aab41}",
                           kNobody = "{00000000-0000-0000-0000-000000000000}";

std::string_view text_of(pugi::xml_node parent, std::string_view name) {
    return child(parent, name).child_value();
}

bool is_plain_name(std::string_view name) {
    return !name.empty() && name.size() <= 1024 && name != "." && name != ".." &&
           name.find_first_of("/\\") == std::string_view::npos;
}

/// The snapshots' GUIDs from the top one down.
Result<std::vector<std::string>> chain_of(pugi::xml_node disk) {
    const pugi::xml_node snapshots = child(disk, "Snapshots");
    const std::string_view top = text_of(snapshots, "TopGUID");
    std::vector<std::string> chain(1, std::string(top.empty() ? kDefaultTop : top));
    const auto shots = children(snapshots, "Shot");
    while (chain.size() <= kMaxLayers) {
        const auto shot = std::ranges::find_if(shots, [&](const pugi::xml_node& each) {
            return text_of(each, "GUID") == chain.back();
        });
        if (shot == shots.end() || text_of(*shot, "ParentGUID") == kNobody) {
            return chain;
        }
        chain.emplace_back(text_of(*shot, "ParentGUID"));
    }
    return Error{ErrorKind::Failed, "its snapshots go round in circles, or are too many"};
}

Result<Storage> read_storage(pugi::xml_node node, const std::vector<std::string>& chain) {
    Storage storage;
    const std::uint64_t start = STRATA_TRY(archive::number(text_of(node, "Start")));
    const std::uint64_t end = STRATA_TRY(archive::number(text_of(node, "End")));
    if (start >= end || end > kMaxSectors) {
        return Error{ErrorKind::Failed, fmt::format("a storage from {} to {}", start, end)};
    }
    storage.start = start * 512;
    storage.size = (end - start) * 512;
    const auto images = children(node, "Image");
    for (const std::string& guid : chain) {
        const auto image = std::ranges::find_if(
            images, [&](const pugi::xml_node& each) { return text_of(each, "GUID") == guid; });
        if (image == images.end()) {
            return Error{ErrorKind::Failed, fmt::format("no file of snapshot '{:.40}'", guid)};
        }
        BundleFile file{std::string(text_of(*image, "File")), text_of(*image, "Type") == "Plain"};
        if (!is_plain_name(file.name) || (!file.plain && text_of(*image, "Type") != "Compressed")) {
            return Error{ErrorKind::Failed, fmt::format("the file '{:.64}' of type '{:.32}'",
                                                        file.name, text_of(*image, "Type"))};
        }
        storage.layers.push_back(std::move(file));
    }
    return storage;
}

}  // namespace

bool is_bundle(std::string_view start) {
    return start.starts_with("<?xml") || start.starts_with("<Parallels_disk_image");
}

Result<std::vector<Storage>> parse_bundle(std::string_view text, std::string_view name) {
    const auto document = STRATA_TRY(archive::parse_xml(text, "Parallels", name));
    const pugi::xml_node disk = child(document->root(), "Parallels_disk_image");
    const auto chain = chain_of(disk);
    if (!chain.ok()) {
        return broken_image("Parallels", name, chain.error().text());
    }
    std::vector<Storage> storages;
    for (const pugi::xml_node each : children(child(disk, "StorageData"), "Storage")) {
        auto storage = read_storage(each, *chain);
        if (!storage.ok()) {
            return broken_image("Parallels", name, storage.error().text());
        }
        const std::uint64_t end =
            storages.empty() ? 0 : storages.back().start + storages.back().size;
        if (storage->start != end || storages.size() == kMaxStorages) {
            return broken_image("Parallels", name, "its storages leave gaps, or are too many");
        }
        storages.push_back(std::move(*storage));
    }
    if (storages.empty()) {
        return broken_image("Parallels", name, "it names no storage");
    }
    return storages;
}

}  // namespace strata::block::parallels
