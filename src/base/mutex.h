// Mutex, MutexLock, CondVar: std::mutex with clang's thread-safety annotations.
//
// Write STRATA_GUARDED_BY(mutex_) on fields and STRATA_REQUIRES(mutex_) on functions; the clang
// build checks them.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define STRATA_ANNOTATE(x) __attribute__((x))
#else
#define STRATA_ANNOTATE(x)
#endif
#define STRATA_CAPABILITY(x) STRATA_ANNOTATE(capability(x))
#define STRATA_SCOPED_CAPABILITY STRATA_ANNOTATE(scoped_lockable)
#define STRATA_GUARDED_BY(x) STRATA_ANNOTATE(guarded_by(x))
#define STRATA_REQUIRES(...) STRATA_ANNOTATE(requires_capability(__VA_ARGS__))
#define STRATA_ACQUIRE(...) STRATA_ANNOTATE(acquire_capability(__VA_ARGS__))
#define STRATA_RELEASE(...) STRATA_ANNOTATE(release_capability(__VA_ARGS__))
#define STRATA_EXCLUDES(...) STRATA_ANNOTATE(locks_excluded(__VA_ARGS__))
#define STRATA_NO_THREAD_SAFETY_ANALYSIS STRATA_ANNOTATE(no_thread_safety_analysis)

namespace strata {

/// A std::mutex that clang knows as a capability.
class STRATA_CAPABILITY("mutex") Mutex {
  public:
    void lock() STRATA_ACQUIRE() { mutex_.lock(); }
    void unlock() STRATA_RELEASE() { mutex_.unlock(); }

  private:
    friend class CondVar;
    std::mutex mutex_;
};

/// Holds a Mutex for a scope.
class STRATA_SCOPED_CAPABILITY MutexLock {
  public:
    explicit MutexLock(Mutex& mutex) STRATA_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
    ~MutexLock() STRATA_RELEASE() { mutex_.unlock(); }
    MutexLock(const MutexLock&) = delete;
    MutexLock& operator=(const MutexLock&) = delete;

  private:
    Mutex& mutex_;
};

/// A condition variable for Mutex. Waits may wake without cause: call in a loop over the condition.
class CondVar {
  public:
    void wait(Mutex& mutex) STRATA_REQUIRES(mutex) {
        std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
        condition_.wait(lock);
        (void)lock.release();  // the caller's MutexLock still owns it
    }
    /// False when `deadline` passed first.
    bool wait_until(Mutex& mutex, std::chrono::steady_clock::time_point deadline)
        STRATA_REQUIRES(mutex) {
        std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
        const bool in_time = condition_.wait_until(lock, deadline) == std::cv_status::no_timeout;
        (void)lock.release();  // the caller's MutexLock still owns it
        return in_time;
    }
    void notify_one() { condition_.notify_one(); }
    void notify_all() { condition_.notify_all(); }

  private:
    std::condition_variable condition_;
};

}  // namespace strata
