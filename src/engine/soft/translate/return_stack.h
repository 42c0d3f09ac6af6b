// ReturnStack: the stack on which one vCPU's translated code runs: pairs of (guest return address,
// host return address).
//
// A translated call pushes the address that it gives the guest and then uses the host's own call; a
// translated return compares the guest's return address with the topmost pair and uses the host's
// own return if they agree, so that the processor predicts it. Whatever disagrees (longjmp, another
// guest stack, a forged address) empties the stack and goes through the jump table. A pair is good
// as long as the mode word and the fetch translations are what they were when it was pushed:
// everything that changes those leaves translated code or empties the stack (glue.transfer), and
// leaving empties it. So nothing the guest does can make a return go anywhere but to the code
// behind a call that this vCPU just made to that very address, in that very mode and mapping.
//
// The bottom holds a pair whose host address is glue.return_end, so that a return that agrees with
// it by chance is harmless. Below the lowest place stands a page that faults: on_guard_fault()
// slides the newest part back to the bottom, which forgets the rest. No instruction of every call
// has to look for the end. C++ helpers run on the host's own stack.
#pragma once

#include <array>

#include "base/mmap_region.h"
#include "base/result.h"
#include "engine/soft/runtime/cpu_state.h"
#include "engine/soft/runtime/host_faults.h"

namespace strata::engine::soft {

class ReturnStack {
  public:
    /// Memory for one vCPU; `end` is the host address of the lowest pair.
    static Result<ReturnStack> create(std::uint64_t end);

    /// The value of TranslatorState::return_base.
    [[nodiscard]] std::uint64_t base() const;

    /// In signal context: whether `fault` is the end of the stack of `cpu`; then it goes on with
    /// space again.
    static bool on_guard_fault(const CpuState& cpu, HostFault& fault) noexcept;

  private:
    ReturnStack() = default;
    MmapRegion memory_;
};

}  // namespace strata::engine::soft
