// FatVolume: choosing a layout, and placing what a folder has.
#include "block/protocols/fat/volume.h"

#include <algorithm>
#include <cerrno>
#include <optional>

#include <fmt/format.h>

#include "base/text.h"
#include "block/formats/common/wire.h"
#include "block/protocols/fat/boot.h"

namespace strata::block::fat {
namespace {

constexpr std::uint64_t kSector = 512;
constexpr std::uint32_t kMost12 = 4084, kMost16 = 65524, kMost32 = 0x0ffffff4;  ///< clusters
constexpr std::uint32_t kMaxRoot = 65520, kUsualRoot = 512;                     ///< entries
constexpr std::size_t kMaxFolder = 65536 * kEntry;
constexpr std::uint32_t kTrack = 63, kCylinder = 16 * kTrack;
constexpr std::uint32_t kReserved32 = 32;
constexpr std::uint32_t kEnd = 0x0fffffff;

std::uint32_t most_clusters(unsigned bits) {
    return bits == 12 ? kMost12 : bits == 16 ? kMost16 : kMost32;
}

/// Tables for so many sectors; nothing if there would be too many clusters or too few for the kind
/// of tables.
std::optional<Geometry> laid_out(Geometry out) {
    const std::uint64_t root = std::uint64_t{out.root_entries} * kEntry / kSector;
    const std::uint64_t taken = out.start + out.reserved + root;
    for (std::uint64_t table = 1; taken + 2 * table < out.sectors;) {
        const std::uint64_t clusters = (out.sectors - taken - 2 * table) / out.per_cluster;
        const std::uint64_t needed = divide_up((clusters + 2) * out.bits, 8 * kSector);
        if (needed <= table) {
            const bool few = out.bits == 16   ? clusters <= kMost12
                             : out.bits == 32 ? clusters <= kMost16
                                              : false;
            if (clusters > most_clusters(out.bits) || few) {
                return std::nullopt;
            }
            out.table_sectors = static_cast<std::uint32_t>(table);
            out.clusters = static_cast<std::uint32_t>(clusters);
            return out;
        }
        table = needed;  // fewer clusters then, which need no more
    }
    return std::nullopt;
}

Geometry floppy(unsigned bits) {
    Geometry out;
    out.bits = bits == 16 ? 16 : 12;
    out.heads = 2;
    out.per_track = bits == 12 ? 18 : 36;  // 1.44 MB for plain FAT12, 2.88 MB
    out.sectors = std::uint64_t{80} * out.heads * out.per_track;
    out.per_cluster = bits == 0 ? 2 : 1;
    out.root_entries = bits == 12 ? 224 : 240;
    out.medium = 0xf0;
    return out;
}

/// The sizes that a disk may have, smallest first.
std::vector<Geometry> disks(unsigned bits, std::uint32_t root_entries) {
    std::vector<Geometry> all;
    if (bits == 32) {
        constexpr std::uint64_t kMaxSectors = 0xffffffff / kCylinder * kCylinder;
        for (std::uint64_t sectors = 1024 * kCylinder; sectors <= kMaxSectors;
             sectors = sectors == kMaxSectors ? sectors + 1 : std::min(kMaxSectors, 2 * sectors)) {
            const std::uint64_t gigabytes = sectors >> 21;
            const std::uint32_t cluster = gigabytes < 8    ? 8
                                          : gigabytes < 16 ? 16
                                          : gigabytes < 32 ? 32
                                                           : 64;
            all.push_back({.bits = 32,
                           .sectors = sectors,
                           .start = kTrack,
                           .per_cluster = cluster,
                           .reserved = kReserved32});
        }
        return all;
    }
    const std::uint64_t cylinders = bits == 12 ? 64 : 1024;
    for (std::uint32_t times = 1; times <= 4; times *= 2) {
        all.push_back({.bits = bits,
                       .sectors = cylinders * kCylinder * times,
                       .start = kTrack,
                       .per_cluster = 16 * times,
                       .root_entries = root_entries});
    }
    return all;
}

std::uint32_t id_of(const FolderTree& tree) {
    const FolderItem& root = tree.items().front();
    std::uint64_t mixed = (root.device * 0x9e3779b97f4a7c15) ^ (root.inode * 0xc2b2ae3d27d4eb4f);
    mixed ^= mixed >> 32;
    return static_cast<std::uint32_t>(mixed);
}

}  // namespace

Result<FatVolume> FatVolume::build(const FolderTree& tree, const VolumeOptions& options) {
    if (options.bits != 0 && options.bits != 12 && options.bits != 16 && options.bits != 32) {
        return Error{ErrorKind::InvalidArgument, "Valid FAT types are only 12, 16 and 32", EINVAL};
    }
    if (options.floppy && options.bits == 32) {
        return Error{ErrorKind::InvalidArgument, "a floppy has no FAT32: use 12 or 16", EINVAL};
    }
    if (options.label.size() > kShortName) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("vvfat label cannot be longer than {} bytes", kShortName), EINVAL};
    }
    FatVolume volume;
    volume.make_folders(tree, options);
    for (std::size_t i = 0; i < tree.items().size(); ++i) {
        if (volume.folders_[i].size() > kMaxFolder) {
            return Error{ErrorKind::NotSupported,
                         fmt::format("the folder '{}' has more names than a FAT folder can have",
                                     tree.path_of(i)),
                         EFBIG};
        }
    }
    STRATA_TRY_VOID(volume.choose(tree, options));
    volume.place(tree);
    const Geometry& disk = volume.geometry_;
    const std::uint32_t id = id_of(tree);
    std::vector<std::byte> reserved =
        reserved_sectors(disk, label_of(options.label), id, volume.next_);
    if (disk.start != 0) {
        volume.add_bytes(0, partition_table(disk, id));
    }
    volume.add_bytes(disk.start * kSector, std::move(reserved));
    const std::uint64_t used = divide_up(std::uint64_t{volume.next_} * disk.bits, 8);
    for (const std::uint64_t at : {disk.table_at(), disk.table_at() + disk.table_bytes()}) {
        volume.regions_.push_back({at, used, Piece::Kind::Table, 0});
    }
    std::ranges::sort(volume.regions_, {}, &Region::start);
    return volume;
}

