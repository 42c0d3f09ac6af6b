// VcpuThreads: a gate in front of run().
#include "vmm/vcpu_threads.h"

#include <fmt/format.h>
#include <pthread.h>

namespace strata::vmm {

VcpuThreads::VcpuThreads(const std::vector<std::unique_ptr<engine::Vcpu>>& vcpus,
                         ExitCallback on_exit, StartCallback on_start)
    : vcpus_(vcpus),
      on_exit_(std::move(on_exit)),
      on_start_(std::move(on_start)),
      parked_(vcpus.size(), false) {
    for (std::size_t i = 0; i < vcpus_.size(); ++i) {
        threads_.emplace_back([this, i] { thread_main(i); });
    }
}

VcpuThreads::~VcpuThreads() {
    {
        const MutexLock lock(mutex_);
        ending_ = true;
        released_ = false;
        changed_.notify_all();
    }
    for (const auto& vcpu : vcpus_) {
        vcpu->request_exit();
    }
    for (std::thread& thread : threads_) {
        thread.join();
    }
}

void VcpuThreads::release() {
    const MutexLock lock(mutex_);
    released_ = true;
    changed_.notify_all();
}

Result<> VcpuThreads::hold(std::chrono::milliseconds limit) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    {
        const MutexLock lock(mutex_);
        released_ = false;
    }
    // Sticky: one that is between the gate and run() leaves at once; one that is outside loses
    // nothing by an empty turn.
    for (const auto& vcpu : vcpus_) {
        vcpu->request_exit();
    }
    const MutexLock lock(mutex_);
    while (inside_ > 0) {
        if (!changed_.wait_until(mutex_, deadline) && inside_ > 0) {
            return Error{
                ErrorKind::TimedOut,
                fmt::format("{} virtual CPUs did not stop within {} ms", inside_, limit.count())};
        }
    }
    return ok();
}

void VcpuThreads::unpark_all() {
    const MutexLock lock(mutex_);
    parked_.assign(parked_.size(), false);
    changed_.notify_all();
}

bool VcpuThreads::parked(std::size_t index) {
    const MutexLock lock(mutex_);
    return parked_[index];
}

bool VcpuThreads::enter(std::size_t index) {
    const MutexLock lock(mutex_);
    while (!ending_ && (!released_ || parked_[index])) {
        changed_.wait(mutex_);
    }
    if (ending_) {
        return false;
    }
    ++inside_;
    return true;
}

void VcpuThreads::leave(std::size_t index, bool park) {
    const MutexLock lock(mutex_);
    --inside_;
    parked_[index] = park;
    changed_.notify_all();
}

void VcpuThreads::thread_main(std::size_t index) {
    (void)pthread_setname_np(pthread_self(),
                             fmt::format("vcpu{}", index).c_str());  // only for debuggers
    vcpus_[index]->prepare_thread();
    if (on_start_) {
        if (auto started = on_start_(); !started) {
            on_exit_(index, {engine::ExitReason::InternalError, started.error().text()});
            return;
        }
    }
    while (enter(index)) {
        engine::VcpuExit exit = vcpus_[index]->run();
        const bool by_itself = exit.reason != engine::ExitReason::Interrupted;
        leave(index, by_itself);
        if (by_itself) {
            on_exit_(index, std::move(exit));
        }
    }
}

}  // namespace strata::vmm
