// Fragments: short sequences of host code that blocks and the thunks between them share.
#pragma once

#include <cstdint>

#include "engine/soft/emit/assembler.h"

namespace strata::engine::soft {

/// r10 = a linear address, `offset` bytes into its page: `to` (another register) becomes 0 if the
/// vCPU's record of fetch translations at privilege `cpl` says that `ram_page` is there, else
/// something else. Leaves flags alone.
void emit_page_distance(Assembler& a, Reg to, std::uint32_t cpl, std::uint64_t ram_page,
                        std::uint64_t offset);
/// The same for r11, with a jump to `miss`, or to the address `miss`. Clobbers flags.
void emit_page_check(Assembler& a, std::uint32_t cpl, std::uint64_t ram_page, Label miss);
void emit_page_check(Assembler& a, std::uint32_t cpl, std::uint64_t ram_page, std::uint64_t offset,
                     std::uint64_t miss);

}  // namespace strata::engine::soft
