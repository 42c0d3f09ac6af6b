// Stream: makes a disk in use independent of what lies below it.
//
// What the disk's own layer lacks is read from below and written to it, a stretch at a time that no
// write of the guest's enters meanwhile; at the end the image's reference is removed. Every few
// seconds what was done is made durable: a job that was cancelled or killed leaves an image that
// reads as before, and the next one finds less to do. An image with internal snapshots is refused:
// they read from below what they lack.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "block/live/live_job.h"
#include "block/live/range_locks.h"

namespace strata::block {

class Stream final : public LiveJob, private WriteWatcher {
  public:
    Stream(Loop& loop, std::uint64_t speed,
           std::chrono::milliseconds checkpoint = std::chrono::seconds(5))
        : LiveJob(loop), checkpoint_(checkpoint), locks_(loop) {
        set_speed(speed);
    }
    [[nodiscard]] std::string_view kind() const override { return "stream"; }
    Task<> run(LiveDisk& live) override;

  private:
    Task<> around(std::uint64_t offset, std::uint64_t length, Task<> write) override;
    Task<> check(Node& disk);
    Task<> fill(Node& disk);
    Task<> fill_range(Node& disk, std::uint64_t at, std::uint64_t end);
    Task<> cut_off(LiveDisk& live, Result<> done);

    const std::chrono::milliseconds checkpoint_;
    RangeLocks locks_;
    std::vector<std::byte> buffer_;
};

}  // namespace strata::block
