// LiveJob: a long piece of work on a disk in use.
//
//   Running -> Ready -> (complete) -> over
//      |         |
//      +---------+--> (cancel, trouble) -> over
//
// Ready is a mirror's: both disks are the same, and it goes on until it is told how to end. Until
// its very end the guest's disk is as if there were no job: whatever fails, the guest's requests go
// on, and what a job has changed in the guest's own image is whole and reads the same. All on the
// loop's thread, but state() and progress.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string_view>

#include "block/jobs/job.h"
#include "block/live/live_disk.h"
#include "block/sync.h"

namespace strata::block {

class LiveJob {
  public:
    /// How a mirror that is ready ends.
    enum class Finish : std::uint8_t {
        Ask,    ///< it stays ready until complete()
        Pivot,  ///< the guest goes on with the copy
        Keep,   ///< the guest goes on with its disk; the copy is of the moment of the end
    };

    explicit LiveJob(Loop& loop)
        : control_([this](std::uint64_t done, std::uint64_t total) {
              done_.store(done, std::memory_order_relaxed);
              total_.store(total, std::memory_order_relaxed);
          }),
          wake_(loop) {}
    virtual ~LiveJob() = default;
    LiveJob(const LiveJob&) = delete;
    LiveJob& operator=(const LiveJob&) = delete;

    /// "mirror", "backup" …
    [[nodiscard]] virtual std::string_view kind() const = 0;
    virtual Task<> run(LiveDisk& live) = 0;
    /// Instead of run(), for a job that may not: what it was to write to is let go, on the loop's
    /// thread.
    virtual Task<> abandon() { co_return ok(); }

    void cancel() {
        control_.cancel();
        wake_.wake_all();
    }
    void set_speed(std::uint64_t bytes_per_second) { control_.set_speed(bytes_per_second); }
    /// WrongState for jobs that end by themselves.
    virtual Result<> complete(Finish /*finish*/) {
        return Error{ErrorKind::WrongState, "this job ends by itself"};
    }
    /// Called once, when the job is ready.
    void on_ready(std::function<void()> callback) { on_ready_ = std::move(callback); }

    // Any thread.
    [[nodiscard]] bool ready() const { return ready_.load(std::memory_order_relaxed); }
    [[nodiscard]] std::uint64_t done() const { return done_.load(std::memory_order_relaxed); }
    [[nodiscard]] std::uint64_t total() const { return total_.load(std::memory_order_relaxed); }

  protected:
    [[nodiscard]] JobControl& control() { return control_; }
    [[nodiscard]] WaitQueue& wake() { return wake_; }
    void become_ready() {
        if (!ready_.exchange(true, std::memory_order_relaxed) && on_ready_) {
            on_ready_();
        }
    }

  private:
    std::atomic<std::uint64_t> done_{0}, total_{0};
    std::atomic<bool> ready_{false};
    std::function<void()> on_ready_;
    JobControl control_;
    WaitQueue wake_;
};

}  // namespace strata::block
