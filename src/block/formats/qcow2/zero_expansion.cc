// Qcow2Node: an image without zero flags, for version 2, which has none: clusters that read as
// zeros become holes where nothing lies below, else clusters of zeros.
//
// The image is at rest. Tables change where they are, a shared one for all its owners at once: each
// entry reads the same before and after, so any part of it may survive a crash. A cluster that an
// entry of zeros kept is never written: a snapshot may show it. It is dropped instead.
#include <cerrno>
#include <set>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/qcow2/qcow2.h"

namespace strata::block::qcow2 {
namespace {

Task<std::vector<Be64>> read_words(Node& file, std::uint64_t offset, std::uint64_t count) {
    std::vector<Be64> wire(count);
    STRATA_CO_TRY_VOID(
        co_await file.read(offset, Buffers(std::as_writable_bytes(std::span(wire)))));
    co_return wire;
}

}  // namespace

/// Some cluster of the active disk is compressed.
Task<bool> Qcow2Node::has_compressed() {
    for (std::uint64_t offset = 0; offset < size_;) {
        const std::uint64_t covered = cluster() * header().l2_entries();
        if (metadata_->l1()[offset / covered] == 0) {
            offset = (offset / covered + 1) * covered;
            continue;
        }
        STRATA_CO_TRY(const Mapping m, co_await look_up(offset));
        if (m.kind == Mapping::Kind::Compressed) {
            co_return true;
        }
        offset += cluster();
    }
    co_return false;
}

/// One L2 table that `owners` L1 entries name.
Task<> Qcow2Node::expand_table(std::uint64_t host, std::uint64_t owners) {
    STRATA_CO_TRY(std::vector<Be64> words, co_await read_words(*file_, host, cluster() / 8));
    bool changed = false;
    std::vector<std::uint64_t> dropped;
    for (Be64& word : words) {
        STRATA_CO_TRY(const Mapping m, metadata_->decode(word, 0, 0));
        if (m.kind != Mapping::Kind::Zero) {
            continue;
        }
        changed = true;
        if (m.host != 0) {
            dropped.push_back(m.host);
        }
        if (header().backing.empty()) {
            word = 0ULL;
            continue;
        }
        STRATA_CO_TRY(const Allocation made, co_await metadata_->allocate(1));
        for (std::uint64_t more = 1; more < owners; ++more) {
            STRATA_CO_TRY_VOID(co_await metadata_->change_refcount(made.host / cluster(), 1));
        }
        word = made.host | (owners == 1 ? kCopied : 0);
        STRATA_CO_TRY_VOID(co_await file_->write_zeroes(made.host, cluster(), {}));
    }
    if (!changed) {
        co_return ok();
    }
    STRATA_CO_TRY_VOID(co_await metadata_->write_back());
    STRATA_CO_TRY_VOID(co_await file_->write(host, Buffers::of(std::as_bytes(std::span(words)))));
    if (!dropped.empty()) {
        STRATA_CO_TRY_VOID(co_await file_->flush());  // no cluster is free before nothing names it
    }
    for (const std::uint64_t each : dropped) {
        for (std::uint64_t owner = 0; owner < owners; ++owner) {
            metadata_->release(each, 1);
            if (metadata_->loaded()) {
                STRATA_CO_TRY_VOID(co_await metadata_->settle());
            }
        }
    }
    co_return ok();
}

Task<> Qcow2Node::expand_zeroes(AmendRequest request) {
    STRATA_CO_TRY(const SnapshotTable table, co_await read_snapshots(*file_, header()));
    std::vector<std::pair<std::uint64_t, std::uint64_t>> l1_tables{
        {header().l1_offset, header().l1_entries}};
    std::uint64_t total = header().l1_entries, done = 0;
    for (const Snapshot& each : table.snapshots) {
        l1_tables.emplace_back(each.l1_offset, each.l1_entries);
        total += each.l1_entries;
    }
    std::set<std::uint64_t> seen;
    for (const auto& each : l1_tables) {
        STRATA_CO_TRY(const std::vector<Be64> l1,
                      co_await read_words(*file_, each.first, each.second));
        for (const std::uint64_t entry : l1) {
            const std::uint64_t host = entry & kOffsetMask;
            if (host != 0 && (host % cluster() != 0 || host >= metadata_->end())) {
                co_return metadata_->corrupt(
                    fmt::format("an L2 table is at {:#x}, where none can be", host));
            }
            if (host != 0 && seen.insert(host).second) {
                STRATA_CO_TRY(const std::uint64_t owners,
                              co_await metadata_->refcount(host / cluster()));
                STRATA_CO_TRY_VOID(co_await expand_table(host, owners));
            }
            if (request.progress) {
                request.progress(++done, total);
            }
        }
    }
    STRATA_CO_TRY_VOID(co_await metadata_->settle());
    metadata_->forget_everything();
    co_return ok();
}

}  // namespace strata::block::qcow2
