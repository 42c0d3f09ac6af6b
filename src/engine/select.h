// Select: which CPU engine runs a machine, and why: `--engine auto|kvm|soft` and `strata info`.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/cpu_engine.h"
#include "engine/soft/soft_engine.h"

namespace strata::engine {

/// An engine and the sentence that says why it was taken (no full stop).
struct EngineChoice {
    std::unique_ptr<CpuEngine> engine;
    std::string reason;
};

/// An engine as `strata info` shows it.
struct EngineReport {
    std::string_view name;
    Verdict verdict;
};

/// `wanted` is "auto", "kvm" or "soft". auto takes KVM only if a probe guest ran on it at
/// hardware's speed, otherwise soft. kvm insists: whatever its speed, or an error that says why it
/// is not to be had. InvalidArgument for another name.
Result<EngineChoice> select_engine(std::string_view wanted,
                                   const soft::SoftOptions& soft_options = {});

/// Both engines, each with a probe run: takes about a tenth of a second.
std::vector<EngineReport> probe_engines();

/// The verdict on a probe run of KVM that reached `mips`.
Verdict judge_kvm(double mips);

}  // namespace strata::engine
