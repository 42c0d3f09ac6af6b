// Qcow2Node: size: growing and shrinking the disk, and giving it clusters in advance.
#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/qcow2/claim.h"
#include "block/formats/qcow2/qcow2.h"
#include "block/wording.h"

namespace strata::block::qcow2 {
namespace {

constexpr std::uint64_t kSizeField = 24, kL1Field = 36;
constexpr std::uint64_t kRun = 1U << 20;  ///< clusters at a time

}  // namespace

Task<> Qcow2Node::write_size_field(std::uint64_t size) {
    const Be64 wire = size;
    STRATA_CO_TRY_VOID(
        co_await metadata_->write_header_field(kSizeField, std::as_bytes(std::span(&wire, 1))));
    STRATA_CO_TRY_VOID(co_await file_->flush());
    metadata_->header().size = size;
    size_ = size;
    co_return ok();
}

Task<> Qcow2Node::write_l1_field() {
    struct {
        Be32 entries;
        Be64 offset;
    } const fields{metadata_->header().l1_entries, metadata_->header().l1_offset};
    STRATA_CO_TRY_VOID(
        co_await metadata_->write_header_field(kL1Field, std::as_bytes(std::span(&fields, 1))));
    co_return co_await file_->flush();
}

// The larger table is complete and durable before the header names it.
Task<> Qcow2Node::grow_l1(std::uint64_t entries) {
    if (entries * 8 > kMaxL1Bytes) {
        co_return Error{
            ErrorKind::InvalidArgument,
            fmt::format("'{}': its clusters are too small for a disk of that size", name()), EFBIG};
    }
    STRATA_CO_TRY_VOID(co_await metadata_->write_back());
    const std::uint64_t clusters = (entries * 8 + cluster() - 1) / cluster();
    STRATA_CO_TRY(const std::uint64_t place, co_await metadata_->allocate_table(clusters));
    std::vector<std::uint64_t>& l1 = metadata_->l1();
    l1.resize(entries);
    std::vector<Be64> wire(l1.begin(), l1.end());
    wire.resize(clusters * cluster() / 8);
    STRATA_CO_TRY_VOID(co_await file_->write(place, Buffers::of(std::as_bytes(std::span(wire)))));
    STRATA_CO_TRY_VOID(co_await metadata_->write_back());
    Header& h = metadata_->header();
    const std::uint64_t old = h.l1_offset,
                        old_clusters = (h.l1_entries * 8ULL + cluster() - 1) / cluster();
    h.l1_offset = place;
    h.l1_entries = static_cast<std::uint32_t>(entries);
    STRATA_CO_TRY_VOID(co_await write_l1_field());
    metadata_->release(old, old_clusters);
    co_return ok();
}

/// A cluster given in advance. In a new overlay the layer below shows through its subclusters.
Entry Qcow2Node::entry_of_zeros(std::uint64_t host) const {
    const bool flags = header().encryption != 0;
    if (header().extended() && backing_ == nullptr && !header().backing.empty()) {
        return {host | kCopied, 0};
    }
    return {host | kCopied | (flags && !header().extended() ? kZeroFlag : 0),
            !header().extended() ? 0
            : flags              ? 0xFFFFFFFFULL << 32
                                 : 0xFFFFFFFFULL};
}

// The clusters' content is what the file has there: zeros, as they come from its end, or zeroed
// here. An encrypted disk's say so themselves.
Task<> Qcow2Node::preallocate(std::uint64_t offset, std::uint64_t end, Preallocation mode) {
    while (offset < end) {
        STRATA_CO_TRY_VOID(co_await relieve());
        STRATA_CO_TRY(const Mapping m, co_await look_up(offset));
        if (m.host != 0 || m.kind != Mapping::Kind::Unallocated) {
            offset = (offset / cluster() + 1) * cluster();
            continue;
        }
        const std::uint64_t start = offset / cluster() * cluster();
        Allocation place{start, std::min(kRun, (end - start + cluster() - 1) / cluster()), false};
        if (data_ == file_) {
            STRATA_CO_TRY_VOID(co_await metadata_->prepare(start));
            STRATA_CO_TRY(place, co_await metadata_->allocate(place.clusters));
        }
        const std::uint64_t length = place.clusters * cluster();
        if (data_->size() < place.host + length) {
            STRATA_CO_TRY_VOID(co_await data_->resize(
                place.host + length, mode == Preallocation::Metadata ? Preallocation::Off : mode));
        } else if (!place.zeroed) {
            STRATA_CO_TRY_VOID(co_await data_->write_zeroes(
                place.host, length, {.may_unmap = mode == Preallocation::Metadata}));
        }
        const std::uint64_t wanted =
            std::min(place.clusters, (end - start + cluster() - 1) / cluster());
        std::uint64_t done = 0;
        while (done < wanted) {
            STRATA_CO_TRY(const Mapping old, co_await look_up(start + done * cluster()));
            if (old.host != 0 || old.kind != Mapping::Kind::Unallocated) {
                break;
            }
            const std::uint64_t run = metadata_->run_now(start + done * cluster(), wanted - done);
            STRATA_CO_TRY(
                const std::uint64_t set,
                co_await metadata_->set_run(start + done * cluster(),
                                            entry_of_zeros(place.host + done * cluster()), run));
            done += set;
        }
        if (done < place.clusters && data_ == file_) {
            STRATA_CO_TRY_VOID(co_await metadata_->give_back(place.host + done * cluster(),
                                                             place.clusters - done));
        }
        offset = start + done * cluster();
    }
    co_return ok();
}

// The cluster that the old end is in has its part of what is given in advance: it gets a place,
// with what shows there.
Task<> Qcow2Node::own_cluster(std::uint64_t offset) {
    STRATA_CO_TRY(const Mapping m, co_await look_up(offset));
    if (m.host != 0 || m.kind != Mapping::Kind::Unallocated) {
        co_return ok();
    }
    AlignedBuffer bytes(std::min(cluster(), size_ - offset));
    STRATA_CO_TRY_VOID(co_await read_inside(offset, bytes.view()));
    co_return co_await write_bytes(offset, bytes.view());
}

Task<> Qcow2Node::resize(std::uint64_t size, Preallocation preallocation) {
    STRATA_CO_TRY_VOID(check_change(0, 0));
    size = (size + kSectorSize - 1) / kSectorSize * kSectorSize;
    if (size > (1ULL << 62)) {
        co_return Error{ErrorKind::InvalidArgument,
                        fmt::format("a size of {} bytes is too large", size), EFBIG};
    }
    STRATA_CO_TRY(const auto alone, co_await gate_.exclusive());
    if (header().snapshots != 0 && header().version < 3) {
        co_return Error{
            ErrorKind::NotSupported,
            worded(fmt::format("'{}': a version 2 image with snapshots cannot be resized", name()),
                   "Can't resize a v2 image which has snapshots"),
            ENOTSUP};
    }
    if (bitmaps_.empty() || size == size_) {
        co_return co_await resize_inside(size, preallocation);
    }
    STRATA_CO_TRY_VOID(co_await bitmaps_.begin_resize());
    STRATA_CO_TRY_VOID(co_await resize_inside(size, preallocation));
    bitmaps_.end_resize(size);
    STRATA_CO_TRY_VOID(co_await store_bitmaps());
    co_return co_await metadata_->settle();
}

Task<> Qcow2Node::resize_inside(std::uint64_t size, Preallocation preallocation) {
    const std::uint64_t old = size_;
    if (preallocation != Preallocation::Off && header().encryption != 0 && header().version < 3) {
        co_return lacks("clusters in advance when it is encrypted and of version 2");
    }
    if (size < old) {
        // Space goes before the size does; a crash between leaves zeros at the end of the disk.
        const std::uint64_t first = (size + cluster() - 1) / cluster() * cluster();
        STRATA_CO_TRY_VOID(co_await clear(first, old, Clearing::Drop));
        const std::uint64_t covered = cluster() * header().l2_entries();
        metadata_->drop_l2_tables((size + covered - 1) / covered);
        STRATA_CO_TRY_VOID(co_await metadata_->write_back());
        STRATA_CO_TRY_VOID(co_await write_size_field(size));
        STRATA_CO_TRY_VOID(co_await metadata_->free_released());
        if (data_ != file_) {
            STRATA_CO_TRY_VOID(co_await data_->resize(size, Preallocation::Off));
        }
        co_return co_await metadata_->write_back();
    }
    Header wanted = header();
    wanted.size = size;
    if (wanted.l1_needed() > metadata_->l1().size()) {
        STRATA_CO_TRY_VOID(co_await grow_l1(wanted.l1_needed()));
    }
    if (data_ != file_ && data_->size() < size) {
        STRATA_CO_TRY_VOID(co_await data_->resize(size, Preallocation::Off));
    }
    // What lay past the end does not show now: neither the last cluster's rest nor a longer layer
    // below.
    size_ = size;
    metadata_->header().size = size;
    Result<> done = ok();
    if (old % cluster() != 0) {
        done = co_await zero_part(old, std::min(size, (old / cluster() + 1) * cluster()) - old);
    }
    const std::uint64_t below = backing_ != nullptr ? backing_->size() : 0;
    const std::uint64_t first = (old + cluster() - 1) / cluster() * cluster();
    // Clusters given in advance hide what lies below by themselves.
    if (done.ok() && below > first && first < size && preallocation == Preallocation::Off) {
        done = co_await zero_inside(
            first, std::min(size, (below + cluster() - 1) / cluster() * cluster()) - first, {});
    }
    if (done.ok() && preallocation != Preallocation::Off) {
        if (old % cluster() != 0) {
            done = co_await own_cluster(old / cluster() * cluster());
        }
        if (done.ok()) {
            done = co_await preallocate(first, size, preallocation);
        }
    }
    size_ = old;
    metadata_->header().size = old;
    STRATA_CO_TRY_VOID(std::move(done));
    STRATA_CO_TRY_VOID(co_await metadata_->write_back());
    co_return co_await write_size_field(size);
}

}  // namespace strata::block::qcow2
