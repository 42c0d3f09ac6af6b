// Glue: the hand-written code at the start of the code memory through which translated code is
// entered and left.
//
// Generated once by an Assembler. Contracts (guest registers in their host homes, gs base =
// CpuState):
//   enter(cpu, target)   C function: loads guest registers and flags (from TranslatorState::flags)
//   and jumps to `target`. exit_memory/exit_host  called by exit stubs: leave with reason Site;
//   flags are in memory, in host RFLAGS. indirect             jumped to: r10 = target rip, flags in
//   memory: goes to the target's code, r10 as before, or leaves with reason Indirect. slow called
//   by memory sites: r10 = linear address, r11 = site word and, from bit 16 on, rip. Returns with
//   r10 = host address, or to
//                        5 bytes behind its return address when the interpreter has done the whole
//                        instruction, or 10 bytes behind it with r10 = a copy to store to, followed
//                        by a call of `store`, or leaves.
//   stack                called by grouped stack checks: r10 = linear address, r11d = bytes. Fills
//   stack_tag/stack_host, or returns
//                        5 bytes behind. All guest registers are kept, flags are not.
//   run                  called by checks of runs: r10 = linear address, r11d = RunWord. As stack,
//   for the TLB entry. loop                 called at a loop's head: r11 = its LoopWindows: makes
//   the windows, or returns 5 bytes behind. As run. vector               called where vector_live
//   is 0: makes it 1. Keeps all guest registers but flags. interpret            called: r11 = rip,
//   r10d = length and mnemonic: the interpreter executes that instruction; returns if the block can
//   go on,
//                        with flags both in memory and in host RFLAGS.
//   system               called: r11 = rip, r10 = SystemWord: as interpret, for an instruction that
//   has a decoded form; flags are in memory only. transfer             jumped to: r11 = rip, r10 =
//   SystemWord: an instruction that goes elsewhere; goes on there through the jump cache.
//   forget_page          called: r10 = linear address of INVLPG's page. r11 = 0: to be done by
//   `system`. Keeps all guest registers but flags.
//   exit_either          as exit_memory, behind a return: flags are where flags_in_host says.
//   return_end           the lowest host address of the return stack (return_stack.h): r10 =
//   target, flags as above. fault                jumped to by the signal handler, host rsp valid:
//   leave with reason Fault.
// The slow path never trusts an address that it did not translate: what it returns in r10 comes
// from the MMU alone.
#pragma once

#include <cstdint>

#include "engine/soft/cache/code_memory.h"
#include "engine/soft/cache/loop_windows.h"
#include "engine/soft/emit/assembler.h"
#include "engine/soft/runtime/cpu_state.h"

