// Qcow2Node: reading, and what lies where.
#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "block/formats/qcow2/compression.h"
#include "block/formats/qcow2/qcow2.h"

namespace strata::block::qcow2 {
namespace {

constexpr unsigned kSubclusters = 32;
constexpr std::size_t kReadsAtATime = 16, kUnpackedKept = 8;
constexpr std::size_t kUnpackedAtATime = 256U << 10;
constexpr std::uint64_t kCountsLookedAt = 8U << 20, kCountsAtATime = 64U << 10;

}  // namespace

/// An image's cluster is all its own and has no holes.
bool Qcow2Node::plain(const Mapping& m) const {
    return m.kind == Mapping::Kind::Normal && (!header().extended() || m.allocated == ~0U);
}

/// Opened without what lies below, a hole is none: others see through it.
bool Qcow2Node::nothing_below(std::uint64_t offset) const {
    return backing_ == nullptr ? header().backing.empty() : offset >= backing_->size();
}

Task<Mapping> Qcow2Node::look_up(std::uint64_t offset) {
    Result<Mapping> found = Mapping{};
    if (metadata_->look_up_now(offset, found)) {
        co_return found;
    }
    co_return co_await metadata_->look_up(offset);
}

Task<> Qcow2Node::read_compressed(std::uint64_t offset, Buffers into, Mapping m) {
    const std::uint64_t within = offset % cluster();
    for (const Unpacked& each : unpacked_) {
        if (each.host == m.host && each.content) {
            into.copy_from(std::span(*each.content).subspan(within, into.size()));
            co_return ok();
        }
    }
    AlignedBuffer packed(m.length);
    STRATA_CO_TRY_VOID(co_await file_->read(m.host, packed.view()));
    const Compression method = header().compression;
    const std::span<const std::byte> from = packed.bytes();
    std::span<std::byte> to;
    const bool direct = into.size() == cluster() && into.contiguous(to);
    const auto whole = std::make_shared<std::vector<std::byte>>(direct ? 0 : cluster());
    to = direct ? to : std::span<std::byte>(*whole);
    const bool good =
        co_await loop().offload([method, from, to] { return decompress(method, from, to); });
    if (!good) {
        co_return metadata_->corrupt(
            fmt::format("the compressed cluster at {:#x} (for {:#x}) is broken", m.host, offset));
    }
    if (direct) {
        co_return ok();
    }
    into.copy_from(std::span(*whole).subspan(within, into.size()));
    if (into.size() != cluster()) {  // the rest may be read next
        if (unpacked_.size() < kUnpackedKept) {
            unpacked_.emplace_back();
        }
        next_unpacked_ = (next_unpacked_ + 1) % unpacked_.size();
        unpacked_[next_unpacked_] = {m.host, whole};
    }
    co_return ok();
}

Task<> Qcow2Node::read_subclusters(std::uint64_t offset, Buffers into, Mapping m) {
    const std::uint64_t bytes = cluster() / kSubclusters;
    while (!into.empty()) {
        const std::uint64_t within = offset % cluster();
        const auto kind_of = [&](std::uint64_t bit) {
            return (m.allocated >> bit & 1) != 0 ? 0 : (m.zero >> bit & 1) != 0 ? 1 : 2;
        };
        const std::uint64_t first = within / bytes;
        std::uint64_t end = first + 1;
        while (end < kSubclusters && end * bytes < within + into.size() &&
               kind_of(end) == kind_of(first)) {
            ++end;
        }
        const std::size_t part = std::min<std::uint64_t>(into.size(), end * bytes - within);
        switch (kind_of(first)) {
            case 0:
                STRATA_CO_TRY_VOID(
                    co_await read_data(m.host + within, offset, into.slice(0, part)));
                break;
            case 1:
                into.slice(0, part).fill(std::byte{0});
                break;
            default:
                STRATA_CO_TRY_VOID(
                    co_await read_or_zero(backing_.get(), offset, into.slice(0, part)));
                break;
        }
        into = into.from(part);
        offset += part;
    }
    co_return ok();
}

Task<> Qcow2Node::read_piece(std::uint64_t offset, Buffers into, Mapping m) {
    switch (m.kind) {
        case Mapping::Kind::Unallocated:
            co_return co_await read_or_zero(backing_.get(), offset, into);
        case Mapping::Kind::Zero:
            into.fill(std::byte{0});
            co_return ok();
        case Mapping::Kind::Compressed:
            co_return co_await read_compressed(offset, into, m);
        case Mapping::Kind::Normal:
            break;
    }
    if (!plain(m)) {
        co_return co_await read_subclusters(offset, into, m);
    }
    file_->note(NodeEvent::ReadAio);
    co_return co_await read_data(m.host + offset % cluster(), offset, into);
}

/// The whole compressed clusters from `offset` on whose bytes lie one behind the other, the last
/// one's end being the farthest, as far as memory tells of them and `into` has a place for each.
std::vector<Qcow2Node::Packed> Qcow2Node::packed_run(std::uint64_t offset, const Buffers& into,
                                                     const Mapping& first) {
    std::vector<Packed> run;
    Result<Mapping> next = first;
    const std::size_t most = std::min(into.size(), kUnpackedAtATime);
    for (std::size_t at = 0; at + cluster() <= most; at += cluster()) {
        Packed one;
        one.guest = offset + at;
        if (!into.slice(at, cluster()).contiguous(one.to) ||
            (at != 0 && (!metadata_->look_up_now(one.guest, next) || !next.ok()))) {
            break;
        }
        one.host = next->host;
        one.length = next->length;
        if (next->kind != Mapping::Kind::Compressed || (!run.empty() && !one.follows(run.back()))) {
            break;
        }
        run.push_back(one);
    }
    return run;
}

std::vector<PackedPiece> Qcow2Node::packed_pieces(std::uint64_t offset, std::uint64_t length) {
    std::vector<PackedPiece> pieces;
    Result<Mapping> found = Mapping{};
    while (offset % cluster() == 0 && length >= cluster() &&
           metadata_->look_up_now(offset, found) && found.ok() &&
           found->kind == Mapping::Kind::Compressed) {
        pieces.push_back({offset, found->host, found->length});
        offset += cluster();
        length -= cluster();
    }
    return pieces;
}

PackedSource::Unpack Qcow2Node::unpacker() const {
    return header().compression == Compression::Zstd
               ? Unpack{[](std::span<const std::byte> in, std::span<std::byte> out) {
                     return decompress(Compression::Zstd, in, out);
                 }}
               : Unpack{[](std::span<const std::byte> in, std::span<std::byte> out) {
                     return decompress(Compression::Zlib, in, out);
                 }};
}

// One read, one job for a worker.
Task<> Qcow2Node::unpack(std::vector<Packed> run) {
    const std::uint64_t begin = run.front().host;
    AlignedBuffer packed(run.back().host + run.back().length - begin);
    STRATA_CO_TRY_VOID(co_await file_->read(begin, packed.view()));
    const Compression method = header().compression;
    const std::span<const std::byte> bytes = packed.bytes();
    const std::size_t good = co_await loop().offload([&run, method, bytes, begin] {
        std::size_t done = 0;
        while (done < run.size() &&
               decompress(method, bytes.subspan(run[done].host - begin, run[done].length),
                          run[done].to)) {
            ++done;
        }
        return done;
    });
    if (good != run.size()) {
        co_return metadata_->corrupt(
            fmt::format("the compressed cluster at {:#x} (for {:#x}) is broken", run[good].host,
                        run[good].guest));
    }
    co_return ok();
}

// Runs of clusters that lie side by side are one transfer; several runs go at once.
Task<> Qcow2Node::read_inside(std::uint64_t offset, Buffers into) {
    TaskGroup group(loop(), kReadsAtATime);
    Result<> failure = ok();
    while (!into.empty() && !group.failed()) {
        std::uint64_t part = std::min<std::uint64_t>(into.size(), cluster() - offset % cluster());
        auto first = co_await look_up(offset);
        if (!first.ok()) {
            failure = std::move(first).error();
            break;
        }
        if (first->kind == Mapping::Kind::Compressed && offset % cluster() == 0) {
            std::vector<Packed> run = packed_run(offset, into, *first);
            if (const std::size_t bytes = run.size() * cluster(); run.size() > 1) {
                (void)co_await group.add(unpack(std::move(run)));
                into = into.from(bytes);
                offset += bytes;
                continue;
            }
        }
        while (part < into.size() && first->kind != Mapping::Kind::Compressed) {
            auto next = co_await look_up(offset + part);
            const bool joins = next.ok() && next->kind == first->kind &&
                               (first->kind != Mapping::Kind::Normal ||
                                (plain(*first) && plain(*next) &&
                                 next->host == first->host + offset % cluster() + part));
            if (!joins) {
                break;
            }
            part += std::min<std::uint64_t>(into.size() - part, cluster());
        }
        if (part == into.size() && group.running() == 0) {
            co_return co_await read_piece(offset, into, *first);
        }
        (void)co_await group.add(read_piece(offset, into.slice(0, part), *first));
        into = into.from(part);
        offset += part;
    }
    Result<> done = co_await group.finish();
    co_return failure.ok() ? std::move(done) : std::move(failure);
}

Task<> Qcow2Node::read(std::uint64_t offset, Buffers into) {
    STRATA_CO_TRY_VOID(check_range(offset, into.size(), false));
    STRATA_CO_TRY(const auto pass, co_await gate_.shared());
    const Metadata::Passage passage(*metadata_);
    co_return co_await read_inside(offset, into);
}

/// Whether clusters were given in advance: the host's file has clearly less than is in use there.
/// Asked once; what is given back later is found by whoever asks. Of an image that takes too long
/// to count, however it came to that, the answer is no.
Task<bool> Qcow2Node::detect_holes() {
    if (given_ahead_) {
        co_return *given_ahead_;
    }
    given_ahead_ = false;
    const auto allocated = co_await file_->allocated_bytes();
    if (data_ != file_ || !allocated.ok()) {
        co_return false;
    }
    const std::uint64_t here = *allocated / cluster();
    const std::uint64_t most = std::max(here * 10 / 9, here + 2);
    if (metadata_->end() / cluster() >= most && most <= kCountsLookedAt) {
        STRATA_CO_TRY(given_ahead_, co_await uses(most));
    }
    co_return *given_ahead_;
}

/// Whether `clusters` of the file are in use, as far as a bounded look at the counts tells.
Task<bool> Qcow2Node::uses(std::uint64_t clusters) {
    const std::uint64_t all = metadata_->end() / cluster(),
                        per_block = header().refcounts_per_block();
    std::uint64_t used = 0;
    for (std::uint64_t index = 0, looked = 0; index < all && used < clusters; ++index) {
        const auto& table = metadata_->refcount_table();
        const std::uint64_t block = index / per_block;
        if (block >= table.size() || looked == kCountsLookedAt) {
            break;
        }
        if ((table[block] & kOffsetMask) == 0) {
            index = (block + 1) * per_block - 1;
            continue;
        }
        if (++looked % kCountsAtATime == 0) {
            co_await loop().yield();
        }
        const auto count = co_await metadata_->refcount(index);
        if (!count.ok()) {
            co_return false;  // an image whose counts cannot be read may be read all the same
        }
        used += *count != 0 ? 1 : 0;
    }
    co_return used >= clusters;
}

Task<Extent> Qcow2Node::status(std::uint64_t offset, std::uint64_t length) {
    STRATA_CO_TRY_VOID(check_range(offset, length, false));
    STRATA_CO_TRY(const auto pass, co_await gate_.shared());
    STRATA_CO_TRY(Extent extent, co_await mapped(offset, length));
    if (extent.kind != Extent::Kind::Data || !extent.has_offset || extent.offset % 512 != 0) {
        co_return extent;
    }
    STRATA_CO_TRY(const bool holes, co_await detect_holes());
    if (holes) {
        STRATA_CO_TRY(const Extent below, co_await data_->status(extent.offset, extent.length));
        extent.length = std::min(extent.length, below.length);
        extent.kind = below.kind == Extent::Kind::Zero ? Extent::Kind::Zero : extent.kind;
    }
    co_return extent;
}

/// By the tables alone.
Task<Extent> Qcow2Node::mapped(std::uint64_t offset, std::uint64_t length) {
    Extent extent;
    std::uint64_t done = 0;
    const std::uint64_t unit = header().extended() ? cluster() / kSubclusters : cluster();
    while (done < length) {
        const std::uint64_t at = offset + done;
        std::uint64_t part = std::min(length - done, unit - at % unit);
        STRATA_CO_TRY(const Mapping m, co_await look_up(at));
        if (const std::uint64_t run =
                metadata_->run_now(at, (length - done + cluster() - 1) / cluster());
            run > 1) {
            part = std::min(length - done, run * cluster() - at % cluster());
        }
        Extent here{.kind = Extent::Kind::Data, .owner = this};
        const unsigned bit = header().extended() ? static_cast<unsigned>(at % cluster() / unit) : 0;
        const bool split = header().extended() && m.kind == Mapping::Kind::Normal;
        if (m.kind == Mapping::Kind::Unallocated ||
            (split && ((m.allocated | m.zero) >> bit & 1) == 0)) {
            here.kind = Extent::Kind::Unallocated;
        } else if (m.kind == Mapping::Kind::Zero || (split && (m.zero >> bit & 1) != 0)) {
            here.kind = Extent::Kind::Zero;
        } else if (m.kind == Mapping::Kind::Compressed) {
            here.compressed = true;
        }
        if (header().encryption == 0 && m.kind != Mapping::Kind::Compressed &&
            here.kind != Extent::Kind::Unallocated &&
            (m.host != 0 || (data_ != file_ && m.kind == Mapping::Kind::Normal))) {
            here.has_offset = true;
            here.offset = m.host + at % cluster();
            here.file = data_.get();
        }
        if (done == 0) {
            extent = here;
        } else if (extent.kind != here.kind || extent.compressed != here.compressed ||
                   extent.has_offset != here.has_offset ||
                   (here.has_offset && here.offset != extent.offset + done)) {
            break;
        }
        done += part;
    }
    extent.length = done;
    co_return extent;
}

}  // namespace strata::block::qcow2
