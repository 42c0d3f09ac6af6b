// Qcow2Node: writing: in place where the disk owns the cluster, else into new clusters that are
// complete before a table names them.
#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "block/formats/qcow2/claim.h"
#include "block/formats/qcow2/compression.h"
#include "block/formats/qcow2/qcow2.h"

namespace strata::block::qcow2 {
namespace {

constexpr unsigned kSubclusters = 32;
constexpr std::uint64_t kSmallWrite = 16U << 10;
constexpr std::uint64_t kMaxRun = 4U << 20;  ///< bytes of new clusters at a time

std::uint32_t bits(std::uint64_t first, std::uint64_t end) {
    return static_cast<std::uint32_t>(((1ULL << end) - 1) & ~((1ULL << first) - 1));
}

}  // namespace

bool Qcow2Node::claimed(std::uint64_t first, std::uint64_t end) const {
    return std::any_of(claims_.begin(), claims_.end(),
                       [&](const Stretch& each) { return first < each.end && each.first < end; });
}

/// [within, within + length) of the cluster can be written where it lies.
bool Qcow2Node::in_place(const Mapping& m, std::uint64_t within, std::uint64_t length) const {
    if (m.kind != Mapping::Kind::Normal || !m.copied) {
        return false;
    }
    if (!header().extended() || m.allocated == ~0U) {
        return true;
    }
    const std::uint64_t unit = cluster() / kSubclusters;
    const std::uint32_t touched = bits(within / unit, (within + length + unit - 1) / unit);
    return (m.allocated & touched) == touched;
}

Task<> Qcow2Node::relieve() {
    if (metadata_->loaded()) {
        STRATA_CO_TRY_VOID(co_await metadata_->write_back());
    }
    co_return ok();
}

// Answers the bytes written: as far as the clusters lie side by side.
Task<std::uint64_t> Qcow2Node::write_in_place(std::uint64_t offset, Buffers from, Mapping first) {
    const std::uint64_t within = offset % cluster();
    std::uint64_t part = std::min<std::uint64_t>(from.size(), cluster() - within);
    Result<Mapping> next = Mapping{};
    while (part < from.size()) {
        const std::uint64_t more = std::min<std::uint64_t>(from.size() - part, cluster());
        const std::uint64_t index = (offset + part) / cluster();
        if (claimed(index, index + 1) || !metadata_->look_up_now(offset + part, next) ||
            !next.ok() || !in_place(*next, 0, more) || next->host != first.host + within + part) {
            break;
        }
        part += more;
    }
    file_->note(NodeEvent::WriteAio);
    STRATA_CO_TRY_VOID(co_await write_data(first.host + within, offset, from.slice(0, part)));
    co_return part;
}

/// What a stretch of a cluster showed so far; nothing if that is zeros and the new place has them
/// already.
Task<AlignedBuffer> Qcow2Node::old_content(std::uint64_t offset, std::uint64_t length, Mapping m,
                                           bool zeroed) {
    const bool zero = m.kind == Mapping::Kind::Zero ||
                      (m.kind == Mapping::Kind::Unallocated && nothing_below(offset));
    if (length == 0 || (zero && zeroed)) {
        co_return AlignedBuffer();
    }
    AlignedBuffer content(length);
    STRATA_CO_TRY_VOID(co_await read_piece(offset, content.view(), m));
    if (zeroed && is_zero(content.bytes())) {
        co_return AlignedBuffer();
    }
    co_return std::move(content);
}

/// The table entry of a cluster at `host` of which [from, to) was written.
Entry Qcow2Node::entry_for(const Mapping& old, std::uint64_t host, std::uint64_t from,
                           std::uint64_t to, bool reused) const {
    Entry entry{host | kCopied, 0};
    if (header().extended()) {
        const std::uint64_t unit = cluster() / kSubclusters;
        const std::uint32_t written = bits(from / unit, (to + unit - 1) / unit);
        const std::uint32_t allocated = written | (reused ? old.allocated : 0);
        entry.bitmap = allocated | std::uint64_t{old.zero & ~allocated} << 32;
    }
    return entry;
}

// `data` for `offset`, and what [begin, end) of the disk round it had, into `place`.
Task<> Qcow2Node::write_between(std::uint64_t offset, Buffers data, Mapping first, Mapping last,
                                Allocation place, std::uint64_t begin, std::uint64_t end) {
    const std::uint64_t host = place.host + begin % cluster(), before = offset - begin,
                        behind = offset + data.size();
    if (before + (end - behind) != 0 && end - begin <= cluster() && data.size() <= kSmallWrite) {
        // One transfer each way.
        STRATA_CO_TRY(const AlignedBuffer whole,
                      co_await old_content(begin, end - begin, first, place.zeroed));
        if (whole.size() != 0) {
            data.copy_to(whole.bytes().subspan(before));
            co_return co_await write_data(host, begin, whole.view());
        }
        co_return co_await write_data(host + before, offset, data);
    }
    STRATA_CO_TRY(const AlignedBuffer head,
                  co_await old_content(begin, before, first, place.zeroed));
    STRATA_CO_TRY(const AlignedBuffer tail,
                  co_await old_content(behind, end - behind, last, place.zeroed));
    const std::uint64_t at = host + before - head.size();
    if (head.size() == 0 && tail.size() == 0) {
        co_return co_await write_data(at, offset, data);
    }
    std::vector<iovec> pieces;
    head.view().append_to(pieces);
    data.append_to(pieces);
    tail.view().append_to(pieces);
    co_return co_await write_data(at, offset - head.size(),
                                  Buffers(std::span<const iovec>(pieces)));
}

// The new clusters are complete before the tables name them; the old ones stay as they are until
// that is durable.
Task<std::uint64_t> Qcow2Node::write_into(std::uint64_t offset, Buffers from,
                                          std::vector<Mapping> olds, Allocation place,
                                          bool reused) {
    const std::uint64_t within = offset % cluster(), start = offset - within;
    const std::uint64_t part =
        std::min<std::uint64_t>(from.size(), place.clusters * cluster() - within);
    const std::uint64_t end = within + part, limit = place.clusters * cluster();
    const Mapping& first = olds.front();
    const Mapping& last = olds[place.clusters - 1];
    // Subclusters that show what lies below may go on doing so; whatever the image itself had moves
    // along.
    const std::uint64_t unit = header().extended() ? cluster() / kSubclusters : cluster();
    const auto moves = [&](const Mapping& old) {
        return !reused && (old.kind == Mapping::Kind::Compressed ||
                           (old.kind == Mapping::Kind::Normal && old.allocated != 0));
    };
    std::uint64_t head_from = moves(first) ? 0 : within / unit * unit;
    std::uint64_t tail_to = moves(last) ? limit : (end + unit - 1) / unit * unit;
    if (reused && header().extended()) {
        head_from = (first.allocated >> (within / unit) & 1) != 0 ? within : head_from;
        tail_to = (last.allocated >> ((end - 1) / unit) & 1) != 0 ? end : tail_to;
    }
    file_->note(NodeEvent::WriteAio);
    STRATA_CO_TRY_VOID(co_await write_between(offset, from.slice(0, part), first, last, place,
                                              start + head_from, start + tail_to));
    for (std::uint64_t i = 0; i < place.clusters; ++i) {
        const std::uint64_t lower = i == 0 ? head_from : 0;
        const std::uint64_t upper = i + 1 == place.clusters ? tail_to - i * cluster() : cluster();
        STRATA_CO_TRY_VOID(co_await metadata_->set(
            start + i * cluster(),
            entry_for(olds[i], place.host + i * cluster(), lower, upper, reused)));
        if (!reused) {
            metadata_->release(olds[i]);
        }
    }
    co_return part;
}

// Gives clusters to as much of [offset, offset + from.size()) as lacks them and gets them side by
// side.
Task<std::uint64_t> Qcow2Node::write_new(std::uint64_t offset, Buffers from, Mapping first) {
    const std::uint64_t index = offset / cluster();
    const std::uint64_t most =
        std::min<std::uint64_t>((offset % cluster() + from.size() + cluster() - 1) / cluster(),
                                std::max<std::uint64_t>(1, kMaxRun / cluster()));
    const bool reused = first.host != 0 && first.copied && first.kind != Mapping::Kind::Compressed;
    std::vector<Mapping> olds{first};
    Result<Mapping> next = Mapping{};
    while (!reused && olds.size() < most) {
        const std::uint64_t at = index + olds.size();
        if (claimed(at, at + 1) || !metadata_->look_up_now(at * cluster(), next) || !next.ok() ||
            (next->host != 0 && next->copied && next->kind != Mapping::Kind::Compressed)) {
            break;
        }
        olds.push_back(*next);
    }
    Claim claim(*this, index, index + olds.size());
    Allocation place{first.host, 1, false};
    const bool elsewhere = data_ != file_;
    if (elsewhere) {
        place = Allocation{index * cluster(), olds.size(), false};
    } else if (!reused) {
        STRATA_CO_TRY_VOID(co_await metadata_->prepare(offset));
        STRATA_CO_TRY(place, co_await metadata_->allocate(olds.size()));
        claim.shrink(index + place.clusters);
        place.zeroed = place.zeroed && header().encryption == 0;
    }
    auto written = co_await write_into(offset, from, std::move(olds), place, reused);
    if (!written.ok() && !reused && !elsewhere) {
        STRATA_CO_TRY_VOID(co_await take_back(index, place));
    }
    co_return written;
}

// After a failure: what the tables do not name is free again.
Task<> Qcow2Node::take_back(std::uint64_t index, Allocation place) {
    for (std::uint64_t i = 0; i < place.clusters; ++i) {
        const std::uint64_t host = place.host + i * cluster();
        auto now = co_await look_up((index + i) * cluster());
        if (now.ok() && now->host != host) {
            STRATA_CO_TRY_VOID(co_await metadata_->give_back(host, 1));
        }
    }
    co_return ok();
}

Task<> Qcow2Node::write_inside(std::uint64_t offset, Buffers from) {
    while (!from.empty()) {
        const std::uint64_t index = offset / cluster();
        const std::uint64_t length =
            std::min<std::uint64_t>(from.size(), cluster() - offset % cluster());
        if (claimed(index, index + 1)) {
            co_await claims_change_.wait();
            continue;
        }
        STRATA_CO_TRY(const Mapping m, co_await look_up(offset));
        if (claimed(index, index + 1)) {
            continue;
        }
        std::uint64_t done = 0;
        if (in_place(m, offset % cluster(), length)) {
            STRATA_CO_TRY(done, co_await write_in_place(offset, from, m));
        } else {
            STRATA_CO_TRY(done, co_await write_new(offset, from, m));
        }
        from = from.from(done);
        offset += done;
    }
    co_return ok();
}

Task<> Qcow2Node::write(std::uint64_t offset, Buffers from) {
    STRATA_CO_TRY_VOID(check_change(offset, from.size()));
    STRATA_CO_TRY(const auto pass, co_await gate_.shared());
    STRATA_CO_TRY_VOID(co_await relieve());
    if (!bitmaps_.empty()) {
        STRATA_CO_TRY_VOID(co_await bitmaps_.record(offset, from.size()));
    }
    const Metadata::Passage passage(*metadata_);
    co_return co_await write_bytes(offset, from);
}

Task<> Qcow2Node::write_compressed(std::uint64_t offset, Buffers from) {
    if (from.size() > cluster()) {
        co_return Error{ErrorKind::InvalidArgument, "a compressed write is one whole cluster",
                        EINVAL};
    }
    co_return co_await write_packed(offset, from);
}

// For a worker: the bytes of all, one behind the other; answers how many.
std::size_t Qcow2Node::pack_clusters(std::span<Pack> packs, Compression method,
                                     std::uint64_t offset, std::span<const std::byte> from,
                                     std::span<std::byte> to) {
    const std::size_t cluster = from.size() / packs.size();
    std::size_t end = 0;
    for (std::size_t i = 0; i < packs.size(); ++i) {
        // A field of the L2 entry counts whole sectors: one less than a cluster always fits.
        packs[i] = {
            offset + i * cluster, end, 0,
            compress(method, from.subspan(i * cluster, cluster), to.subspan(end, cluster - 512))};
        end += packs[i].size;
    }
    return end;
}

// Clusters that were compressed together mostly lie side by side in the file, too: one write. The
// data are there before the tables name them, as ever.
Task<> Qcow2Node::place_packs(std::vector<Pack>& packs, std::span<std::byte> bytes) {
    std::erase_if(packs, [](const Pack& each) { return each.size == 0; });
    for (Pack& each : packs) {
        STRATA_CO_TRY(const Mapping old, co_await look_up(each.guest));
        if (old.host != 0) {
            co_return Error{
                ErrorKind::WrongState,
                fmt::format("'{}': the cluster at {} has data already", name(), each.guest),
                EEXIST};
        }
        STRATA_CO_TRY_VOID(co_await metadata_->prepare(each.guest));
    }
    for (Pack& each : packs) {
        STRATA_CO_TRY(each.host, co_await metadata_->allocate_packed(each.size));
        forget_unpacked(each.host);
    }
    for (std::size_t first = 0, next = 0; first < packs.size(); first = next) {
        std::size_t size = 0;
        while (next < packs.size() && packs[next].host == packs[first].host + size) {
            size += packs[next++].size;
        }
        STRATA_CO_TRY_VOID(co_await file_->write(packs[first].host,
                                                 Buffers(bytes.subspan(packs[first].from, size))));
    }
    const unsigned split = 62 - (header().cluster_bits - 8);
    for (const Pack& each : packs) {
        const std::uint64_t sectors = (each.host % 512 + each.size - 1) / 512;
        STRATA_CO_TRY_VOID(co_await metadata_->set(
            each.guest, Entry{each.host | sectors << split | kCompressed, 0}));
    }
    co_return ok();
}

Result<> Qcow2Node::check_packed(std::uint64_t offset, std::uint64_t length) const {
    STRATA_TRY_VOID(check_change(offset, length));
    if (data_ != file_) {
        return lacks("compressed clusters with a data file of their own");
    }
    if (header().encryption != 0) {
        return lacks("compressed clusters when it is encrypted");
    }
    if (offset % cluster() != 0 || (length % cluster() != 0 && offset + length != size_)) {
        return Error{ErrorKind::InvalidArgument, "a compressed write is of whole clusters", EINVAL};
    }
    return ok();
}

Task<> Qcow2Node::write_packed(std::uint64_t offset, Buffers from) {
    if (from.empty()) {
        co_return ok();
    }
    STRATA_CO_TRY_VOID(check_packed(offset, from.size()));
    STRATA_CO_TRY(const auto pass, co_await gate_.shared());
    STRATA_CO_TRY_VOID(co_await relieve());
    if (!bitmaps_.empty()) {
        STRATA_CO_TRY_VOID(co_await bitmaps_.record(offset, from.size()));
    }
    const Metadata::Passage passage(*metadata_);
    const std::uint64_t count = (from.size() + cluster() - 1) / cluster();
    const AlignedBuffer packed(count * cluster());
    std::vector<std::byte> padded;
    std::span<std::byte> whole;
    if (from.size() % cluster() != 0 || !from.contiguous(whole)) {
        padded.resize(count * cluster());
        from.copy_to(padded);
        whole = padded;
    }
    std::vector<Pack> packs(count);
    const Compression method = header().compression;
    const std::span<std::byte> out = packed.bytes();
    const std::size_t size = co_await loop().offload([&packs, method, whole, offset, out] {
        return pack_clusters(packs, method, offset, whole, out);
    });
    for (const Pack& each : packs) {
        const std::size_t at = each.guest - offset;
        if (each.size == 0) {
            STRATA_CO_TRY_VOID(co_await write_inside(
                each.guest, from.slice(at, std::min<std::size_t>(cluster(), from.size() - at))));
        }
    }
    const std::uint64_t index = offset / cluster();
    while (claimed(index, index + count)) {
        co_await claims_change_.wait();
    }
    const Claim claim(*this, index, index + count);
    co_return co_await place_packs(packs, out.first(size));
}

void Qcow2Node::forget_unpacked(std::uint64_t host) {
    for (Unpacked& each : unpacked_) {
        each.content = each.host == host ? nullptr : each.content;
    }
}

}  // namespace strata::block::qcow2
