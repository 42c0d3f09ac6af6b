// A folder's names, sizes and depth as a FAT disk: whatever files are called, a reader of the disk
// finds as many, with their sizes, none twice. Input: kind, then for each file its flags, its size,
// its name up to a line's end.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "block/protocols/fat/fat_walker.h"
#include "block/protocols/fat/volume.h"

namespace {

using namespace strata::block::fat;  // NOLINT(google-build-using-namespace): a fuzz target

constexpr std::size_t kMaxFiles = 300, kMaxName = 255;

/// Files of one folder, some of them folders, whose content is the next ones of the list.
std::vector<FolderItem> items_of(const std::uint8_t* data, std::size_t size) {
    std::vector<FolderItem> items(1);
    items[0].folder = true;
    std::size_t at = 0, parent = 0;
    std::set<std::string> names;
    while (size - at >= 3 && items.size() < kMaxFiles) {
        const std::uint8_t flags = data[at];
        FolderItem item{.folder = (flags & 1) != 0,
                        .read_only = (flags & 2) != 0,
                        .size = (flags & 1) != 0 ? 0 : std::uint64_t{data[at + 1]} * 97,
                        .seconds = std::int64_t{data[at + 1]} * 30'000'000};
        at += 2;
        const auto* end = static_cast<const std::uint8_t*>(std::memchr(data + at, '\n', size - at));
        const std::size_t length =
            end != nullptr ? static_cast<std::size_t>(end - data) - at : size - at;
        item.name.assign(data + at, data + at + std::min(length, kMaxName));
        at = std::min(size, at + length + 1);
        if ((flags & 4) != 0) {  // the next folder
            std::size_t next = parent + 1;
            while (next < items.size() && !items[next].folder) {
                ++next;
            }
            if (next < items.size()) {
                parent = next;
                items[parent].first_child = items.size();
                names.clear();
            }
        }
        if (item.name.empty() || item.name.find('\0') != std::string::npos ||
            item.name.find('/') != std::string::npos || !names.insert(item.name).second) {
            continue;  // no file is called so
        }
        item.parent = parent;
        if (items[parent].children++ == 0) {
            items[parent].first_child = items.size();
        }
        items.push_back(std::move(item));
    }
    return items;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    constexpr unsigned kBits[] = {0, 12, 16, 32};
    const VolumeOptions options{
        .bits = kBits[data[0] & 3], .floppy = (data[0] & 4) != 0, .label = "FUZZ"};
    const FolderTree tree = FolderTree::of(items_of(data + 1, size - 1));
    const auto volume = FatVolume::build(tree, options);
    if (!volume.ok()) {
        return 0;
    }
    const auto read = [&](std::uint64_t offset, std::uint64_t length) {
        std::vector<std::byte> bytes(length);
        for (std::uint64_t done = 0; done < length;) {
            const auto piece = volume->find(offset + done, length - done);
            const auto part = std::span(bytes).subspan(done, piece.length);
            if (piece.kind == FatVolume::Piece::Kind::Bytes) {
                std::ranges::copy(piece.bytes, part.begin());
            } else if (piece.kind == FatVolume::Piece::Kind::Table) {
                volume->read_table(piece.offset, part);
            }
            STRATA_CHECK(piece.length != 0, "a piece without length");
            done += piece.length;
        }
        return bytes;
    };
    const FatWalker disk(read, options.floppy);
    STRATA_CHECK(disk.files().size() == tree.items().size() - 1, "a file is missing");
    std::multiset<std::uint64_t> wanted, found;
    for (const FolderItem& each : tree.items()) {
        wanted.insert(each.size);
    }
    found.insert(0);
    for (const auto& each : disk.files()) {
        found.insert(each.second.size);
    }
    STRATA_CHECK(wanted == found, "a size is another");
    return 0;
}
