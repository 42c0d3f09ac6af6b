// RangeLocks: stretches of a disk that somebody has to itself, or shares, for a while.
//
// Served in the order of asking wherever stretches overlap, so that a job comes to its turn beside
// a guest that writes to one place without pause. Of one loop.
#pragma once

#include <cstdint>
#include <list>
#include <utility>

#include "block/sync.h"
#include "block/task.h"

namespace strata::block {

class RangeLocks {
    struct Entry {
        std::uint64_t first = 0, end = 0;
        bool alone = false;
    };

  public:
    explicit RangeLocks(Loop& loop) : change_(loop) {}

    class [[nodiscard]] Hold {
      public:
        Hold(RangeLocks* locks, std::list<Entry>::iterator place) : locks_(locks), place_(place) {}
        Hold(Hold&& other) noexcept
            : locks_(std::exchange(other.locks_, nullptr)), place_(other.place_) {}
        Hold& operator=(Hold&&) = delete;
        Hold(const Hold&) = delete;
        Hold& operator=(const Hold&) = delete;
        ~Hold() {
            if (locks_ != nullptr) {
                locks_->entries_.erase(place_);
                locks_->change_.wake_all();
            }
        }

      private:
        RangeLocks* locks_;
        std::list<Entry>::iterator place_;
    };

    /// Waits until nobody who asked before has any of [first, end), or, unless `alone`, nobody has
    /// it alone.
    Task<Hold> hold(std::uint64_t first, std::uint64_t end, bool alone) {
        const auto place = entries_.insert(entries_.end(), Entry{first, end, alone});
        Hold held(this, place);
        while (hindered(place)) {
            co_await change_.wait();
        }
        co_return held;
    }

  private:
    [[nodiscard]] bool hindered(std::list<Entry>::iterator place) {
        for (auto each = entries_.begin(); each != place; ++each) {
            if (each->first < place->end && place->first < each->end &&
                (each->alone || place->alone)) {
                return true;
            }
        }
        return false;
    }

    std::list<Entry> entries_;  ///< in the order of asking
    WaitQueue change_;
};

}  // namespace strata::block
