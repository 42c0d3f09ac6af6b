// Mirror: passes over the dirty chunks, and the end.
#include "block/live/mirror.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fmt/format.h>

#include "base/log.h"
#include "block/file_lock.h"
#include "block/protocols/file/file_node.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kChunk = 64U << 10;
constexpr std::uint64_t kMostChunks = 1ULL << 26;  ///< 8 MiB of bits; larger disks, larger chunks
constexpr std::uint64_t kTransfer = 1U << 20;
constexpr unsigned kParallel = 4;

std::uint64_t chunk_of(const Node& target, std::uint64_t size) {
    std::uint64_t chunk = std::max(kChunk, target.traits().cluster_size);
    while (size / chunk >= kMostChunks) {
        chunk *= 2;
    }
    return chunk;
}

/// Chunks that are copied in one go.
std::uint64_t at_once(std::uint64_t chunk) {
    return std::max<std::uint64_t>(kTransfer / chunk, 1);
}

/// The file that `node`'s own layer begins in; null: none of this host's.
const FileNode* file_of(const Node& node) {
    if (const auto* file = dynamic_cast<const FileNode*>(&node)) {
        return file;
    }
    for (const Node* each : node.children()) {
        const FileNode* found = each != node.backing() ? file_of(*each) : nullptr;
        if (found != nullptr) {
            return found;
        }
    }
    return nullptr;
}

}  // namespace

Task<> Mirror::run(LiveDisk& live) {
    wanted_ = options_.finish != Finish::Ask;
    Result<> done = ok();
    {
        STRATA_CO_TRY(const auto alone, co_await live.gate().exclusive());
        done = co_await begin(live);
    }
    if (done.ok()) {
        control().begin(source_->size());
        done = co_await copy_while_running(live);
    }
    if (done.ok()) {
        done = co_await finish(live);
    }
    if (!done.ok()) {
        STRATA_CO_TRY(const auto alone, co_await live.gate().exclusive());
        live.watch(nullptr);
    }
    if (!done.ok() && !target_in_use()) {
        (void)co_await options_.target->close();  // the other error is told
    }
    options_.target.reset();
    co_return done;
}

Task<> Mirror::begin(LiveDisk& live) {
    source_ = &live.disk();
    const std::uint64_t size = source_->size();
    Node& target = *options_.target;
    if (target.size() < size || target.traits().read_only) {
        co_return Error{
            ErrorKind::InvalidArgument,
            fmt::format("'{}' has {} bytes: the disk has {}, and they are to be written",
                        target.name(), target.size(), size)};
    }
    dirty_.emplace(size, chunk_of(target, size));
    touched_.emplace(size, dirty_->chunk());
    dirty_->set_all();
    STRATA_CO_TRY_VOID(co_await prepare(live));
    live.watch(this);
    co_return ok();
}

// What the disk has as zeros may be a hole in the copy: nothing may show through it at the next
// start.
Task<> Mirror::prepare(LiveDisk& /*live*/) {
    STRATA_CO_TRY(const FormatInfo info, co_await options_.target->info());
    if (!info.backing_name.empty()) {
        STRATA_CO_TRY_VOID(co_await options_.target->change_backing(nullptr, "", ""));
    }
    co_return ok();
}

Task<> Mirror::abandon() {
    const NodePtr target = std::exchange(options_.target, nullptr);
    // The layer below is the chain's, perhaps another commit's: nothing was written through this.
    if (top_only()) {
        co_return ok();
    }
    co_return co_await target->close();
}

Result<> Mirror::complete(Finish finish) {
    if (!ready()) {
        return Error{ErrorKind::WrongState, "the copy is not complete yet: wait until it is ready"};
    }
    options_.finish = finish;
    wanted_ = true;
    wake().wake_all();
    return ok();
}

void Mirror::give_up(const Error& error) {
    if (trouble_.ok()) {
        trouble_ = error;
    }
    wake().wake_all();
}

Task<> Mirror::around(std::uint64_t offset, std::uint64_t length, Task<> write) {
    Result<> done = co_await write;
    if (length == 0) {
        co_return done;
    }
    dirty_->set_range(offset, length);  // whatever came of it
    if (!with_writes_ || !trouble_.ok()) {
        co_return done;
    }
    const std::uint64_t last =
        std::min((offset + length - 1) / dirty_->chunk(), dirty_->chunks() - 1);
    for (std::uint64_t at = offset / dirty_->chunk(); at <= last;) {
        const std::uint64_t count =
            dirty_->run(at, std::min(last - at + 1, at_once(dirty_->chunk())));
        if (count != 0) {
            Result<> copied = co_await copy_run(at, count, false);
            if (!copied.ok()) {
                give_up(copied.error());
                break;
            }
        }
        at += std::max<std::uint64_t>(count, 1);
    }
    co_return done;
}

/// Until the end is wanted and nothing is dirty.
Task<> Mirror::copy_while_running(LiveDisk& live) {
    for (;;) {
        STRATA_CO_TRY_VOID(co_await copy_dirty(live, true));
        STRATA_CO_TRY_VOID(control().check());
        if (dirty_->count() == 0 && with_writes_) {
            become_ready();
            if (wanted_) {
                co_return ok();
            }
            co_await wake().wait();
        }
        with_writes_ = true;
    }
}