/// Each folder's entries, without the clusters that they lead to.
void FatVolume::make_folders(const FolderTree& tree, const VolumeOptions& options) {
    const auto& items = tree.items();
    folders_.resize(items.size());
    places_.resize(items.size());
    for (std::size_t i = 0; i < items.size(); ++i) {
        if (!items[i].folder) {
            continue;
        }
        std::vector<std::byte>& folder = folders_[i];
        const EntryFacts self{.attributes = Attribute::kFolder, .seconds = items[i].seconds};
        if (i == 0) {
            append_entry(folder, label_of(options.label),
                         {.attributes = Attribute::kLabel, .seconds = self.seconds});
        } else {
            append_entry(folder, label_of("."), self);
            append_entry(folder, label_of(".."), self);
            folder[0] = folder[kEntry] = folder[kEntry + 1] = std::byte{'.'};
        }
        std::vector<std::string> hosts;
        for (std::size_t n = 0; n < items[i].children; ++n) {
            hosts.push_back(items[items[i].first_child + n].name);
        }
        const std::vector<Names> names = name_all(hosts);
        for (std::size_t n = 0; n < names.size(); ++n) {
            const FolderItem& child = items[items[i].first_child + n];
            const unsigned kind = child.folder ? Attribute::kFolder : Attribute::kArchive;
            append_entries(folder, names[n],
                           {.attributes = static_cast<std::uint8_t>(
                                kind | (child.read_only ? Attribute::kReadOnly : 0U)),
                            .seconds = child.seconds,
                            .size = static_cast<std::uint32_t>(child.size)});
            places_[i].push_back(folder.size() - kEntry);
        }
    }
}

std::uint64_t FatVolume::clusters_for(const FolderTree& tree, const Geometry& geometry) const {
    std::uint64_t clusters = 0;
    for (std::size_t i = 0; i < folders_.size(); ++i) {
        if (i != 0 || geometry.bits == 32) {
            const std::uint64_t bytes =
                tree.items()[i].folder ? folders_[i].size() : tree.items()[i].size;
            clusters += divide_up(bytes, geometry.cluster_bytes());
        }
    }
    return clusters;
}

Result<> FatVolume::choose(const FolderTree& tree, const VolumeOptions& options) {
    const std::uint64_t entries = round_up(folders_[0].size() / kEntry, kSector / kEntry);
    std::vector<Geometry> all;
    if (options.floppy) {
        all.push_back(floppy(options.bits));
    } else {
        const auto root = static_cast<std::uint32_t>(std::max<std::uint64_t>(entries, kUsualRoot));
        all = disks(options.bits == 0 ? 16 : options.bits, root);
        if (options.bits == 0) {
            const auto larger = disks(32, 0);
            all.resize(1);
            all.insert(all.end(), larger.begin(), larger.end());
        }
        for (Geometry& each : all) {
            each.root_entries = each.bits == 32 ? 0 : each.root_entries;
        }
    }
    std::uint64_t most = 0;
    for (const Geometry& each : all) {
        const std::uint32_t limit = options.floppy ? each.root_entries : kMaxRoot;
        const auto laid = laid_out(each);
        if (!laid || (each.bits != 32 && entries > limit)) {
            continue;
        }
        if (clusters_for(tree, *laid) <= laid->clusters) {
            geometry_ = *laid;
            return ok();
        }
        most = laid->clusters * laid->cluster_bytes();
    }
    std::uint64_t bytes = 0;
    for (const FolderItem& each : tree.items()) {
        bytes += each.size;
    }
    return Error{ErrorKind::Failed,
                 fmt::format("the folder has {} in {} files and folders: more than fit ({})",
                             format_size(bytes), tree.items().size() - 1, format_size(most)),
                 EFBIG};
}

