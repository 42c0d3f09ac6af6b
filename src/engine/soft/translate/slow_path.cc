// Slow path: the C++ functions that generated code calls. Compiled for general registers only, as a whole: guest vector
// values may be in host registers. Whatever needs more saves them first. In sanitizer builds only this file and cpu_state.cc
// are compiled so, and not instrumented: what they call uses vectors anywhere, so each function here saves them at once.
#include "arch/x86/registers.h"
#include "engine/soft/mmu/mmu_state.h"
#include "engine/soft/translate/helpers.h"
#include "engine/soft/translate/translator.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kArithmetic = arch::x86::rflags::kArithmetic;
constexpr std::uint64_t kFlagsBase = 0x202;

// Translated code runs, so there is a translator.
Translator* translator_of(const CpuState& cpu) {
    CodeInvalidator* code = cpu.vm->code;
    if (code == nullptr) {
        __builtin_unreachable();
    }
    return static_cast<Translator*>(code);
}

// Whether guest vector values are in host registers, as asked before anything else is done.
bool enter_slow_path(CpuState& cpu) {
    const bool live = cpu.vector_live != 0;
#ifdef STRATA_SANITIZED
    save_vector_state(cpu);
#endif
    return live;
}

void restore_vectors(CpuState& cpu, bool live) {
    if (live) {
        load_vector_state(cpu);
    }
}

std::uint64_t slow_access(CpuState* cpu, std::uint64_t linear, std::uint32_t site, std::uint64_t pc) noexcept {
    const bool live = enter_slow_path(*cpu);
    Translator* translator = translator_of(*cpu);
    translator->count_slow_access();
    const std::uint32_t size = site & SiteWord::kSizeMask;
    const bool write = (site & SiteWord::kWrite) != 0;
    const bool misaligned = (site & SiteWord::kAligned) != 0 && (linear & (size - 1)) != 0;
    if (!misaligned && (linear & (kPage - 1)) + size <= kPage) {
        std::byte* host = host_pointer(*cpu, linear, size, write ? MemAccess::Write : MemAccess::Read);
        // A store into a page of code must be followed by an invalidation, and maybe by leaving the block.
        if (host != nullptr && !cpu->mmu->rewrite_pending) {
            restore_vectors(*cpu, live);
            return reinterpret_cast<std::uint64_t>(host);
        }
        // Not canonical: #GP or #SS, which the interpreter tells apart.
        if (host == nullptr && cpu->exception.pending && cpu->exception.vector == arch::x86::vector::kPf) {
            cpu->translator.exit_reason = ExitReasonCode::kException;
            return 1;
        }
        cpu->exception = {};
    }
    save_vector_state(*cpu);
    return translator->interpret_in_block(*cpu, site, pc, live);
}

// A page that cannot be reached now is no failure: the caller then checks each access by itself.
bool fill(CpuState& cpu, std::uint64_t linear, MemAccess access) {
    std::uint64_t physical = 0;
    if (!translate_linear(cpu, linear, access, Privilege::Current, physical)) {
        cpu.exception = {};
        return false;
    }
    // Asking for a writable pointer to code would drop that code although nothing is written yet.
    const auto offset = cpu.vm->ram->ram_offset(memory::GuestAddress(physical));
    if (!offset || (access == MemAccess::Write && (cpu.vm->ram->page_flags(*offset >> 12).load(std::memory_order_acquire) &
                                                   memory::PageFlags::kCode) != 0)) {
        return false;
    }
    if (host_pointer(cpu, linear, 1, access) == nullptr) {
        cpu.exception = {};
        return false;
    }
    return true;
}

void fill_stack(CpuState* cpu, std::uint64_t linear) noexcept {
    const bool live = enter_slow_path(*cpu);
    (void)fill(*cpu, linear, MemAccess::Write);  // the caller looks at the TLB again
    restore_vectors(*cpu, live);
}

std::uint64_t fill_run(CpuState* cpu, std::uint64_t linear, std::uint64_t word) noexcept {
    const bool write = (word & RunWord::kWrite) != 0;
    if ((linear & (kPage - 1)) + (word & RunWord::kBytesMask) > kPage) {
        return 0;
    }
    const bool live = enter_slow_path(*cpu);
    const bool filled = fill(*cpu, linear, write ? MemAccess::Write : MemAccess::Read);
    restore_vectors(*cpu, live);
    const TlbEntry& entry = cpu->tlb[tlb_index(linear)];
    return filled && (write ? entry.tag_write : entry.tag_read) == (linear & ~(kPage - 1)) ? 1 : 0;
}

void load_vectors(CpuState* cpu) noexcept { load_vector_state(*cpu); }

void flags_to_guest(CpuState& cpu) {
    cpu.rflags = (cpu.rflags & ~kArithmetic) | (cpu.translator.flags & kArithmetic);
}

// What a block relies on between two of its instructions: that it is alive, its mode, and where its page lies.
struct Footing {
    std::uint64_t killed, epoch;
    std::uint32_t mode;
    bool operator==(const Footing&) const = default;
};

std::uint64_t interpret_here(CpuState* state, std::uint64_t word) noexcept {
    CpuState& cpu = *state;
    const bool live = enter_slow_path(cpu);
    Translator* translator = translator_of(cpu);
    const auto footing = [&] { return Footing{translator->killed(), cpu.fetch_epoch, cpu.mode}; };
    const std::uint64_t rip = cpu.rip;
    const Footing before = footing();
    translator->count_interpreted(static_cast<std::uint32_t>(word >> 16U));
    const std::uint64_t length = word & 0xFF;
    flags_to_guest(cpu);
    StepResult step = StepResult::Done;
    do {
        step = interpret_one(cpu);
    } while (step == StepResult::Done && cpu.rip == rip && cpu.request.load(std::memory_order_relaxed) == 0);
    cpu.translator.flags = (cpu.rflags & kArithmetic) | kFlagsBase;
    const bool goes_on = (step == StepResult::Done || step == StepResult::EndBlock) && cpu.rip == rip + length &&
                         before == footing() && cpu.request.load(std::memory_order_acquire) == 0 &&
                         (cpu.interrupt_window == 0 || (!cpu.interrupt_shadow && !window_open(cpu, step == StepResult::EndBlock)));
    if (goes_on) {
        cpu.interrupt_shadow = false;  // nothing waits, and one instruction follows before anybody looks
        restore_vectors(cpu, live);
        return 0;
    }
    cpu.translator.exit_reason = ExitReasonCode::kResume;
    cpu.translator.spill[1] = static_cast<std::uint64_t>(step);
    return 1;
}

}  // namespace

GlueHelpers glue_helpers() { return {slow_access, fill_stack, fill_run, load_vectors, interpret_here}; }

}  // namespace strata::engine::soft
