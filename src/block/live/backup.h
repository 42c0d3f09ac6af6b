// Backup: a copy of a disk in use as it was at the moment when the job began.
//
// Before the guest changes a chunk that is not copied yet, the chunk is copied; meanwhile all the
// others are, one after another. A chunk is copied by one at a time, and once. If the copy cannot
// be written the job ends and the guest goes on. With a dirty bitmap only what it has is copied;
// at the moment of the beginning it starts anew, so that the next backup can go on from this one.
// If this one fails the bitmap gets back what it had, or goes if it is new.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "block/jobs/buffer_pool.h"
#include "block/live/chunk_map.h"
#include "block/live/live_job.h"
#include "block/live/range_locks.h"

namespace strata::block {

struct BackupOptions {
    NodePtr target;            ///< as large as the disk at least; its own layer is written to
    bool target_zero = false;  ///< it reads as zeros
    /// The persistent bitmap that starts anew; empty: none. Made if it is missing, unless only what
    /// it has is to be copied.
    std::string bitmap{};
    bool incremental = false;  ///< only what `bitmap` has
    std::uint64_t speed = 0;
};

class Backup final : public LiveJob, private WriteWatcher {
  public:
    Backup(Loop& loop, BackupOptions options)
        : LiveJob(loop), options_(std::move(options)), locks_(loop) {
        set_speed(options_.speed);
    }
    [[nodiscard]] std::string_view kind() const override { return "backup"; }
    Task<> run(LiveDisk& live) override;
    Task<> abandon() override;

  private:
    Task<> around(std::uint64_t offset, std::uint64_t length, Task<> write) override;
    Task<> begin(LiveDisk& live);
    Task<> begin_bitmap(LiveDisk& live);
    Task<> restore_bitmap(LiveDisk& live);
    Task<> copy_all(LiveDisk& live);
    Task<> copy_chunks(std::uint64_t first, std::uint64_t count);
    Task<> copy_extent(const Extent& extent, std::uint64_t at);
    Task<> finish(LiveDisk& live, Result<> done);

    BackupOptions options_;
    Node* source_ = nullptr;
    std::optional<ChunkMap> left_;  ///< chunks that are not copied
    std::optional<Bitmap> before_;  ///< the bitmap as it was
    bool renewed_ = false;          ///< the bitmap has started anew
    RangeLocks locks_;
    BufferPool pool_;
    Result<> trouble_ = ok();
};

}  // namespace strata::block
