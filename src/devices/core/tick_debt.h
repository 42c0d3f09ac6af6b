// TickDebt: the lost-tick policy of all periodic timers (PIT, HPET, RTC).
//
// When the host was late, several periods end at once, but a guest can take only one interrupt at a
// time: pulses given together melt into one and the guest's time falls behind. So the ticks that
// are owed are given one by one, faster than the period but never closer than kSpacing, and no more
// than kLimit of them: a guest that was held up for long has lost its ticks anyway, and a storm
// would hold it up further.
#pragma once

#include <algorithm>
#include <cstdint>

namespace strata::devices {

class TickDebt {
  public:
    static constexpr std::uint64_t kLimit = 250;
    static constexpr std::uint64_t kSpacing = 100'000;  ///< nanoseconds

    /// Adds ticks that came due beyond the one given now.
    void owe(std::uint64_t ticks) { owed_ = std::min(kLimit, owed_ + std::min(kLimit, ticks)); }
    /// Takes one tick off the debt; false if there is none.
    bool pay() {
        if (owed_ == 0) {
            return false;
        }
        --owed_;
        return true;
    }
    void forgive() { owed_ = 0; }
    [[nodiscard]] std::uint64_t owed() const { return owed_; }
    void restore(std::uint64_t owed) { owed_ = std::min(kLimit, owed); }

    /// Nanoseconds to wait before the next owed tick of a timer with this period.
    [[nodiscard]] static std::uint64_t spacing(std::uint64_t period) {
        return std::max(kSpacing, period / 4);
    }

  private:
    std::uint64_t owed_ = 0;
};

}  // namespace strata::devices
