// BlockEmitter: instructions that are copied: operands, addresses and the inline TLB check.
#include "engine/soft/translate/block_emitter.h"

#include <Zydis/Zydis.h>

#include "engine/soft/translate/layout.h"
#include "engine/soft/translate/rewrite.h"

namespace strata::engine::soft {
namespace {

using enum Reg;

constexpr std::uint16_t kInMemory = 0x0E00;  // guest r9, r10, r11
constexpr std::uint8_t kFs = 4, kGs = 5;
constexpr std::int32_t kPage = 4096;

Reg home_of(unsigned guest) {
    return Rewrite{}.home[guest];
}
bool in_memory(unsigned guest) {
    return ((kInMemory >> guest) & 1U) != 0;
}

// A store of a whole vector register, which may go to a copy of the memory.
bool plain_vector_store(const Instruction& insn) {
    if (insn.vector != VectorKind::Sse && insn.vector != VectorKind::Avx) {
        return false;
    }
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_MOVUPS:
        case ZYDIS_MNEMONIC_MOVUPD:
        case ZYDIS_MNEMONIC_MOVDQU:
        case ZYDIS_MNEMONIC_VMOVUPS:
        case ZYDIS_MNEMONIC_VMOVUPD:
        case ZYDIS_MNEMONIC_VMOVDQU:
            return insn.mem.write && !insn.mem.read;
        default:
            return false;
    }
}

// A low register that the instruction has nothing to do with.
Reg unused_low_register(const Instruction& insn) {
    for (const unsigned reg : {6U, 7U, 3U, 2U, 1U, 0U}) {
        if ((((insn.gpr_read | insn.gpr_write) >> reg) & 1U) == 0) {
            return static_cast<Reg>(reg);
        }
    }
    return Rsp;  // cannot be: an instruction with a high byte names at most four of the six
}

}  // namespace

// The operand's linear address, if it is known now.
bool BlockEmitter::constant_address(const Unit& unit, std::uint64_t& linear) const {
    const MemoryOperand& mem = unit.insn.mem;
    if (mem.segment == kFs || mem.segment == kGs || mem.index != kNoRegister ||
        (mem.base != kNoRegister && (mem.base != kRipRegister || source_.floating))) {
        return false;
    }
    linear = static_cast<std::uint64_t>(mem.displacement);
    if (mem.base == kRipRegister) {
        linear += unit.rip + unit.insn.length;
    }
    if (unit.insn.address_size == 4) {
        linear &= 0xFFFFFFFFU;
    }
    return true;
}

// The helper has left if the instruction did anything that the rest of the block could depend on.
void BlockEmitter::emit_interpreted(const Unit& unit) {
    if (unit.need_before != FlagsNeed::None) {
        put_away_flags();
    }
    load_linear(R11, unit.rip);
    a_.mov_imm(R10, unit.insn.length | (std::uint64_t{unit.insn.mnemonic} << 16U));
    a_.call_to(glue_.interpret);
    host_valid_ = memory_valid_ = true;
}

Reg BlockEmitter::source_register(unsigned guest, Reg temporary) {
    if (!in_memory(guest)) {
        return home_of(guest);
    }
    a_.load(temporary, layout::gpr(guest));
    return temporary;
}

// As source_register(), of an address that has `other` as its second register: what is held need
// not be loaded, unless that would be overwritten by the second one.
Reg BlockEmitter::address_register(std::int8_t guest, std::int8_t other, Reg temporary) {
    const auto number = static_cast<unsigned>(guest);
    if (in_memory(number) && (other < 0 || !in_memory(static_cast<unsigned>(other)))) {
        if (const Held* held = holder(number); held != nullptr) {
            return held->reg;
        }
    }
    return source_register(number, temporary);
}

void BlockEmitter::address_of_operand(const Unit& unit) {
    const MemoryOperand& mem = unit.insn.mem;
    const bool narrow = unit.insn.address_size == 4;
    if (mem.base == kRipRegister) {
        const std::uint64_t linear =
            unit.rip + unit.insn.length + static_cast<std::uint64_t>(mem.displacement);
        if (source_.floating) {
            load_linear(R10, linear);
            if (narrow) {
                a_.mov32(R10, R10);
            }
        } else {
            a_.mov_imm(R10, narrow ? (linear & 0xFFFFFFFFU) : linear);
        }
    } else if (mem.base == kNoRegister && mem.index == kNoRegister) {
        const auto linear = static_cast<std::uint64_t>(mem.displacement);
        a_.mov_imm(R10, narrow ? (linear & 0xFFFFFFFFU) : linear);
    } else {
        Mem ea;
        ea.disp = static_cast<std::int32_t>(mem.displacement);
        ea.scale = mem.scale;
        if (mem.base >= 0) {
            ea.base = static_cast<std::int8_t>(address_register(mem.base, mem.index, R10));
        }
        if (mem.index >= 0) {
            ea.index = static_cast<std::int8_t>(address_register(mem.index, mem.base, R11));
        }
        if (narrow) {
            a_.lea32(R10, ea);
        } else if (ea.index == Mem::kNone && ea.disp == 0) {
            if (ea.base != static_cast<std::int8_t>(R10)) {
                a_.mov(R10, static_cast<Reg>(ea.base));
            }
        } else {
            a_.lea(R10, ea);
        }
    }
    if (mem.segment == kFs || mem.segment == kGs) {
        a_.load(R11, layout::segment_base(mem.segment));
        a_.lea(R10, Mem::at(R10, R11, 1, 0));
    }
}

