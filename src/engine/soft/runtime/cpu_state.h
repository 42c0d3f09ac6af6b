// CpuState: the software CPU's own form of a vCPU: what interpreter, MMU, helpers and translated
// code all work on.
//
// One CpuState per vCPU, used by its own thread only, but for the fields marked "any thread".
// Translated code reaches it through the gs segment (gs base = this), so hot fields stand first and
// offsets are fixed by static_assert where code is emitted.
//
// Register conventions while translated code runs (design notes: docs/cpu-engines.md):
//   - host rax rcx rdx rbx rbp rsi rdi r8 r12 r13 r14 r15 hold the guest's registers of the same
//   name;
//   - host r9 holds guest rsp; guest r9, r10, r11 live in gpr[]; host r10, r11 are scratch; host
//   rsp is a host stack;
//   - arithmetic flags live in host RFLAGS inside a block; in `rflags` at block exits that need
//   them;
//   - x87/SSE/AVX values live in the host registers while vector_live != 0, otherwise in `xsave`.
//
// vector_live: C++ code that may run while guest vector values are in host registers must be
// compiled with -mgeneral-regs-only, or call save_vector_state() first. Glue that returns to
// translated code reloads them if they are not live.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "arch/x86/arch_state.h"

namespace strata::engine::soft {

using arch::x86::Segment;

class SoftVm;
struct DirectEvents;
struct MmuState;

/// Bits of CpuState::request: why the vCPU should leave the fast path at its next poll. Set by any
/// thread.
struct Request {
    static constexpr std::uint32_t kExit = 1U << 0;  ///< Vcpu::request_exit()
    static constexpr std::uint32_t kInterrupt =
        1U << 1;  ///< the local APIC or ExtINT may have something deliverable
    static constexpr std::uint32_t kNmi = 1U << 2;
    static constexpr std::uint32_t kInit = 1U << 3;
    static constexpr std::uint32_t kSipi = 1U << 4;
    static constexpr std::uint32_t kTimer = 1U << 5;  ///< the APIC timer's deadline passed
    static constexpr std::uint32_t kExclusive = 1U
                                                << 6;  ///< somebody wants all vCPUs at a safe point
    static constexpr std::uint32_t kFlushTlb =
        1U << 7;  ///< PV TLB flush, dirty logging or code-page protection changed
};

/// One entry of the software TLB, 32 bytes. An address hits if (linear ^ tag) <= 4096 - size: the
/// tag is the page's linear address, so hit and page-crossing test are one compare, and what the
/// XOR leaves is the offset in the page. An empty tag's index bits differ from its slot's: slot i
/// holds (i ^ 1) << 12, which no address of slot i can match.
struct TlbEntry {
    std::uint64_t tag_read;
    std::uint64_t tag_write;  ///< valid only if the page is writable, dirty, holds no translated
                              ///< code, and is not dirty-logged
    std::uint64_t host_page;  ///< host address = host_page + (linear ^ tag): where the page starts
                              ///< in this process
    std::uint64_t tag_execute_and_page;  ///< MMU's own: guest physical page | flags
};
static_assert(sizeof(TlbEntry) == 32);

inline constexpr std::uint32_t kTlbEntries =
    4096;  ///< per bank, direct-mapped by linear page number

/// The translator's own part of a vCPU: reached by generated code at fixed gs: offsets. Others
/// leave it alone, but for the MMU, which forgets the stack page and code_pages whenever a
/// translation that was used before may no longer hold.
struct TranslatorState {
    static constexpr std::uint32_t kCodePages =
        2048;  ///< per privilege class, direct-mapped by linear page number
    static constexpr std::uint32_t kCodeGroup = kCodePages / 64;
    static constexpr std::uint32_t kJumpEntries = 16384;
    /// Empty entries of slot i hold an address that no lookup of slot i can have.
    struct JumpEntry {
        std::uint64_t linear;  ///< the whole address of the target
        std::uint64_t host;
    };

