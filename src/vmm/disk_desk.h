// DiskDesk: what the owner asks of a running machine's disks: information, other sizes and limits,
// snapshots, jobs.
//
// Requests arrive on the main thread's event loop; what concerns a graph is done on that graph's
// thread and answered on the event loop again. A raw disk that has no graph yet gets one when
// something needs it, and keeps it. Files come as open descriptors: this process opens none.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "api/control_protocol.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "block/disk_user.h"
#include "block/live/live_job.h"
#include "block/live_image.h"
#include "block/medium_user.h"
#include "io/event_loop.h"

namespace strata::vmm {

/// A machine's disk.
struct RunningDisk {
    std::string name;  ///< "disk0"
    std::string file;  ///< as the owner named it
    std::string format;
    bool pinned = false;  ///< as in its configuration
    block::DiskUser* device = nullptr;
};

/// A machine's drive for discs, empty perhaps.
struct RunningDrive {
    std::string name;  ///< "disk1": drives and disks are counted together
    block::MediumUser* device = nullptr;
};

class DiskDesk {
  public:
    using Reply = std::function<void(Result<api::Json>)>;
    /// `tell` gets the events. The desk goes after the devices.
    DiskDesk(io::EventLoop& loop, std::vector<RunningDisk> disks, std::vector<RunningDrive> drives,
             std::function<void(api::Json)> tell);

    /// Serves an operation on disks or jobs. `reply` is called once, perhaps later, perhaps never
    /// if the machine ends.
    void serve(api::ControlRequest request, UniqueFd file, Reply reply);
    [[nodiscard]] std::size_t disks() const { return disks_.size(); }

  private:
    enum class JobState : std::uint8_t { Running, Ready, Done, Failed, Cancelled };
    struct Job {
        std::string id;
        std::string kind;
        std::size_t disk = 0;
        JobState state = JobState::Running;
        bool cancelled = false;
        std::shared_ptr<block::LiveJob> work;  ///< while it runs; the graph's but for its progress
        std::uint64_t done = 0, total = 0;
        std::string error;
    };
    struct Order;
    static block::Task<> carry_out(block::LiveDisk& live, std::shared_ptr<Order> order);

    Result<std::size_t> find_disk(const std::string& name) const;
    Result<Job*> find_job(const std::string& id);
    /// NotSupported for an image that cannot be changed.
    Result<block::LiveImage*> image_of(std::size_t disk) const;
    /// Its graph, if it has one.
    [[nodiscard]] block::LiveAccess* graph_now(std::size_t disk) const;
    /// Makes one if it has none.
    Result<block::LiveAccess*> graph_of(std::size_t disk);
    [[nodiscard]] Result<> change_medium(const api::ControlRequest& request, UniqueFd file);
    void query(const Reply& reply);
    void query_disk(std::size_t index, std::shared_ptr<api::Json> list,
                    std::shared_ptr<std::size_t> left, const Reply& reply);
    void resize(std::size_t disk, std::uint64_t size, const Reply& reply);
    /// Does `work` on the graph's thread, and replies with what it has put together.
    void change(std::size_t disk, std::function<block::Task<>(block::LiveDisk&, api::Json&)> work,
                const Reply& reply);
    void start_job(std::size_t disk, api::ControlRequest request, UniqueFd file, Reply reply);
    void job_started(std::size_t disk, std::shared_ptr<block::LiveJob> work, const Reply& reply);
    void job_ended(const std::shared_ptr<block::LiveJob>& work, const Result<>& result);
    void serve_job(const api::ControlRequest& request, const Reply& reply);
    void tell_job(Job& job);
    void watch_progress();
    [[nodiscard]] api::Json describe(const Job& job) const;

    io::EventLoop& loop_;
    std::vector<RunningDisk> disks_;
    const std::vector<RunningDrive> drives_;
    std::function<void(api::Json)> tell_;
    std::vector<Job> jobs_;  ///< those that run, and the last ones that ended
    std::uint64_t next_job_ = 1;
    bool watching_ = false;
};

}  // namespace strata::vmm
