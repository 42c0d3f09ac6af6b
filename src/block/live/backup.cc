// Backup: copy before write.
#include "block/live/backup.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "block/bitmap.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kChunk = 64U << 10;
constexpr std::uint64_t kTransfer = 1U << 20;
constexpr std::uint64_t kMostChunks = 1ULL << 26;
constexpr unsigned kParallel = 4;

}  // namespace

Task<> Backup::run(LiveDisk& live) {
    Result<> done = ok();
    {
        STRATA_CO_TRY(const auto alone, co_await live.gate().exclusive());
        done = co_await begin(live);
    }
    if (done.ok()) {
        control().begin(left_->bytes());
        done = co_await copy_all(live);
    }
    co_return co_await finish(live, std::move(done));
}

Task<> Backup::abandon() {
    const NodePtr target = std::exchange(options_.target, nullptr);
    co_return co_await target->close();
}

Task<> Backup::begin(LiveDisk& live) {
    source_ = &live.disk();
    const std::uint64_t size = source_->size();
    const NodeTraits& traits = options_.target->traits();
    if (options_.target->size() < size || traits.read_only) {
        co_return Error{
            ErrorKind::InvalidArgument,
            fmt::format("'{}' has {} bytes: the disk has {}, and they are to be written",
                        options_.target->name(), options_.target->size(), size)};
    }
    // Whole clusters of the target: what it lacks lies below it, where this job does not look.
    std::uint64_t chunk = std::max(kChunk, traits.cluster_size);
    while (size / chunk >= kMostChunks) {
        chunk *= 2;
    }
    left_.emplace(size, chunk);
    if (!options_.bitmap.empty()) {
        STRATA_CO_TRY_VOID(co_await begin_bitmap(live));
    }
    if (!options_.incremental) {
        left_->set_all();
    } else if (before_) {
        left_->set_from(*before_);
    }
    live.watch(this);
    co_return ok();
}

Task<> Backup::begin_bitmap(LiveDisk& live) {
    Node& disk = live.disk();
    STRATA_CO_TRY(const std::vector<BitmapInfo> all, co_await disk.bitmaps());
    const auto found = std::find_if(all.begin(), all.end(), [&](const BitmapInfo& each) {
        return each.name == options_.bitmap;
    });
    if (found == all.end() && options_.incremental) {
        co_return Error{ErrorKind::NotFound,
                        fmt::format("'{}' has no bitmap '{}': make a full backup with it first",
                                    disk.name(), options_.bitmap)};
    }
    if (found != all.end() && options_.incremental && (found->in_use || !found->automatic)) {
        co_return Error{ErrorKind::WrongState,
                        fmt::format("'{}': its bitmap '{}' {}: make a full backup", disk.name(),
                                    options_.bitmap,
                                    found->in_use ? "was not stored when the disk was last in use"
                                                  : "does not record")};
    }
    std::uint64_t granularity = kChunk;
    if (found != all.end()) {
        granularity = found->granularity;
        broken_ = found->in_use;
        if (!found->in_use) {
            STRATA_CO_TRY(before_, co_await disk.read_bitmap(options_.bitmap));
        }
    }
    since_ = empty_bitmap(options_.bitmap, disk.size(), granularity, true);
    co_return ok();
}

Task<> Backup::replace_bitmap(Node& disk, Bitmap bitmap) {
    if (std::exchange(broken_, false)) {
        STRATA_CO_TRY_VOID(co_await disk.remove_bitmap(options_.bitmap));
    }
    co_return co_await disk.store_bitmap(std::move(bitmap));
}

/// With the gate held alone, the copy being whole. If that fails the next backup takes what this
/// one took, too.
Task<> Backup::renew_bitmap(Node& disk) {
    if (!since_) {
        co_return ok();
    }
    Result<> renewed = co_await replace_bitmap(disk, *since_);
    if (renewed.ok()) {
        co_return ok();
    }
    Result<> kept = ok();
    if (before_) {
        merge_bits(*since_, *before_);
        kept = co_await disk.store_bitmap(*since_);
    } else {
        kept = co_await disk.remove_bitmap(options_.bitmap);
    }
    const bool safe = kept.ok() || (!before_ && kept.error().kind() == ErrorKind::NotFound);
    co_return Error(renewed.error())
        .context(fmt::format(
            "the copy is whole, but bitmap '{}' {}", options_.bitmap,
            safe ? "could not start anew" : "is lost and the next backup must be a full one"));
}

