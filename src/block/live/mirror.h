// Mirror: a copy of a disk in use that becomes, and stays, the same as the disk.
//
// What has to be copied is a bit for each chunk: all of it at first, then what the guest writes.
// A chunk's bit falls before it is read and rises after a write to it has ended, so a chunk that
// was read too early is copied again; a chunk is copied by one at a time. Once the first pass is
// over the guest's writes carry their own copying with them: the set of chunks only shrinks from
// there, however fast the guest writes. The last step holds the guest's
// requests for as long as the rest and a flush of the copy take.
//
// Commit of the active layer is the same, with the layer below as the target and no more copied
// than the top layer has. That the target is the layer below, by its file, is looked at with the
// guest's requests held: a layer put over the disk meanwhile would be lost otherwise.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/unique_fd.h"
#include "block/jobs/buffer_pool.h"
#include "block/live/chunk_map.h"
#include "block/live/live_job.h"
#include "block/live/range_locks.h"

namespace strata::block {

struct MirrorOptions {
    NodePtr target;  ///< as large as the disk at least; a copy of all names no layer below any more
    bool target_zero = false;  ///< it reads as zeros
    LiveJob::Finish finish = LiveJob::Finish::Ask;
    std::uint64_t speed = 0;
};

class Mirror : public LiveJob, private WriteWatcher {
  public:
    Mirror(Loop& loop, MirrorOptions options)
        : LiveJob(loop), options_(std::move(options)), locks_(loop) {
        set_speed(options_.speed);
    }
    [[nodiscard]] std::string_view kind() const override { return "mirror"; }
    Task<> run(LiveDisk& live) override;
    Task<> abandon() override;
    /// WrongState before it is ready.
    Result<> complete(Finish finish) override;

  protected:
    /// With the guest's requests held, before the first chunk.
    virtual Task<> prepare(LiveDisk& live);
    /// With the guest's requests held, after a pivot: the old disk may go. Its errors are told, and
    /// change nothing.
    // NOLINTNEXTLINE(performance-unnecessary-value-param): a coroutine in a derived class
    virtual Task<> dismiss(NodePtr old) { return old->close(); }
    /// The target belongs to the disk's chain: it stays open if the job fails.
    [[nodiscard]] virtual bool target_in_use() const { return false; }
    /// Only what the disk's own layer has.
    [[nodiscard]] virtual bool top_only() const { return false; }
    [[nodiscard]] MirrorOptions& options() { return options_; }

  private:
    Task<> around(std::uint64_t offset, std::uint64_t length, Task<> write) override;
    Task<> begin(LiveDisk& live);
    Task<> copy_while_running(LiveDisk& live);
    Task<> copy_dirty(LiveDisk& live, bool limited);
    Task<> copy_run(std::uint64_t first, std::uint64_t count, bool limited);
    Task<> copy_range(std::uint64_t at, std::uint64_t end, bool limited);
    Task<> copy_extent(const Extent& extent, std::uint64_t at);
    Task<> finish(LiveDisk& live);
    void give_up(const Error& error);

    MirrorOptions options_;
    Node* source_ = nullptr;
    std::optional<ChunkMap> dirty_, touched_;  ///< to be copied; ever written to in the target
    RangeLocks locks_;
    BufferPool pool_;
    std::uint64_t next_ = 0;
    bool wanted_ = false;       ///< the end is
    bool with_writes_ = false;  ///< the guest's writes are copied before they end
    Result<> trouble_ = ok();
};

/// Commit: the disk's own layer goes into the one below it, which the guest goes on with.
class ActiveCommit final : public Mirror {
  public:
    /// `options.target` is the layer below opened a second time, for writing, without locks and
    /// without what lies below it; `lock` is its file, to be locked when the read-only one is gone.
    ActiveCommit(Loop& loop, MirrorOptions options, UniqueFd lock)
        : Mirror(loop, std::move(options)), lock_(std::move(lock)) {}
    [[nodiscard]] std::string_view kind() const override { return "commit"; }

  protected:
    Task<> prepare(LiveDisk& live) override;
    Task<> dismiss(NodePtr old) override;
    [[nodiscard]] bool top_only() const override { return true; }
    [[nodiscard]] bool target_in_use() const override { return joined_; }

  private:
    UniqueFd lock_;
    std::string name_, format_;  ///< of the layer below, as the disk has them
    bool joined_ = false;
};

}  // namespace strata::block
