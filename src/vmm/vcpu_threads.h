// VcpuThreads: one host thread per vCPU, and the means to hold them all outside guest code.
//
//   held  --release()-->  released  --hold()-->  held  --(destructor)-->  joined
//
// While held, no vCPU is inside run(), so machine state may be read and changed. A vCPU that ended
// its run for a reason of its own (a triple fault, an internal error) stays out until unpark_all().
// All public calls come from one thread, the owner's; the exit callback comes from vCPU threads,
// without a lock.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "engine/vcpu.h"

namespace strata::vmm {

class VcpuThreads {
  public:
    /// Told once for each vCPU that stopped by itself: its index and why (never Interrupted).
    using ExitCallback = std::function<void(std::size_t, engine::VcpuExit)>;

    /// Called first on each thread; an error stops the vCPU as an internal error would.
    using StartCallback = std::function<Result<>()>;

    /// Starts the threads, held. `vcpus` is borrowed and outlives this.
    VcpuThreads(const std::vector<std::unique_ptr<engine::Vcpu>>& vcpus, ExitCallback on_exit,
                StartCallback on_start = {});
    /// Waits for all threads, without limit.
    ~VcpuThreads();
    VcpuThreads(const VcpuThreads&) = delete;
    VcpuThreads& operator=(const VcpuThreads&) = delete;

    /// Lets the vCPUs run. Idempotent.
    void release();
    /// Makes all leave run(). TimedOut, with the threads in any state, if one does not within
    /// `limit`. Idempotent.
    Result<> hold(std::chrono::milliseconds limit);
    /// After a reset, while held: those that had stopped may run again.
    void unpark_all();
    /// True if vCPU `index` ended its run by itself and was not unparked since.
    [[nodiscard]] bool parked(std::size_t index);

  private:
    void thread_main(std::size_t index);
    bool enter(std::size_t index);
    void leave(std::size_t index, bool park);

    const std::vector<std::unique_ptr<engine::Vcpu>>& vcpus_;
    ExitCallback on_exit_;
    StartCallback on_start_;
    Mutex mutex_;
    CondVar changed_;
    bool released_ STRATA_GUARDED_BY(mutex_) = false;
    bool ending_ STRATA_GUARDED_BY(mutex_) = false;
    std::size_t inside_ STRATA_GUARDED_BY(mutex_) = 0;
    std::vector<bool> parked_ STRATA_GUARDED_BY(mutex_);
    std::vector<std::thread> threads_;
};

}  // namespace strata::vmm
