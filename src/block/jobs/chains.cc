// Commit, rebase and flatten: walk the extents of a chain and write what a lower or upper layer
// lacks.
#include "block/jobs/chains.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "block/droppable.h"
#include "block/jobs/buffer_pool.h"
#include "block/protocols/file/file_node.h"
#include "block/sync.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kChunk = 1U << 20, kZeroChunk = 1U << 30;
constexpr std::uint64_t kMergeChunk = 512U << 10;
constexpr std::size_t kParallel = 8, kMerges = 16;
constexpr std::size_t kSector = 512;

Task<> commit_chunk(Node& top, Node& target, std::uint64_t at, std::uint64_t length,
                    BufferPool& pool, JobControl& control) {
    const auto buffer = pool.take(length);
    STRATA_CO_TRY_VOID(co_await top.read(at, Buffers(buffer.bytes())));
    STRATA_CO_TRY_VOID(co_await target.write(at, Buffers(buffer.bytes())));
    control.advance(length);
    co_return ok();
}

/// From `at` on, till the end or till a checkpoint is due; answers where it got to.
Task<std::uint64_t> commit_extents(Node& top, const Node* base, Node& target, TaskGroup& group,
                                   BufferPool& pool, JobControl& control, std::uint64_t at,
                                   std::chrono::milliseconds checkpoint) {
    const std::uint64_t size = top.size();
    const auto due = std::chrono::steady_clock::now() + checkpoint;
    while (at < size && !group.failed()) {
        STRATA_CO_TRY(const Extent extent, co_await status_of_chain(top, base, at, size - at));
        if (extent.kind == Extent::Kind::Unallocated) {
            control.advance(extent.length);
            at += extent.length;
            continue;
        }
        const bool zero = extent.kind == Extent::Kind::Zero;
        const std::uint64_t chunk = std::min(extent.length, zero ? kZeroChunk : kChunk);
        STRATA_CO_TRY_VOID(co_await control.pause_point(top.loop(), zero ? 0 : chunk));
        if (zero) {
            STRATA_CO_TRY_VOID(co_await target.write_zeroes(
                at, chunk, ZeroOptions{.may_unmap = true, .no_fallback = false}));
            control.advance(chunk);
        } else {
            (void)co_await group.add(commit_chunk(top, target, at, chunk, pool, control));
        }
        at += chunk;
        if (std::chrono::steady_clock::now() >= due) {
            break;
        }
    }
    co_return at;
}

/// One side of a rebase: a backing layer that may be absent or shorter than the overlay.
struct Side {
    Node* node = nullptr;
    Extent extent{};
    std::uint64_t known = 0;  ///< up to where `extent` tells

    [[nodiscard]] bool data() const { return extent.kind == Extent::Kind::Data; }
};

Task<> look(Side& side, const Node* above, std::uint64_t at, std::uint64_t end) {
    if (at < side.known) {
        co_return ok();
    }
    if (side.node == nullptr || at >= side.node->size()) {
        side.extent = {Extent::Kind::Zero, end - at};
    } else {
        STRATA_CO_TRY(side.extent, co_await status_of_chain(*side.node, above, at,
                                                            std::min(end, side.node->size()) - at));
    }
    side.known = at + side.extent.length;
    co_return ok();
}

/// Both layers' bytes are the same piece of the same file.
bool same_place(const Extent& first, const Extent& second) {
    return first.owner != nullptr && first.owner == second.owner && first.has_offset &&
           second.has_offset && first.offset == second.offset;
}

/// Files that `top` itself writes to.
void write_in_bulk(Node& top) {
    if (auto* file = dynamic_cast<FileNode*>(&top)) {
        file->write_in_bulk();
    }
    for (Node* each : top.children()) {
        if (each != top.backing()) {
            write_in_bulk(*each);
        }
    }
}

class Absorber {
  public:
    Absorber(Node& overlay, Node* old_backing, Node* new_backing, const Node* common,
             JobControl& control, std::chrono::milliseconds checkpoint)
        : overlay_(overlay),
          old_{old_backing},
          new_{new_backing},
          common_(common),
          control_(control),
          checkpoint_(checkpoint),
          turn_(overlay.loop()) {}
    Task<> run();

  private:
    Task<std::uint64_t> step(std::uint64_t at, TaskGroup& group);
    Task<> merge(std::uint64_t at, std::uint64_t length, bool old_data, bool new_data,
                 std::uint64_t ticket);
    Task<> fetch(const Side& side, bool has, std::uint64_t at, std::uint64_t length,
                 std::optional<BufferPool::Lease>& lease);
    Task<> write_difference(std::uint64_t at, std::span<const std::byte> wanted,
                            std::span<const std::byte> there);

    Node& overlay_;
    Side old_, new_;
    const Node* common_;
    JobControl& control_;
    const std::chrono::milliseconds checkpoint_;
    std::uint64_t tickets_ = 0,
                  turn_of_ = 0;  ///< writes go in order: the overlay's layout follows the disk's
    WaitQueue turn_;
    BufferPool pool_;
};

