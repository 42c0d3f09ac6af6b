// Slow path: the C++ functions that generated code calls. Compiled for general registers only, as a
// whole: guest vector values may be in host registers. Whatever needs more saves them first. In
// sanitizer builds only this file and cpu_state.cc are compiled so, and not instrumented: what they
// call uses vectors anywhere, so each function here saves them at once.
#include "arch/x86/registers.h"
#include "engine/soft/interp/handlers.h"
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

bool page_has_code(const CpuState& cpu, std::uint64_t ram_offset) {
    return (cpu.vm->ram->page_flags(ram_offset >> 12).load(std::memory_order_acquire) &
            memory::PageFlags::kCode) != 0;
}

// A store to code that the TLB knows: it is done and followed by one invalidation in the
// interpreter.
bool known_code(const CpuState& cpu, std::uint64_t linear) {
    const TlbEntry& entry = cpu.tlb[tlb_index(linear)];
    return entry.tag_read == (linear & ~(kPage - 1)) &&
           page_has_code(cpu,
                         entry.host_page - reinterpret_cast<std::uint64_t>(cpu.vm->ram->base()));
}

// A store to a page of code that known_code() knows: where it goes, or null if the interpreter has
// to do it, since the page may not be written as it is or the running block is one that the store
// hits.
std::byte* code_store(CpuState& cpu, std::uint64_t linear, std::uint32_t size, std::uint64_t pc,
                      bool live) {
    constexpr std::uint32_t kIdle = 64;
    TlbEntry& entry = cpu.tlb[tlb_index(linear)];
    if ((entry.tag_execute_and_page & TlbFlags::kWritable) == 0) {
        return nullptr;
    }
    memory::GuestRam& ram = *cpu.vm->ram;
    const std::uint64_t offset =
        entry.host_page - reinterpret_cast<std::uint64_t>(ram.base()) + (linear & (kPage - 1));
    Translator* translator = translator_of(cpu);
    if (cpu.vm->cpus().size() > 1) {
        cpu.translator.stored_page.store((offset >> 12) + 1, std::memory_order_seq_cst);
    }
    if (ram.dirty_logging()) {
        ram.dirty().mark(offset >> 12);
    }
    if (translator->lines().any(offset, size)) {
        save_vector_state(cpu);
        const bool alive = translator->kill_before_store(offset, size, pc);
        restore_vectors(cpu, live);
        return alive ? ram.base() + offset : nullptr;
    }
    if (!translator->lines().page_has_any(offset >> 12) && ++cpu.translator.idle_stores >= kIdle) {
        cpu.translator.idle_stores = 0;
        save_vector_state(cpu);
        translator->release_page(offset >> 12);
        restore_vectors(cpu, live);
    }
    return ram.base() + offset;
}

// Not one access of the host's, as a processor's would not be either.
void copy_bytes(std::byte* to, const std::byte* from, std::uint32_t size) {
    for (; size >= 8; size -= 8, to += 8, from += 8) {
        __builtin_memcpy(to, from, 8);
    }
    for (; size > 0; --size) {
        *to++ = *from++;
    }
}

// A load that crosses pages reads a copy.
bool copy_in(CpuState& cpu, std::uint64_t linear, std::uint32_t size) {
    const std::uint64_t page = linear & ~(kPage - 1), next = page + kPage;
    const TlbEntry &low = cpu.tlb[tlb_index(page)], &high = cpu.tlb[tlb_index(next)];
    if (low.tag_read == page && high.tag_read == next) {
        // SAFETY: the TLB vouches for both pages.
        const auto first = static_cast<std::uint32_t>(next - linear);
        copy_bytes(cpu.translator.bounce,
                   reinterpret_cast<const std::byte*>(low.host_page + (linear & (kPage - 1))),
                   first);
        copy_bytes(cpu.translator.bounce + first,
                   reinterpret_cast<const std::byte*>(high.host_page), size - first);
        return true;
    }
    return read_linear(cpu, linear, cpu.translator.bounce, size);
}