void BlockEmitter::emit_address(const Unit& unit, const Address& address) {
    switch (address.kind) {
        case Address::Kind::Operand:
            address_of_operand(unit);
            break;
        case Address::Kind::Stack:
            a_.lea(R10, Mem::at(R9, address.displacement));
            break;
        case Address::Kind::FramePointer:
            a_.mov(R10, Rbp);
            break;
    }
}

void BlockEmitter::constant_check(std::uint64_t linear, bool write, Label slow) {
    const auto entry =
        static_cast<std::int32_t>(((linear >> 12) & (kTlbEntries - 1)) * sizeof(TlbEntry));
    a_.load(R11, Mem::gs_at(layout::kTlb));
    a_.mov_imm(R10, linear & ~std::uint64_t{kPage - 1});
    a_.alu(Alu::Cmp, OpSize::Bits64, R10,
           Mem::at(R11, entry + (write ? layout::kTagWrite : layout::kTagRead)));
    a_.jcc(Cond::Ne, slow);
    a_.load(R10, Mem::at(R11, entry + layout::kHostPage));
    if (const auto offset = static_cast<std::int32_t>(linear & (kPage - 1)); offset != 0) {
        a_.lea(R10, Mem::at(R10, offset));
    }
}

void BlockEmitter::check(const Unit& unit, const Address& address, std::uint32_t bytes,
                         bool write) {
    if (loop_ != nullptr) {
        check_or_bail(unit, bytes, write);
        return;
    }
    after_used_ = true;
    SlowSite site{a_.label(), a_.label(), after_, current_, address, bytes, false};
    site.word |=
        (write ? SiteWord::kWrite : 0) |
        (address.kind == Address::Kind::Operand && unit.insn.mem.aligned ? SiteWord::kAligned : 0);
    if (address.kind == Address::Kind::Operand && plain_vector_store(unit.insn)) {
        site.word |= SiteWord::kCopyOut;
    }
    if (address.kind == Address::Kind::Operand && masked_copy(unit.insn)) {
        site.word |= SiteWord::kMasked;
    }
    std::uint64_t linear = 0;
    if (address.kind == Address::Kind::Operand && constant_address(unit, linear) &&
        (linear & (kPage - 1)) + bytes <= kPage) {
        drop_held();
        site.live = begin_clobber(unit);
        constant_check(linear, write, site.entry);
        end_clobber(site.live);
        a_.bind(site.resume);
        slow_.push_back(site);
        return;
    }
    emit_address(unit, address);
    drop_held();
    site.live = begin_clobber(unit);
    tlb_check(bytes, write, site.entry);
    end_clobber(site.live);
    a_.bind(site.resume);
    slow_.push_back(site);
}

void BlockEmitter::tlb_entry() {
    a_.rorx(OpSize::Bits32, R11, R10, 7);
    a_.alu_imm(Alu::And, OpSize::Bits32, R11, layout::kTlbMask);
    a_.alu(Alu::Add, OpSize::Bits64, R11, Mem::gs_at(layout::kTlb));
}

void BlockEmitter::tlb_check(std::uint32_t bytes, bool write, Label miss) {
    tlb_entry();
    a_.alu(Alu::Xor, OpSize::Bits64, R10,
           Mem::at(R11, write ? layout::kTagWrite : layout::kTagRead));
    a_.alu_imm(Alu::Cmp, OpSize::Bits64, R10, kPage - static_cast<std::int32_t>(bytes));
    a_.jcc(Cond::A, miss);
    a_.alu(Alu::Add, OpSize::Bits64, R10, Mem::at(R11, layout::kHostPage));
}

void BlockEmitter::group_check(const Unit& unit) {
    r10_holds_ = kNothing;
    StackSite site{a_.label(), a_.label(), current_, FlagsPlace::Dead, false};
    a_.lea(R10, Mem::at(R9, unit.group_low));
    site.live = begin_clobber(unit);
    site.flags = flags_place();
    a_.alu(Alu::Xor, OpSize::Bits64, R10, Mem::gs_at(layout::kStackTag));
    a_.alu_imm(Alu::Cmp, OpSize::Bits64, R10, kPage - unit.group_bytes);
    a_.jcc(Cond::A, site.entry);
    a_.bind(site.back);
    end_clobber(site.live);
    stack_.push_back(site);
}

void BlockEmitter::vector_check(const Unit& unit) {
    if (vectors_checked_) {
        return;
    }
    vectors_checked_ = true;
    r10_holds_ = kNothing;  // the helper has clobbered it
    drop_held();
    const VectorSite site{a_.label(), a_.label()};
    const bool live = begin_clobber(unit);
    a_.alu_imm(Alu::Cmp, OpSize::Bits32, Mem::gs_at(layout::kVectorLive), 0);
    a_.jcc(Cond::E, site.entry);
    a_.bind(site.back);
    end_clobber(live);
    vector_.push_back(site);
}