void FatVolume::add_bytes(std::uint64_t start, std::vector<std::byte> content) {
    regions_.push_back({start, content.size(), Piece::Kind::Bytes, contents_.size()});
    contents_.push_back(std::move(content));
}

/// Gives everything its clusters, in order, and tells the folders.
void FatVolume::place(const FolderTree& tree) {
    const auto& items = tree.items();
    std::vector<std::uint32_t> first(items.size());
    const bool wide = geometry_.bits == 32;
    for (std::size_t i = 0; i < items.size(); ++i) {
        const std::uint64_t bytes = items[i].folder ? folders_[i].size() : items[i].size;
        const auto count = static_cast<std::uint32_t>(divide_up(bytes, geometry_.cluster_bytes()));
        if (count == 0 || (i == 0 && !wide)) {
            continue;
        }
        first[i] = next_;
        runs_.push_back({next_, count});
        next_ += count;
    }
    for (std::size_t i = 0; i < items.size(); ++i) {
        const std::uint64_t at =
            i == 0 && !wide
                ? geometry_.root_at()
                : geometry_.clusters_at() + std::uint64_t{first[i] - 2} * geometry_.cluster_bytes();
        if (!items[i].folder) {
            if (items[i].size != 0) {
                regions_.push_back({at, items[i].size, Piece::Kind::File, i});
            }
            continue;
        }
        for (std::size_t n = 0; n < items[i].children; ++n) {
            set_cluster(folders_[i], places_[i][n], first[items[i].first_child + n]);
        }
        if (i != 0) {
            set_cluster(folders_[i], 0, first[i]);
            set_cluster(folders_[i], kEntry, items[i].parent == 0 ? 0 : first[items[i].parent]);
        }
        add_bytes(at, std::move(folders_[i]));
    }
    folders_.clear();
    places_.clear();
}

FatVolume::Piece FatVolume::find(std::uint64_t offset, std::uint64_t length) const {
    auto after = std::ranges::upper_bound(regions_, offset, {}, &Region::start);
    if (after != regions_.begin()) {
        const Region& region = *(after - 1);
        const std::uint64_t within = offset - region.start;
        if (within < region.length) {
            Piece piece{.kind = region.kind,
                        .length = std::min(length, region.length - within),
                        .offset = within,
                        .item = region.item};
            if (region.kind == Piece::Kind::Bytes) {
                piece.bytes = std::span(contents_[region.item]).subspan(within, piece.length);
            }
            return piece;
        }
    }
    const std::uint64_t end = after == regions_.end() ? size() : after->start;
    return {.kind = Piece::Kind::Zero, .length = std::min(length, end - offset)};
}

std::uint32_t FatVolume::entry(std::uint32_t cluster) const {
    if (cluster < 2) {
        return cluster == 0 ? (kEnd & ~0xffU) | geometry_.medium : kEnd;
    }
    const auto after = std::ranges::upper_bound(runs_, cluster, {}, &Run::first);
    if (after == runs_.begin()) {
        return 0;
    }
    const Run& run = *(after - 1);
    const std::uint32_t within = cluster - run.first;
    return within >= run.count ? 0 : within + 1 == run.count ? kEnd : cluster + 1;
}

void FatVolume::read_table(std::uint64_t offset, std::span<std::byte> into) const {
    // A group of entries that fills whole bytes: two of 12 bits, one of the others.
    const std::uint64_t group = geometry_.bits == 12 ? 3 : geometry_.bits / 8;
    std::uint64_t known = ~0ULL, value = 0;
    for (std::size_t i = 0; i < into.size(); ++i) {
        const std::uint64_t number = (offset + i) / group;
        if (number != known) {
            known = number;
            const auto cluster = static_cast<std::uint32_t>(number);
            value = geometry_.bits == 12 ? (entry(2 * cluster) & 0xfff) |
                                               std::uint64_t{entry(2 * cluster + 1) & 0xfff} << 12
                                         : entry(cluster);
        }
        into[i] = static_cast<std::byte>(value >> (8 * ((offset + i) % group)));
    }
}

}  // namespace strata::block::fat
