// InterpreterContext: what the interpreter keeps per vCPU thread: decoded instructions, stubs,
// scratch memory.
//
// Cached instructions are verified by comparing their bytes with guest memory at each use, so
// writes to code need no notice. One context per thread; it is emptied when another vCPU comes
// along on the same thread. This and all of interp/ is compiled for general registers only: it may
// run while guest vector values are in host registers. What may not (decoding, allocation,
// exclusive sections) calls save_vector_state() first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "engine/soft/decode/classify.h"
#include "engine/soft/decode/instruction.h"
#include "engine/soft/interp/host_stub.h"
#include "engine/soft/interp/interpreter.h"
#include "engine/soft/runtime/cpu_state.h"

namespace strata::engine::soft {

struct Op;
using Handler = StepResult (*)(CpuState& cpu, Op& op) noexcept;

/// A decoded instruction ready to run.
struct Op {
    std::uint64_t bytes[2] = {};  ///< masked by `mask`
    std::uint64_t mask[2] = {};
    std::uint32_t key = ~0U;  ///< CodeMode; ~0: empty
    Handler handler = nullptr;
    Instruction insn;
    HostStub stub;
};

/// Data accesses of the instruction being executed, kept only while DR7 arms data breakpoints.
struct WatchHits {
    std::uint64_t dr6 = 0;
};

struct InterpreterContext {
    static constexpr std::uint32_t kOps = 4096;
    static constexpr std::size_t kScratchBytes = 8192;

    const CpuState* cpu = nullptr;
    SoftVm* vm = nullptr;
    IsaSupport isa;
    std::unique_ptr<StubArena> arena;
    std::unique_ptr<Op[]> ops;
    Op straddling;  ///< instructions that cross a page or could not be cached

    std::uint64_t code_page =
        1;  ///< linear page whose bytes are at code_host while code_epoch and code_cpl are current
    std::uint64_t code_epoch = 0;
    std::uint32_t code_cpl = 0;
    const std::byte* code_host = nullptr;

    WatchHits watch;
    std::uint64_t held_hits =
        0;  ///< bits of DR6 that MOV SS or POP SS hit: they trap after the next instruction
    std::uint64_t physical_mask = 0;  ///< address bits above MAXPHYADDR: reserved
    std::uint64_t cr4_reserved = 0;   ///< bits of CR4 that the guest's CPUID does not offer
    std::uint64_t xcr0_supported = 1;
    std::uint32_t pkru_offset = 0;  ///< in an XSAVE image of the standard format; 0: no PKRU
    std::uint32_t external = 0;  ///< the EXT bit of error codes while an event is being delivered
    alignas(64) std::byte scratch[kScratchBytes];
};

/// The calling thread's context, bound to `cpu`.
InterpreterContext& attach_context(CpuState& cpu) noexcept;

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): what each thread owns
extern thread_local InterpreterContext* t_interpreter;

inline InterpreterContext& context(CpuState& cpu) noexcept {
    InterpreterContext* here = t_interpreter;
    if (here != nullptr && here->cpu == &cpu && here->vm == cpu.vm) [[likely]] {
        return *here;
    }
    return attach_context(cpu);
}

}  // namespace strata::engine::soft