void BlockEmitter::emit_copy(const Unit& unit) {
    const Instruction& insn = unit.insn;
    if (insn.cls == InsnClass::CopyVector || insn.cls == InsnClass::Special) {
        vector_check(unit);
    }
    if (emit_on_home(unit)) {
        return;
    }
    Rewrite rewrite;
    Reg borrowed = Rsp;  // a low register lent to the address
    const bool memory = touches_memory(insn);
    if (memory && unit.grouped) {
        load_stack_host();
        rewrite.memory = Mem::at(R10, R9, 1, static_cast<std::int32_t>(insn.mem.displacement));
    } else if (memory && unit.hoisted) {
        rewrite.memory = hoisted_operand(unit);
    } else if (memory && unit.slot != Unit::kNoSlot) {
        load_delta(unit.slot);
        rewrite.memory = Mem::at(R10, unit.displacement);
    } else if (memory) {
        check(unit, {}, access_bytes(insn), insn.mem.write);
        rewrite.memory = Mem::at(R10);
        if (insn.uses_high_byte) {
            borrowed = unused_low_register(insn);
            a_.store(layout::spill(1), borrowed);
            a_.mov(borrowed, R10);
            rewrite.memory = Mem::at(borrowed);
        }
    }
    const std::uint16_t used = data_registers(insn) & kInMemory;
    for (unsigned guest = 9; guest <= 11; ++guest) {
        if (((used >> guest) & 1U) != 0) {
            rewrite.home[guest] = hold(guest, ((insn.gpr_read >> guest) & 1U) != 0, used, memory);
        }
    }
    mark(current_);  // where the flags are if the host refuses the instruction
    emit_rewritten(a_, insn, rewrite);
    for (unsigned guest = 9; guest <= 11; ++guest) {
        if (((used & insn.gpr_write) >> guest & 1U) != 0) {
            note_written(guest);
        }
    }
    if (borrowed != Rsp) {
        a_.load(borrowed, layout::spill(1));
    }
}

void BlockEmitter::load_stack_host() {
    if (r10_holds_ != kStackHeld) {
        release(held_[0]);
        a_.load(R10, Mem::gs_at(layout::kStackHost));
        r10_holds_ = kStackHeld;
    }
}

void BlockEmitter::load_delta(std::int8_t slot) {
    if (r10_holds_ != slot) {
        release(held_[0]);
        a_.load(R10, layout::delta(static_cast<unsigned>(slot)));
        r10_holds_ = slot;
    }
}

bool BlockEmitter::keeps_r10(const Unit& unit) const {
    const Instruction& insn = unit.insn;
    if (unit.interpreted || unit.inlined || unit.patched || insn.uses_high_byte) {
        return false;
    }
    switch (insn.cls) {
        case InsnClass::Nop:
        case InsnClass::Fence:
        case InsnClass::Jcc:
            return true;
        case InsnClass::Copy:
        case InsnClass::CopyVector: {
            const bool checked =
                touches_memory(insn) && !unit.grouped && unit.slot == Unit::kNoSlot;
            return !checked && __builtin_popcount(data_registers(insn) & kInMemory) <= 1;
        }
        case InsnClass::Stack:
            return unit.grouped && !insn.mem.present && insn.mnemonic != ZYDIS_MNEMONIC_LEAVE;
        default:
            return false;
    }
}

void BlockEmitter::emit_unit(std::size_t index) {
    const Unit& unit = units_[index];
    current_ = index;
    after_ = a_.label();
    after_used_ = false;
    prepare_held(unit);
    mark(index);
    if (!calm(unit) && !keeps_r10(unit)) {
        r10_holds_ = kNothing;
    }
    if (unit.group_start) {
        group_check(unit);
    }
    if (unit.run_start) {
        run_check(unit);
    }
    if (unit.inlined) {
        emit_inlined(unit);
    } else if (unit.interpreted && unit.op != nullptr) {
        emit_system(unit);
    } else if (unit.interpreted) {
        emit_interpreted(unit);
    } else if (unit.patched) {
        emit_patched(unit);
    } else {
        emit_translated(unit);
    }
    a_.bind(after_);
}

void BlockEmitter::emit_translated(const Unit& unit) {
    switch (unit.insn.cls) {
        case InsnClass::Copy:
        case InsnClass::Special:
        case InsnClass::CopyVector:
            emit_copy(unit);
            break;
        case InsnClass::Lea:
            emit_lea(unit);
            break;
        case InsnClass::Nop:
            break;
        case InsnClass::Fence:
            emit_rewritten(a_, unit.insn, {});
            break;
        case InsnClass::Stack:
            emit_stack(unit);
            break;
        default:
            emit_flow(unit);
            break;
    }
    if (unit.writes_flags && !ended_) {
        host_valid_ = true;
        memory_valid_ = false;
    }
    if (after_used_ || !options_.hold_registers) {
        write_back_and_drop();
    }
}

}  // namespace strata::engine::soft
