// LiveDisk: the top of a graph whose disk is in use, and what can be done to it meanwhile.
//
// Every request of the guest holds gate() shared while it lasts, and goes to top(). Whoever holds
// the gate alone finds no request under way and may change what lies below: put another image in
// the disk's place (replace()), or have a job see all writes from now on (watch()). Without a job
// nothing stands between the guest and its image. One job a disk at a time. All on the loop's
// thread.
#pragma once

#include <cstdint>
#include <memory>

#include "block/filters/throttle/throttle_group.h"
#include "block/node.h"
#include "block/sync.h"

namespace strata::block {

/// A job that sees the guest's writes.
class WriteWatcher {
  public:
    virtual ~WriteWatcher() = default;
    /// Carries out `write`, which changes [offset, offset + length) of the disk (a write, zeroing
    /// or discard), and answers what came of it. It may do something before and after; its own
    /// trouble is never the guest's.
    virtual Task<> around(std::uint64_t offset, std::uint64_t length, Task<> write) = 0;
};

class LiveJob;

class LiveDisk {
  public:
    /// `limits` (may be null) hold the guest's requests back, never a job's.
    LiveDisk(NodePtr disk, std::shared_ptr<throttle::ThrottleGroup> limits);

    [[nodiscard]] Loop& loop() const { return loop_; }
    /// The guest's image.
    [[nodiscard]] Node& disk() const { return *disk_; }
    [[nodiscard]] NodePtr disk_ptr() const { return disk_; }
    /// Where the guest's requests go; with the gate held.
    [[nodiscard]] Node& top() const { return *top_; }
    [[nodiscard]] Gate& gate() { return gate_; }
    [[nodiscard]] throttle::ThrottleGroup* limits() const { return limits_.get(); }
    /// Other limits from now on; none: no limits.
    void set_limits(std::shared_ptr<throttle::ThrottleGroup> limits);

    // With the gate held alone.
    /// Requests go to `disk` from now on, which has the old one's size; that is the caller's.
    void replace(NodePtr disk);
    /// `watcher` sees the writes from now on; null: nobody.
    void watch(WriteWatcher* watcher);

    // Jobs.
    /// The one that runs; null: none.
    [[nodiscard]] LiveJob* job() const { return job_.get(); }
    /// WrongState if a job runs, or none may begin any more. A change that waits for the gate asks
    /// once it has it.
    [[nodiscard]] Result<> check_free() const;
    /// Runs `job` to its end. WrongState if another one runs: `job` is abandoned then. What a job
    /// learns of the disk it learns with the gate held: until then a change may come before it.
    Task<> run(std::shared_ptr<LiveJob> job);
    /// For work that is done when it begins.
    [[nodiscard]] static Task<> nothing() { co_return ok(); }
    /// Cancels the job, and lets none begin.
    void end_job();
    /// Closes the images; no job runs.
    Task<> close() { return disk_->close(); }

  private:
    void rebuild();

    Loop& loop_;
    NodePtr disk_, top_;
    std::shared_ptr<throttle::ThrottleGroup> limits_;
    WriteWatcher* watcher_ = nullptr;
    Gate gate_;
    std::shared_ptr<LiveJob> job_;
    bool ending_ = false;
};

}  // namespace strata::block
