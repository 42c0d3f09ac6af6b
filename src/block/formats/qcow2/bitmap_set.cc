// BitmapSet: reading, recording, storing.
#include "block/formats/qcow2/bitmap_set.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/endian.h"
#include "base/log.h"

namespace strata::block::qcow2 {
namespace {

static_assert(std::endian::native == std::endian::little, "bits in memory lie as in the file");

constexpr std::uint64_t kAllOnes = 1;
constexpr std::uint64_t kReservedBits = 0xFF000000000001FEULL;
/// Bits of all bitmaps in memory together.
constexpr std::uint64_t kMaxInMemory = 1ULL << 30;

std::size_t words_for(std::uint64_t size, unsigned granularity_bits) {
    return (bitmap_bytes(size, granularity_bits) + 7) / 8;
}

void set_bits(std::vector<std::uint64_t>& bits, std::uint64_t first, std::uint64_t last) {
    for (; first <= last && first % 64 != 0; ++first) {
        bits[first / 64] |= 1ULL << (first % 64);
    }
    for (; first + 64 <= last + 1; first += 64) {
        bits[first / 64] = ~0ULL;
    }
    for (; first <= last; ++first) {
        bits[first / 64] |= 1ULL << (first % 64);
    }
}

/// What lies past the disk's end is 0.
void trim(std::vector<std::uint64_t>& bits, std::uint64_t size, unsigned granularity_bits) {
    const std::uint64_t count = (size + (1ULL << granularity_bits) - 1) >> granularity_bits;
    bits.resize((count + 63) / 64);
    if (count % 64 != 0) {
        bits.back() &= (1ULL << (count % 64)) - 1;
    }
}

Error broken(std::string_view name) {
    return {ErrorKind::WrongState,
            fmt::format("Bitmap '{}' is inconsistent and cannot be used", name), EINVAL};
}

}  // namespace

Task<> BitmapSet::load() {
    const Header& h = metadata_.header();
    const auto content =
        std::find_if(h.extensions.begin(), h.extensions.end(),
                     [](const auto& each) { return each.first == kBitmapsExtension; });
    if (!h.has_bitmaps || content == h.extensions.end()) {
        co_return ok();
    }
    STRATA_CO_TRY(extension_, parse_bitmap_extension(content->second, file_.name()));
    if (extension_.directory_offset + extension_.directory_bytes > metadata_.end()) {
        co_return metadata_.corrupt("its bitmap directory lies past the end of the file");
    }
    std::vector<std::byte> bytes(extension_.directory_bytes);
    STRATA_CO_TRY_VOID(co_await file_.read(extension_.directory_offset, Buffers(std::span(bytes))));
    STRATA_CO_TRY(std::vector<StoredBitmap> stored,
                  parse_bitmap_directory(bytes, extension_.bitmaps, h, file_.name()));
    for (StoredBitmap& each : stored) {
        all_.push_back(Live{.stored = std::move(each), .bits = {}});
    }
    co_return ok();
}

bool BitmapSet::in_effect() const {
    return std::any_of(all_.begin(), all_.end(),
                       [](const Live& each) { return each.stored.usable(); });
}

std::vector<BitmapInfo> BitmapSet::list() const {
    std::vector<BitmapInfo> infos;
    for (const Live& each : all_) {
        infos.push_back({.name = each.stored.name,
                         .granularity = 1ULL << each.stored.granularity_bits,
                         .in_use = !each.stored.usable(),
                         .automatic = (each.stored.flags & kBitmapAuto) != 0});
    }
    return infos;
}

BitmapSet::Live* BitmapSet::find(std::string_view name) {
    const auto found = std::find_if(all_.begin(), all_.end(),
                                    [&](const Live& each) { return each.stored.name == name; });
    return found == all_.end() ? nullptr : &*found;
}

Task<> BitmapSet::read_table_into(const StoredBitmap& stored, std::vector<std::uint64_t>& words) {
    if (stored.table_offset + stored.table_entries * 8ULL > metadata_.end()) {
        co_return metadata_.corrupt(
            fmt::format("the table of its bitmap '{}' lies past the end of the file", stored.name));
    }
    std::vector<Be64> wire(stored.table_entries);
    STRATA_CO_TRY_VOID(
        co_await file_.read(stored.table_offset, Buffers(std::as_writable_bytes(std::span(wire)))));
    words.assign(wire.begin(), wire.end());
    for (const std::uint64_t word : words) {
        const std::uint64_t host = word & kOffsetMask;
        if ((word & kReservedBits) != 0 || host % metadata_.header().cluster() != 0 ||
            host >= metadata_.end() || (host != 0 && (word & kAllOnes) != 0)) {
            co_return metadata_.corrupt(fmt::format(
                "its bitmap '{}' has the table entry {:#x}, which cannot be", stored.name, word));
        }
    }
    co_return ok();
}

Task<> BitmapSet::load_bits(Live& live) {
    const std::uint64_t cluster = metadata_.header().cluster(), size = metadata_.header().size;
    std::uint64_t others = words_for(size, live.stored.granularity_bits) * 8;
    for (const Live& each : all_) {
        others += each.bits.size() * 8;
    }
    if (others > kMaxInMemory) {
        co_return Error{ErrorKind::Failed,
                        fmt::format("'{}': its bitmaps take over {} bytes of memory; remove some",
                                    file_.name(), kMaxInMemory),
                        ENOMEM};
    }
    std::vector<std::uint64_t> words;
    STRATA_CO_TRY_VOID(co_await read_table_into(live.stored, words));
    const std::uint64_t bytes = bitmap_bytes(size, live.stored.granularity_bits);
    std::vector<std::uint64_t> bits(words_for(size, live.stored.granularity_bits));
    const std::span<std::byte> place = std::as_writable_bytes(std::span(bits));
    for (std::uint64_t i = 0; i < words.size() && i * cluster < bytes; ++i) {
        const std::span<std::byte> part = place.subspan(
            i * cluster, std::min<std::uint64_t>(cluster, place.size() - i * cluster));
        if ((words[i] & kOffsetMask) != 0) {
            STRATA_CO_TRY_VOID(co_await file_.read(words[i] & kOffsetMask, Buffers(part)));
        } else if ((words[i] & kAllOnes) != 0) {
            std::fill(part.begin(), part.end(), std::byte{0xFF});
        }
    }
    trim(bits, size, live.stored.granularity_bits);
    live.bits = std::move(bits);
    live.loaded = true;
    co_return ok();
}

Task<Bitmap> BitmapSet::read(std::string name) {
    Live* live = find(name);
    if (live == nullptr) {
        co_return Error{ErrorKind::NotFound, fmt::format("Dirty bitmap '{}' not found", name),
                        ENOENT};
    }
    if (!live->stored.usable()) {
        co_return broken(name);
    }
    if (!live->loaded) {
        STRATA_CO_TRY_VOID(co_await load_bits(*live));
    }
    Bitmap bitmap;
    bitmap.info = {.name = name,
                   .granularity = 1ULL << live->stored.granularity_bits,
                   .in_use = false,
                   .automatic = (live->stored.flags & kBitmapAuto) != 0};
    bitmap.size = metadata_.header().size;
    bitmap.bits = live->bits;
    co_return bitmap;
}

Result<> BitmapSet::put(Bitmap bitmap) {
    const BitmapInfo& info = bitmap.info;
    const auto granularity_bits = static_cast<unsigned>(std::countr_zero(info.granularity));
    const Header& h = metadata_.header();
    const auto refuse = [&](std::string_view why) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("Can't make bitmap '{}' persistent in '{}': {}", info.name,
                                 file_.name(), why),
                     EINVAL};
    };
    if (h.version < 3) {
        return refuse("Cannot store dirty bitmaps in qcow2 v2 files");
    }
    if (!std::has_single_bit(info.granularity) || granularity_bits < kMinGranularityBits ||
        granularity_bits > kMaxGranularityBits) {
        return refuse(fmt::format("a granularity of {} is no power of two from 512 to 2 GiB",
                                  info.granularity));
    }
    if (info.name.empty() || info.name.size() > kMaxBitmapName ||
        info.name.find('\0') != std::string::npos) {
        return refuse(fmt::format("its name has {} bytes; the limit is {}", info.name.size(),
                                  kMaxBitmapName));
    }
    if (bitmap_bytes(h.size, granularity_bits) > kMaxBitmapBytes) {
        return refuse("Too much space will be occupied by the bitmap. Use larger granularity");
    }
    Live* live = find(info.name);
    if (live != nullptr && !live->stored.usable()) {
        return broken(info.name);
    }
    if (live == nullptr) {
        if (all_.size() >= kMaxBitmaps) {
            return refuse("Maximum number of persistent bitmaps is already reached");
        }
        live = &all_.emplace_back();
        live->stored.name = info.name;
    }
    live->stored.granularity_bits = granularity_bits;
    live->stored.flags = (live->stored.flags & ~kBitmapAuto) | (info.automatic ? kBitmapAuto : 0);
    live->bits = std::move(bitmap.bits);
    trim(live->bits, h.size, granularity_bits);
    live->loaded = live->changed = true;
    marked_ = false;
    return ok();
}

