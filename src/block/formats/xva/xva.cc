// XvaNode: one disk of an export, read only; a check compares the blocks' checksums.
#include "block/formats/xva/xva.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <unordered_map>

#include <fmt/format.h>

#include "block/formats/archive/tar.h"
#include "block/formats/archive/xml.h"
#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"
#include "block/formats/xva/blocks.h"
#include "block/formats/xva/sums.h"
#include "block/formats/xva/writer.h"
#include "block/wording.h"

namespace strata::block::xva {
namespace {

using archive::Member;

struct Block {
    std::uint64_t offset = 0;
    std::uint32_t size = 0;
    std::uint64_t checksum = 0;  ///< where it stands; 0: nowhere
    SumKind sum = SumKind::Sha1;
};

struct Disk {
    std::unordered_map<std::uint64_t, Block> blocks;
    std::uint64_t count = 0;  ///< one more than the last block's number
};

struct Export {
    std::map<std::string, Disk> disks;
    Member description;
};

class XvaNode final : public TableNode {
  public:
    XvaNode(NodePtr file, std::string name, Disk disk, std::uint64_t size)
        : TableNode(std::move(file), std::move(name), true), disk_(std::move(disk)) {
        configure(size, kBlock, false);
    }
    [[nodiscard]] std::string_view format() const override { return "xva"; }
    Task<CheckReport> check(Repair /*repair*/) override {
        CheckReport report;
        for (const auto& [number, block] : disk_.blocks) {
            if (block.checksum == 0) {
                continue;
            }
            STRATA_CO_TRY(const bool same, co_await sum_is_right(block));
            if (!same) {
                ++report.corruptions;
                report.messages.push_back(
                    fmt::format("ERROR block {} is not what its checksum says", number));
            }
        }
        co_return report;
    }

  protected:
    Task<Place> find(std::uint64_t offset, std::uint64_t length) override {
        const std::uint64_t within = offset % kBlock;
        const auto found = disk_.blocks.find(offset / kBlock);
        Place place{.kind = Place::Kind::Zero, .length = std::min(length, kBlock - within)};
        if (found != disk_.blocks.end() && within < found->second.size) {
            place.kind = Place::Kind::Data;
            place.offset = found->second.offset + within;
            place.length = std::min(place.length, found->second.size - within);
        }
        co_return place;
    }

  private:
    Task<bool> sum_is_right(Block block) {
        STRATA_CO_TRY(const auto bytes, co_await read_bytes(*file_, block.offset, block.size));
        STRATA_CO_TRY(const auto wanted,
                      co_await read_bytes(*file_, block.checksum, style_of(block.sum).digits));
        auto work = [&] { return sum_of(block.sum, bytes); };
        const std::string sum = co_await loop().offload(std::move(work));
        // Some write hexadecimal digits in the other case.
        co_return std::equal(sum.begin(), sum.end(), wanted.begin(), wanted.end(),
                             [](char a, std::byte b) {
                                 const char c = static_cast<char>(b);
                                 return a == c || ((a | 0x20) == (c | 0x20) && a > '9' && c > '9');
                             });
    }
    const Disk disk_;
};

unsigned probe(std::span<const std::byte> start, std::string_view /*path*/) {
    const std::string name = archive::name_in_header(start);
    return wording() != Wording::Qemu && (name == "ova.xml" || name == "./ova.xml") ? 90 : 0;
}

Result<> take(Export& all, const Member& member, const std::string& name) {
    if (member.name == "ova.xml" || member.name == "./ova.xml") {
        all.description = member;
        return ok();
    }
    if (member.name.starts_with(kUnfinished)) {
        return broken_image("XVA", name, "it was not written to its end");
    }
    const auto what = parse_block_name(member.name);
    if (!what) {
        return ok();
    }
    Disk& disk = all.disks[what->disk];
    for (const SumStyle& style : kSumStyles) {
        if (what->ending == style.ending && member.size == style.digits) {
            disk.blocks[what->block].checksum = member.offset;
            disk.blocks[what->block].sum = style.kind;
        }
    }
    if (what->ending.empty()) {
        if (member.size > kBlock) {
            return broken_image(
                "XVA", name, fmt::format("block '{:.80}' has {} bytes", member.name, member.size));
        }
        disk.blocks[what->block].offset = member.offset;
        disk.blocks[what->block].size = static_cast<std::uint32_t>(member.size);
        disk.count = std::max(disk.count, what->block + 1);
    }
    return ok();
}

Task<std::uint64_t> size_of(Node& file, Member description, std::string disk, std::uint64_t count,
                            std::string name) {
    if (description.size == 0 || description.size > archive::kMaxXml) {
        co_return count* kBlock;
    }
    STRATA_CO_TRY(const auto bytes,
                  co_await read_bytes(file, description.offset, description.size));
    // SAFETY: bytes as characters.
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    STRATA_CO_TRY(const auto sizes, parse_disk_sizes(text, name));
    const auto told = sizes.find(disk);
    if (told == sizes.end()) {
        co_return count* kBlock;
    }
    if (divide_up(told->second, kBlock) < count || told->second > kMaxBlocks * kBlock ||
        told->second % 512 != 0) {
        co_return broken_image(
            "XVA", name,
            fmt::format("disk {} of {} bytes has {} blocks", disk, told->second, count));
    }
    co_return told->second;
}

Task<NodePtr> open(NodePtr file, OpenOptions options) {
    if (!options.read_only) {
        co_return co_await open_new_export(std::move(file), std::move(options));
    }
    Export all;
    STRATA_CO_TRY_VOID(co_await archive::walk_tar(
        *file, kMaxMembers, [&](const Member& each) { return take(all, each, options.path); }));
    std::string names;
    for (const auto& [name, disk] : all.disks) {
        names += fmt::format("{}{}", names.empty() ? "" : ", ", name);
    }
    const std::string wanted(options.extra_of("disk"));
    const auto chosen =
        wanted.empty() && all.disks.size() == 1 ? all.disks.begin() : all.disks.find(wanted);
    if (chosen == all.disks.end()) {
        co_return Error{ErrorKind::NotFound,
                        fmt::format("'{}': which disk? It has {:.400}: strata image convert --disk "
                                    "NAME",
                                    options.path, names.empty() ? "none" : names),
                        ENOENT};
    }
    STRATA_CO_TRY(const std::uint64_t size, co_await size_of(*file, all.description, chosen->first,
                                                             chosen->second.count, options.path));
    co_return NodePtr(
        std::make_shared<XvaNode>(std::move(file), options.path, std::move(chosen->second), size));
}

}  // namespace

const FormatDriver& driver() {
    static const FormatDriver kDriver{.name = "xva",
                                      .probe = &probe,
                                      .open = &open,
                                      .create = &create,
                                      .create_options = create_options()};
    return kDriver;
}

}  // namespace strata::block::xva
