// PatientQueue: a DiskQueue that does not tell its owner of writes that the host refuses for now.
//
// What becomes of a refused write is a policy. One that waits keeps its place and its memory until
// retry() succeeds or give_up() ends it with the host's error; whoever runs the machine is told and
// should hold it meanwhile. Reads have a policy of their own. A flush that failed never waits: the
// host may have dropped what it was to write, and would find nothing wrong the next time; unless it
// never got there. Threads: as DiskQueue.
#pragma once

#include <cerrno>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/disk_request.h"

namespace strata::block {

/// What becomes of a write (zeroes and discards too) that the host refuses.
enum class WriteErrorPolicy : std::uint8_t {
    Enospc,  ///< waits if there is no room, is reported to the guest otherwise
    Report,
    Stop,    ///< waits
    Ignore,  ///< counts as written
};

/// What becomes of a read that the host refuses.
enum class ReadErrorPolicy : std::uint8_t {
    Report,
    Stop,  ///< waits
};

/// The error of a request that never reached the host's disk: its server is gone. Of all errors the
/// one after which a flush can be asked for again.
inline constexpr int kUnreachable = ENOTCONN;

/// What a disk waits for.
struct DiskWait {
    std::string disk;
    std::uint64_t offset = 0;  ///< of the disk, in bytes
    int error = 0;
    bool reading = false;
};

/// Whatever has disks that may wait for the host.
class DiskWaiter {
  public:
    virtual ~DiskWaiter() = default;
    /// The first request that waits. Any thread.
    [[nodiscard]] virtual std::optional<DiskWait> waiting() const = 0;
    /// Asks the host again, for all that wait. On the thread of the owner's event loop.
    virtual void retry() = 0;
};

class PatientQueue final : public DiskQueue {
  public:
    /// `disk`: its name for messages. `on_wait`: waiting() has begun or ceased to have an answer;
    /// called from within the calls here.
    PatientQueue(std::unique_ptr<DiskQueue> below, std::string disk, WriteErrorPolicy policy,
                 std::function<void()> on_wait, ReadErrorPolicy reads = ReadErrorPolicy::Report);

    /// Goes on with another queue of the same disk. Nothing may be in_flight(); what waits for the
    /// host is tried there.
    void exchange(std::unique_ptr<DiskQueue> below);

    void submit(DiskRequest request) override;
    void kick() override { below_->kick(); }
    [[nodiscard]] int completion_fd() const override { return below_->completion_fd(); }
    void reap(std::vector<DiskCompletion>& out) override;
    void wait() override;
    /// Without those that wait for the host.
    [[nodiscard]] std::size_t in_flight() const override {
        return below_->in_flight() + given_up_.size();
    }

    /// Those that wait, and those that are being tried again, count.
    [[nodiscard]] std::optional<DiskWait> waiting() const;
    /// Submits what waits again; kick() and reap() follow.
    void retry();
    /// What waits for the request `token` fails with the next reap().
    void give_up(std::uint64_t token);
    void give_up_all();

  private:
    struct Entry {
        DiskRequest request;
        bool busy = false;
        bool held = false;      ///< waits and is not being tried
        bool given_up = false;  ///< is told of what becomes of it, whatever the policy
        bool waits = false;     ///< counted in waits_
        int error = 0;
    };
    [[nodiscard]] static bool changes_disk(DiskOp op);
    [[nodiscard]] bool should_wait(const Entry& entry, int error) const;
    void hold(Entry& entry, int error);
    void give_up_entry(std::size_t at);
    void end(std::size_t at, int error, std::vector<DiskCompletion>& out);
    void complain(int error, bool ignored) const;

    std::unique_ptr<DiskQueue> below_;
    const std::string disk_;
    const WriteErrorPolicy policy_;
    const ReadErrorPolicy reads_;
    const std::function<void()> on_wait_;
    std::vector<Entry> entries_;  ///< the place is the token below
    std::vector<std::size_t> free_;
    std::vector<std::size_t> given_up_;
    std::vector<DiskCompletion> scratch_;
    std::size_t waits_ = 0;
    DiskWait wait_;
};

}  // namespace strata::block