namespace strata::engine::soft {

/// TranslatorState::exit_reason.
struct ExitReasonCode {
    static constexpr std::uint64_t kSite = 0;      ///< an exit stub: exit_pc says which
    static constexpr std::uint64_t kIndirect = 1;  ///< cpu.rip is set
    static constexpr std::uint64_t kFault =
        2;  ///< a native instruction raised a host signal at exit_pc
    static constexpr std::uint64_t kException =
        3;  ///< cpu.exception is pending; exit_pc is in the faulting instruction's slow path
    static constexpr std::uint64_t kResume =
        4;  ///< the interpreter ran an instruction; cpu.rip is set; see step_result
};

/// What the slow paths call. Both run with guest vector values live: general registers only.
struct GlueHelpers {
    static constexpr std::uint64_t kCopyOut = 2, kGoOn = 3;
    /// 0: the instruction is done, 1: leave (exit_reason is set), kCopyOut: store to the copy and
    /// call finish_store, kGoOn: to cpu->rip, else the host address. `site`: the site word, and
    /// from bit 16 on the instruction's address.
    std::uint64_t (*slow_access)(CpuState* cpu, std::uint64_t linear, std::uint64_t site,
                                 std::uint64_t pc) noexcept;
    /// The store went to TranslatorState::bounce: brings it into RAM.
    void (*finish_store)(CpuState* cpu) noexcept;
    /// Tries to make the page of `linear` writable in the TLB.
    void (*fill_stack)(CpuState* cpu, std::uint64_t linear) noexcept;
    /// Tries to enter the page of `linear` into the TLB with the rights of `word`; 0 if not, or if
    /// the run leaves the page.
    std::uint64_t (*fill_run)(CpuState* cpu, std::uint64_t linear, std::uint64_t word) noexcept;
    /// Makes the windows for an iteration with the registers as they are; 0 if it leaves a page or
    /// one cannot be reached.
    std::uint64_t (*fill_loop)(CpuState* cpu, LoopWindows* loop) noexcept;
    void (*load_vectors)(CpuState* cpu) noexcept;
    /// Where the code for cpu->rip stands that is entered with flags in memory; 0: leave.
    std::uint64_t (*find_target)(CpuState* cpu) noexcept;
    /// Executes the instruction at cpu->rip. 0: the next one follows and nothing the block depends
    /// on changed, else 1. `word`: its length, and from bit 16 on its mnemonic for the statistics.
    std::uint64_t (*interpret)(CpuState* cpu, std::uint64_t word) noexcept;
    /// The same for a decoded instruction (SystemWord) at cpu->rip.
    std::uint64_t (*system)(CpuState* cpu, std::uint64_t word) noexcept;
    /// The same; 0: go on at cpu->rip, wherever that is now.
    std::uint64_t (*transfer)(CpuState* cpu, std::uint64_t word) noexcept;
    /// INVLPG, if that is quick; 0: it was not done.
    std::uint64_t (*forget_page)(CpuState* cpu, std::uint64_t linear) noexcept;
};

struct Glue {
    void (*enter)(CpuState* cpu, std::uint64_t target) = nullptr;
    std::uint64_t exit_memory = 0, exit_host = 0, indirect = 0, slow = 0, stack = 0, vector = 0,
                  fault = 0, interpret = 0, run = 0, store = 0;
    std::uint64_t system = 0, transfer = 0, return_end = 0, exit_either = 0, loop = 0,
                  forget_page = 0;
};

/// The address of an Op (interp/context.h), and bits below it.
struct SystemWord {
    static constexpr std::uint64_t kLast = 1;  ///< the block ends behind it
    static constexpr std::uint64_t kBits = 7;
};

/// Jumps to `memory` if flags_in_host is 0; goes on with flags in host RFLAGS otherwise. Keeps
/// flags, clobbers r11; `memory` is behind it, near, and has to begin with what take_flags_place()
/// emits.
void emit_flags_place(Assembler& a, Label memory);
void take_flags_place(Assembler& a);

/// r10 = target, flags in memory: jumps there (`call`: calls) if the vCPU's jump cache knows it,
/// else jumps to `miss`. Clobbers r11 and flags.
void emit_jump_lookup(Assembler& a, Label miss, bool call = false);

/// Writes the glue into empty code memory.
Glue make_glue(CodeMemory& memory, const GlueHelpers& helpers);

/// The word of a run of accesses: bytes covered, and whether any is a write.
struct RunWord {
    static constexpr std::uint32_t kBytesMask = 0xFFFF;
    static constexpr std::uint32_t kWrite = 0x10000;
};

/// Bit 7 of a site word: the access writes. Bits 0 to 6: its size in bytes. Bit 8: locked or
/// otherwise not to be split.
struct SiteWord {
    static constexpr std::uint32_t kSizeMask = 0x7f;
    static constexpr std::uint32_t kWrite = 0x80;
    static constexpr std::uint32_t kAligned =
        0x100;  ///< #GP unless the address is a multiple of the size
    static constexpr std::uint32_t kCopyOut =
        0x200;  ///< a plain vector store whose site has code for kCopyOut
    static constexpr std::uint32_t kMasked =
        0x400;  ///< a mask chooses what is accessed: only what the TLB knows is accessed directly
    static constexpr std::uint32_t kLengthShift = 12;  ///< length of the guest instruction
    static constexpr std::uint32_t kRipShift = 16;     ///< its address, canonical
    static constexpr std::uint32_t kMask = 0xffff;
};

}  // namespace strata::engine::soft