Result<> BitmapSet::remove(std::string_view name) {
    Live* live = find(name);
    if (live == nullptr) {
        return Error{ErrorKind::NotFound, fmt::format("Dirty bitmap '{}' not found", name), ENOENT};
    }
    removed_.push_back(std::move(live->stored));
    all_.erase(all_.begin() + (live - all_.data()));
    return ok();
}

// In the file, durably, before the first write that counts.
Task<> BitmapSet::mark(bool all) {
    const auto lock = co_await marking_.lock();
    bool any = false;
    for (Live& each : all_) {
        if (each.marked || !each.stored.usable() || (!all && !each.records())) {
            continue;
        }
        Result<> here = ok();
        if (!each.loaded) {
            here = co_await load_bits(each);
        }
        if (!here.ok() && all) {
            co_return here;
        }
        if (!here.ok()) {
            log::warn("a bitmap cannot be read and is given up image='{}' bitmap='{}': {}",
                      file_.name(), each.stored.name, here.error().text());
        }
        if (each.stored.table_offset != 0) {
            const Be32 flags = each.stored.flags | kBitmapInUse;
            STRATA_CO_TRY_VOID(
                co_await file_.write(extension_.directory_offset + each.stored.flags_place,
                                     Buffers::of(std::as_bytes(std::span(&flags, 1)))));
            any = true;
        }
        each.marked = here.ok();
        each.stored.flags |= here.ok() ? 0 : kBitmapInUse;
    }
    if (any) {
        STRATA_CO_TRY_VOID(co_await file_.flush());
    }
    marked_ = true;
    co_return ok();
}

Task<> BitmapSet::record(std::uint64_t offset, std::uint64_t length) {
    if (!marked_) {
        STRATA_CO_TRY_VOID(co_await mark(false));
    }
    for (Live& each : all_) {
        if (each.records() && length != 0) {
            set_bits(each.bits, offset >> each.stored.granularity_bits,
                     (offset + length - 1) >> each.stored.granularity_bits);
            each.changed = true;
        }
    }
    co_return ok();
}

Task<> BitmapSet::begin_resize() {
    for (const Live& each : all_) {
        if (!each.stored.usable()) {
            co_return broken(each.stored.name);
        }
    }
    co_return co_await mark(true);
}

void BitmapSet::end_resize(std::uint64_t size) {
    for (Live& each : all_) {
        trim(each.bits, size, each.stored.granularity_bits);
        each.changed = true;
    }
}

bool BitmapSet::dirty() const {
    return !removed_.empty() || std::any_of(all_.begin(), all_.end(), [](const Live& each) {
        return each.changed || each.marked;
    });
}

}  // namespace strata::block::qcow2
