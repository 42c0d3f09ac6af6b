// DirectWorth: whether an address space's stub is worth what it costs, by windows of processor
// time, and how long a space waits that has lost. Numbers only: whoever has run the stub measures.
//
// The measure is that the translator takes three times as long as the processor: warm loops take
// less, code that has to be translated first much more.
#pragma once

#include <cstdint>

#include "engine/soft/direct/direct_events.h"

namespace strata::engine::soft {

/// What a stub's current window has cost. Times are processor time in ns.
struct StubWindow {
    std::uint64_t cost = 0;     ///< of the vCPU's thread
    std::uint64_t own = 0;      ///< of the stub's own, for mappings
    std::uint64_t runs = 0;     ///< how often the stub was entered
    std::uint64_t cpu = 0;      ///< what the stub had taken before, altogether
    std::uint64_t flips = 0;    ///< pages that changed between written and executed
    std::uint64_t refused = 0;  ///< runs that ended on a page that may not run natively

    /// Time to weigh it.
    [[nodiscard]] bool full() const noexcept;
};

enum class Worth : std::uint8_t {
    Won,
    Lost,
    /// Lost, and it will not be otherwise soon: code that is written and executed in turn, or hot
    /// pages with sensitive instructions.
    Hopeless,
};

struct Weighed {
    Worth worth = Worth::Lost;
    std::uint64_t native = 0;  ///< ns of the guest's own code in the window
};

/// Weighs `window` and begins the next. `spent`: the stub's processor time, altogether; 0 if its
/// process is gone. `lost`: of DirectEvents: grows by what the window has lost, or shrinks.
[[nodiscard]] Weighed weigh(StubWindow& window, std::uint64_t spent, std::uint64_t& lost) noexcept;

/// What follows for the space: true if it has to wait for `space.backoff` µs from now on.
[[nodiscard]] bool settle(UserSpace& space, Worth worth) noexcept;

}  // namespace strata::engine::soft
