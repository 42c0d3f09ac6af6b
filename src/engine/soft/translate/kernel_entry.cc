// Kernel entry: the C++ functions through which translated code runs system instructions and enters
// the guest's kernel.
//
// Compiled for general registers only, as slow_path.cc: the guest's vector values stay where they
// are. In sanitizer builds each function saves them first.
#include "arch/x86/registers.h"
#include "engine/soft/direct/direct_events.h"
#include "engine/soft/interp/context.h"
#include "engine/soft/mmu/mmu.h"
#include "engine/soft/runtime/executor.h"
#include "engine/soft/translate/helpers.h"
#include "engine/soft/translate/layout.h"
#include "engine/soft/translate/translator.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kArithmetic = arch::x86::rflags::kArithmetic;
constexpr std::uint64_t kFlagsBase = 0x202;

// Translated code runs, so there is a translator.
Translator& translator_of(const CpuState& cpu) {
    CodeInvalidator* code = cpu.vm->code;
    if (code == nullptr) {
        __builtin_unreachable();
    }
    return *static_cast<Translator*>(code);
}

bool enter_helper(CpuState& cpu) {
    const bool live = cpu.vector_live != 0;
#ifdef STRATA_SANITIZED
    save_vector_state(cpu);
#endif
    return live;
}

Op& op_of(std::uint64_t word) {
    // SAFETY: the block that called holds the address of an Op that lives as long as the block's
    // code.
    return *reinterpret_cast<Op*>(word & ~SystemWord::kBits);
}

StepResult execute(CpuState& cpu, Op& op) {
    translator_of(cpu).count_interpreted(op.insn.mnemonic);
    cpu.rflags = (cpu.rflags & ~kArithmetic) | (cpu.translator.flags & kArithmetic);
    const StepResult step = execute_decoded(cpu, op);
    cpu.translator.flags = (cpu.rflags & kArithmetic) | kFlagsBase;
    return step;
}

// Whether translated code may go on without a look at what waits. `shadow`: an interrupt shadow is
// no obstacle.
bool goes_on(const CpuState& cpu, StepResult step, bool shadow) {
    if ((step != StepResult::Done && step != StepResult::EndBlock) ||
        cpu.request.load(std::memory_order_acquire) != 0) {
        return false;
    }
    if (cpu.interrupt_shadow) {
        return shadow && cpu.interrupt_window == 0;
    }
    return cpu.interrupt_window == 0 || !window_open(cpu, step == StepResult::EndBlock);
}

// The vCPU's record of the fetch translation of the page at cpu.rip; 0: none.
std::uint64_t code_page(const CpuState& cpu, std::uint64_t rip) {
    const std::uint64_t entry =
        cpu.translator
            .code_pages[cpu.cpl == 3 ? 1 : 0][(rip >> 12) & (TranslatorState::kCodePages - 1)];
    return entry >> 28 == layout::code_page_key(rip, 0) >> 28 ? entry : 0;
}

std::uint64_t leave(CpuState& cpu, StepResult step) {
    cpu.translator.exit_reason = ExitReasonCode::kResume;
    cpu.translator.spill[1] = static_cast<std::uint64_t>(step);
    return 1;
}

}  // namespace

std::uint64_t run_system(CpuState* state, std::uint64_t word) noexcept {
    CpuState& cpu = *state;
    const bool live = enter_helper(cpu);
    Op& op = op_of(word);
    const Translator& translator = translator_of(cpu);
    // What the block relies on between two of its instructions: that it is alive, its mode, where
    // its page lies, and what it checked of pages that it writes to.
    const std::uint64_t killed = translator.killed();
    const std::uint64_t cuts = cpu.translator.cuts;
    const std::uint64_t epoch = cpu.fetch_epoch;
    const std::uint64_t page = code_page(cpu, cpu.rip);
    const std::uint32_t mode = cpu.mode;
    const std::uint64_t next = cpu.rip + op.insn.length;
    const std::uint64_t rip = cpu.rip;
    StepResult step = execute(cpu, op);
    // A REP instruction works in chunks.
    while (step == StepResult::Done && cpu.rip == rip &&
           cpu.request.load(std::memory_order_relaxed) == 0) {
        step = execute(cpu, op);
    }
    const bool last = (word & SystemWord::kLast) != 0;
    if (!goes_on(cpu, step, !last) || cpu.rip != next || cpu.mode != mode ||
        translator.killed() != killed || cpu.translator.cuts != cuts) {
        return leave(cpu, step);
    }
    if (cpu.fetch_epoch != epoch && (page == 0 || code_page(cpu, next - 1) != page)) {
        return leave(cpu, step);  // the page that the block was made from may be another now
    }
    cpu.interrupt_shadow =
        false;  // nothing waits, and one instruction follows before anybody looks
    if (live) {
        load_vector_state(cpu);
    }
    return 0;
}

std::uint64_t run_transfer(CpuState* state, std::uint64_t word) noexcept {
    CpuState& cpu = *state;
    (void)enter_helper(cpu);
    if (cpu.cpl == 3) {
        note_kernel_entry(cpu);
    }
    const StepResult step = execute(cpu, op_of(word));
    if (cpu.direct != nullptr && cpu.cpl == 3 && note_user_return(cpu)) {
        cpu.direct->enter = true;
        return leave(cpu, step);
    }
    return goes_on(cpu, step, false) ? 0 : leave(cpu, step);
}

std::uint64_t forget_page(CpuState* cpu, std::uint64_t linear) noexcept {
    const bool live = enter_helper(*cpu);
    const bool done = flush_data_page(*cpu, linear);
    if (live) {
        load_vector_state(*cpu);
    }
    return done ? 1 : 0;
}

std::uint64_t deliver_fault(CpuState& cpu, std::uint64_t rip) noexcept {
    cpu.rip = rip;
    cpu.rflags = (cpu.rflags & ~kArithmetic) | (cpu.translator.flags & kArithmetic);
    if (cpu.cpl == 3) {
        note_kernel_entry(cpu);
    }
    const StepResult step = deliver_exception(cpu);
    cpu.translator.flags = (cpu.rflags & kArithmetic) | kFlagsBase;
    return goes_on(cpu, step, false) ? GlueHelpers::kGoOn : leave(cpu, step);
}

}  // namespace strata::engine::soft
