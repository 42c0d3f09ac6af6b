// FatVolume: the layout of a FAT disk with the content of a folder: what lies at which place of it.
//
// Disk: MBR | volume, in one partition; a floppy: the volume alone. Volume: reserved sectors (boot
// sector; FAT32 also information and copies) | table | table | root folder (not FAT32) | clusters.
// Every file and folder lies in one piece, so the tables are computed from where each begins, when
// they are read; only folders and the first sectors are kept. Sizes are those of QEMU's disks of
// this kind as long as the content fits, and larger ones otherwise. Microsoft FAT specification
// 1.03.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "block/protocols/fat/folder_tree.h"
#include "block/protocols/fat/names.h"

namespace strata::block::fat {

struct VolumeOptions {
    unsigned bits = 0;  ///< 12, 16, 32; 0: what the content asks for
    bool floppy = false;
    std::string label;  ///< at most 11 characters
};

struct Geometry {
    unsigned bits = 16;
    std::uint64_t sectors = 0;  ///< of the disk
    std::uint32_t start = 0;    ///< sector of the volume
    std::uint32_t per_cluster = 1, reserved = 1, root_entries = 0;
    std::uint32_t table_sectors = 0, clusters = 0;
    std::uint32_t heads = 16, per_track = 63;
    std::uint8_t medium = 0xf8;
    [[nodiscard]] std::uint64_t cluster_bytes() const { return std::uint64_t{per_cluster} * 512; }
    [[nodiscard]] std::uint64_t table_at() const { return (start + reserved) * 512ULL; }
    [[nodiscard]] std::uint64_t table_bytes() const { return table_sectors * 512ULL; }
    [[nodiscard]] std::uint64_t root_at() const { return table_at() + 2 * table_bytes(); }
    [[nodiscard]] std::uint64_t clusters_at() const {
        return root_at() + std::uint64_t{root_entries} * kEntry;
    }
};

class FatVolume {
  public:
    /// InvalidArgument: options that do not go together; Failed: it does not fit.
    static Result<FatVolume> build(const FolderTree& tree, const VolumeOptions& options);

    [[nodiscard]] const Geometry& geometry() const { return geometry_; }
    [[nodiscard]] std::uint64_t size() const { return geometry_.sectors * 512; }

    struct Piece {
        enum class Kind : std::uint8_t { Zero, Bytes, Table, File };
        Kind kind = Kind::Zero;
        std::uint64_t length = 0;
        std::span<const std::byte> bytes{};  ///< Bytes
        std::uint64_t offset = 0;            ///< Table, File: in it
        std::size_t item = 0;                ///< File: in the tree
    };
    /// What lies at `offset`, for at most `length` bytes; both inside the disk.
    [[nodiscard]] Piece find(std::uint64_t offset, std::uint64_t length) const;
    /// Bytes of a table.
    void read_table(std::uint64_t offset, std::span<std::byte> into) const;

  private:
    struct Region {
        std::uint64_t start = 0, length = 0;
        Piece::Kind kind = Piece::Kind::Zero;
        std::size_t item = 0;  ///< File: in the tree; Bytes: in contents_
    };
    struct Run {
        std::uint32_t first = 0, count = 0;
    };
    FatVolume() = default;
    Result<> choose(const FolderTree& tree, const VolumeOptions& options);
    [[nodiscard]] std::uint64_t clusters_for(const FolderTree& tree,
                                             const Geometry& geometry) const;
    void make_folders(const FolderTree& tree, const VolumeOptions& options);
    void place(const FolderTree& tree);
    void add_bytes(std::uint64_t start, std::vector<std::byte> content);
    [[nodiscard]] std::uint32_t entry(std::uint32_t cluster) const;

    Geometry geometry_;
    std::vector<std::vector<std::byte>> folders_;   ///< by their places in the tree; of files empty
    std::vector<std::vector<std::size_t>> places_;  ///< of children's last entries, in folders_
    std::vector<std::vector<std::byte>> contents_;
    std::vector<Region> regions_;  ///< ascending; what lies between them is zeros
    std::vector<Run> runs_;        ///< ascending
    std::uint32_t next_ = 2;       ///< the first free cluster
};

}  // namespace strata::block::fat