Task<> Backup::around(std::uint64_t offset, std::uint64_t length, Task<> write) {
    if (since_) {
        mark_dirty(*since_, offset, length);
    }
    const std::uint64_t end =
        std::min((offset + length + left_->chunk() - 1) / left_->chunk(), left_->chunks());
    for (std::uint64_t at = offset / left_->chunk(); length != 0 && at < end && trouble_.ok();
         ++at) {
        if (!left_->test(at)) {
            continue;
        }
        Result<> copied = co_await copy_chunks(at, 1);
        if (!copied.ok() && trouble_.ok()) {
            trouble_ = std::move(copied);
        }
    }
    co_return co_await write;
}

Task<> Backup::copy_all(LiveDisk& live) {
    TaskGroup group(live.loop(), kParallel);
    Result<> done = ok();
    const std::uint64_t most = std::max<std::uint64_t>(kTransfer / left_->chunk(), 1);
    std::uint64_t next = 0;
    while (left_->count() != 0 && !group.failed() && trouble_.ok()) {
        const std::uint64_t at = left_->next(next);
        if (at < next) {
            break;  // the rest is on its way
        }
        done = co_await control().pause_point(live.loop(), 0);
        if (!done.ok()) {
            break;
        }
        const std::uint64_t count = std::max<std::uint64_t>(left_->run(at, most), 1);
        next = at + count;
        (void)co_await group.add(copy_chunks(at, count));
    }
    Result<> copied = co_await group.finish();
    STRATA_CO_TRY_VOID(std::move(done));
    STRATA_CO_TRY_VOID(std::move(copied));
    co_return trouble_.ok() ? ok() : Result<>(trouble_.error());
}

/// Those of the chunks that are not copied yet.
Task<> Backup::copy_chunks(std::uint64_t first, std::uint64_t count) {
    STRATA_CO_TRY(const auto hold,
                  co_await locks_.hold(left_->offset_of(first), left_->end_of(first, count), true));
    for (std::uint64_t each = first; each < first + count;) {
        const std::uint64_t run = left_->run(each, first + count - each);
        if (run == 0) {
            ++each;
            continue;
        }
        const std::uint64_t end = left_->end_of(each, run);
        for (std::uint64_t at = left_->offset_of(each); at < end;) {
            STRATA_CO_TRY(const Extent extent,
                          co_await status_of_chain(*source_, nullptr, at, end - at));
            STRATA_CO_TRY_VOID(co_await copy_extent(extent, at));
            control().advance(extent.length);
            at += extent.length;
        }
        for (const std::uint64_t last = each + run; each < last; ++each) {
            left_->clear(each);
        }
    }
    co_return ok();
}

Task<> Backup::copy_extent(const Extent& extent, std::uint64_t at) {
    if (extent.kind != Extent::Kind::Data) {
        if (options_.target_zero) {
            co_return ok();
        }
        co_return co_await options_.target->write_zeroes(
            at, extent.length,
            ZeroOptions{.may_unmap = true, .no_fallback = false, .lasting = true});
    }
    control().charge(extent.length);
    const auto buffer = pool_.take(extent.length);
    STRATA_CO_TRY_VOID(co_await source_->read(at, Buffers(buffer.bytes())));
    if (options_.target_zero && is_zero(buffer.bytes())) {
        co_return ok();
    }
    co_return co_await options_.target->write(at, Buffers(buffer.bytes()));
}

Task<> Backup::finish(LiveDisk& live, Result<> done) {
    if (done.ok()) {
        // All is copied: what the guest writes meanwhile is remembered and nothing else. Closing
        // alone makes nothing durable, and the bitmap forgets what the copy has.
        done = co_await options_.target->flush();
    }
    if (done.ok()) {
        done = co_await options_.target->close();
    }
    {
        STRATA_CO_TRY(const auto alone, co_await live.gate().exclusive());
        live.watch(nullptr);
        if (done.ok()) {
            done = co_await renew_bitmap(live.disk());
        }
    }
    (void)co_await options_.target->close();  // twice is once; after a failure it cannot be used
    options_.target.reset();
    co_return done;
}

}  // namespace strata::block
