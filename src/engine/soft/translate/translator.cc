// Translator: running blocks, and everything that happens between two of them.
#include "engine/soft/translate/translator.h"

#include <algorithm>

#include <asm/prctl.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "arch/x86/registers.h"
#include "engine/soft/direct/direct_events.h"
#include "engine/soft/mmu/mmu_state.h"
#include "engine/soft/translate/helpers.h"
#include "engine/soft/translate/layout.h"
#include "engine/soft/translate/trace.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kArithmetic = arch::x86::rflags::kArithmetic;
constexpr std::uint64_t kFlagsBase =
    0x202;  // what the host's own RFLAGS hold beside: the fixed bit and IF
constexpr std::uint64_t kHwcap2Fsgsbase = 2;
constexpr std::uint8_t kManyRewrites = 16;

// The vCPU that runs on this thread: what the signal handler reports to.
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables)
thread_local CpuState* t_current = nullptr;

void set_gs_base(const CpuState* cpu) {
    static const bool fast = (getauxval(AT_HWCAP2) & kHwcap2Fsgsbase) != 0;
    if (fast) {
        __asm__ volatile("wrgsbase %0" : : "r"(cpu));
    } else {
        (void)syscall(SYS_arch_prctl, ARCH_SET_GS, cpu);  // cannot fail for a user address
    }
}

void flags_to_guest(CpuState& cpu) {
    cpu.rflags = (cpu.rflags & ~kArithmetic) | (cpu.translator.flags & kArithmetic);
}
void flags_from_guest(CpuState& cpu) {
    cpu.translator.flags = (cpu.rflags & kArithmetic) | kFlagsBase;
}

}  // namespace

Translator::Translator(SoftVm& vm, const TranslateOptions& options, CodeLines lines)
    : vm_(vm),
      options_(options),
      table_(std::move(lines)),
      index_(table_.index()),
      lines_(table_.lines()),
      rewritten_(options.check_early ? 1 : kManyRewrites),
      buffer_(49152),
      scratch_(65536),
      assembler_(buffer_, 0) {}

Result<std::unique_ptr<Translator>> Translator::create(SoftVm& vm, const TranslateOptions& options,
                                                       std::uint64_t cache_bytes) {
    CodeLines lines = STRATA_TRY(CodeLines::create(vm.ram->size()));
    std::unique_ptr<Translator> translator(new Translator(vm, options, std::move(lines)));
    STRATA_TRY_VOID(translator->prepare_memory(cache_bytes));
    return translator;
}

Result<> Translator::prepare_memory(std::uint64_t cache_bytes) {
    constexpr std::uint64_t kLeast = 1U << 20U;
    constexpr std::uint64_t kMost = 1U << 30U;  // rel32 distances
    constexpr std::uint64_t kSmall = 4U << 20U;
    cache_bytes = options_.small_cache ? kSmall : cache_bytes;
    cache_bytes = std::clamp(cache_bytes & ~std::uint64_t{4095}, kLeast, kMost);
    if (vm_.ram->size() >> 40 != 0) {
        return Error(ErrorKind::NotSupported, "the translator handles at most 1 TiB of RAM");
    }
    memory_ = STRATA_TRY(CodeMemory::create(cache_bytes));
    glue_ = make_glue(*memory_, glue_helpers());
    glue_end_ = memory_->next() - memory_->base();
    memory_->keep();
    // SAFETY: the range is this object's code memory, unregistered before it is unmapped.
    STRATA_TRY_VOID(faults_.add(reinterpret_cast<const void*>(memory_->base()), memory_->size(),
                                on_host_fault, this));
    return ok();
}

// In signal context: a native instruction was refused. What to do is decided outside.
bool Translator::on_host_fault(void* self, HostFault& fault) noexcept {
    const auto* translator = static_cast<const Translator*>(self);
    if (t_current != nullptr && ReturnStack::on_guard_fault(*t_current, fault)) {
        return true;
    }
    if (t_current == nullptr || fault.pc - translator->memory_->base() < translator->glue_end_) {
        return false;
    }
    constexpr int kEflags = 17;  // REG_EFL
    t_current->translator.exit_pc = fault.pc;
    t_current->translator.spill[2] = fault.registers[kEflags];
    fault.pc = translator->glue_.fault;
    return true;
}