// A load of which a mask chooses the elements: all of it, if all of it can be read. The A bit of a
// page whose elements are all masked out may be set, as processors may by speculation. Null: some
// of it cannot be, which matters only if the mask wants it.
std::byte* masked_load(CpuState& cpu, std::uint64_t linear, std::uint32_t size) {
    const std::uint64_t last = linear + size - 1;
    for (const std::uint64_t at : {linear, last}) {
        if (cpu.tlb[tlb_index(at)].tag_read != (at & ~(kPage - 1)) &&
            host_pointer(cpu, at, 1, MemAccess::Read) == nullptr) {
            cpu.exception = {};
            return nullptr;
        }
    }
    if (((linear ^ last) & ~(kPage - 1)) != 0) {
        if (!copy_in(cpu, linear, size)) {
            cpu.exception = {};
            return nullptr;
        }
        return cpu.translator.bounce;
    }
    const TlbEntry& entry = cpu.tlb[tlb_index(linear)];
    // SAFETY: the TLB vouches for the page, and no byte of the operand lies beyond it.
    return reinterpret_cast<std::byte*>(entry.host_page + (linear & (kPage - 1)));
}

// A store that crosses pages goes to the copy; finish_store() brings it to where it belongs, before
// anything else happens.
bool prepare_copy_out(CpuState& cpu, std::uint64_t linear, std::uint32_t size) {
    TranslatorState& state = cpu.translator;
    const auto first = static_cast<std::uint32_t>(kPage - (linear & (kPage - 1)));
    const std::uint64_t second = linear + first;
    state.bounce_first = first;
    state.bounce_size = size;
    const TlbEntry &one = cpu.tlb[tlb_index(linear)], &other = cpu.tlb[tlb_index(second)];
    if (one.tag_write == second - kPage && other.tag_write == second) {
        // SAFETY: the TLB vouches for both pages.
        state.bounce_low = reinterpret_cast<std::byte*>(one.host_page + (linear & (kPage - 1)));
        state.bounce_high = reinterpret_cast<std::byte*>(other.host_page);
        return true;
    }
    // Read rights first: asking for a writable pointer to code would drop that code.
    for (const std::uint64_t at : {linear, second}) {
        if (host_pointer(cpu, at, 1, MemAccess::Read) == nullptr || known_code(cpu, at)) {
            cpu.exception = {};
            return false;
        }
    }
    std::byte* low = host_pointer(cpu, linear, first, MemAccess::Write);
    std::byte* high =
        low == nullptr ? nullptr : host_pointer(cpu, second, size - first, MemAccess::Write);
    if (high == nullptr || cpu.mmu->rewrite_pending) {
        cpu.exception = {};
        return false;
    }
    state.bounce_low = low;
    state.bounce_high = high;
    return true;
}

void finish_store(CpuState* cpu) noexcept {
    const TranslatorState& state = cpu->translator;
    const bool live = enter_slow_path(*cpu);
    copy_bytes(state.bounce_low, state.bounce, state.bounce_first);
    copy_bytes(state.bounce_high, state.bounce + state.bounce_first,
               state.bounce_size - state.bounce_first);
    restore_vectors(*cpu, live);
}

