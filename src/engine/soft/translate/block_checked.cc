// BlockEmitter: blocks of code that is rewritten again and again. They compare the bytes that they
// were made from each time they run, so no store has to find them, and the page need not be one of
// code. Immediates that programs patch are not compared but read where they stand.
//
// Nothing that such a block was made from may change unnoticed between the comparison and its last
// instruction by a store of its own vCPU: it ends behind the first instruction that may store, and
// is left where the interpreter executed one. What another vCPU stores meanwhile it sees the next
// time, as a processor may that has fetched the instructions before.
#include <algorithm>
#include <array>
#include <cstring>

#include <Zydis/Zydis.h>

#include "engine/soft/translate/block_emitter.h"
#include "engine/soft/translate/layout.h"
#include "engine/soft/translate/rewrite.h"

namespace strata::engine::soft {
namespace {

using enum Reg;

constexpr std::uint8_t kCmp = 7, kDec = 1;  // ModRM.reg of the instruction groups
constexpr std::size_t kSlack = 16;          // the last instruction may begin just before the limit

// What a block of checked code was made from, byte by byte.
struct Bytes {
    std::array<std::uint8_t, kMostCheckedBytes + kSlack> value{};
    std::array<bool, kMostCheckedBytes + kSlack> compared{};
    std::size_t size = 0;
};

Bytes bytes_of(const std::vector<Unit>& units) {
    Bytes bytes;
    for (const Unit& unit : units) {
        const std::size_t immediate = unit.patched ? unit.insn.imm_offset[0] : unit.insn.length;
        for (std::size_t i = 0; i < unit.insn.length; ++i) {
            bytes.value[bytes.size] = unit.insn.bytes[i];
            bytes.compared[bytes.size] = i < immediate;
            ++bytes.size;
        }
    }
    return bytes;
}

// cmp [r10 + at], the bytes there: 8, 4, 2 or 1 of them.
std::size_t compare(Assembler& a, const Bytes& bytes, std::size_t at, std::size_t run) {
    const Mem place = Mem::at(R10, static_cast<std::int32_t>(at));
    std::uint64_t value = 0;
    if (run >= 8) {
        std::memcpy(&value, &bytes.value[at], 8);
        a.mov_imm(R11, value);
        a.alu(Alu::Cmp, OpSize::Bits64, R11, place);
        return 8;
    }
    const std::size_t size = run >= 4 ? 4 : run >= 2 ? 2 : 1;
    a.op(OpSize::Bits32, size == 1 ? 0x80 : 0x81, kCmp, place, size == 2 ? 0x66 : 0);
    a.append(&bytes.value[at], static_cast<std::uint32_t>(size));
    return size;
}

}  // namespace

bool reads_immediate(const Instruction& insn) {
    return insn.cls == InsnClass::Copy && insn.mnemonic == ZYDIS_MNEMONIC_MOV &&
           insn.opcode_map == 0 && (insn.opcode & 0xF8) == 0xB8 && insn.operand_size >= 4 &&
           insn.imm_count == 1 && insn.imm_size[0] == insn.operand_size;
}

bool may_store(const Unit& unit) {
    return unit.interpreted || unit.inlined || (unit.insn.mem.present && unit.insn.mem.write) ||
           unit.insn.mnemonic == ZYDIS_MNEMONIC_PUSH;
}

void BlockEmitter::check_bytes(Block& block) {
    constexpr std::uint32_t kRuns = 1U << 20U;  // then it is tried without
    block.checks_left = kRuns;
    const Bytes bytes = bytes_of(units_);
    const Label stale = exit_label(source_.rip, Exit::Kind::Stale, 0, flags_place());
    const Label settled = exit_label(source_.rip, Exit::Kind::Settled, 0, flags_place());
    a_.mov_imm(R11, reinterpret_cast<std::uint64_t>(&block.checks_left));
    a_.op(OpSize::Bits32, 0xFF, kDec, Mem::at(R11));
    a_.jcc(Cond::S, settled);
    a_.mov_imm(R10, reinterpret_cast<std::uint64_t>(source_.checked_at));
    for (std::size_t at = 0; at < bytes.size;) {
        std::size_t end = at;
        while (end < bytes.size && bytes.compared[end]) {
            ++end;
        }
        if (end == at) {
            ++at;
            continue;
        }
        at += compare(a_, bytes, at, end - at);
        a_.jcc(Cond::Ne, stale);
    }
}

// The block's flags are in memory, as check_bytes() needs it; its first instructions may want them
// elsewhere.
void BlockEmitter::emit_checked_head(Block& block, FlagsNeed need) {
    check_bytes(block);
    if (need == FlagsNeed::Host) {
        a_.push(layout::flags());
        a_.popfq();
        host_valid_ = true;
    }
}

void BlockEmitter::emit_patched(const Unit& unit) {
    const Instruction& insn = unit.insn;
    const Reg home = Rewrite{}.home[insn.opcode_reg];
    const bool in_memory = insn.opcode_reg >= 9 && insn.opcode_reg <= 11;
    const Reg to = in_memory ? R11 : home;
    const std::uint64_t at = unit.rip - source_.rip + insn.imm_offset[0];
    a_.mov_imm(R10, reinterpret_cast<std::uint64_t>(source_.checked_at) + at);
    if (insn.operand_size == 4) {
        a_.load32(to, Mem::at(R10));
    } else {
        a_.load(to, Mem::at(R10));
    }
    if (in_memory) {
        a_.store(layout::gpr(insn.opcode_reg), to);
    }
}

}  // namespace strata::engine::soft
