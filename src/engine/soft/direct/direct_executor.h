// DirectExecutor: the executor that runs user code in stub processes where that wins, and leaves
// everything else to the translator.
#pragma once

#include <cstdint>
#include <memory>

#include "engine/soft/direct/zygote.h"
#include "engine/soft/runtime/executor.h"

namespace strata::engine::soft {

struct DirectOptions {
    bool report = false;  ///< counters go to standard error at the end
    bool always = false;  ///< whether or not it is worth it, for tests
};

/// Wraps the factory of a translator; the zygote, which knows the machine's RAM already, lives as
/// long as somebody needs it.
std::unique_ptr<ExecutorFactory> make_direct_factory(std::unique_ptr<ExecutorFactory> translator,
                                                     std::shared_ptr<Zygote> zygote,
                                                     std::uint64_t tsc_khz, DirectOptions options);

}  // namespace strata::engine::soft
