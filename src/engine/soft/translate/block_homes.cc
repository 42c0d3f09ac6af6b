// BlockEmitter: guest registers that live in memory: as memory operands, or held in r10 and r11
// from one calm instruction to the next; and addresses that go into registers.
#include <algorithm>
#include <utility>

#include <Zydis/Zydis.h>

#include "engine/soft/translate/block_emitter.h"
#include "engine/soft/translate/layout.h"
#include "engine/soft/translate/rewrite.h"

namespace strata::engine::soft {
namespace {

using enum Reg;

constexpr std::uint16_t kInMemory = 0x0E00;  // guest r9, r10, r11

Reg home_of(unsigned guest) {
    return Rewrite{}.home[guest];
}
bool in_memory(unsigned guest) {
    return ((kInMemory >> guest) & 1U) != 0;
}

bool is_test(const Instruction& insn) {
    return insn.opcode == 0x84 || insn.opcode == 0x85;
}

// Whether the two operands can change places: ALU and MOV by the opcode's direction bit, TEST as it
// is.
bool swappable(const Instruction& insn) {
    return insn.opcode_map == 0 && ((insn.opcode < 0x40 && (insn.opcode & 7) < 4) ||
                                    (insn.opcode >= 0x88 && insn.opcode <= 0x8B) || is_test(insn));
}

// Whether a memory operand in the place of the register ModRM.rm means the same (of XCHG and BT it
// does not).
bool has_memory_form(const Instruction& insn) {
    const std::uint8_t opcode = insn.opcode;
    if (insn.opcode_map == 1) {
        return (opcode >= 0x40 && opcode <= 0x4F) || (opcode >= 0x90 && opcode <= 0x9F) ||
               opcode == 0xAF || opcode == 0xB6 || opcode == 0xB7 || opcode == 0xBE ||
               opcode == 0xBF;
    }
    if (insn.opcode_map != 0) {
        return false;
    }
    switch (opcode) {
        case 0x63:
        case 0x69:
        case 0x6B:
        case 0x80:
        case 0x81:
        case 0x83:
        case 0xC0:
        case 0xC1:
        case 0xC6:
        case 0xC7:
        case 0xD0:
        case 0xD1:
        case 0xD2:
        case 0xD3:
        case 0xF6:
        case 0xF7:
        case 0xFE:
            return true;
        case 0xFF:
            return insn.mnemonic == ZYDIS_MNEMONIC_INC || insn.mnemonic == ZYDIS_MNEMONIC_DEC;
        default:
            return swappable(insn);
    }
}

// An instruction on two registers that may become one on a register and memory.
bool has_two_fields(const Instruction& insn) {
    return insn.cls == InsnClass::Copy && insn.encoding == Encoding::Legacy && !insn.mem.present &&
           insn.modrm_offset != kNoOffset && insn.mod == 3 && insn.rm_is_gpr &&
           !insn.opcode_reg_is_gpr && !insn.uses_high_byte && !insn.lock && has_memory_form(insn) &&
           !(insn.reg_is_gpr && insn.reg == insn.rm);
}

}  // namespace

// A 32-bit write makes the upper half zero, which memory would not know.
bool BlockEmitter::works_on_home(const Instruction& insn) {
    const auto stays = [&insn](unsigned guest) {
        return in_memory(guest) &&
               !(((insn.gpr_write >> guest) & 1U) != 0 && insn.operand_size == 4);
    };
    const bool other = insn.reg_is_gpr && in_memory(insn.reg & 15U);
    if (!has_two_fields(insn) || (data_registers(insn) & kInMemory & ~(1U << insn.rm) &
                                  ~(insn.reg_is_gpr ? 1U << insn.reg : 0U)) != 0) {
        return false;
    }
    return in_memory(insn.rm) ? stays(insn.rm) && !other
                              : insn.reg_is_gpr && swappable(insn) && stays(insn.reg);
}

bool BlockEmitter::calm(const Unit& unit) const {
    const Instruction& insn = unit.insn;
    if (!options_.hold_registers || unit.interpreted || unit.inlined || unit.patched ||
        unit.group_start || unit.run_start) {
        return false;
    }
    switch (insn.cls) {
        case InsnClass::Nop:
            return true;
        case InsnClass::Lea:
            return insn.operand_size >= 4;
        case InsnClass::Copy: {
            const bool faults = insn.mnemonic == ZYDIS_MNEMONIC_DIV ||
                                insn.mnemonic == ZYDIS_MNEMONIC_IDIV || insn.lock ||
                                insn.mem.aligned;
            const bool checked = insn.mem.present && (insn.mem.read || insn.mem.write) &&
                                 !unit.grouped && unit.slot == Unit::kNoSlot;
            return !faults && !checked;
        }
        default:
            return false;
    }
}

bool BlockEmitter::soon_read(unsigned guest) const {
    constexpr std::size_t kSoon = 8;
    if (loop_ != nullptr && loop_->pinned) {
        return false;  // there is nothing to hold it in
    }
    const auto in = [guest](std::uint16_t set) { return ((set >> guest) & 1U) != 0; };
    const std::size_t end = std::min(units_.size(), current_ + 1 + kSoon);
    for (std::size_t i = current_ + 1; i < end; ++i) {
        const Instruction& insn = units_[i].insn;
        if (!calm(units_[i])) {
            const auto number = static_cast<std::int8_t>(guest);
            return keeps_held(units_[i]) && insn.mem.present &&
                   (insn.mem.base == number || insn.mem.index == number);
        }
        if (in(insn.gpr_read) || in(insn.gpr_write)) {
            return in(insn.gpr_read);
        }
    }
    return false;
}

bool BlockEmitter::keeps_held(const Unit& unit) const {
    if (!options_.hold_registers || unit.interpreted || unit.inlined || unit.patched ||
        unit.group_start || unit.run_start) {
        return false;
    }
    switch (unit.insn.cls) {
        case InsnClass::Copy:
        case InsnClass::CopyVector:
        case InsnClass::Special:
        case InsnClass::Jcc:
            return true;
        default:
            return calm(unit);
    }
}

void BlockEmitter::prepare_held(const Unit& unit) {
    if (calm(unit)) {
        return;
    }
    write_back();
    if (!keeps_held(unit)) {
        drop_held();
    }
}

Held* BlockEmitter::holder(unsigned guest) {
    for (Held& held : held_) {
        if (held.guest == static_cast<std::int8_t>(guest)) {
            return &held;
        }
    }
    return nullptr;
}

Reg BlockEmitter::hold(unsigned guest, bool load, std::uint16_t busy, bool r10_taken) {
    if (const Held* held = holder(guest); held != nullptr) {
        return held->reg;
    }
    auto& [low, high] = held_;
    const auto needed = [busy](const Held& held) {
        return held.guest >= 0 && ((busy >> held.guest) & 1U) != 0;
    };
    bool use_low = false;
    if (high.guest >= 0 && !r10_taken && !needed(low)) {
        const bool idle = low.guest < 0 && r10_holds_ == kNothing;
        use_low = idle || needed(high) || soon_read(static_cast<unsigned>(high.guest));
    }
    Held& chosen = use_low ? low : high;
    release(chosen);
    if (use_low) {
        r10_holds_ = kNothing;
    }
    chosen.guest = static_cast<std::int8_t>(guest);
    if (load) {
        a_.load(chosen.reg, layout::gpr(guest));
    }
    return chosen.reg;
}

void BlockEmitter::release(Held& held) {
    if (held.dirty) {
        a_.store(layout::gpr(static_cast<unsigned>(held.guest)), held.reg);
    }
    held = {held.reg, kNothing, false};
}

void BlockEmitter::note_written(unsigned guest) {
    if (Held* held = holder(guest); held != nullptr) {
        held->dirty = true;
    }
}

void BlockEmitter::write_back() {
    for (Held& held : held_) {
        if (held.dirty) {
            a_.store(layout::gpr(static_cast<unsigned>(held.guest)), held.reg);
            held.dirty = false;
        }
    }
}

bool BlockEmitter::emit_on_home(const Unit& unit) {
    const Instruction& insn = unit.insn;
    if (!has_two_fields(insn)) {
        return false;
    }
    const auto written = [&insn](unsigned guest) { return ((insn.gpr_write >> guest) & 1U) != 0; };
    // A 32-bit write makes the upper half zero, which memory would not know.
    const auto stays = [&](unsigned guest) {
        return in_memory(guest) && holder(guest) == nullptr &&
               !(written(guest) && insn.operand_size == 4) && !soon_read(guest);
    };
    const bool swap = !stays(insn.rm);
    if (swap && !(insn.reg_is_gpr && swappable(insn) && stays(insn.reg))) {
        return false;
    }
    Instruction on_memory = insn;
    if (swap) {
        std::swap(on_memory.reg, on_memory.rm);
        if (!is_test(insn)) {
            on_memory.bytes[insn.opcode_offset] ^= 2;
        }
    }
    on_memory.mem.present = true;
    Rewrite rewrite;
    rewrite.memory = layout::gpr(on_memory.rm);
    const unsigned other = on_memory.reg & 15U;
    const bool other_held = insn.reg_is_gpr && in_memory(other);
    if (other_held) {
        const bool read = ((insn.gpr_read >> other) & 1U) != 0;
        rewrite.home[other] = hold(other, read, 0, false);
    }
    mark(current_);
    emit_rewritten(a_, on_memory, rewrite);
    if (other_held && written(other)) {
        note_written(other);
    }
    return true;
}

// Sources first: the destination's register may be one of theirs, since LEA reads them before it
// writes.
void BlockEmitter::emit_calm_lea(const Unit& unit) {
    const Instruction& insn = unit.insn;
    const MemoryOperand& mem = insn.mem;
    const bool narrow = insn.operand_size == 4 || insn.address_size == 4;
    const bool constant =
        mem.base == kRipRegister || (mem.base == kNoRegister && mem.index == kNoRegister);
    const auto number = [](std::int8_t guest) { return static_cast<unsigned>(guest) & 15U; };
    const auto bit = [](std::int8_t guest) {
        return guest < 0 ? 0U : 1U << (static_cast<unsigned>(guest) & 15U);
    };
    const auto sources = static_cast<std::uint16_t>(bit(mem.base) | bit(mem.index));
    const auto source = [&](std::int8_t guest) {
        return static_cast<std::int8_t>(in_memory(number(guest))
                                            ? hold(number(guest), true, sources, false)
                                            : home_of(number(guest)));
    };
    Mem ea;
    ea.disp = static_cast<std::int32_t>(mem.displacement);
    ea.scale = mem.scale;
    if (!constant && mem.base >= 0) {
        ea.base = source(mem.base);
    }
    if (!constant && mem.index >= 0) {
        ea.index = source(mem.index);
    }
    const Reg to = in_memory(insn.reg) ? hold(insn.reg, false, 0, false) : home_of(insn.reg);
    if (constant) {
        const std::uint64_t end = mem.base == kRipRegister ? unit.rip + insn.length : 0;
        const std::uint64_t linear = end + static_cast<std::uint64_t>(mem.displacement);
        if (end != 0 && source_.floating) {
            load_linear(to, linear);
            if (narrow) {
                a_.mov32(to, to);
            }
        } else {
            a_.mov_imm(to, narrow ? (linear & 0xFFFFFFFFU) : linear);
        }
    } else if (narrow) {
        a_.lea32(to, ea);
    } else {
        a_.lea(to, ea);
    }
    if (in_memory(insn.reg)) {
        note_written(insn.reg);
    }
}

void BlockEmitter::emit_lea(const Unit& unit) {
    const Instruction& insn = unit.insn;
    if (calm(unit)) {
        emit_calm_lea(unit);
        return;
    }
    const unsigned to = insn.reg;
    const MemoryOperand& mem = insn.mem;
    const auto held = [](std::int8_t reg) {
        return reg >= 0 && reg < 16 && in_memory(static_cast<unsigned>(reg));
    };
    if (insn.operand_size == 8 && insn.address_size == 8 && mem.base >= 0 && mem.base < 16 &&
        !held(mem.base) && !held(mem.index) && !in_memory(to)) {
        Mem ea = Mem::at(home_of(static_cast<unsigned>(mem.base)),
                         static_cast<std::int32_t>(mem.displacement));
        if (mem.index >= 0) {
            ea.index = static_cast<std::int8_t>(home_of(static_cast<unsigned>(mem.index)));
            ea.scale = mem.scale;
        }
        a_.lea(home_of(to), ea);
        return;
    }
    Unit plain = unit;
    plain.insn.mem.segment = 3;  // LEA ignores segments
    address_of_operand(plain);
    if (in_memory(to) && insn.operand_size >= 4) {
        if (insn.operand_size == 4) {
            a_.mov32(R10, R10);
        }
        a_.store(layout::gpr(to), R10);
        return;
    }
    const Reg home = in_memory(to) ? R11 : home_of(to);
    switch (insn.operand_size) {
        case 8:
            a_.mov(home, R10);
            break;
        case 4:
            a_.mov32(home, R10);
            break;
        default:
            if (in_memory(to)) {
                a_.load(home, layout::gpr(to));
            }
            a_.op(OpSize::Bits32, 0x8B, Assembler::raw(home), R10, 0x66);
            break;
    }
    if (in_memory(to)) {
        a_.store(layout::gpr(to), home);
    }
}

}  // namespace strata::engine::soft
