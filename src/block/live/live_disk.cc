// LiveDisk: the way of the guest's requests, and one job beside it.
#include "block/live/live_disk.h"

#include <utility>

#include <fmt/format.h>

#include "block/filters/filter_node.h"
#include "block/filters/throttle/throttle.h"
#include "block/live/live_job.h"

namespace strata::block {
namespace {

/// Hands what changes the disk to the job that watches.
class WatchNode final : public FilterNode {
  public:
    WatchNode(NodePtr child, WriteWatcher& watcher)
        : FilterNode(std::move(child)), watcher_(watcher) {}
    [[nodiscard]] std::string_view format() const override { return "watch"; }
    Task<> write(std::uint64_t offset, Buffers from) override {
        return watcher_.around(offset, from.size(), child().write(offset, from));
    }
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override {
        return watcher_.around(offset, length, child().write_zeroes(offset, length, options));
    }
    Task<> discard(std::uint64_t offset, std::uint64_t length) override {
        return watcher_.around(offset, length, child().discard(offset, length));
    }
    Task<> write_compressed(std::uint64_t offset, Buffers from) override {
        return watcher_.around(offset, from.size(), child().write_compressed(offset, from));
    }

  private:
    WriteWatcher& watcher_;
};

}  // namespace

LiveDisk::LiveDisk(NodePtr disk, std::shared_ptr<throttle::ThrottleGroup> limits)
    : loop_(disk->loop()), disk_(std::move(disk)), limits_(std::move(limits)), gate_(loop_) {
    rebuild();
}

void LiveDisk::rebuild() {
    top_ = disk_;
    if (watcher_ != nullptr) {
        top_ = std::make_shared<WatchNode>(std::move(top_), *watcher_);
    }
    if (limits_ != nullptr) {
        top_ = std::make_shared<throttle::ThrottleNode>(std::move(top_), limits_);
    }
}

void LiveDisk::set_limits(std::shared_ptr<throttle::ThrottleGroup> limits) {
    limits_ = std::move(limits);
    rebuild();
}

void LiveDisk::replace(NodePtr disk) {
    disk_ = std::move(disk);
    rebuild();
}

void LiveDisk::watch(WriteWatcher* watcher) {
    watcher_ = watcher;
    rebuild();
}

Result<> LiveDisk::check_free() const {
    if (job_ != nullptr) {
        return Error{ErrorKind::WrongState,
                     fmt::format("disk '{}' is busy with a {}: wait for it or cancel it",
                                 disk_->name(), job_->kind())};
    }
    if (ending_) {
        return Error{ErrorKind::WrongState, "the machine ends"};
    }
    return ok();
}

Task<> LiveDisk::run(std::shared_ptr<LiveJob> job) {
    if (Result<> free = check_free(); !free.ok()) {
        (void)co_await job->abandon();  // the other error is told
        co_return free;
    }
    job_ = job;
    Result<> done = co_await job->run(*this);
    job_.reset();
    co_return done;
}

void LiveDisk::end_job() {
    ending_ = true;
    if (job_ != nullptr) {
        job_->cancel();
    }
}

}  // namespace strata::block
