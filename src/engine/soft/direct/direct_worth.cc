// DirectWorth: the windows' limits and the waits.
#include "engine/soft/direct/direct_worth.h"

#include <algorithm>

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kWindowCostNs = 1'000'000, kWindowRuns = 100;
constexpr std::uint64_t kEntryNs = 5000;  // of a stub's own time: signal, waiting, entering
constexpr std::uint64_t kSaved = 2;       // times its own time: what a run saves
constexpr std::uint64_t kFirstBackoffUs = 5'000, kLastBackoffUs = 400'000;
constexpr std::uint64_t kFirstHopelessUs = 20'000, kHopelessUs = 2'000'000;
constexpr std::uint32_t kStrikes = 3;

}  // namespace

bool StubWindow::full() const noexcept {
    return cost >= kWindowCostNs || runs >= kWindowRuns;
}

Weighed weigh(StubWindow& window, std::uint64_t spent, std::uint64_t& lost) noexcept {
    const std::uint64_t taken = spent - std::min(spent, window.cpu), fixed = window.runs * kEntryNs,
                        own = fixed + window.own;
    const std::uint64_t native = taken > own ? taken - own : 0, saved = kSaved * native,
                        paid = window.cost + fixed;
    // Programs that look at the time often do so as they start only.
    constexpr std::uint64_t kMany = 4;
    const bool hopeless =
        std::max(window.flips, window.refused) * kMany > window.runs && saved < paid;
    window = {.cpu = spent};
    lost = saved > paid ? lost - std::min(lost, (saved - paid) / 2) : lost + paid - saved;
    return {hopeless ? Worth::Hopeless : saved > paid ? Worth::Won : Worth::Lost, native};
}

bool settle(UserSpace& space, Worth worth) noexcept {
    switch (worth) {
        case Worth::Won:
            space.strikes = 0;
            space.backoff /= 2;
            return false;
        case Worth::Hopeless:
            space.backoff = std::clamp(space.backoff * 4, kFirstHopelessUs, kHopelessUs);
            return true;
        case Worth::Lost:
            break;
    }
    if (++space.strikes < kStrikes) {
        return false;
    }
    space.backoff = std::clamp(space.backoff * 2, kFirstBackoffUs, kLastBackoffUs);
    return true;
}

}  // namespace strata::engine::soft
