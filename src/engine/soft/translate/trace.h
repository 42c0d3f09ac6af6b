// Trace: prints what the translator makes, stage by stage: the guest instructions of each block as
// decoded, the block, the host code made of it; and each return from translated code.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/soft/cache/block_table.h"
#include "engine/soft/translate/analysis.h"

namespace strata::engine::soft {

/// All to standard error. `page`: what the units' addresses are relative to. Shown of each unit:
/// who executes it, if not copied or translated code, and who needs the flags before it.
void trace_units(const std::vector<Unit>& units, std::uint64_t page);
/// One line: addresses, sizes, what kind it is.
void trace_block(const Block& block, std::uint64_t page);
/// `side`: "host", "cold"; `address`: where the code runs.
void trace_code(const char* side, std::span<const std::uint8_t> code, std::uint64_t address);
/// Translated code returned for `reason` (ExitReasonCode) with the guest at `rip`.
void trace_exit(std::uint64_t reason, std::uint64_t rip);

}  // namespace strata::engine::soft
