// BlockEmitter: REP STOS and REP MOVS in place, where all elements lie in one page that the TLB
// knows (for MOVS: one each). Anything else is the handler's, which goes page by page.
#include "engine/soft/translate/block_emitter.h"
#include "engine/soft/translate/layout.h"

namespace strata::engine::soft {
namespace {

using enum Reg;

constexpr std::int32_t kPage = 4096;
constexpr std::uint8_t kFs = 4;
constexpr std::uint8_t kMovs = 0xA4, kStos = 0xAA;
constexpr std::uint8_t kDirectionBit = 10;

unsigned element_size(const Instruction& insn) {
    return (insn.opcode & 1U) == 0 ? 1 : insn.operand_size;
}

}  // namespace

bool can_inline_string(const Instruction& insn) {
    const unsigned kind = insn.opcode & 0xFEU;
    return insn.cls == InsnClass::String && insn.opcode_map == 0 &&
           (kind == kMovs || kind == kStos) && insn.raw_f3 && !insn.raw_f2 && !insn.lock &&
           insn.address_size == 8 && insn.implicit_segment < kFs;
}

// The offset in the page is compared by itself first: the sum could wrap around for an address that
// an empty entry leaves as it is.
void BlockEmitter::string_range(Reg first, unsigned size, bool write, Label slow) {
    a_.mov(R10, first);
    tlb_entry();
    a_.alu(Alu::Xor, OpSize::Bits64, R10,
           Mem::at(R11, write ? layout::kTagWrite : layout::kTagRead));
    a_.alu_imm(Alu::Cmp, OpSize::Bits64, R10, kPage - 1);
    a_.jcc(Cond::A, slow);
    a_.lea(Rdi, Mem::at(R10, Rcx, static_cast<std::uint8_t>(size), 0));
    a_.alu_imm(Alu::Cmp, OpSize::Bits64, Rdi, kPage);
    a_.jcc(Cond::A, slow);
    a_.alu(Alu::Add, OpSize::Bits64, R10, Mem::at(R11, layout::kHostPage));
}

// rdi is kept in spill[1] while it serves as a third scratch register. Nothing is changed before
// all is known; the host's own instruction then cannot fault.
void BlockEmitter::emit_string(const Unit& unit) {
    const unsigned size = element_size(unit.insn);
    const bool moves = (unit.insn.opcode & 0xFEU) == kMovs;
    const auto scale = static_cast<std::uint8_t>(size);
    const SystemSite site{a_.label(), a_.label(), current_, begin_clobber(unit)};
    const StringSite string{a_.label(), site.entry};
    a_.op(OpSize::Bits32, 0x0FBA, 4, Mem::gs_at(layout::kRflags));  // bt
    a_.byte(kDirectionBit);
    a_.jcc(Cond::B, site.entry);
    a_.alu_imm(Alu::Cmp, OpSize::Bits64, Rcx, kPage / static_cast<std::int32_t>(size));
    a_.jcc(Cond::A, site.entry);
    a_.store(layout::spill(1), Rdi);
    if (moves) {
        string_range(Rsi, size, false, string.entry);
        a_.store(layout::spill(2), R10);
        a_.load(Rdi, layout::spill(1));
    }
    string_range(Rdi, size, true, string.entry);
    end_clobber(site.live);
    a_.mov(Rdi, R10);
    a_.load(R10, layout::spill(1));
    a_.lea(R10, Mem::at(R10, Rcx, scale, 0));
    if (moves) {
        a_.lea(R11, Mem::at(Rsi, Rcx, scale, 0));
        a_.load(Rsi, layout::spill(2));
    }
    a_.byte(0xF3);
    if (size == 2) {
        a_.byte(0x66);
    } else if (size == 8) {
        a_.byte(0x48);
    }
    a_.byte(unit.insn.opcode);
    a_.mov(Rdi, R10);
    if (moves) {
        a_.mov(Rsi, R11);
    }
    a_.bind(site.back);
    system_.push_back(site);
    strings_.push_back(string);
}

}  // namespace strata::engine::soft
