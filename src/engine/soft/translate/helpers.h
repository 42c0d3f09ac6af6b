// Helpers: the C++ functions behind the glue (slow_path.cc).
#pragma once

#include "engine/soft/translate/glue.h"

namespace strata::engine::soft {

[[nodiscard]] GlueHelpers glue_helpers();

// kernel_entry.cc.
std::uint64_t run_system(CpuState* cpu, std::uint64_t word) noexcept;
std::uint64_t run_transfer(CpuState* cpu, std::uint64_t word) noexcept;
std::uint64_t forget_page(CpuState* cpu, std::uint64_t linear) noexcept;
/// The pending page fault of the instruction at `rip`, from within slow_access(), whose result it
/// gives.
std::uint64_t deliver_fault(CpuState& cpu, std::uint64_t rip) noexcept;

}  // namespace strata::engine::soft
