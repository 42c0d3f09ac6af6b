// SafePoints: entering, leaving and exclusive sections.
#include "engine/soft/runtime/safe_points.h"

namespace strata::engine::soft {

void SafePoints::enter(SafePoint& point) {
    for (;;) {
        point.running_.store(true, std::memory_order_seq_cst);
        if (!stopping_.load(std::memory_order_seq_cst)) {
            return;
        }
        leave(point);
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return !stopping_.load(std::memory_order_seq_cst); });
    }
}

void SafePoints::leave(SafePoint& point) {
    point.running_.store(false, std::memory_order_seq_cst);
    if (stopping_.load(std::memory_order_seq_cst)) {
        const std::lock_guard lock(mutex_);
        changed_.notify_all();
    }
}

bool SafePoints::all_safe() const {
    for (const SafePoint* point : points_) {
        if (point->running()) {
            return false;
        }
    }
    return true;
}

void SafePoints::run_exclusive(SafePoint* self, const std::function<void()>& work) {
    constexpr int kSpins = 2000;
    if (self != nullptr) {
        leave(*self);
    }
    {
        const std::lock_guard section(exclusive_);
        stopping_.store(true, std::memory_order_seq_cst);
        if (!all_safe()) {
            stop_();
            // Mostly the others are a few instructions away; sleeping costs more than that.
            for (int i = 0; i < kSpins && !all_safe(); ++i) {
                __builtin_ia32_pause();
            }
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return all_safe(); });
        }
        work();
        {
            const std::lock_guard lock(mutex_);
            stopping_.store(false, std::memory_order_seq_cst);
        }
        changed_.notify_all();
    }
    if (self != nullptr) {
        enter(*self);
    }
}

}  // namespace strata::engine::soft
