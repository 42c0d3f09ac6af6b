// SeSparse: headers and tables.
#include "block/formats/vmdk/se_sparse.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/common/wire.h"

namespace strata::block::vmdk {
namespace {

constexpr std::uint64_t kMagic = 0xCAFEBABE, kVolatileMagic = 0xCAFECAFE,
                        kVersion = 0x0000000200000001;
constexpr std::uint64_t kGrain = 4096, kTableBytes = 64 * 512, kEntries = kTableBytes / 8,
                        kSpan = kEntries * kGrain;
constexpr std::uint64_t kKind = 0xF000000000000000, kUnmapped = 0x1000000000000000,
                        kZero = 0x2000000000000000, kGrainKind = 0x3000000000000000,
                        kTableKind = 0x1000000000000000;
constexpr std::uint64_t kMaxSectors = 1ULL << 37;  // 64 TiB

struct Header {
    std::uint64_t capacity = 0;  ///< bytes, as the next ones
    std::uint64_t directory = 0, directory_bytes = 0, tables = 0, tables_bytes = 0, grains = 0;
};

Result<Header> parse_header(std::span<const std::byte> bytes, std::uint64_t file_size,
                            std::string_view name) {
    const auto field = [&](std::size_t index) { return get<Le64>(bytes, index * 8).value(); };
    if (field(0) != kMagic) {
        return broken_image("VMDK", name, "this is no SESPARSE extent");
    }
    if (field(1) != kVersion || field(3) * 512 != kGrain || field(4) * 512 != kTableBytes ||
        field(5) != 0) {
        return unsupported_image("VMDK", name,
                                 fmt::format("a SESPARSE extent of version {:#x}, grain {}, table "
                                             "{}, flags {:#x}",
                                             field(1), field(3), field(4), field(5)));
    }
    constexpr std::size_t kCapacity = 2, kDirectory = 16, kTables = 18, kGrains = 24;
    for (const std::size_t index :
         {kCapacity, kDirectory, kDirectory + 1, kTables, kTables + 1, kGrains, std::size_t{10}}) {
        if (field(index) > kMaxSectors) {
            return broken_image("VMDK", name,
                                fmt::format("a SESPARSE header with {} sectors", field(index)));
        }
    }
    Header h;
    h.capacity = field(kCapacity) * 512;
    h.directory = field(kDirectory) * 512;
    h.directory_bytes = field(kDirectory + 1) * 512;
    h.tables = field(kTables) * 512;
    h.tables_bytes = field(kTables + 1) * 512;
    h.grains = field(kGrains) * 512;
    if (!lies_within(h.directory, h.directory_bytes, file_size) ||
        divide_up(h.capacity, kSpan) * 8 > h.directory_bytes || h.capacity == 0) {
        return broken_image("VMDK", name, "a SESPARSE directory too small, or outside the file");
    }
    return h;
}

class SeSparseExtent final : public TableNode {
  public:
    SeSparseExtent(NodePtr file, std::string name, const Header& header, NodePtr backing,
                   std::uint64_t backing_shift)
        : TableNode(std::move(file), std::move(name), true), header_(header) {
        backing_ = std::move(backing);
        backing_shift_ = backing_shift;
        configure(header.capacity, kGrain, true);
    }
    [[nodiscard]] std::string_view format() const override { return "vmdk"; }

  protected:
    Task<Place> find(std::uint64_t offset, std::uint64_t length) override {
        Place place{.length = std::min(length, kGrain - offset % kGrain)};
        STRATA_CO_TRY(const Le64 table,
                      co_await meta_.load<Le64>(header_.directory + offset / kSpan * 8));
        if (table == 0) {
            place.length = std::min(length, kSpan - offset % kSpan);
            co_return place;
        }
        const std::uint64_t number = table & 0xFFFFFFFFU;
        if ((table >> 32 << 32) != kTableKind ||
            (number + 1) * kTableBytes > header_.tables_bytes) {
            co_return wrong(table, offset);
        }
        STRATA_CO_TRY(const Le64 entry,
                      co_await meta_.load<Le64>(header_.tables + number * kTableBytes +
                                                offset % kSpan / kGrain * 8));
        const std::uint64_t kind = entry & kKind;
        if (kind == kZero || kind == kUnmapped) {
            place.kind = Place::Kind::Zero;
        } else if (kind == kGrainKind) {
            // The twelve lowest bits stand in front of the others.
            const std::uint64_t grain =
                (entry & 0x0FFF000000000000) >> 48 | (entry & 0x0000FFFFFFFFFFFF) << 12;
            if (grain > kMaxSectors ||
                !lies_within(header_.grains + grain * kGrain, kGrain, file_->size())) {
                co_return wrong(entry, offset);
            }
            place.kind = Place::Kind::Data;
            place.offset = header_.grains + grain * kGrain + offset % kGrain;
        } else if (entry != 0) {
            co_return wrong(entry, offset);
        }
        co_return place;
    }

  private:
    [[nodiscard]] Error wrong(std::uint64_t entry, std::uint64_t offset) const {
        return broken_image("VMDK", name(),
                            fmt::format("the entry {:#x} for {}, which cannot be", entry, offset));
    }
    const Header header_;
};

}  // namespace

Task<NodePtr> open_se_sparse(NodePtr file, std::string name, std::uint64_t size, NodePtr backing,
                             std::uint64_t backing_shift) {
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(*file, 0, 512));
    STRATA_CO_TRY(const Header header, parse_header(bytes, file->size(), name));
    STRATA_CO_TRY(const auto state, co_await read_bytes(*file, get<Le64>(bytes, 80) * 512, 512));
    if (get<Le64>(state, 0) != kVolatileMagic) {
        co_return broken_image("VMDK", name, "a SESPARSE extent without its second header");
    }
    if (get<Le64>(state, 24) != 0) {
        co_return unsupported_image("VMDK", name,
                                    "a SESPARSE extent that was not closed: its journal is not "
                                    "replayed here");
    }
    if (header.capacity < size) {
        co_return broken_image("VMDK", name, "a SESPARSE extent smaller than the descriptor says");
    }
    co_return NodePtr(std::make_shared<SeSparseExtent>(std::move(file), std::move(name), header,
                                                       std::move(backing), backing_shift));
}

}  // namespace strata::block::vmdk
