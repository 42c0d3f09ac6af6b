// Engines: the engines under test, by name, with the reason if one is not to be had here.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "engine/cpu_engine.h"

namespace strata::tests {

/// Names for TEST_P: "soft", "interpreter" (soft without its translator) and "kvm".
[[nodiscard]] std::vector<std::string_view> engine_names();

/// The engine, or the Error that says why this host does not offer it.
Result<std::unique_ptr<engine::CpuEngine>> make_engine(std::string_view name);

}  // namespace strata::tests
