// Analysis: what a translator must know about a run of guest instructions before it emits code for
// them.
//
// Flags: going backwards, whether the arithmetic flags before each instruction are needed by a
// reader in the block (they stay in host RFLAGS), only by whatever follows the block (they may be
// put away in memory), or by nobody. Stack: runs of accesses at known distances from one rsp share
// one check ("group").
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/soft/decode/instruction.h"

namespace strata::engine::soft {

struct Op;

enum class FlagsNeed : std::uint8_t { None, Exit, Host };

/// One guest instruction of the block being made.
struct Unit {
    Instruction insn;
    std::uint64_t rip = 0;
    FlagsNeed need_before = FlagsNeed::Exit;
    FlagsNeed need_after = FlagsNeed::Exit;
    bool writes_flags = false;
    bool interpreted = false;  ///< called out to the interpreter, from within the block
    Op* op = nullptr;  ///< of an interpreted instruction: its decoded form, called without fetching
                       ///< it again
    bool inlined =
        false;  ///< a system instruction that is done in place; `op` is for when it cannot
    bool grouped = false;        ///< its stack access is covered by a group check
    bool group_start = false;    ///< the check stands before it:
    std::int32_t group_low = 0;  ///< lowest byte, relative to rsp here
    std::int32_t group_bytes = 0;
    bool patched = false;  ///< its immediate is read where it stands, each time (checked blocks)
    // The same for accesses off other registers, base and index, that only change by constants
    // between them: the check leaves the host's address of the run's lowest byte in a slot.
    static constexpr std::int8_t kNoSlot = -1;
    std::int8_t slot = kNoSlot;  ///< the operand's address is deltas[slot] + displacement
    bool run_start = false, run_write = false;
    std::int32_t run_low = 0;  ///< relative to base + index * scale at run_start
    std::int32_t run_bytes = 0;
    std::int32_t displacement = 0;
    // In a loop (loops.h) the slot's base covers the access: its address is deltas[slot] + stepping
    // register * scale + displacement.
    bool hoisted = false;
    std::int8_t stepping = kNoRegister;
    bool goes_back = false;  ///< a branch back into the block, and the block has the next
                             ///< iteration behind it
};

/// A stack access at a fixed distance from rsp, as an instruction makes it.
struct StackAccess {
    bool present = false;
    std::int32_t low = 0, high = 0;  ///< bytes [low, high) relative to rsp before the instruction
};

/// Every flag-related field of `units`.
void analyse_flags(std::vector<Unit>& units);
/// The group fields.
void group_stack_accesses(std::vector<Unit>& units);
/// The slot and run fields: at least two accesses whose distance is known. Whether there are any.
bool group_base_accesses(std::vector<Unit>& units);
/// What `insn` adds to all 64 bits of `reg`, if that is all it does to registers.
[[nodiscard]] std::optional<std::int64_t> constant_step(const Instruction& insn, unsigned reg);
/// Whether what was checked before the unit may not hold behind it.
[[nodiscard]] bool ends_checks(const Unit& unit);
/// The access `insn` makes through rsp (64-bit mode), if it is one that a group can cover.
[[nodiscard]] StackAccess stack_access(const Instruction& insn);
/// Whether a mask chooses which elements of the memory operand are accessed (EVEX; gathers and
/// scatters have none). Such an instruction is copied where its whole operand is known to be
/// accessible, and interpreted where it is not: elements that are masked out must not fault, nor
/// mark pages.
[[nodiscard]] bool masked_copy(const Instruction& insn);
/// Guest registers named by ModRM.reg, ModRM.rm, vvvv or the opcode.
[[nodiscard]] std::uint16_t data_registers(const Instruction& insn);
[[nodiscard]] bool touches_memory(const Instruction& insn);
/// Bytes that the check of the memory operand must cover.
[[nodiscard]] std::uint32_t access_bytes(const Instruction& insn);

}  // namespace strata::engine::soft
