// Trace: prints blocks: each guest instruction, then the host code made of all of them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/soft/translate/analysis.h"

namespace strata::engine::soft {

/// To standard error. `address`, `cold_address`: where the code runs; `page`: what the
/// units' addresses are relative to.
void trace_block(const std::vector<Unit>& units, std::uint64_t page,
                 std::span<const std::uint8_t> code, std::uint64_t address,
                 std::span<const std::uint8_t> cold, std::uint64_t cold_address);

}  // namespace strata::engine::soft