    std::uint64_t flags =
        0;  ///< arithmetic flags while they are neither in host RFLAGS nor in CpuState::rflags
    std::uint64_t spill[4] = {};
    std::uint64_t host_rsp =
        0;  ///< the host's own stack while translated code runs on the return stack
    std::uint64_t return_epoch =
        0;  ///< fetch_epoch under which the pairs of the return stack were pushed
    std::uint64_t flags_in_host =
        0;  ///< at a return: whether the guest's flags are in host RFLAGS, else in `flags`
    std::uint64_t return_base =
        0;  ///< where the return stack is empty: see translate/return_stack.h
    /// RAM page number + 1 of a store to a page of code that may be under way: see
    /// cache/code_lines.h. Read by other vCPUs.
    std::atomic<std::uint64_t> stored_page{0};
    std::uint32_t idle_stores = 0;  ///< of those, how many found no code at all in their page
    /// Linear address of the page that a floating block (cache/block_table.h) runs in, while one
    /// runs.
    std::uint64_t anchor = 0;
    std::uint64_t cuts =
        0;  ///< how often others withdrew write tags, which blocks may have checked
    std::uint64_t exit_pc =
        0;  ///< host address that identifies the place where generated code was left
    std::uint64_t exit_reason = 0;
    /// Page of recent stack accesses (readable and writable) and host address - linear address
    /// there. Every tag matches some address, so "none" is page 0 at an address where the host
    /// faults: see forget_stack_page().
    static constexpr std::uint64_t kNoStack = 1, kNoStackHost = 1ULL << 63U;
    std::uint64_t stack_tag = kNoStack;
    std::uint64_t stack_host = kNoStackHost;
    static constexpr std::uint32_t kDeltas = 16;
    std::uint64_t deltas[kDeltas] =
        {};  ///< host minus linear address of pages checked for a run of accesses, within one
             ///< block; in a loop: loop_windows.h
    /// Instruction fetch translations seen to hold: (linear page << 28) | RAM page, 0 if none. [0]
    /// supervisor, [1] user of the current address space; chained code is guarded by them.
    std::uint64_t code_pages[2][kCodePages] = {};
    /// The same by RAM page, for floating blocks, which do not know where they are: minus (linear
    /// address of the page + home_tag()), 0 if none. A home holds only what code_pages holds too.
    static constexpr std::uint32_t kCodeHomes = 16384;
    static constexpr std::uint64_t kRamPage = (1ULL << 28U) - 1;  ///< of an entry of code_pages
    static constexpr std::uint64_t kRamPagesWithHome = 0xFFEULL * kCodeHomes;  ///< 256 GiB
    std::uint64_t* homes[2] = {};
    /// Not 0, and less than a page.
    static constexpr std::uint64_t home_tag(std::uint64_t ram_page) {
        return ram_page / kCodeHomes + 1;
    }
    static std::uint64_t home_of(std::uint64_t entry) {
        const auto linear = static_cast<std::int64_t>(entry & ~kRamPage) >> 16;
        return 0 - (static_cast<std::uint64_t>(linear) + home_tag(entry & kRamPage));
    }
    void note_home(std::uint32_t side, std::uint64_t entry) {
        if ((entry & kRamPage) < kRamPagesWithHome) {
            homes[side][entry % kCodeHomes] = home_of(entry);
        }
    }
    static void forget_home(std::uint64_t* of, std::uint64_t entry) {
        if (std::uint64_t& home = of[entry % kCodeHomes]; home == home_of(entry)) {
            home = 0;
        }
    }
    std::uint64_t code_groups[2] =
        {};  ///< bit N: entries from N * kCodeGroup on may be in use; the others are 0
    void note_code_page(std::uint32_t side, std::uint64_t linear, std::uint64_t entry) {
        const std::uint64_t index = (linear >> 12) & (kCodePages - 1);
        forget_home(homes[side], code_pages[side][index]);
        code_pages[side][index] = entry;
        code_groups[side] |= 1ULL << (index / kCodeGroup);
        note_home(side, entry);
    }
    bool local_code = false;  ///< code_pages[0] may hold entries of pages that are not global: they
                              ///< go with the address space
    JumpEntry jumps[kJumpEntries] = {};
    /// A page-crossing access works on this copy; a store's bytes then go to `bounce_first` bytes
    /// at bounce_low, the rest at bounce_high.
    alignas(64) std::byte bounce[64] = {};
    std::byte* bounce_low = nullptr;
    std::byte* bounce_high = nullptr;
    std::uint32_t bounce_first = 0, bounce_size = 0;
};

/// What an exception needs to be delivered. Filled by whoever detects it, taken by the run loop.
struct PendingException {
    std::uint8_t vector = 0;
    bool has_error = false;
    bool pending = false;
    /// A fault restarts the instruction; a trap (INT3, INTO, #DB single-step) reports the next one.
    bool software = false;  ///< INT n, INT3, INTO: DPL of the gate is checked, return address is
                            ///< after the instruction
    bool trap =
        false;  ///< #DB after the instruction: rip is the next one's, RF stays clear in the frame
    std::uint32_t error = 0;
    std::uint64_t fault_address = 0;  ///< CR2 for #PF
};

struct alignas(64) CpuState {
    std::uint64_t gpr[16] = {};  ///< ModRM order
    std::uint64_t rip = 0;       ///< linear offset in CS; of the next instruction to execute
    std::uint64_t rflags =
        0;  ///< all of it; arithmetic bits are stale while a block holds them in host RFLAGS
    /// `mode` and `request` are compared as one 64-bit word by translated code: keep them adjacent,
    /// in this order.
    alignas(8) std::uint32_t mode =
        0;  ///< the block key's mode word: see ModeBits; recomputed by update_mode()
    std::atomic<std::uint32_t> request{0};  ///< any thread
    std::uint32_t vector_live = 0;          ///< see above
    std::uint32_t cpl = 0;
    TlbEntry* tlb = nullptr;  ///< the current bank (privilege × address space)
    SoftVm* vm = nullptr;
    TlbEntry* tlb_open =
        nullptr;  ///< the supervisor's banks of the current address space: with RFLAGS.AC set,
    TlbEntry* tlb_strict = nullptr;  ///< and clear. CLAC and STAC choose

