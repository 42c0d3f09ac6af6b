// Metadata: refcounts and the allocation of clusters.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/qcow2/metadata.h"
#include "block/formats/qcow2/refcount_field.h"

namespace strata::block::qcow2 {
namespace {

constexpr std::uint64_t kMaxBeyond = 1U << 20;

}  // namespace

std::uint64_t Metadata::max_refcount() const {
    return header_.refcount_order == 6 ? ~0ULL : (1ULL << (1U << header_.refcount_order)) - 1;
}

Task<std::uint64_t> Metadata::refcount(std::uint64_t index) {
    const std::uint64_t block = index / header_.refcounts_per_block();
    const std::uint64_t host = block < table_.size() ? table_[block] & kOffsetMask : 0;
    if (host == 0) {
        co_return std::uint64_t{0};
    }
    if (host % header_.cluster() != 0 || host >= end_ || forbidden(host)) {
        co_return corrupt(fmt::format("a refcount block is at {:#x}, where none can be", host));
    }
    const std::uint64_t bits = index % header_.refcounts_per_block() << header_.refcount_order;
    const std::uint64_t place = host + bits / 8 / refcounts_.bytes() * refcounts_.bytes();
    const std::byte* slice = refcounts_.find(place);
    if (slice == nullptr) {
        STRATA_CO_TRY(slice, co_await refcounts_.load(place));
    }
    co_return get_refcount(slice + bits / 8 % refcounts_.bytes(), header_.refcount_order, bits % 8);
}

Task<> Metadata::set_refcount(std::uint64_t index, std::uint64_t value) {
    const std::uint64_t block = index / header_.refcounts_per_block();
    if (block >= table_.size() || (table_[block] & kOffsetMask) == 0) {
        STRATA_CO_TRY_VOID(co_await ensure_block(block));
    }
    const std::uint64_t host = table_[block] & kOffsetMask;
    if (host % header_.cluster() != 0 || host >= end_ || forbidden(host)) {
        co_return corrupt(fmt::format("a refcount block is at {:#x}, where none can be", host));
    }
    const std::uint64_t bits = index % header_.refcounts_per_block() << header_.refcount_order;
    const std::uint64_t place = host + bits / 8 / refcounts_.bytes() * refcounts_.bytes();
    std::byte* slice = refcounts_.find(place);
    if (slice == nullptr) {
        STRATA_CO_TRY(slice, co_await refcounts_.load(place));
    }
    refcounts_.taint(place);
    put_refcount(slice + bits / 8 % refcounts_.bytes(), header_.refcount_order, bits % 8, value);
    co_return ok();
}

// A new block lies in the range that it counts itself where that is free, else at the end of the
// file.
Task<> Metadata::ensure_block(std::uint64_t block) {
    if (block >= table_.size()) {
        STRATA_CO_TRY_VOID(co_await grow_table(block + 1));
    }
    if ((table_[block] & kOffsetMask) != 0) {
        co_return ok();
    }
    std::uint64_t place = std::max(block * header_.refcounts_per_block(), end_ / header_.cluster());
    if (const std::uint64_t other = place / header_.refcounts_per_block(); other != block) {
        STRATA_CO_TRY_VOID(co_await ensure_block(other));
        place = end_ / header_.cluster();
    }
    const std::uint64_t host = place * header_.cluster();
    for (std::uint64_t at = 0; at < header_.cluster(); at += refcounts_.bytes()) {
        (void)refcounts_.fresh(host + at);
    }
    table_[block] = host;
    table_dirty_.insert(block);
    end_ = std::max(end_, host + header_.cluster());
    co_return co_await set_refcount(place, 1);
}

Task<> Metadata::write_whole_table(std::uint64_t offset) {
    std::vector<Be64> wire(table_.begin(), table_.end());
    co_return co_await file_.write(offset, Buffers::of(std::as_bytes(std::span(wire))));
}

// The larger table is complete and durable before the header names it.
Task<> Metadata::grow_table(std::uint64_t entries) {
    const std::uint64_t per_cluster = header_.cluster() / 8;
    const std::uint64_t clusters =
        (std::max<std::uint64_t>(entries, table_.size() * 2) + per_cluster - 1) / per_cluster;
    if (clusters * header_.cluster() > kMaxRefcountTableBytes) {
        co_return Error{
            ErrorKind::Failed,
            fmt::format(
                "qcow2 image '{}' cannot grow further: its refcount table would be too large",
                file_.name()),
            ENOSPC};
    }
    table_.resize(clusters * per_cluster);
    const std::uint64_t start = end_ / header_.cluster();
    end_ += clusters * header_.cluster();
    for (std::uint64_t each = start; each < start + clusters; ++each) {
        STRATA_CO_TRY_VOID(co_await set_refcount(each, 1));
    }
    STRATA_CO_TRY_VOID(co_await refcounts_.write(refcounts_.take_dirty()));
    STRATA_CO_TRY_VOID(co_await file_.flush());
    STRATA_CO_TRY_VOID(co_await write_whole_table(start * header_.cluster()));
    STRATA_CO_TRY_VOID(co_await file_.flush());
    struct {
        Be64 offset;
        Be32 clusters;
    } const fields{start * header_.cluster(), static_cast<std::uint32_t>(clusters)};
    STRATA_CO_TRY_VOID(
        co_await write_header_field(kRefcountTableField, std::as_bytes(std::span(&fields, 1))));
    STRATA_CO_TRY_VOID(co_await file_.flush());
    release(header_.refcount_table_offset, header_.refcount_table_clusters);
    header_.refcount_table_offset = fields.offset;
    header_.refcount_table_clusters = fields.clusters;
    co_return ok();
}

Task<bool> Metadata::is_free(std::uint64_t index) {
    const std::uint64_t host = index * header_.cluster();
    if (forbidden(host)) {
        co_return false;
    }
    STRATA_CO_TRY(const std::uint64_t count, co_await refcount(index));
    co_return count == 0;
}

/// The slice with the refcount of `index`, if it is in memory and refcounts are whole bytes; its
/// place in the file.
std::byte* Metadata::counts_now(std::uint64_t index, std::uint64_t& place) {
    const std::uint64_t block = index / header_.refcounts_per_block();
    const std::uint64_t host = block < table_.size() ? table_[block] & kOffsetMask : 0;
    const std::uint64_t bits = index % header_.refcounts_per_block() << header_.refcount_order;
    place = host + bits / 8 / refcounts_.bytes() * refcounts_.bytes();
    return host == 0 || header_.refcount_order < 3 ? nullptr : refcounts_.find(place);
}

// Free clusters from `index` on whose refcounts lie in one slice that is in memory: their refcount
// is 1 now.
std::uint64_t Metadata::take_free(std::uint64_t index, std::uint64_t most) {
    std::uint64_t place = 0, count = 0;
    std::byte* slice = counts_now(index, place);
    if (slice == nullptr) {
        return 0;
    }
    const std::uint64_t width = 1U << (header_.refcount_order - 3);
    for (std::uint64_t at = index * width % refcounts_.bytes();
         count < most && at < refcounts_.bytes(); at += width, ++count) {
        if (get_refcount(slice + at, header_.refcount_order, 0) != 0 ||
            forbidden((index + count) * header_.cluster())) {
            break;
        }
        put_refcount(slice + at, header_.refcount_order, 0, 1);
    }
    if (count != 0) {
        refcounts_.taint(place);
    }
    return count;
}

// Clusters in use from `index` on, inside the file, as far as a slice in memory tells.
std::uint64_t Metadata::skip_used(std::uint64_t index) {
    std::uint64_t place = 0, count = 0;
    const std::byte* slice = counts_now(index, place);
    const std::uint64_t limit = end_ / header_.cluster();
    if (slice == nullptr || index >= limit) {
        return 0;
    }
    const std::uint64_t width = 1U << (header_.refcount_order - 3);
    for (std::uint64_t at = index * width % refcounts_.bytes();
         index + count < limit && at < refcounts_.bytes(); at += width, ++count) {
        if (get_refcount(slice + at, header_.refcount_order, 0) == 0) {
            break;
        }
    }
    return count;
}

Task<Allocation> Metadata::allocate_locked(std::uint64_t wanted) {
    for (std::uint64_t beyond = 0;; ++cursor_) {
        cursor_ += skip_used(cursor_);
        const std::uint64_t host = cursor_ * header_.cluster();
        // A crash leaves some counted clusters past the end of the file; a table full of them is no
        // image's.
        if (host >= end_ && ++beyond > kMaxBeyond) {
            co_return corrupt(fmt::format(
                "refcounts stand for clusters past the end of the file, at {:#x} and before",
                host));
        }
        if (host + wanted * header_.cluster() >= kMaxHostOffset) {
            co_return Error{ErrorKind::Failed,
                            fmt::format("qcow2 image '{}' cannot grow further", file_.name()),
                            ENOSPC};
        }
        STRATA_CO_TRY(const bool free, co_await is_free(cursor_));
        if (!free) {
            continue;
        }
        const std::uint64_t block = cursor_ / header_.refcounts_per_block();
        if (block >= table_.size() || (table_[block] & kOffsetMask) == 0) {
            STRATA_CO_TRY_VOID(co_await ensure_block(block));
            STRATA_CO_TRY(const bool still, co_await is_free(cursor_));
            if (!still) {
                continue;  // the new refcount block took it
            }
        }
        Allocation got{host, 0, zero_end_ && host >= end_};
        // As many as lie behind it, of the same refcount block and the same kind.
        while (got.clusters < wanted) {
            const std::uint64_t index = cursor_;
            if (got.clusters != 0) {
                const bool zeroed = zero_end_ && index * header_.cluster() >= end_;
                STRATA_CO_TRY(const bool next, co_await is_free(index));
                if (!next || zeroed != got.zeroed ||
                    index / header_.refcounts_per_block() != block) {
                    break;
                }
            }
            STRATA_CO_TRY_VOID(co_await set_refcount(index, 1));
            ++got.clusters;
            ++cursor_;
            if (got.zeroed && wanted - got.clusters > 1) {
                // The slice of refcounts is here: the rest of it, as far as it is free, without
                // further ado.
                const std::uint64_t more = take_free(cursor_, wanted - got.clusters);
                got.clusters += more;
                cursor_ += more;
            }
            end_ = got.zeroed ? end_ : std::max(end_, cursor_ * header_.cluster());
        }
        end_ = std::max(end_, cursor_ * header_.cluster());
        co_return got;
    }
}

Task<Allocation> Metadata::allocate(std::uint64_t wanted) {
    if (data_elsewhere_) {
        co_return corrupt("data was to be put into the metadata's file");
    }
    const auto lock = co_await allocation_.lock();
    STRATA_CO_TRY_VOID(co_await free_retired());
    co_return co_await allocate_locked(wanted);
}

Task<std::uint64_t> Metadata::allocate_table(std::uint64_t clusters) {
    const auto lock = co_await allocation_.lock();
    STRATA_CO_TRY_VOID(co_await free_retired());
    if (clusters == 1) {
        STRATA_CO_TRY(const Allocation one, co_await allocate_locked(1));
        co_return one.host;
    }
    // At the end of the file, where all that lies behind is free.
    const std::uint64_t first = end_ / header_.cluster();
    end_ += clusters * header_.cluster();
    const std::uint64_t last_block = (first + clusters - 1) / header_.refcounts_per_block();
    for (std::uint64_t block = first / header_.refcounts_per_block(); block <= last_block;
         ++block) {
        STRATA_CO_TRY_VOID(co_await ensure_block(block));
    }
    for (std::uint64_t i = 0; i < clusters; ++i) {
        STRATA_CO_TRY_VOID(co_await set_refcount(first + i, 1));
    }
    co_return first* header_.cluster();
}

Task<std::uint64_t> Metadata::allocate_packed(std::uint64_t bytes) {
    const auto lock = co_await allocation_.lock();
    STRATA_CO_TRY_VOID(co_await free_retired());
    const std::uint64_t within = packed_ % header_.cluster();
    const std::uint64_t left = within == 0 ? 0 : header_.cluster() - within;
    std::uint64_t place = packed_;
    std::uint64_t count = 0;
    if (left != 0) {
        STRATA_CO_TRY(count, co_await refcount(place / header_.cluster()));
    }
    const bool joins = left != 0 && count != 0 && count < max_refcount();
    if (joins && bytes <= left) {
        STRATA_CO_TRY_VOID(co_await set_refcount(place / header_.cluster(), count + 1));
        packed_ += bytes;
        co_return place;
    }
    STRATA_CO_TRY(const Allocation next, co_await allocate_locked(1));
    if (joins && next.host == place + left) {
        // It straddles: one more owner of the first cluster, the only one of the second.
        STRATA_CO_TRY(count, co_await refcount(place / header_.cluster()));
        STRATA_CO_TRY_VOID(co_await set_refcount(place / header_.cluster(), count + 1));
    } else {
        place = next.host;
    }
    packed_ = place + bytes;
    co_return place;
}

Task<> Metadata::give_back(std::uint64_t host, std::uint64_t clusters) {
    const auto lock = co_await allocation_.lock();
    for (std::uint64_t index = host / header_.cluster();
         index < host / header_.cluster() + clusters; ++index) {
        cursor_ = std::min(cursor_, index);
        STRATA_CO_TRY_VOID(co_await set_refcount(index, 0));
    }
    co_return ok();
}

Task<> Metadata::change_refcount(std::uint64_t index, int delta) {
    const auto lock = co_await allocation_.lock();
    STRATA_CO_TRY(const std::uint64_t now, co_await refcount(index));
    if ((delta < 0 && now == 0) || (delta > 0 && now == max_refcount())) {
        co_return Error{
            ErrorKind::Failed,
            fmt::format("qcow2 image '{}': the refcount of the cluster at {:#x} cannot become {}",
                        file_.name(), index * header_.cluster(),
                        delta < 0 ? "negative" : "larger; make it wider with refcount_bits"),
            delta < 0 ? EIO : EINVAL};
    }
    co_return co_await set_refcount(index, delta < 0 ? now - 1 : now + 1);
}

// Space that nobody owns any more goes back to the host, before anybody can own it again.
Task<> Metadata::punch(const std::vector<std::uint64_t>& freed) {
    for (std::size_t at = 0, count = 0; at < freed.size(); at += count) {
        count = 1;
        while (at + count < freed.size() && freed[at + count] == freed[at] + count) {
            ++count;
        }
        STRATA_CO_TRY_VOID(
            co_await file_.discard(freed[at] * header_.cluster(), count * header_.cluster()));
    }
    co_return ok();
}

// Under allocation_. What requests may still be at stays for a later call.
Task<> Metadata::free_retired() {
    while (!retired_.empty()) {
        while (first_epoch_ < epoch_ && passages_.front() == 0) {
            passages_.pop_front();
            ++first_epoch_;
        }
        if (retired_.front().epoch >= first_epoch_) {
            break;
        }
        std::vector<std::uint64_t> clusters = std::move(retired_.front().clusters);
        retired_.pop_front();
        std::sort(clusters.begin(), clusters.end());
        std::vector<std::uint64_t> freed;
        for (const std::uint64_t host : clusters) {
            const std::uint64_t index = host / header_.cluster();
            STRATA_CO_TRY(const std::uint64_t now, co_await refcount(index));
            if (now == 0) {
                co_return corrupt(
                    fmt::format("the cluster at {:#x} was in use and counted as free", host));
            }
            if (now > 1) {
                STRATA_CO_TRY_VOID(co_await set_refcount(index, now - 1));
                continue;
            }
            freed.push_back(index);
        }
        if (discard_) {
            STRATA_CO_TRY_VOID(co_await punch(freed));
        }
        for (const std::uint64_t index : freed) {
            const std::uint64_t host = index * header_.cluster();
            l2_.forget(host, header_.cluster());
            leave_packed(index);
            STRATA_CO_TRY_VOID(co_await set_refcount(index, 0));
            cursor_ = std::min(cursor_, index);
        }
    }
    co_return ok();
}

/// No compressed cluster joins those in the cluster at `index` any more.
void Metadata::leave_packed(std::uint64_t index) {
    const std::uint64_t host = index * header_.cluster();
    if (packed_ >= host && packed_ <= host + header_.cluster()) {
        packed_ = 0;
    }
}

Task<> Metadata::free_released() {
    const auto lock = co_await allocation_.lock();
    co_return co_await free_retired();
}

}  // namespace strata::block::qcow2
