// Helpers: the C++ functions behind the glue (slow_path.cc).
#pragma once

#include "engine/soft/translate/glue.h"

namespace strata::engine::soft {

[[nodiscard]] GlueHelpers glue_helpers();

// kernel_entry.cc.
std::uint64_t run_system(CpuState* cpu, std::uint64_t word) noexcept;
std::uint64_t run_transfer(CpuState* cpu, std::uint64_t word) noexcept;

}  // namespace strata::engine::soft