    Segment segments[6];
    Segment ldtr, tr;
    arch::x86::DescriptorTable gdtr, idtr;
    std::uint64_t cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0, cr8 = 0;
    std::uint64_t efer = 0, xcr0 = 0;
    std::uint64_t dr[4] = {}, dr6 = 0, dr7 = 0;
    std::uint64_t star = 0, lstar = 0, cstar = 0, sfmask = 0, kernel_gs_base = 0, tsc_aux = 0;
    std::uint64_t sysenter_cs = 0, sysenter_esp = 0, sysenter_eip = 0, pat = 0;
    std::uint64_t tsc_offset = 0;   ///< guest TSC = host TSC + this
    bool interrupt_shadow = false;  ///< after STI / MOV SS: one instruction long
    bool nmi_masked = false;
    bool halted = false;
    PendingException exception;
    std::uint64_t instructions = 0;  ///< executed by the interpreter or estimated by blocks
    MmuState* mmu = nullptr;         ///< the MMU's own: all TLB banks
    /// Changes whenever a fetch translation (linear page to physical page, or its rights) may have
    /// changed: TLB flush, other address space, other rights. What caches code by linear address
    /// compares it.
    std::uint64_t fetch_epoch = 0;
    /// What something undelivered waits for: bit 0: RFLAGS.IF = 1; bit 1: CR8 or the NMI mask,
    /// after an EndBlock. See executor.h.
    std::uint32_t interrupt_window = 0;
    std::uint32_t index = 0;         ///< in SoftVm::cpus()
    std::uint32_t pkru = 0;          ///< changed by write_pkru(); never in `xsave`
    DirectEvents* direct = nullptr;  ///< direct execution's own: null without it

    alignas(64) std::byte
        xsave[arch::x86::kXsaveBytes];  ///< standard format; XSTATE_BV as the hardware left it

    TranslatorState translator;
};

/// To be called wherever the stack page's translation may no longer hold, with its rights: the two
/// fields only change together.
inline void forget_stack_page(CpuState& cpu) noexcept {
    cpu.translator.stack_tag = TranslatorState::kNoStack;
    cpu.translator.stack_host = TranslatorState::kNoStackHost;
}
/// The mode word: everything a translated block depends on beside its bytes and address.
struct ModeBits {
    static constexpr std::uint32_t kCplMask = 3;
    static constexpr std::uint32_t kLong = 1U << 2;       ///< EFER.LMA
    static constexpr std::uint32_t kCs64 = 1U << 3;       ///< CS.L in long mode
    static constexpr std::uint32_t kCs32 = 1U << 4;       ///< CS.D
    static constexpr std::uint32_t kSs32 = 1U << 5;       ///< SS.B; clear in 64-bit mode
    static constexpr std::uint32_t kProtected = 1U << 6;  ///< CR0.PE
    static constexpr std::uint32_t kV8086 = 1U << 7;
    static constexpr std::uint32_t kPaging = 1U << 8;
    static constexpr std::uint32_t kFlat =
        1U << 9;  ///< CS, DS, ES, SS have base 0 and limit 4 GiB (or 64-bit mode)
    static constexpr std::uint32_t kFpuBlocked =
        1U << 10;                                    ///< CR0.TS or CR0.EM: #NM/#UD on x87, MMX, SSE
    static constexpr std::uint32_t kSse = 1U << 11;  ///< CR4.OSFXSR
    static constexpr std::uint32_t kXsave = 1U << 12;       ///< CR4.OSXSAVE
    static constexpr std::uint32_t kAlignCheck = 1U << 13;  ///< CR0.AM, RFLAGS.AC and CPL 3
    static constexpr std::uint32_t kTrap =
        1U << 14;  ///< RFLAGS.TF: single-step, or DR7 has armed breakpoints
    static constexpr std::uint32_t kXcr0Shift = 16;  ///< XCR0 bits 1, 2, 5..7 packed into five bits
    // Bit 31 stays clear: translated code compares the word sign-extended.
};

/// Recomputes cpu.mode and cpu.cpl after anything they depend on changed.
void update_mode(CpuState& cpu) noexcept;

/// The RFLAGS a host-side poll needs: whether a maskable interrupt could be delivered between
/// instructions now.
inline bool interrupts_open(const CpuState& cpu) noexcept {
    return (cpu.rflags & (1U << 9)) != 0 && !cpu.interrupt_shadow;
}

/// Moves guest vector values from host registers to cpu.xsave if they are live. After it, any C++
/// code may run.
void save_vector_state(CpuState& cpu) noexcept;
/// The converse: loads cpu.xsave into the host's vector registers and sets vector_live. The
/// caller's own C++ code must not use them afterwards. Values that XRSTOR would refuse were refused
/// when they entered cpu.xsave.
void load_vector_state(CpuState& cpu) noexcept;

}  // namespace strata::engine::soft
