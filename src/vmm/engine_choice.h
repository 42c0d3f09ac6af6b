// Engine choice: from the wish (auto, kvm, soft) to an engine, with the reason that the user is
// told.
#pragma once

#include <memory>
#include <string>

#include "api/machine_config.h"
#include "base/result.h"
#include "engine/cpu_engine.h"

namespace strata::vmm {

struct ChosenEngine {
    std::unique_ptr<engine::CpuEngine> engine;
    std::string reason;  ///< one sentence without full stop, for people
};

/// NotSupported or PermissionDenied, with the reason, if what was insisted on cannot be had.
/// `profile_fd`: SoftOptions::profile_fd.
Result<ChosenEngine> choose_engine(const api::MachineConfig& config, int profile_fd);

/// What `strata info` shows, as JSON: the host, each engine's verdict, and what auto would take.
api::Json probe_host();

}  // namespace strata::vmm
