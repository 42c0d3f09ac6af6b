// Qcow2Node: zeroing, discarding, emptying.
#include <algorithm>
#include <cerrno>

#include "block/formats/qcow2/claim.h"
#include "block/formats/qcow2/qcow2.h"

namespace strata::block::qcow2 {

// Makes one whole cluster read as zeros (Drop: show what lies below). Its space is given back but
// for ZeroKeepSpace.
Task<> Qcow2Node::clear_cluster(std::uint64_t offset, Clearing how) {
    const std::uint64_t index = offset / cluster();
    while (claimed(index, index + 1)) {
        co_await claims_change_.wait();
    }
    const Claim claim(*this, index, index + 1);
    STRATA_CO_TRY(const Mapping old, co_await look_up(offset));
    const bool elsewhere = data_ != file_;
    const bool flags = header().version >= 3;
    const bool hole =
        nothing_below(offset) && how != Clearing::ZeroLasting;  // a hole reads as zeros
    const bool bare = how == Clearing::Drop ||
                      (old.host == 0 && old.kind == Mapping::Kind::Unallocated && hole) ||
                      (hole && how != Clearing::ZeroKeepSpace && !elsewhere);
    if ((old.kind == Mapping::Kind::Unallocated && bare && old.zero == 0) ||
        (old.kind == Mapping::Kind::Zero && how != Clearing::Drop &&
         (old.host == 0 || how == Clearing::ZeroKeepSpace))) {
        co_return ok();
    }
    const bool raw = (header().autoclear & kRawExternalData) != 0;
    if (elsewhere && old.kind == Mapping::Kind::Normal && (how != Clearing::Drop || raw)) {
        // A data file may be read by itself: it shows zeros as well. What is dropped is needed till
        // the tables on the disk say so.
        const std::uint64_t length =
            std::min(cluster(), data_->size() - std::min(data_->size(), old.host));
        STRATA_CO_TRY_VOID(co_await data_->write_zeroes(
            old.host, length, {.may_unmap = how != Clearing::ZeroKeepSpace}));
    }
    const bool keep = (how == Clearing::ZeroKeepSpace || (elsewhere && how != Clearing::Drop)) &&
                      old.copied &&
                      (old.kind == Mapping::Kind::Normal || old.kind == Mapping::Kind::Zero);
    Entry entry;
    if (!bare || keep) {
        entry.word =
            (keep ? old.host | kCopied : 0) | (header().extended() || !flags ? 0 : kZeroFlag);
        entry.bitmap = header().extended() ? 0xFFFFFFFFULL << 32 : 0;
    }
    STRATA_CO_TRY_VOID(co_await metadata_->set(offset, entry));
    if (!keep) {
        metadata_->release(old);
    }
    co_return ok();
}

/// Clusters from `offset` on that are holes already and may stay so.
std::uint64_t Qcow2Node::holes_now(std::uint64_t offset, std::uint64_t end, Clearing how) {
    Result<Mapping> m = Mapping{};
    if ((how != Clearing::Drop && (how == Clearing::ZeroLasting || !nothing_below(offset))) ||
        !metadata_->look_up_now(offset, m) || !m.ok() || m->kind != Mapping::Kind::Unallocated ||
        m->host != 0 || m->zero != 0) {
        return 0;
    }
    return metadata_->run_now(offset, (end - offset + cluster() - 1) / cluster());
}

Task<> Qcow2Node::clear(std::uint64_t first, std::uint64_t end, Clearing how) {
    const std::uint64_t covered = cluster() * header().l2_entries();
    for (std::uint64_t offset = first; offset < end; offset += cluster()) {
        STRATA_CO_TRY_VOID(co_await relieve());
        // A table that is not there has nothing to clear, if nothing shows through it.
        if (offset / covered < metadata_->l1().size() && metadata_->l1()[offset / covered] == 0 &&
            (how == Clearing::Drop || (how != Clearing::ZeroLasting && nothing_below(offset)))) {
            offset = (offset / covered + 1) * covered - cluster();
            continue;
        }
        if (const std::uint64_t holes = holes_now(offset, end, how); holes != 0) {
            offset += (holes - 1) * cluster();
            continue;
        }
        STRATA_CO_TRY_VOID(co_await clear_cluster(offset, how));
    }
    co_return ok();
}

// Less than a cluster: written out, unless it is zero already.
Task<> Qcow2Node::zero_part(std::uint64_t offset, std::uint64_t length, bool lasting) {
    STRATA_CO_TRY(const Mapping m, co_await look_up(offset));
    if (m.kind == Mapping::Kind::Zero ||
        (m.kind == Mapping::Kind::Unallocated && nothing_below(offset) && !lasting)) {
        co_return ok();
    }
    AlignedBuffer zeroes(length);
    zeroes.view().fill(std::byte{0});
    co_return co_await write_bytes(offset, zeroes.view());
}

Task<> Qcow2Node::zero_inside(std::uint64_t offset, std::uint64_t length, ZeroOptions options) {
    const std::uint64_t end = offset + length;
    const bool flags = header().version >= 3;
    while (offset < end) {
        const std::uint64_t part = std::min(end - offset, cluster() - offset % cluster());
        const bool whole = part == cluster() || (offset % cluster() == 0 && offset + part == size_);
        if (!whole || (!flags && (options.lasting || !nothing_below(offset)))) {
            STRATA_CO_TRY_VOID(co_await zero_part(offset, part, options.lasting));
            offset += part;
            continue;
        }
        const std::uint64_t stop = end == size_ ? end : end / cluster() * cluster();
        const bool unmap = options.may_unmap && traits_.discard;
        // Without flags for zeros, a cluster can be dropped where nothing lies below.
        const std::uint64_t last = flags ? stop : std::min(stop, offset + part);
        const Clearing how = options.lasting   ? Clearing::ZeroLasting
                             : unmap || !flags ? Clearing::Zero
                                               : Clearing::ZeroKeepSpace;
        STRATA_CO_TRY_VOID(co_await clear(offset, last, how));
        offset = last;
    }
    co_return ok();
}

Task<> Qcow2Node::write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) {
    STRATA_CO_TRY_VOID(check_change(offset, length));
    if (options.no_fallback && header().version < 3 && overlay()) {
        co_return lacks("zero clusters over a backing file in version 2");
    }
    STRATA_CO_TRY(const auto pass, co_await gate_.shared());
    if (!bitmaps_.empty()) {
        STRATA_CO_TRY_VOID(co_await bitmaps_.record(offset, length));
    }
    const Metadata::Passage passage(*metadata_);
    co_return co_await zero_inside(offset, length, options);
}