void Translator::reset_jumps(CpuState& cpu) const {
    for (TranslatorState::JumpEntry& entry : cpu.translator.jumps) {
        entry = {0, glue_.indirect};
    }
    cpu.translator.deltas[LoopWindows::kOwner] = 0;
    cpu.translator.deltas[LoopWindows::kQuickOwner] = 0;
}

void Translator::give_return_stack(CpuState& cpu) {
    auto stack = ReturnStack::create(glue_.return_end);
    STRATA_CHECK(stack.ok(), "no memory for a return stack");
    cpu.translator.return_base = stack.value().base();
    const MutexLock lock(mutex_);
    return_stacks_.push_back(std::move(stack).value());
}

void Translator::enter_thread(CpuState& cpu) {
    set_gs_base(&cpu);
    if (cpu.translator.spill[3] != reinterpret_cast<std::uint64_t>(&cpu)) {
        cpu.translator.spill[3] = reinterpret_cast<std::uint64_t>(&cpu);
        reset_jumps(cpu);
        give_return_stack(cpu);
    }
    if (t_current != &cpu) {
        t_current = &cpu;
        // Without its own signal stack the thread still works; a fault of a native instruction then
        // ends the process.
        (void)prepare_host_fault_thread();
    }
}

bool Translator::ends_run(CpuState& cpu, StepResult step, ExecResult& result) {
    switch (step) {
        case StepResult::Exception:
            result = ExecResult::Exception;
            return true;
        case StepResult::Halted:
            result = ExecResult::Halted;
            return true;
        case StepResult::TripleFault:
            result = ExecResult::TripleFault;
            return true;
        case StepResult::Done:
        case StepResult::EndBlock:
            break;
    }
    result = ExecResult::Polled;
    return window_open(cpu, step == StepResult::EndBlock);
}

bool Translator::step(CpuState& cpu, ExecResult& result) {
    TranslatorCounters::bump(counters_.interpreted);
    return ends_run(cpu, interpret_one(cpu), result);
}

void Translator::execute(CpuState& cpu, const Block& block) {
    TranslatorCounters::bump(counters_.enters);
    flags_from_guest(cpu);
    cpu.translator.anchor = cpu.rip & ~std::uint64_t{4095};
    glue_.enter(&cpu, memory_->base() + block.code);
    save_vector_state(cpu);  // what follows is ordinary C++
    flags_to_guest(cpu);
}

Translator::Next Translator::after_block(CpuState& cpu) {
    const std::uint64_t reason = cpu.translator.exit_reason;
    const bool fault = reason == ExitReasonCode::kFault;
    const auto at = static_cast<std::uint32_t>(cpu.translator.exit_pc - memory_->base());
    const MutexLock lock(mutex_);
    Block* left = locate(fault ? at : at - 1);
    STRATA_CHECK(left != nullptr, "translated code was left from nowhere");
    if (reason == ExitReasonCode::kSite) {
        TranslatorCounters::bump(counters_.site_exits);
        Exit* from = left->exit_at(at);
        STRATA_CHECK(from != nullptr, "unknown exit");
        cpu.rip = left->linear(from->target, cpu.translator.anchor);
        if (from->kind == Exit::Kind::Stale || from->kind == Exit::Kind::Settled) {
            retire(*left, from->kind == Exit::Kind::Settled);
            return {};
        }
        const bool interpret = from->kind == Exit::Kind::Interpret && !from->second_page;
        return {from->kind == Exit::Kind::Direct ? from : nullptr, from->ungrouped, interpret};
    }
    const InsnMark mark = left->mark_at(fault ? at : at - 1);
    cpu.rip = left->linear(left->rip + (mark.guest & ~InsnMark::kHostFlags), cpu.translator.anchor);
    if (!fault) {
        return {};
    }
    TranslatorCounters::bump(counters_.host_faults);
    if ((mark.guest & InsnMark::kHostFlags) != 0) {
        cpu.translator.flags = cpu.translator.spill[2];
        flags_to_guest(cpu);
    }
    // The interpreter runs the instruction again and raises what the guest must see.
    return {nullptr, false, true};
}

