// VhdxLog: finding the active sequence, and what it writes.
#include "block/formats/vhdx/log.h"

#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "base/endian.h"

namespace strata::block::vhdx {
namespace {

constexpr std::uint32_t kEntry = 0x65676F6C, kZeroDescriptor = 0x6F72657A,
                        kDataDescriptor = 0x63736564, kData = 0x61746164;
constexpr std::uint64_t kSector = 4096;
constexpr std::uint64_t kMaxOffset = 1ULL << 56;

struct WireEntry {
    Le32 signature, checksum, length, tail;
    Le64 sequence;
    Le32 descriptors, reserved;
    RawUuid log{};
    Le64 flushed, last;
};
struct WireDescriptor {
    Le32 signature, trailing;
    Le64 leading, offset, sequence;  // of a zero descriptor: `leading` is the length
};
static_assert(sizeof(WireEntry) == 64 && sizeof(WireDescriptor) == 32);

/// The ring, and how much checksumming may still be done on it: hostile logs could ask for the
/// square of their size.
struct Ring {
    std::span<const std::byte> bytes;
    RawUuid id{};
    std::uint64_t budget = 0;

    /// `length` bytes at `offset`, unwrapped.
    [[nodiscard]] std::vector<std::byte> take(std::uint64_t offset, std::uint64_t length) const {
        std::vector<std::byte> out(length);
        const std::uint64_t first = std::min<std::uint64_t>(length, bytes.size() - offset);
        std::memcpy(out.data(), bytes.data() + offset, first);
        std::memcpy(out.data() + first, bytes.data(), length - first);
        return out;
    }
};

std::uint32_t checksum_of(std::span<const std::byte> bytes) {
    constexpr std::array<std::byte, 4> kZeros{};
    return crc32c(bytes.subspan(8), crc32c(kZeros, crc32c(bytes.first(4))));
}

std::uint64_t descriptor_bytes(std::uint32_t count) {
    return round_up(sizeof(WireEntry) + std::uint64_t{count} * sizeof(WireDescriptor), kSector);
}

/// The header of the entry at `offset`, if a whole and sound one is there.
std::optional<WireEntry> entry_at(Ring& ring, std::uint64_t offset) {
    const auto wire = get<WireEntry>(ring.bytes, offset);  // sectors never straddle the ring's end
    if (wire.signature != kEntry || wire.length % kSector != 0 || wire.length == 0 ||
        wire.length > ring.bytes.size() || wire.tail % kSector != 0 ||
        wire.tail >= ring.bytes.size() || wire.sequence == 0 || wire.log != ring.id ||
        descriptor_bytes(wire.descriptors) > wire.length || ring.budget < wire.length) {
        return std::nullopt;
    }
    ring.budget -= wire.length;
    const auto bytes = ring.take(offset, wire.length);
    if (checksum_of(bytes) != wire.checksum) {
        return std::nullopt;
    }
    std::uint64_t data = descriptor_bytes(wire.descriptors);
    for (std::uint32_t i = 0; i < wire.descriptors; ++i) {
        const auto each =
            get<WireDescriptor>(bytes, sizeof wire + std::size_t{i} * sizeof(WireDescriptor));
        if (each.sequence != wire.sequence || each.offset % kSector != 0 ||
            each.offset > kMaxOffset) {
            return std::nullopt;
        }
        if (each.signature == kZeroDescriptor) {
            if (each.leading % kSector != 0 || each.leading > kMaxOffset) {
                return std::nullopt;
            }
            continue;
        }
        if (each.signature != kDataDescriptor || data + kSector > bytes.size()) {
            return std::nullopt;
        }
        const std::uint64_t sequence =
            std::uint64_t{get<Le32>(bytes, data + 4)} << 32 | get<Le32>(bytes, data + kSector - 4);
        if (get<Le32>(bytes, data) != kData || sequence != wire.sequence) {
            return std::nullopt;
        }
        data += kSector;
    }
    return wire;
}

struct Sequence {
    std::vector<std::uint64_t> entries;  ///< offsets, oldest first
    std::uint64_t number = 0;            ///< of the last
    std::uint64_t tail = 0;              ///< where the last says that replay begins
    [[nodiscard]] bool holds() const {
        return std::find(entries.begin(), entries.end(), tail) != entries.end();
    }
};

Sequence sequence_from(Ring& ring, std::uint64_t start) {
    Sequence out;
    std::uint64_t at = start, covered = 0;
    while (true) {
        const auto entry = entry_at(ring, at);
        if (!entry || (!out.entries.empty() && entry->sequence != out.number + 1) ||
            covered + entry->length > ring.bytes.size()) {
            return out;
        }
        out.entries.push_back(at);
        out.number = entry->sequence;
        out.tail = entry->tail;
        covered += entry->length;
        at = (at + entry->length) % ring.bytes.size();
    }
}

void gather(const Ring& ring, std::uint64_t offset, LogPatch& patch) {
    const auto wire = get<WireEntry>(ring.bytes, offset);
    const auto bytes = ring.take(offset, wire.length);
    std::uint64_t data = descriptor_bytes(wire.descriptors);
    for (std::uint32_t i = 0; i < wire.descriptors; ++i) {
        const auto each =
            get<WireDescriptor>(bytes, sizeof wire + std::size_t{i} * sizeof(WireDescriptor));
        if (each.signature == kZeroDescriptor) {
            patch.zero(each.offset, each.leading);
            continue;
        }
        std::vector<std::byte> sector(bytes.begin() + static_cast<std::ptrdiff_t>(data),
                                      bytes.begin() + static_cast<std::ptrdiff_t>(data + kSector));
        put(sector, 0, each.leading);
        put(sector, kSector - 4, each.trailing);
        patch.set(each.offset, std::move(sector));
        data += kSector;
    }
    patch.file_size = std::max<std::uint64_t>(patch.file_size, wire.last);
    patch.flushed_size = std::max<std::uint64_t>(patch.flushed_size, wire.flushed);
}

}  // namespace

void LogPatch::cut(std::uint64_t offset, std::uint64_t length) {
    const std::uint64_t end = offset + length;
    auto it = ranges_.upper_bound(offset);
    if (it != ranges_.begin()) {
        --it;
    }
    while (it != ranges_.end() && it->first < end) {
        const std::uint64_t start = it->first;
        Range range = std::move(it->second);
        const std::uint64_t stop = start + range.length;
        if (stop <= offset) {
            it->second = std::move(range);
            ++it;
            continue;
        }
        it = ranges_.erase(it);
        const auto part = [&range, start](std::uint64_t from, std::uint64_t to) {
            Range out{to - from, {}};
            if (!range.data.empty()) {
                out.data.assign(range.data.begin() + static_cast<std::ptrdiff_t>(from - start),
                                range.data.begin() + static_cast<std::ptrdiff_t>(to - start));
            }
            return out;
        };
        if (start < offset) {
            ranges_.emplace(start, part(start, offset));
        }
        if (stop > end) {
            it = ranges_.emplace(end, part(end, stop)).first;
        }
    }
}

void LogPatch::set(std::uint64_t offset, std::vector<std::byte> data) {
    cut(offset, data.size());
    const std::uint64_t length = data.size();
    ranges_[offset] = Range{length, std::move(data)};
}

void LogPatch::zero(std::uint64_t offset, std::uint64_t length) {
    if (length != 0) {
        cut(offset, length);
        ranges_[offset] = Range{length, {}};
    }
}

void LogPatch::apply(std::uint64_t offset, std::span<std::byte> bytes) const {
    const std::uint64_t end = offset + bytes.size();
    auto it = ranges_.upper_bound(offset);
    if (it != ranges_.begin()) {
        --it;
    }
    for (; it != ranges_.end() && it->first < end; ++it) {
        const std::uint64_t from = std::max(it->first, offset);
        const std::uint64_t to = std::min(it->first + it->second.length, end);
        if (from >= to) {
            continue;
        }
        if (it->second.data.empty()) {
            std::memset(bytes.data() + (from - offset), 0, to - from);
        } else {
            std::memcpy(bytes.data() + (from - offset), it->second.data.data() + (from - it->first),
                        to - from);
        }
    }
}

Result<LogPatch> replay_log(std::span<const std::byte> log, const RawUuid& id,
                            std::string_view name) {
    if (log.empty() || log.size() % kSector != 0) {
        return broken_image("VHDX", name, "it has a log to replay, and no log");
    }
    Ring ring{log, id, log.size() * 8};
    Sequence best;
    for (std::uint64_t at = 0; at < log.size();) {
        Sequence found = sequence_from(ring, at);
        if (found.holds() && found.number > best.number) {
            best = found;
        }
        if (found.entries.empty()) {
            at += kSector;
            continue;
        }
        // Behind the last entry of the run; a run that wraps ends the search.
        const std::uint64_t last = found.entries.back();
        const std::uint64_t next = last + get<WireEntry>(log, last).length;
        at = last >= at ? next : log.size();
    }
    if (best.entries.empty()) {
        return broken_image("VHDX", name, "its log has no valid sequence: the image is damaged");
    }
    LogPatch patch;
    const auto first = std::find(best.entries.begin(), best.entries.end(), best.tail);
    for (auto it = first; it != best.entries.end(); ++it) {
        gather(ring, *it, patch);
    }
    return patch;
}

}  // namespace strata::block::vhdx
