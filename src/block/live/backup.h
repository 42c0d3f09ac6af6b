// Backup: a copy of a disk in use as it was at the moment when the job began.
//
// Before the guest changes a chunk that is not copied yet, the chunk is copied; meanwhile all the
// others are, one after another. A chunk is copied by one at a time, and once. If the copy cannot
// be written the job ends and the guest goes on. With a dirty bitmap only what it has is copied.
// The bitmap goes on recording meanwhile, over what it had; what the guest writes is remembered
// beside it, and takes its place once the copy is whole and durable. So a backup that fails, or a
// crash, takes nothing from the bitmap, and the next one can go on from this one.
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
    /// The persistent bitmap that starts anew at the end, as of the beginning; empty: none. Made if
    /// it is missing or broken, unless only what it has is to be copied.
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
    Task<> renew_bitmap(Node& disk);
    Task<> replace_bitmap(Node& disk, Bitmap bitmap);
    Task<> copy_all(LiveDisk& live);
    Task<> copy_chunks(std::uint64_t first, std::uint64_t count);
    Task<> copy_extent(const Extent& extent, std::uint64_t at);
    Task<> finish(LiveDisk& live, Result<> done);

    BackupOptions options_;
    Node* source_ = nullptr;
    std::optional<ChunkMap> left_;  ///< chunks that are not copied
    std::optional<Bitmap> before_;  ///< the bitmap as it was
    std::optional<Bitmap> since_;   ///< what was written since the beginning
    bool broken_ = false;           ///< there is a bitmap that cannot be used
    RangeLocks locks_;
    BufferPool pool_;
    Result<> trouble_ = ok();
};

}  // namespace strata::block