/// Writes the sectors of `wanted` that `there` has otherwise; an empty span stands for zeros.
Task<> Absorber::write_difference(std::uint64_t at, std::span<const std::byte> wanted,
                                  std::span<const std::byte> there) {
    const bool zero = wanted.empty();
    const std::size_t size = std::max(wanted.size(), there.size());
    const auto differ = [&](std::size_t place, std::size_t count) {
        return zero ? !is_zero(there.subspan(place, count))
               : there.empty()
                   ? !is_zero(wanted.subspan(place, count))
                   : std::memcmp(wanted.data() + place, there.data() + place, count) != 0;
    };
    const auto differs = [&](std::size_t place) {
        return differ(place, std::min(kSector, size - place));
    };
    if (!differ(0, size)) {
        co_return ok();
    }
    for (std::size_t place = 0; place < size;) {
        const std::size_t start = place;
        const bool different = differs(place);
        do {
            place += std::min(kSector, size - place);
        } while (place < size && differs(place) == different);
        if (different && zero) {
            STRATA_CO_TRY_VOID(co_await overlay_.write_zeroes(
                at + start, place - start,
                ZeroOptions{.may_unmap = false, .no_fallback = false, .lasting = true}));
        } else if (different) {
            STRATA_CO_TRY_VOID(co_await overlay_.write(
                at + start, Buffers::of(wanted.subspan(start, place - start))));
        }
    }
    co_return ok();
}

Task<> Absorber::fetch(const Side& side, bool has, std::uint64_t at, std::uint64_t length,
                       std::optional<BufferPool::Lease>& lease) {
    if (has) {
        lease.emplace(pool_.take(length));
        STRATA_CO_TRY_VOID(co_await side.node->read(at, Buffers(lease->bytes())));
    }
    co_return ok();
}

// Writes begin in order, each when the one before it is under way.
Task<> Absorber::merge(std::uint64_t at, std::uint64_t length, bool old_data, bool new_data,
                       std::uint64_t ticket) {
    std::optional<BufferPool::Lease> wanted, there;
    Result<> done = co_await fetch(old_, old_data, at, length, wanted);
    if (done.ok()) {
        done = co_await fetch(new_, new_data, at, length, there);
    }
    while (turn_of_ != ticket) {
        co_await turn_.wait();  // what failed to read has its turn, too
    }
    ++turn_of_;
    turn_.wake_all();
    if (done.ok()) {
        const auto bytes = [](const auto& lease) {
            return lease ? lease->bytes() : std::span<std::byte>();
        };
        done = co_await write_difference(at, bytes(wanted), bytes(there));
    }
    control_.advance(length);
    co_return done;
}

Task<std::uint64_t> Absorber::step(std::uint64_t at, TaskGroup& group) {
    const std::uint64_t end = overlay_.size();
    STRATA_CO_TRY(const Extent own, co_await overlay_.status(at, end - at));
    if (own.kind != Extent::Kind::Unallocated) {
        control_.advance(own.length);
        co_return own.length;
    }
    STRATA_CO_TRY_VOID(co_await look(old_, common_, at, at + own.length));
    std::uint64_t length = std::min(own.length, old_.known - at);
    if (common_ != nullptr && old_.extent.kind == Extent::Kind::Unallocated) {
        control_.advance(length);
        co_return length;
    }
    STRATA_CO_TRY_VOID(co_await look(new_, nullptr, at, at + length));
    length = std::min(length, new_.known - at);
    Extent before = old_.extent;
    Extent after = new_.extent;
    before.offset += before.length - (old_.known - at);
    after.offset += after.length - (new_.known - at);
    if ((!old_.data() && !new_.data()) || same_place(before, after)) {
        control_.advance(length);
        co_return length;
    }
    const std::uint64_t chunk = std::min(length, kMergeChunk);
    STRATA_CO_TRY_VOID(co_await control_.pause_point(overlay_.loop(), chunk));
    (void)co_await group.add(merge(at, chunk, old_.data(), new_.data(), tickets_++));
    co_return chunk;
}

Task<> Absorber::run() {
    control_.begin(overlay_.size());
    write_in_bulk(overlay_);
    TaskGroup group(overlay_.loop(), kMerges);
    Result<> walked = ok();
    auto due = std::chrono::steady_clock::now() + checkpoint_;
    for (std::uint64_t at = 0; at < overlay_.size() && !group.failed();) {
        auto length = co_await step(at, group);
        if (!length.ok()) {
            walked = length.error();
            break;
        }
        at += length.value();
        if (std::chrono::steady_clock::now() >= due) {
            group.start(overlay_.flush());
            due = std::chrono::steady_clock::now() + checkpoint_;
        }
    }
    Result<> merged = co_await group.finish();
    STRATA_CO_TRY_VOID(std::move(walked));
    STRATA_CO_TRY_VOID(std::move(merged));
    co_return co_await overlay_.flush();
}

}  // namespace

Task<> commit_layers(Node& top, const Node* base, Node& target, JobControl& control, bool empties,
                     std::chrono::milliseconds checkpoint) {
    control.begin(top.size());
    if (target.size() < top.size()) {
        STRATA_CO_TRY_VOID(co_await target.resize(top.size(), Preallocation::Off));
    }
    BufferPool pool;
    TaskGroup group(top.loop(), kParallel);
    auto* drops = empties ? dynamic_cast<Droppable*>(&top) : nullptr;
    for (std::uint64_t at = 0; at < top.size();) {
        auto walked =
            co_await commit_extents(top, base, target, group, pool, control, at, checkpoint);
        Result<> written = co_await group.finish();
        STRATA_CO_TRY(const std::uint64_t end, std::move(walked));
        STRATA_CO_TRY_VOID(std::move(written));
        STRATA_CO_TRY_VOID(co_await target.flush());
        if (drops != nullptr && end < top.size()) {
            STRATA_CO_TRY_VOID(co_await drops->drop(at, end - at));
            STRATA_CO_TRY_VOID(co_await top.flush());
        }
        at = end;
    }
    co_return co_await target.flush();
}

Task<> absorb_difference(Node& overlay, Node* old_backing, Node* new_backing, const Node* common,
                         JobControl& control, std::chrono::milliseconds checkpoint) {
    Absorber absorber(overlay, old_backing, new_backing, common, control, checkpoint);
    co_return co_await absorber.run();
}

}  // namespace strata::block