/// One pass: until a moment when nothing is dirty, or the pass has gone round once.
Task<> Mirror::copy_dirty(LiveDisk& live, bool limited) {
    TaskGroup group(live.loop(), kParallel);
    const std::uint64_t most = at_once(dirty_->chunk());
    std::uint64_t budget = dirty_->chunks();
    while (dirty_->count() != 0 && budget != 0 && !group.failed() && trouble_.ok()) {
        next_ = dirty_->next(next_);
        std::uint64_t count = dirty_->run(next_, std::min(most, budget));
        if (limited && !(co_await control().pause_point(live.loop(), 0)).ok()) {
            break;
        }
        count = dirty_->run(next_, count);  // a write may have copied some
        if (count == 0) {
            continue;
        }
        const std::uint64_t first = next_;
        next_ += count;
        budget -= count;
        (void)co_await group.add(copy_run(first, count, limited));
    }
    Result<> copied = co_await group.finish();
    STRATA_CO_TRY_VOID(std::move(copied));
    if (limited) {
        STRATA_CO_TRY_VOID(control().check());
    }
    co_return trouble_.ok() ? ok() : Result<>(trouble_.error());
}

Task<> Mirror::copy_run(std::uint64_t first, std::uint64_t count, bool limited) {
    const std::uint64_t at = dirty_->offset_of(first), end = dirty_->end_of(first, count);
    for (std::uint64_t each = first; each < first + count; ++each) {
        dirty_->clear(each);
    }
    STRATA_CO_TRY(const auto hold, co_await locks_.hold(at, end, true));
    co_return co_await copy_range(at, end, limited);
}

Task<> Mirror::copy_range(std::uint64_t at, std::uint64_t end, bool limited) {
    const Node* base = top_only() ? source_->backing() : nullptr;
    while (at < end) {
        STRATA_CO_TRY(Extent extent, co_await status_of_chain(*source_, base, at, end - at));
        if (extent.kind == Extent::Kind::Data) {
            extent.length = std::min(extent.length, kTransfer);  // it takes as much memory
        }
        if (limited && extent.kind == Extent::Kind::Data) {
            control().charge(extent.length);
        }
        if (!top_only() || extent.kind != Extent::Kind::Unallocated) {
            STRATA_CO_TRY_VOID(co_await copy_extent(extent, at));
        }
        control().advance(extent.length);
        control().remaining(end - at - extent.length + dirty_->bytes());
        at += extent.length;
    }
    co_return ok();
}

Task<> Mirror::copy_extent(const Extent& extent, std::uint64_t at) {
    const std::uint64_t first = at / touched_->chunk(),
                        last = (at + extent.length - 1) / touched_->chunk();
    bool fresh = options_.target_zero;
    for (std::uint64_t each = first; each <= last; ++each) {
        fresh = fresh && !touched_->test(each);
    }
    if (extent.kind != Extent::Kind::Data) {
        if (fresh) {
            co_return ok();
        }
        co_return co_await options_.target->write_zeroes(
            at, extent.length, ZeroOptions{.may_unmap = true, .no_fallback = false});
    }
    const auto buffer = pool_.take(extent.length);
    STRATA_CO_TRY_VOID(co_await source_->read(at, Buffers(buffer.bytes())));
    if (fresh && is_zero(buffer.bytes())) {
        co_return ok();
    }
    touched_->set_range(at, extent.length);
    co_return co_await options_.target->write(at, Buffers(buffer.bytes()));
}

Task<> Mirror::finish(LiveDisk& live) {
    // What is durable already need not be waited for with the guest held.
    STRATA_CO_TRY_VOID(co_await options_.target->flush());
    NodePtr old = live.disk_ptr();
    const bool pivot = options_.finish == Finish::Pivot;
    {
        STRATA_CO_TRY(const auto alone, co_await live.gate().exclusive());
        while (dirty_->count() != 0) {
            STRATA_CO_TRY_VOID(co_await copy_dirty(live, false));
        }
        STRATA_CO_TRY_VOID(trouble_.ok() ? ok() : Result<>(trouble_.error()));
        STRATA_CO_TRY_VOID(control().check());
        STRATA_CO_TRY_VOID(co_await options_.target->flush());
        live.watch(nullptr);
        if (pivot) {
            live.replace(options_.target);
        }
    }
    if (pivot) {
        Result<> closed = co_await dismiss(std::move(old));
        if (!closed.ok()) {
            log::warn("the disk that a copy has replaced was not closed cleanly reason='{}'",
                      closed.error().text());
        }
        co_return ok();
    }
    co_return co_await options_.target->close();
}

// From here on the disk's reads of what it lacks come from the image that is written to, so that
// what is freed and used anew there is never read through an old table.
Task<> ActiveCommit::prepare(LiveDisk& live) {
    Node& disk = live.disk();
    Node* below = disk.backing();
    if (below == nullptr) {
        co_return Error{ErrorKind::WrongState,
                        fmt::format("'{}' has no layer below to commit to", disk.name())};
    }
    const NodePtr target = options().target;
    const FileNode *has = file_of(*below), *passed = file_of(*target);
    if (has == nullptr || passed == nullptr || has->identity() != passed->identity()) {
        co_return Error{
            ErrorKind::WrongState,
            fmt::format("'{}' is not the layer below the disk: look again", target->name())};
    }
    STRATA_CO_TRY(const FormatInfo own, co_await disk.info());
    if (Node* under = below->backing()) {
        STRATA_CO_TRY(const FormatInfo info, co_await below->info());
        STRATA_CO_TRY_VOID(co_await target->change_backing(under->shared_from_this(),
                                                           info.backing_name, info.backing_format));
    }
    name_ = own.backing_name;
    format_ = own.backing_format;
    STRATA_CO_TRY_VOID(co_await disk.change_backing(target, name_, format_));
    joined_ = true;
    co_return lock_.valid() ? lock_image(lock_.get(), true, target->name()) : ok();
}

Task<> ActiveCommit::dismiss(NodePtr old) {
    // The image that the guest uses now must not be closed with it.
    STRATA_CO_TRY_VOID(co_await old->change_backing(nullptr, name_, format_));
    co_return co_await old->close();
}

}  // namespace strata::block
