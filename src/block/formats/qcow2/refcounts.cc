// Metadata: refcounts and the allocation of clusters.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/file_access.h"
#include "block/formats/qcow2/metadata.h"

namespace strata::block::qcow2 {
namespace {

std::uint64_t get(const std::byte* at, unsigned order, std::uint64_t bit) {
    if (order < 3) {
        return static_cast<std::uint64_t>(*at) >> bit & ((1U << (1U << order)) - 1);
    }
    std::uint64_t value = 0;
    for (unsigned i = 0; i < 1U << (order - 3); ++i) {
        value = value << 8 | static_cast<std::uint64_t>(at[i]);
    }
    return value;
}

void put(std::byte* at, unsigned order, std::uint64_t bit, std::uint64_t value) {
    if (order < 3) {
        const unsigned mask = ((1U << (1U << order)) - 1) << bit;
        *at = static_cast<std::byte>((static_cast<unsigned>(*at) & ~mask) | (static_cast<unsigned>(value) << bit & mask));
        return;
    }
    for (unsigned i = 1U << (order - 3); i-- != 0; value >>= 8) {
        at[i] = static_cast<std::byte>(value & 0xFF);
    }
}

}  // namespace

Result<std::uint64_t> Metadata::refcount(std::uint64_t index) {
    const std::uint64_t block = index / header_.refcounts_per_block();
    const std::uint64_t host = block < table_.size() ? table_[block] & kOffsetMask : 0;
    if (host == 0) {
        return std::uint64_t{0};
    }
    if (host % header_.cluster() != 0 || host >= end_ || forbidden(host)) {
        return corrupt(fmt::format("a refcount block is at {:#x}, where none can be", host));
    }
    const std::uint64_t bits = index % header_.refcounts_per_block() << header_.refcount_order;
    const std::byte* slice = STRATA_TRY(refcounts_.load(host + bits / 8 / refcounts_.bytes() * refcounts_.bytes()));
    return get(slice + bits / 8 % refcounts_.bytes(), header_.refcount_order, bits % 8);
}

Result<> Metadata::set_refcount(std::uint64_t index, std::uint64_t value) {
    const std::uint64_t block = index / header_.refcounts_per_block();
    STRATA_TRY_VOID(ensure_block(block));
    const std::uint64_t host = table_[block] & kOffsetMask;
    if (host % header_.cluster() != 0 || host >= end_ || forbidden(host)) {
        return corrupt(fmt::format("a refcount block is at {:#x}, where none can be", host));
    }
    const std::uint64_t bits = index % header_.refcounts_per_block() << header_.refcount_order;
    std::byte* slice = STRATA_TRY(refcounts_.change(host + bits / 8 / refcounts_.bytes() * refcounts_.bytes()));
    put(slice + bits / 8 % refcounts_.bytes(), header_.refcount_order, bits % 8, value);
    return ok();
}

// A new block lies in the range that it counts itself where that is free, else at the end of the file.
Result<> Metadata::ensure_block(std::uint64_t block) {
    if (block >= table_.size()) {
        STRATA_TRY_VOID(grow_table(block + 1));
    }
    if ((table_[block] & kOffsetMask) != 0) {
        return ok();
    }
    std::uint64_t place = std::max(block * header_.refcounts_per_block(), end_ / header_.cluster());
    if (const std::uint64_t other = place / header_.refcounts_per_block(); other != block) {
        STRATA_TRY_VOID(ensure_block(other));
        place = end_ / header_.cluster();
    }
    const std::uint64_t host = place * header_.cluster();
    for (std::uint64_t at = 0; at < header_.cluster(); at += refcounts_.bytes()) {
        (void)refcounts_.fresh(host + at);
    }
    table_[block] = host;
    table_dirty_ = true;
    end_ = std::max(end_, host + header_.cluster());
    return set_refcount(place, 1);
}

Result<> Metadata::write_table(std::uint64_t offset) {
    std::vector<Be64> wire(table_.begin(), table_.end());
    return write_file(fd_, offset, std::as_bytes(std::span(wire)), name_);
}

// The larger table is complete and durable before the header names it.
Result<> Metadata::grow_table(std::uint64_t entries) {
    const std::uint64_t per_cluster = header_.cluster() / 8;
    const std::uint64_t clusters = (std::max<std::uint64_t>(entries, table_.size() * 2) + per_cluster - 1) / per_cluster;
    if (clusters * header_.cluster() > kMaxRefcountTableBytes) {
        return Error{ErrorKind::Failed, fmt::format("qcow2 image '{}' cannot grow further: its refcount table would be too large", name_),
                     ENOSPC};
    }
    table_.resize(clusters * per_cluster);
    const std::uint64_t start = end_ / header_.cluster();
    end_ += clusters * header_.cluster();
    for (std::uint64_t each = start; each < start + clusters; ++each) {
        STRATA_TRY_VOID(set_refcount(each, 1));
    }
    STRATA_TRY_VOID(refcounts_.write_back());
    STRATA_TRY_VOID(write_table(start * header_.cluster()));
    STRATA_TRY_VOID(sync_file(fd_, name_));
    struct {
        Be64 offset;
        Be32 clusters;
    } const fields{start * header_.cluster(), static_cast<std::uint32_t>(clusters)};
    STRATA_TRY_VOID(write_file(fd_, kRefcountTableField, std::as_bytes(std::span(&fields, 1)), name_));
    STRATA_TRY_VOID(sync_file(fd_, name_));
    for (std::uint64_t i = 0; i < header_.refcount_table_clusters; ++i) {
        pending_.push_back(header_.refcount_table_offset + i * header_.cluster());
    }
    header_.refcount_table_offset = fields.offset;
    header_.refcount_table_clusters = fields.clusters;
    return ok();
}

Result<std::uint64_t> Metadata::allocate() {
    for (;; ++cursor_) {
        const std::uint64_t host = cursor_ * header_.cluster();
        if (host >= kMaxHostOffset) {
            return Error{ErrorKind::Failed, fmt::format("qcow2 image '{}' cannot grow further", name_), ENOSPC};
        }
        const bool taken = STRATA_TRY(refcount(cursor_)) != 0;
        if (taken && host >= end_) {
            return corrupt(fmt::format("a refcount stands for {:#x}, past the end of the file", host));
        }
        if (taken || forbidden(host)) {
            continue;
        }
        STRATA_TRY_VOID(ensure_block(cursor_ / header_.refcounts_per_block()));
        if (STRATA_TRY(refcount(cursor_)) != 0) {
            continue;  // the new refcount block took it
        }
        STRATA_TRY_VOID(set_refcount(cursor_, 1));
        end_ = std::max(end_, host + header_.cluster());
        ++cursor_;
        return host;
    }
}

Result<> Metadata::give_back(std::uint64_t host) {
    cursor_ = std::min(cursor_, host / header_.cluster());
    return set_refcount(host / header_.cluster(), 0);
}

Result<> Metadata::free_pending() {
    std::vector<std::uint64_t> pending;
    pending.swap(pending_);
    for (const std::uint64_t host : pending) {
        const std::uint64_t index = host / header_.cluster();
        const std::uint64_t now = STRATA_TRY(refcount(index));
        if (now == 0) {
            return corrupt(fmt::format("the cluster at {:#x} was in use and counted as free", host));
        }
        STRATA_TRY_VOID(set_refcount(index, now - 1));
        if (now == 1) {
            cursor_ = std::min(cursor_, index);
        }
    }
    return ok();
}

}  // namespace strata::block::qcow2
