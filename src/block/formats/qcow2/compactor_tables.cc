// Compactor: tables, and the end of the file.
#include <algorithm>

#include <fmt/format.h>

#include "block/formats/qcow2/compactor.h"

namespace strata::block::qcow2 {

/// To a place that nothing names yet; durable after the next round.
Task<> Compactor::copy_row(std::uint64_t from, std::uint64_t to, std::uint64_t bytes) {
    for (std::uint64_t at = 0; at < bytes; at += buffer_.size()) {
        const Buffers part =
            buffer_.view().slice(0, std::min<std::uint64_t>(buffer_.size(), bytes - at));
        STRATA_CO_TRY_VOID(co_await file_.read(from + at, part));
        STRATA_CO_TRY_VOID(co_await file_.write(to + at, part));
    }
    co_return co_await moved(bytes);
}

/// The snapshots' L1 tables, and the table that names them.
Task<> Compactor::move_snapshots() {
    STRATA_CO_TRY(SnapshotTable table, co_await read_snapshots(file_, meta_.header()));
    if (table.snapshots.empty()) {
        co_return ok();
    }
    const auto rows = [&](std::uint64_t bytes) { return (bytes + cluster() - 1) / cluster(); };
    const std::uint64_t old = meta_.header().snapshots_offset;
    std::vector<Reference> left;
    for (Snapshot& each : table.snapshots) {
        const std::uint64_t clusters = rows(each.l1_entries * 8ULL);
        if (clusters == 0 || !behind(each.l1_offset + (clusters - 1) * cluster())) {
            continue;
        }
        STRATA_CO_TRY(const std::uint64_t place, co_await take_row(clusters));
        if (place != 0) {
            STRATA_CO_TRY_VOID(co_await copy_row(each.l1_offset, place, clusters * cluster()));
            for (std::uint64_t i = 0; i < clusters; ++i) {
                left.push_back({each.l1_offset + i * cluster(), 1});
            }
            each.l1_offset = place;
        }
    }
    const std::uint64_t clusters = rows(table.bytes);
    if (left.empty() && !behind(old + (clusters - 1) * cluster())) {
        co_return ok();
    }
    const std::vector<std::byte> bytes = serialise_snapshots(table.snapshots);
    STRATA_CO_TRY(std::uint64_t place, co_await take_row(rows(bytes.size())));
    if (place == 0) {
        STRATA_CO_TRY(place, co_await meta_.allocate_table(rows(bytes.size())));
    }
    STRATA_CO_TRY_VOID(co_await file_.write(place, Buffers::of(bytes)));
    STRATA_CO_TRY_VOID(co_await meta_.write_back());
    const Be64 wire = place;
    STRATA_CO_TRY_VOID(
        co_await meta_.write_header_field(kSnapshotsField + 4, std::as_bytes(std::span(&wire, 1))));
    STRATA_CO_TRY_VOID(co_await file_.flush());
    meta_.header().snapshots_offset = place;
    for (std::uint64_t i = 0; i < clusters; ++i) {
        left.push_back({old + i * cluster(), 1});
    }
    STRATA_CO_TRY_VOID(co_await let_go(std::move(left)));
    co_return co_await meta_.settle();
}

Task<> Compactor::move_l1() {
    Header& h = meta_.header();
    const std::uint64_t clusters = (h.l1_entries * 8ULL + cluster() - 1) / cluster();
    const std::uint64_t old = h.l1_offset;
    if (clusters == 0 || !behind(old + (clusters - 1) * cluster())) {
        co_return ok();
    }
    STRATA_CO_TRY(const std::uint64_t place, co_await take_row(clusters));
    if (place == 0) {
        co_return ok();
    }
    STRATA_CO_TRY_VOID(co_await copy_row(old, place, clusters * cluster()));
    STRATA_CO_TRY_VOID(co_await meta_.write_back());
    h.l1_offset = place;
    STRATA_CO_TRY_VOID(co_await node_.write_l1_field());
    std::vector<Reference> left;
    for (std::uint64_t i = 0; i < clusters; ++i) {
        left.push_back({old + i * cluster(), 1});
    }
    STRATA_CO_TRY_VOID(co_await let_go(std::move(left)));
    co_return co_await meta_.settle();
}

Task<> Compactor::move_refcount_table() {
    const std::uint64_t clusters = meta_.header().refcount_table_clusters;
    const std::uint64_t old = meta_.header().refcount_table_offset;
    if (!behind(old + (clusters - 1) * cluster())) {
        co_return ok();
    }
    STRATA_CO_TRY(const std::uint64_t place, co_await take_row(clusters));
    if (place == 0) {
        co_return ok();
    }
    STRATA_CO_TRY_VOID(co_await meta_.write_back());  // the table itself, too
    STRATA_CO_TRY_VOID(co_await copy_row(old, place, clusters * cluster()));
    STRATA_CO_TRY_VOID(co_await file_.flush());
    STRATA_CO_TRY_VOID(co_await meta_.take_refcount_table(place, meta_.table_));
    std::vector<Reference> left;
    for (std::uint64_t i = 0; i < clusters; ++i) {
        left.push_back({old + i * cluster(), 1});
    }
    STRATA_CO_TRY_VOID(co_await let_go(std::move(left)));
    co_return co_await meta_.settle();
}

// A block may count its own new place: that is in the file before it is copied.
Task<> Compactor::move_refcount_blocks() {
    for (std::size_t block = 0; block < meta_.table_.size() && stop_.ok(); ++block) {
        const std::uint64_t old = meta_.table_[block] & kOffsetMask;
        if (old == 0 || !behind(old)) {
            continue;
        }
        STRATA_CO_TRY(const Allocation place, co_await take(1));
        if (place.clusters == 0) {
            co_return ok();
        }
        STRATA_CO_TRY_VOID(co_await meta_.settle());
        STRATA_CO_TRY_VOID(co_await copy_row(old, place.host, cluster()));
        meta_.refcounts_.forget(old, cluster());
        meta_.refcounts_.forget(place.host, cluster());
        meta_.table_[block] = place.host;
        meta_.table_dirty_.insert(block);
        STRATA_CO_TRY_VOID(co_await meta_.write_back());
        std::vector<Reference> left{{old, 1}};
        STRATA_CO_TRY_VOID(co_await let_go(std::move(left)));
        STRATA_CO_TRY_VOID(co_await meta_.settle());
    }
    co_return ok();
}

/// Moves the L2 tables that `l1` names; `changed`: its entries that name other places now.
Task<> Compactor::move_l2_of(std::vector<std::uint64_t>& l1, std::set<std::size_t>& changed) {
    for (std::size_t i = 0; i < l1.size(); ++i) {
        const std::uint64_t old = l1[i] & kOffsetMask;
        if (old == 0 || !behind(old)) {
            continue;
        }
        auto known = places_.find(old);
        if (known == places_.end()) {
            STRATA_CO_TRY(const Allocation place, co_await take(1));
            if (place.clusters == 0) {
                places_.emplace(old, old);  // it stays, for the other L1 tables as well
                continue;
            }
            STRATA_CO_TRY(const std::uint64_t refs, co_await meta_.refcount(old / cluster()));
            STRATA_CO_TRY_VOID(co_await meta_.set_refcount(place.host / cluster(), refs));
            STRATA_CO_TRY_VOID(co_await copy_row(old, place.host, cluster()));
            known = places_.emplace(old, place.host).first;
            late_.push_back({old, refs});
        }
        if (known->second != old) {
            l1[i] = (l1[i] & ~kOffsetMask) | known->second;
            changed.insert(i);
        }
    }
    co_return ok();
}

// All L1 tables that name a table that moved are changed before this ends, whoever wants to stop.
Task<> Compactor::move_l2_tables() {
    STRATA_CO_TRY(const auto tables, co_await all_l1_tables());
    for (std::size_t which = 0; which < tables.size(); ++which) {
        const auto& [offset, entries] = tables[which];
        std::vector<Be64> wire(entries);
        STRATA_CO_TRY_VOID(
            co_await file_.read(offset, Buffers(std::as_writable_bytes(std::span(wire)))));
        std::vector<std::uint64_t> l1(wire.begin(), wire.end());
        std::set<std::size_t> changed;
        STRATA_CO_TRY_VOID(co_await move_l2_of(l1, changed));
        if (changed.empty()) {
            continue;
        }
        STRATA_CO_TRY_VOID(co_await meta_.write_back());
        STRATA_CO_TRY_VOID(co_await meta_.write_entries(offset, Metadata::take(changed, l1)));
        if (which == 0) {
            std::copy(l1.begin(), l1.end(), meta_.l1_.begin());
        }
    }
    STRATA_CO_TRY_VOID(co_await file_.flush());
    STRATA_CO_TRY_VOID(co_await let_go(std::exchange(late_, {})));
    places_.clear();
    STRATA_CO_TRY_VOID(co_await meta_.settle());
    meta_.forget_everything();
    co_return ok();
}

/// The file ends behind the last cluster in use; blocks that count none behind it go.
Task<> Compactor::cut() {
    STRATA_CO_TRY_VOID(co_await meta_.settle());
    std::uint64_t last = 0;
    std::size_t empty = meta_.table_.size();
    const std::uint64_t per_block = meta_.header().refcounts_per_block();
    for (std::size_t block = meta_.table_.size(); block-- != 0 && last == 0;) {
        if ((meta_.table_[block] & kOffsetMask) == 0) {
            continue;
        }
        for (std::uint64_t i = per_block; i-- != 0 && last == 0;) {
            STRATA_CO_TRY(const std::uint64_t count,
                          co_await meta_.refcount(block * per_block + i));
            last = count != 0 ? block * per_block + i : 0;
        }
        empty = last == 0 ? block : empty;
    }
    STRATA_CO_TRY_VOID(co_await drop_blocks(empty));
    const std::uint64_t end = (last + 1) * cluster();
    if (last == 0 || file_.size() <= end) {
        co_return ok();
    }
    STRATA_CO_TRY_VOID(co_await file_.flush());
    const Result<> resized = co_await file_.resize(end, Preallocation::Off);
    if (!resized.ok() && resized.error().kind() != ErrorKind::NotSupported) {
        co_return resized.error();
    }
    STRATA_CO_TRY_VOID(co_await file_.flush());
    if (file_.size() == end) {  // a device keeps its size, and so does a server's export
        meta_.end_ = end;
    }
    meta_.forget_everything();
    co_return ok();
}

/// The refcount blocks from this one on count nothing.
Task<> Compactor::drop_blocks(std::size_t first) {
    std::vector<Reference> left;
    for (std::size_t block = first; block < meta_.table_.size(); ++block) {
        if (const std::uint64_t host = meta_.table_[block] & kOffsetMask; host != 0) {
            left.push_back({host, 1});
            meta_.table_[block] = 0;
            meta_.table_dirty_.insert(block);
            meta_.refcounts_.forget(host, cluster());
        }
    }
    if (left.empty()) {
        co_return ok();
    }
    again_ = true;
    STRATA_CO_TRY_VOID(co_await meta_.write_back());
    STRATA_CO_TRY_VOID(co_await let_go(std::move(left)));
    co_return co_await meta_.settle();
}

Task<CompactReport> Qcow2Node::pack_file(CompactWatch watch) {
    STRATA_CO_TRY_VOID(check_change(0, 0));
    STRATA_CO_TRY(const auto alone, co_await gate_.exclusive());
    if (header().encryption != 0 && !cipher_) {
        co_return locked();
    }
    STRATA_CO_TRY_VOID(co_await metadata_->settle());
    Compactor compactor(*this, std::move(watch));
    auto packed = co_await compactor.run();
    unpacked_.clear();  // other compressed clusters lie there now
    next_unpacked_ = 0;
    if (!packed.ok()) {
        co_return packed.error();
    }
    co_return CompactReport{.zeroes = 0, .moved = *packed};
}

}  // namespace strata::block::qcow2