std::uint64_t slow_access(CpuState* cpu, std::uint64_t linear, std::uint64_t site_and_rip,
                          std::uint64_t pc) noexcept {
    const bool live = enter_slow_path(*cpu);
    Translator* translator = translator_of(*cpu);
    translator->count_slow_access();
    const auto site = static_cast<std::uint32_t>(site_and_rip) & SiteWord::kMask;
    const std::uint32_t size = site & SiteWord::kSizeMask;
    const bool write = (site & SiteWord::kWrite) != 0;
    const bool misaligned = (site & SiteWord::kAligned) != 0 && (linear & (size - 1)) != 0;
    if ((site & SiteWord::kMasked) != 0) {
        std::byte* host = write || misaligned ? nullptr : masked_load(*cpu, linear, size);
        if (host != nullptr) {
            restore_vectors(*cpu, live);
            return reinterpret_cast<std::uint64_t>(host);
        }
        save_vector_state(*cpu);
        return translator->interpret_in_block(*cpu, site, pc, live);
    }
    const bool crosses = (linear & (kPage - 1)) + size > kPage;
    if (crosses && !misaligned && !write && copy_in(*cpu, linear, size)) {
        restore_vectors(*cpu, live);
        return reinterpret_cast<std::uint64_t>(static_cast<std::byte*>(cpu->translator.bounce));
    }
    if (crosses && !misaligned && (site & SiteWord::kCopyOut) != 0 &&
        prepare_copy_out(*cpu, linear, size)) {
        restore_vectors(*cpu, live);
        return GlueHelpers::kCopyOut;
    }
    cpu->exception = {};
    const bool to_code = write && !misaligned && !crosses && known_code(*cpu, linear);
    if (to_code) {
        if (std::byte* host = code_store(*cpu, linear, size, pc, live); host != nullptr) {
            return reinterpret_cast<std::uint64_t>(host);
        }
    } else if (!misaligned && !crosses) {
        std::byte* host =
            host_pointer(*cpu, linear, size, write ? MemAccess::Write : MemAccess::Read);
        // A store into a page of code must be followed by an invalidation, and maybe by leaving the
        // block.
        if (host != nullptr && !cpu->mmu->rewrite_pending) {
            restore_vectors(*cpu, live);
            return reinterpret_cast<std::uint64_t>(host);
        }
        // Not canonical: #GP or #SS, which the interpreter tells apart; and so it does #MF, which
        // goes before them.
        if (host == nullptr && cpu->exception.pending &&
            cpu->exception.vector == arch::x86::vector::kPf && !x87_error_pending(*cpu)) {
            if (translator->delivers_faults()) {
                return deliver_fault(
                    *cpu, static_cast<std::uint64_t>(static_cast<std::int64_t>(site_and_rip) >>
                                                     SiteWord::kRipShift));
            }
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
    // Asking for a writable pointer to code would drop that code although nothing is written yet:
    // reading comes first.
    if (access == MemAccess::Write &&
        (host_pointer(cpu, linear, 1, MemAccess::Read) == nullptr || known_code(cpu, linear))) {
        cpu.exception = {};
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

// The loop that was entered before has run: how far did it go?
void note_run(const CpuState& cpu, LoopWindows& loop) {
    constexpr std::uint64_t kFar = 1U << 20U;
    const std::uint64_t moved =
        cpu.translator.deltas[loop.last()] - loop.first.load(std::memory_order_relaxed);
    const std::uint64_t way = loop.steppers[0].step < 0 ? 0 - moved : moved;
    if (way < kFar) {
        loop.way.store(loop.way.load(std::memory_order_relaxed) + way, std::memory_order_relaxed);
    }
}

// Whether the fills of late saved as many checks as they cost. About 36 take as long as one fill by
// call, about 8 as long as a quick one; without windows several iterations share one.
bool paid(LoopWindows& loop, std::uint64_t fills) {
    const std::uint64_t worth = loop.quick ? 24 : 128;
    const std::int32_t step = loop.steppers[0].step;
    const auto by = static_cast<std::uint64_t>(step < 0 ? -std::int64_t{step} : step);
    return loop.way.exchange(0, std::memory_order_relaxed) * loop.accesses >= by * fills * worth;
}

// Of quick fills one in so many is looked at, and the one behind it, which tells how far that went:
// altogether a prime number, so that loops that take turns are all looked at.
constexpr std::uint64_t kSampleEvery = 35;

// Notes a fill; now and then (a loop may be left early for a while): whether they paid.
bool pays(CpuState& cpu, LoopWindows& loop) {
    const std::uint32_t many = loop.quick ? 64 : 1024;
    std::uint64_t* deltas = cpu.translator.deltas;
    if (loop.quick && static_cast<std::int32_t>(deltas[LoopWindows::kSample]) >= 0) {
        return true;
    }
    const std::uint64_t owner = std::exchange(deltas[loop.owner()], 0);
    if (owner != 0) {
        // SAFETY: set below; zeroed when blocks are freed.
        note_run(cpu, *reinterpret_cast<LoopWindows*>(owner));
        if (loop.quick) {
            deltas[LoopWindows::kSample] = kSampleEvery;
            return true;
        }
    }
    deltas[loop.owner()] = reinterpret_cast<std::uint64_t>(&loop);
    const std::uint64_t now = cpu.gpr[loop.steppers[0].reg & 15];
    deltas[loop.last()] = now;  // left in another way: as if no iteration had been
    if (loop.quick) {
        deltas[LoopWindows::kSample] = 0;
    }
    loop.first.store(now, std::memory_order_relaxed);
    const std::uint32_t fills = loop.fills.load(std::memory_order_relaxed) + 1;
    loop.fills.store(fills % many, std::memory_order_relaxed);
    return fills < many || paid(loop, many);
}

// The host's address of a whole range in one page, if the TLB has it or can be given it; 0: no.
std::uint64_t reach_range(CpuState& cpu, std::uint64_t linear, std::uint32_t bytes, bool write) {
    const std::uint64_t page = linear & ~(kPage - 1);
    const TlbEntry& entry = cpu.tlb[tlb_index(linear)];
    if ((linear & (kPage - 1)) + bytes > kPage) {
        return 0;
    }
    if ((write ? entry.tag_write : entry.tag_read) != page) {
        if (!fill(cpu, linear, write ? MemAccess::Write : MemAccess::Read) ||
            (write ? entry.tag_write : entry.tag_read) != page) {
            return 0;
        }
    }
    return entry.host_page + (linear & (kPage - 1));
}

// How many more iterations stay in the page of `linear`, where the range of a base is now.
std::uint32_t iterations_left(const LoopWindows& loop, const LoopWindows::Base& base,
                              std::uint64_t linear) {
    const auto offset = static_cast<std::uint32_t>(linear & (kPage - 1));
    const std::int32_t step = loop.steppers[static_cast<std::uint8_t>(base.stepper)].step;
    if (step < 0) {
        return (offset >> base.shift) / static_cast<std::uint32_t>(-step);
    }
    return ((static_cast<std::uint32_t>(kPage) - static_cast<std::uint32_t>(base.bytes) - offset) >>
            base.shift) /
           static_cast<std::uint32_t>(step);
}

bool make_windows(CpuState& cpu, const LoopWindows& loop) {
    std::uint32_t most = LoopWindows::kMostIterations;
    for (std::uint32_t i = 0; i < loop.base_count; ++i) {
        const LoopWindows::Base& base = loop.bases[i];
        const std::uint64_t fixed =
            base.constant + (base.anchored ? cpu.translator.anchor : 0) +
            (base.base >= 0 ? cpu.gpr[base.base & 15] : 0) +
            (base.index >= 0 ? cpu.gpr[base.index & 15] * base.index_scale : 0);
        const bool steps = base.stepper >= 0;
        const std::uint64_t moving =
            steps ? cpu.gpr[loop.steppers[static_cast<std::uint8_t>(base.stepper)].reg & 15]
                        << base.shift
                  : 0;
        const std::uint64_t linear =
            fixed + moving + static_cast<std::uint64_t>(static_cast<std::int64_t>(base.low));
        const std::uint64_t host =
            reach_range(cpu, linear, static_cast<std::uint32_t>(base.bytes), base.write);
        if (host == 0) {
            return false;
        }
        cpu.translator.deltas[LoopWindows::kBase + i] = host - linear + fixed;
        const std::uint32_t left = steps ? iterations_left(loop, base, linear) : most;
        most = left < most ? left : most;
    }
    const LoopWindows::Stepper& lead = loop.steppers[0];
    cpu.translator.deltas[LoopWindows::kStop] =
        cpu.gpr[lead.reg & 15] + static_cast<std::uint64_t>(std::int64_t{lead.step}) * (most + 1);
    return true;
}

std::uint64_t fill_loop(CpuState* cpu, LoopWindows* loop) noexcept {
    const bool live = enter_slow_path(*cpu);
    translator_of(*cpu)->count_loop_fill();
    if (!pays(*cpu, *loop)) {
        save_vector_state(*cpu);
        translator_of(*cpu)->flatten_loop(*cpu, *loop);
        restore_vectors(*cpu, live);
        return 0;
    }
    const bool made = make_windows(*cpu, *loop);
    restore_vectors(*cpu, live);
    return made ? 1 : 0;
}

static_assert(LoopWindows::kBases <= LoopWindows::kStop &&
              LoopWindows::kQuickOwner < TranslatorState::kDeltas);

std::uint64_t find_target(CpuState* cpu) noexcept {
    const bool live = enter_slow_path(*cpu);
    const std::uint64_t host = translator_of(*cpu)->find_target(*cpu);
    restore_vectors(*cpu, live);
    return host;
}

void load_vectors(CpuState* cpu) noexcept {
    load_vector_state(*cpu);
}

void flags_to_guest(CpuState& cpu) {
    cpu.rflags = (cpu.rflags & ~kArithmetic) | (cpu.translator.flags & kArithmetic);
}

// What a block relies on between two of its instructions: that it is alive, its mode, where its
// page lies, and what it checked of pages that it writes to.
struct Footing {
    std::uint64_t killed, epoch, cuts;
    std::uint32_t mode;
    bool operator==(const Footing&) const = default;
};

std::uint64_t interpret_here(CpuState* state, std::uint64_t word) noexcept {
    CpuState& cpu = *state;
    const bool live = enter_slow_path(cpu);
    Translator* translator = translator_of(cpu);
    const auto footing = [&] {
        return Footing{translator->killed(), cpu.fetch_epoch, cpu.translator.cuts, cpu.mode};
    };
    const std::uint64_t rip = cpu.rip;
    const Footing before = footing();
    translator->count_interpreted(static_cast<std::uint32_t>(word >> 16U));
    const std::uint64_t length = word & 0xFF;
    flags_to_guest(cpu);
    StepResult step = StepResult::Done;
    do {
        step = interpret_one(cpu);
    } while (step == StepResult::Done && cpu.rip == rip &&
             cpu.request.load(std::memory_order_relaxed) == 0);
    cpu.translator.flags = (cpu.rflags & kArithmetic) | kFlagsBase;
    const bool goes_on =
        (step == StepResult::Done || step == StepResult::EndBlock) && cpu.rip == rip + length &&
        before == footing() && cpu.request.load(std::memory_order_acquire) == 0 &&
        (cpu.interrupt_window == 0 ||
         (!cpu.interrupt_shadow && !window_open(cpu, step == StepResult::EndBlock)));
    if (goes_on) {
        cpu.interrupt_shadow =
            false;  // nothing waits, and one instruction follows before anybody looks
        restore_vectors(cpu, live);
        return 0;
    }
    cpu.translator.exit_reason = ExitReasonCode::kResume;
    cpu.translator.spill[1] = static_cast<std::uint64_t>(step);
    return 1;
}

}  // namespace

GlueHelpers glue_helpers() {
    return {slow_access, finish_store,   fill_stack, fill_run,     fill_loop,  load_vectors,
            find_target, interpret_here, run_system, run_transfer, forget_page};
}

}  // namespace strata::engine::soft