Task<> Qcow2Node::discard(std::uint64_t offset, std::uint64_t length) {
    STRATA_CO_TRY_VOID(check_change(offset, length));
    if (!traits_.discard || (header().version < 3 && overlay())) {
        co_return ok();  // in version 2 what lies below would show
    }
    STRATA_CO_TRY(const auto pass, co_await gate_.shared());
    if (!bitmaps_.empty()) {
        STRATA_CO_TRY_VOID(co_await bitmaps_.record(offset, length));
    }
    const Metadata::Passage passage(*metadata_);
    const std::uint64_t first = (offset + cluster() - 1) / cluster() * cluster();
    const std::uint64_t end =
        offset + length == size_ ? size_ : (offset + length) / cluster() * cluster();
    if (first >= end) {
        co_return ok();
    }
    co_return co_await clear(first, end, Clearing::Discard);
}

Task<> Qcow2Node::drop(std::uint64_t offset, std::uint64_t length) {
    STRATA_CO_TRY_VOID(check_change(offset, length));
    STRATA_CO_TRY(const auto pass, co_await gate_.shared());
    const Metadata::Passage passage(*metadata_);
    const std::uint64_t first = (offset + cluster() - 1) / cluster() * cluster();
    const std::uint64_t end =
        offset + length == size_ ? size_ : (offset + length) / cluster() * cluster();
    if (first >= end) {
        co_return ok();
    }
    co_return co_await clear(first, end, Clearing::Drop);
}

Task<> Qcow2Node::make_empty() {
    STRATA_CO_TRY_VOID(check_change(0, 0));
    STRATA_CO_TRY(const auto alone, co_await gate_.exclusive());
    STRATA_CO_TRY_VOID(co_await clear(0, size_, Clearing::Drop));
    STRATA_CO_TRY_VOID(co_await metadata_->settle());
    if (data_ != file_) {
        Result<> given = co_await data_->write_zeroes(0, std::min(size_, data_->size()),
                                                      {.may_unmap = true, .no_fallback = true});
        if (!given.ok() && given.error().kind() != ErrorKind::NotSupported) {
            co_return given;
        }
    }
    co_return ok();
}

}  // namespace strata::block::qcow2
