// Slot code: the pages that chained code relies on, as the vCPU and its address spaces know them:
// TranslatorState::code_pages holds the supervisor's and the current user's, an AsidSlot those of a
// user that is not current. Compiled for general registers only.
#pragma once

#include <cstdint>

#include "engine/soft/mmu/mmu_state.h"
#include "engine/soft/runtime/cpu_state.h"

namespace strata::engine::soft {

inline bool is_current(const CpuState& cpu, const AsidSlot& slot) {
    return &slot == &cpu.mmu->slots[cpu.mmu->current];
}

/// The user's code pages of `from`, which are the vCPU's, give way to those of `to`.
void exchange_user_code(CpuState& cpu, AsidSlot& from, AsidSlot& to);
void forget_supervisor_code(CpuState& cpu);
/// What chained code relies on in one address space; of the supervisor's, global pages are kept if
/// `keep_global`.
void forget_code(CpuState& cpu, AsidSlot& slot, bool keep_global);
/// One page's, in the slot and of the supervisor.
void forget_code_page(CpuState& cpu, AsidSlot& slot, std::uint64_t linear);

}  // namespace strata::engine::soft