void Translator::traced(const CpuState& cpu) const {
    if (options_.trace_exits) {
        trace_exit(cpu.translator.exit_reason, cpu.rip);
    }
}

ExecResult Translator::run(CpuState& cpu) noexcept {
    enter_thread(cpu);
    ExecResult result = ExecResult::Polled;
    Next next;
    while (cpu.request.load(std::memory_order_acquire) == 0) {
        const Block* block =
            next.interpret || cpu.interrupt_shadow ? nullptr : block_for(cpu, next);
        if (block == nullptr) {
            next = {};
            if (step(cpu, result)) {
                return result;
            }
            continue;
        }
        next = {};
        next.generation = generation_.load(std::memory_order_acquire);
        execute(cpu, *block);
        switch (cpu.translator.exit_reason) {
            case ExitReasonCode::kIndirect:
                TranslatorCounters::bump(counters_.indirect_exits);
                traced(cpu);
                break;
            case ExitReasonCode::kResume:
                traced(cpu);
                if (ends_run(cpu, static_cast<StepResult>(cpu.translator.spill[1]), result) ||
                    (cpu.direct != nullptr && cpu.direct->enter)) {
                    return result;
                }
                break;
            case ExitReasonCode::kException:
                (void)after_block(cpu);
                traced(cpu);
                return ExecResult::Exception;
            default: {
                const std::uint64_t generation = next.generation;
                next = after_block(cpu);
                traced(cpu);
                next.generation = generation;
                break;
            }
        }
    }
    return result;
}

std::uint64_t Translator::interpret_in_block(CpuState& cpu, std::uint32_t site, std::uint64_t pc,
                                             bool vectors) noexcept {
    TranslatorCounters::bump(counters_.interpreted_in_block);
    const auto at = static_cast<std::uint32_t>(pc - 1 - memory_->base());
    // Before the block is looked at: whatever kills it afterwards is seen below.
    const std::uint64_t killed_before = killed();
    const Block* block = nullptr;
    {
        const MutexLock lock(mutex_);
        block = locate(at);
    }
    STRATA_CHECK(block != nullptr, "slow path of no block");
    const bool alive =
        !block->dead;  // only this thread's own store can have killed it, in asking for the page
    const std::uint32_t offset = block->mark_at(at).guest & ~std::uint32_t{InsnMark::kHostFlags};
    cpu.rip = block->linear(block->rip + offset, cpu.translator.anchor);
    const std::uint32_t length = site >> SiteWord::kLengthShift;
    const std::uint64_t next = cpu.rip + length;
    const std::uint64_t cuts = cpu.translator.cuts;
    const bool ends = offset + length >= block->guest_length;
    flags_to_guest(cpu);
    const StepResult step = interpret_one(cpu);
    finish_pending_rewrite(cpu);
    flags_from_guest(cpu);
    // The interpreter may have waited for others (a split lock), who took back what the block's
    // checks of its stack and of its runs rely on.
    const bool on = step == StepResult::Done && cpu.rip == next && !ends &&
                    killed() == killed_before && cuts == cpu.translator.cuts && alive &&
                    !block->checked;
    if (on && cpu.request.load(std::memory_order_acquire) == 0) {
        if (vectors) {
            load_vector_state(cpu);
        }
        return 0;
    }
    cpu.translator.exit_reason = ExitReasonCode::kResume;
    cpu.translator.spill[1] = static_cast<std::uint64_t>(step);
    return 1;
}

}  // namespace strata::engine::soft
