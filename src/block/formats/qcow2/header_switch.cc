// Qcow2Node: another header in the place of the old one.
//
// The fields lie in the first sector of the file; the extensions and the backing file's name, to
// which they lead, may reach into others, and a write of several sectors may be torn. A header that
// differs from the old one in one sector is written as it is. Else the way leads over a copy:
//     extensions and name, behind all that the old and the new header use | FLUSH | the first
//     sector, leading there | FLUSH | the new header's other sectors | FLUSH | its first | FLUSH
// In version 3 a field tells where the extensions begin (what lies between counts as fields that
// are unknown and of no meaning). Version 2 has none, so only the name moves there, and the
// extensions must lie in the first sector, as those of any version 2 do that has no feature table.
#include <algorithm>
#include <optional>
#include <vector>

#include "block/formats/qcow2/qcow2.h"

namespace strata::block::qcow2 {
namespace {

constexpr std::size_t kSector = 512;

/// A header on its way: the sectors that lead to what was copied, and the copy's place.
struct Detour {
    std::vector<std::byte> bytes;
    std::size_t begin = 0, end = 0;
};

std::vector<std::size_t> sectors_that_differ(std::span<const std::byte> one,
                                             std::span<const std::byte> other) {
    std::vector<std::size_t> which;
    for (std::size_t at = 0; at < one.size(); at += kSector) {
        const std::size_t part = std::min(kSector, one.size() - at);
        if (!std::ranges::equal(one.subspan(at, part), other.subspan(at, part))) {
            which.push_back(at);
        }
    }
    return which;
}

/// The way from `old` to `wanted`, two first clusters, over `copied`, which says what the latter
/// says; nothing if there is no room for one.
std::optional<Detour> detour(std::span<const std::byte> old, std::span<const std::byte> wanted,
                             std::span<const std::byte> copied) {
    const std::size_t used = std::max({kSector, header_end(old), header_end(wanted)});
    const std::size_t to = (used + 7) / 8 * 8;
    // On the way to version 2 the old one moves, which can.
    const bool from_old = header_version(wanted) < 3 && header_version(old) >= 3;
    const auto moved = move_header(from_old ? old : copied, to);
    if (!moved) {
        return std::nullopt;
    }
    return Detour{*moved, to, std::max(to, header_end(*moved))};
}

}  // namespace

Task<> Qcow2Node::write_pieces(std::span<const std::byte> bytes, std::size_t begin,
                               std::size_t end) {
    if (begin < end) {
        STRATA_CO_TRY_VOID(
            co_await file_->write(begin, Buffers::of(bytes.subspan(begin, end - begin))));
    }
    co_return co_await file_->flush();
}

/// Brings header() to the file: a crash leaves the old one or the new one.
Task<> Qcow2Node::write_header() {
    STRATA_CO_TRY(std::vector<std::byte> wanted, serialise_header(header()));
    wanted.resize(cluster());
    std::vector<std::byte> old(cluster());
    STRATA_CO_TRY_VOID(co_await file_->read(0, Buffers(std::span(old))));
    const std::vector<std::size_t> differ = sectors_that_differ(old, wanted);
    if (differ.size() <= 1) {
        const std::size_t at = differ.empty() ? 0 : differ.front();
        co_return co_await write_pieces(wanted, at, differ.empty() ? 0 : at + kSector);
    }
    auto way = detour(old, wanted, wanted);
    if (!way && header().version >= 3) {
        STRATA_CO_TRY(std::vector<std::byte> brief, serialise_header(header(), false));
        brief.resize(cluster());
        way = detour(old, wanted, brief);
    }
    if (!way) {  // a small cluster and a long name
        co_return co_await write_pieces(wanted, 0, wanted.size());
    }
    STRATA_CO_TRY_VOID(co_await write_pieces(way->bytes, way->begin, way->end));
    STRATA_CO_TRY_VOID(co_await write_pieces(way->bytes, 0, kSector));
    STRATA_CO_TRY_VOID(co_await write_pieces(wanted, kSector, way->begin));
    STRATA_CO_TRY_VOID(co_await write_pieces(wanted, 0, kSector));
    co_return co_await file_->write(
        way->begin, Buffers::of(std::span<const std::byte>(wanted).subspan(way->begin)));
}

}  // namespace strata::block::qcow2
