// SparseExtent: the directory and the tables.
#include "block/formats/vmdk/sparse_extent.h"

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>
#include <libdeflate.h>

#include "base/endian.h"
#include "block/formats/common/wire.h"

namespace strata::block::vmdk {
namespace {

constexpr std::size_t kGrainMarker = 12;

Result<> inflate(std::span<const std::byte> from, std::span<std::byte> into) {
    struct Free {
        void operator()(libdeflate_decompressor* each) const { libdeflate_free_decompressor(each); }
    };
    const std::unique_ptr<libdeflate_decompressor, Free> inflater(libdeflate_alloc_decompressor());
    std::size_t used = 0, made = 0;
    if (inflater == nullptr ||
        libdeflate_zlib_decompress_ex(inflater.get(), from.data(), from.size(), into.data(),
                                      into.size(), &used, &made) != LIBDEFLATE_SUCCESS) {
        return Error{ErrorKind::Failed, "a compressed grain is damaged", EIO};
    }
    std::fill(into.begin() + static_cast<std::ptrdiff_t>(made), into.end(),
              std::byte{0});  // the disk's last grain may be short
    return ok();
}

Result<> inflate_marked(std::span<const std::byte> from, std::span<std::byte> into) {
    if (from.size() < kGrainMarker || get<Le32>(from, 8) > from.size() - kGrainMarker) {
        return Error{ErrorKind::Failed, "a compressed grain is longer than it can be", EIO};
    }
    return inflate(from.subspan(kGrainMarker, get<Le32>(from, 8)), into);
}

}  // namespace

SparseExtent::SparseExtent(NodePtr file, std::string name, bool read_only,
                           const SparseHeader& header, NodePtr backing, std::uint64_t backing_shift)
    : TableNode(std::move(file), std::move(name),
                read_only || header.compressed() || header.cowd || header.version == 3),
      header_(header) {
    backing_ = std::move(backing);
    backing_shift_ = backing_shift;
    configure(header.capacity * 512, header.grain_bytes(), header.zero_grains());
    end_ = std::max(end_, header.overhead * 512);
}

// Where the table is that directory entry `index` names; 0: nowhere, unless it is to be made.
Task<std::uint64_t> SparseExtent::table_of(std::uint64_t directory, std::uint64_t index,
                                           bool make) {
    const std::uint64_t at = directory * 512 + index * 4;
    STRATA_CO_TRY(const Le32 entry, co_await meta_.load<Le32>(at));
    if (entry != 0 || !make) {
        co_return entry * 512ULL;
    }
    const std::uint64_t bytes = round_up(header_.table_entries * 4ULL, 512);
    const std::uint64_t table = take_space(bytes, 512);
    if (table / 512 > 0xFFFFFFFFU) {
        co_return Error{
            ErrorKind::Failed,
            fmt::format("VMDK image '{}': it cannot grow beyond {} bytes", name(), table), ENOSPC};
    }
    const std::vector<std::byte> zeros(bytes);
    STRATA_CO_TRY_VOID(co_await meta_.store_bytes(table, zeros, 0));
    STRATA_CO_TRY_VOID(co_await meta_.store(at, Le32(static_cast<std::uint32_t>(table / 512)), 1));
    co_return table;
}

Task<Place> SparseExtent::find(std::uint64_t offset, std::uint64_t length) {
    const std::uint64_t grain = offset / header_.grain_bytes(),
                        within = offset % header_.grain_bytes();
    Place place{.length = std::min(length, header_.grain_bytes() - within)};
    STRATA_CO_TRY(const std::uint64_t table,
                  co_await table_of(header_.directory, grain / header_.table_entries, false));
    if (table == 0) {
        place.length = std::min(length, header_.table_span() - offset % header_.table_span());
        co_return place;
    }
    STRATA_CO_TRY(const Le32 entry,
                  co_await meta_.load<Le32>(table + grain % header_.table_entries * 4));
    if (entry == 0 || (entry == 1 && header_.zero_grains())) {
        place.kind = entry == 0 ? Place::Kind::Hole : Place::Kind::Zero;
        co_return place;
    }
    place.offset = entry * 512ULL;
    if (!header_.compressed()) {
        place.kind = Place::Kind::Data;
        place.offset += within;
        co_return place;
    }
    place.kind = Place::Kind::Packed;
    place.start = grain * header_.grain_bytes();
    place.bytes = header_.grain_bytes();
    // What deflate needs at most for what it cannot shrink.
    place.packed = kGrainMarker + header_.grain_bytes() + header_.grain_bytes() / 100 + 512;
    place.unpack = header_.markers() ? &inflate_marked : &inflate;
    co_return place;
}

Task<Reservation> SparseExtent::reserve(std::uint64_t /*block*/, std::uint64_t count) {
    const std::uint64_t old_end = end_;
    const std::uint64_t offset = take_space(count * header_.grain_bytes(), header_.grain_bytes());
    if (end_ / 512 > 0xFFFFFFFFU) {
        end_ = old_end;
        co_return Error{
            ErrorKind::Failed,
            fmt::format("VMDK image '{}': it cannot grow beyond {} bytes", name(), offset), ENOSPC};
    }
    co_return Reservation{
        .offset = offset, .blocks = count, .zeroed = file_->traits().zero_initialised};
}

Task<> SparseExtent::set_entry(std::uint64_t block, std::uint32_t value) {
    const std::uint64_t within = block % header_.table_entries * 4;
    for (const std::uint64_t directory : {header_.directory, header_.redundant_directory}) {
        if (directory == 0 ||
            (directory == header_.redundant_directory && (header_.flags & kFlagRedundant) == 0)) {
            continue;
        }
        STRATA_CO_TRY(const std::uint64_t table,
                      co_await table_of(directory, block / header_.table_entries, true));
        STRATA_CO_TRY_VOID(co_await meta_.store(table + within, Le32(value), 0));
    }
    co_return ok();
}

Task<> SparseExtent::publish(std::uint64_t block, const Reservation& reservation) {
    for (std::uint64_t i = 0; i < reservation.blocks; ++i) {
        STRATA_CO_TRY_VOID(co_await set_entry(
            block + i,
            static_cast<std::uint32_t>((reservation.offset + i * header_.grain_bytes()) / 512)));
    }
    co_return ok();
}

Task<bool> SparseExtent::publish_zero(std::uint64_t block) {
    STRATA_CO_TRY_VOID(co_await set_entry(block, 1));
    co_return true;
}

Task<SparseHeader> read_sparse_header(Node& file, std::string name, bool& fresh) {
    constexpr std::uint64_t kFooter =
        1024;  // before the end: the footer and the end-of-stream marker
    fresh = false;
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(file, 0, kCowdHeaderBytes));
    STRATA_CO_TRY(const SparseHeader header, parse_sparse_header(bytes, name));
    if (header.directory != kDirectoryAtEnd) {
        if (!header.cowd && file.size() < header.overhead * 512) {
            co_return broken_image(
                "VMDK", name,
                fmt::format("it was cut off: {} bytes of at least {} are there", file.size(),
                            header.overhead * 512),
                fmt::format("File truncated, expecting at least {} bytes", header.overhead * 512));
        }
        co_return header;
    }
    if (file.size() <= header.overhead * 512) {
        fresh = true;
        co_return header;
    }
    STRATA_CO_TRY(const auto end,
                  co_await read_bytes(file, file.size() / 512 * 512 - kFooter, kHeaderBytes));
    auto footer = parse_sparse_header(end, name);
    if (!footer.ok() || footer->directory == kDirectoryAtEnd || footer->cowd) {
        co_return broken_image("VMDK", name, "a stream without its end: it was cut off");
    }
    co_return std::move(footer).value();
}

}  // namespace strata::block::vmdk
