// Analysis: flags backwards, stack groups forwards.
#include "engine/soft/translate/analysis.h"

#include <algorithm>
#include <array>

#include <Zydis/Zydis.h>

#include "arch/x86/registers.h"
#include "engine/soft/runtime/cpu_state.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint32_t kArithmetic = static_cast<std::uint32_t>(arch::x86::rflags::kArithmetic);
constexpr std::int32_t kGroupLimit = 2048;
constexpr std::uint8_t kRsp = 4;
constexpr std::uint8_t kDs = 3, kSs = 2;

// Shifts and rotates by CL, or by an immediate that may be masked to zero, may leave the flags as
// they were.
bool conditional_flags(const Instruction& insn) {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_SHL:
        case ZYDIS_MNEMONIC_SHR:
        case ZYDIS_MNEMONIC_SAR:
        case ZYDIS_MNEMONIC_ROL:
        case ZYDIS_MNEMONIC_ROR:
        case ZYDIS_MNEMONIC_RCL:
        case ZYDIS_MNEMONIC_RCR:
        case ZYDIS_MNEMONIC_SHLD:
        case ZYDIS_MNEMONIC_SHRD: {
            const bool by_one =
                insn.opcode_map == 0 && (insn.opcode == 0xD0 || insn.opcode == 0xD1);
            const unsigned mask = insn.operand_size == 8 ? 63 : 31;
            return !by_one &&
                   (insn.imm_count == 0 || (static_cast<unsigned>(insn.imm[0]) & mask) == 0);
        }
        // Only ZF is defined; processors leave others, or even all, alone.
        case ZYDIS_MNEMONIC_BSF:
        case ZYDIS_MNEMONIC_BSR:
            return true;
        default:
            return false;
    }
}

// Flags that the instruction surely replaces. Undefined ones may be left alone (multiplication on
// AMD), but logic and shifts do write theirs.
std::uint32_t flags_replaced(const Instruction& insn) {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_AND:
        case ZYDIS_MNEMONIC_OR:
        case ZYDIS_MNEMONIC_XOR:
        case ZYDIS_MNEMONIC_TEST:
        case ZYDIS_MNEMONIC_SHL:
        case ZYDIS_MNEMONIC_SHR:
        case ZYDIS_MNEMONIC_SAR:
            return conditional_flags(insn) ? 0 : insn.flags_written & kArithmetic;
        default:
            return conditional_flags(insn)
                       ? 0
                       : insn.flags_written & ~insn.flags_undefined & kArithmetic;
    }
}

// How an instruction moves rsp: by a known distance, or not known.
bool rsp_change(const Instruction& insn, std::int32_t& change) {
    change = 0;
    switch (insn.cls) {
        case InsnClass::Stack:
            if (insn.mnemonic == ZYDIS_MNEMONIC_PUSH || insn.mnemonic == ZYDIS_MNEMONIC_PUSHFQ) {
                change = -8;
                return true;
            }
            if (insn.mnemonic == ZYDIS_MNEMONIC_POP) {
                change = 8;
                return (insn.gpr_write & (1U << kRsp)) == 0 ||
                       (insn.opcode_reg_is_gpr && insn.opcode_reg != kRsp);
            }
            return false;
        case InsnClass::Copy: {
            if ((insn.gpr_write & (1U << kRsp)) == 0) {
                return true;
            }
            const bool immediate =
                insn.opcode_map == 0 && (insn.opcode == 0x81 || insn.opcode == 0x83);
            const bool add = insn.mnemonic == ZYDIS_MNEMONIC_ADD;
            if (immediate && insn.operand_size == 8 && insn.mod == 3 &&
                (add || insn.mnemonic == ZYDIS_MNEMONIC_SUB)) {
                const std::int64_t by = add ? insn.imm[0] : -insn.imm[0];
                change = static_cast<std::int32_t>(by);
                return by > -kGroupLimit && by < kGroupLimit;
            }
            return false;
        }
        case InsnClass::Lea: {
            if ((insn.gpr_write & (1U << kRsp)) == 0) {
                return true;
            }
            const bool plain = insn.mem.base == kRsp && insn.mem.index == kNoRegister &&
                               insn.operand_size == 8 && insn.address_size == 8;
            change = static_cast<std::int32_t>(insn.mem.displacement);
            return plain && insn.mem.displacement > -kGroupLimit &&
                   insn.mem.displacement < kGroupLimit;
        }
        default:
            return (insn.gpr_write & (1U << kRsp)) == 0;
    }
}

struct Group {
    std::size_t start = 0;
    bool open = false;
    std::int32_t rsp = 0;  // now, relative to rsp at `start`
    std::int32_t low = 0, high = 0;
};

void close(std::vector<Unit>& units, Group& group) {
    if (group.open) {
        units[group.start].group_start = true;
        units[group.start].group_low = group.low;
        units[group.start].group_bytes = group.high - group.low;
        group.open = false;
    }
}

}  // namespace

// What the interpreter does may change translations or rights; and so do CLAC and INVLPG where they
// are done in place, and strings where they are not.
bool ends_checks(const Unit& unit) {
    return unit.interpreted || (unit.inlined && (unit.insn.mnemonic == ZYDIS_MNEMONIC_CLAC ||
                                                 unit.insn.mnemonic == ZYDIS_MNEMONIC_INVLPG ||
                                                 unit.insn.cls == InsnClass::String));
}

void analyse_flags(std::vector<Unit>& units) {
    FlagsNeed need = FlagsNeed::Exit;
    for (auto unit = units.rbegin(); unit != units.rend(); ++unit) {
        const Instruction& insn = unit->insn;
        unit->need_after = need;
        const std::uint32_t written = insn.flags_written & kArithmetic;
        unit->writes_flags = written != 0;
        const bool read =
            (insn.flags_read & kArithmetic) != 0 || insn.mnemonic == ZYDIS_MNEMONIC_PUSHFQ;
        if (insn.cls == InsnClass::FarFlow) {
            need = FlagsNeed::Exit;  // saved by most
        } else if (!read && flags_replaced(insn) == kArithmetic) {
            need = FlagsNeed::None;
        } else if (read || (written != 0 && need != FlagsNeed::None)) {
            need = FlagsNeed::Host;
        }
        unit->need_before = need;
    }
}

StackAccess stack_access(const Instruction& insn) {
    switch (insn.cls) {
        case InsnClass::Stack:
            if (insn.mnemonic == ZYDIS_MNEMONIC_PUSH || insn.mnemonic == ZYDIS_MNEMONIC_PUSHFQ) {
                return {true, -8, 0};
            }
            if (insn.mnemonic == ZYDIS_MNEMONIC_POP) {
                return {true, 0, 8};
            }
            return {};
        case InsnClass::Call:
        case InsnClass::CallIndirect:
            return {true, -8, 0};
        case InsnClass::Ret:
            return {true, 0, 8};
        case InsnClass::Copy:
        case InsnClass::CopyVector: {
            const MemoryOperand& mem = insn.mem;
            const bool plain = mem.present && (mem.read || mem.write) && !mem.vsib &&
                               mem.base == kRsp && mem.index == kNoRegister &&
                               insn.address_size == 8 &&
                               (mem.segment == kSs || mem.segment == kDs) && !insn.uses_high_byte;
            if (!plain || mem.displacement < -kGroupLimit || mem.displacement > kGroupLimit) {
                return {};
            }
            const auto low = static_cast<std::int32_t>(mem.displacement);
            return {true, low, low + static_cast<std::int32_t>(access_bytes(insn))};
        }
        default:
            return {};
    }
}

namespace {

// The check of the group that starts at `from` clobbers flags: if they live there, it goes up to an
// instruction before which they do not, as long as rsp is the same. Never across an access of
// another group, which relies on that group's page being the one kept.
void move_group_check(std::vector<Unit>& units, std::size_t from) {
    std::size_t to = from;
    while (units[to].need_before != FlagsNeed::None) {
        std::int32_t change = 0;
        if (to == 0 || units[to].group_start != (to == from) || ends_checks(units[to - 1]) ||
            units[to - 1].grouped || units[to - 1].insn.cls == InsnClass::Jcc ||
            !rsp_change(units[to - 1].insn, change) || change != 0) {
            return;
        }
        --to;
    }
    if (to == from || units[to].group_start) {
        return;
    }
    units[to].group_start = true;
    units[to].group_low = units[from].group_low;
    units[to].group_bytes = units[from].group_bytes;
    units[from].group_start = false;
}

}  // namespace

void group_stack_accesses(std::vector<Unit>& units) {
    Group group;
    for (std::size_t i = 0; i < units.size(); ++i) {
        Unit& unit = units[i];
        const StackAccess access = unit.interpreted ? StackAccess{} : stack_access(unit.insn);
        if (access.present) {
            const std::int32_t low =
                group.open ? std::min(group.low, group.rsp + access.low) : access.low;
            const std::int32_t high =
                group.open ? std::max(group.high, group.rsp + access.high) : access.high;
            if (group.open && high - low > kGroupLimit) {
                close(units, group);
            }
            if (!group.open) {
                group = {i, true, 0, access.low, access.high};
            } else {
                group.low = low;
                group.high = high;
            }
            unit.grouped = true;
        }
        std::int32_t change = 0;
        if (ends_checks(unit) || !rsp_change(unit.insn, change)) {
            close(units, group);
        }
        group.rsp += change;
    }
    close(units, group);
    for (std::size_t i = 1; i < units.size(); ++i) {
        if (units[i].group_start) {
            move_group_check(units, i);
        }
    }
}

bool masked_copy(const Instruction& insn) {
    return insn.cls == InsnClass::Special && insn.encoding == Encoding::Evex && insn.mask != 0 &&
           insn.mem.present && !insn.mem.vsib && (insn.mem.read || insn.mem.write);
}

std::uint32_t access_bytes(const Instruction& insn) {
    const std::uint32_t whole = insn.broadcast ? insn.vector_length / 8U : 0;
    return std::max<std::uint32_t>(insn.mem.size, whole);
}

std::uint16_t data_registers(const Instruction& insn) {
    std::uint16_t set = 0;
    const auto add = [&](bool used, std::uint8_t reg) {
        if (used && !insn.uses_high_byte) {
            set = static_cast<std::uint16_t>(set | (1U << (reg & 15U)));
        }
    };
    add(insn.reg_is_gpr, insn.reg);
    add(insn.rm_is_gpr && insn.mod == 3, insn.rm);
    add(insn.vvvv_is_gpr, insn.vvvv);
    add(insn.opcode_reg_is_gpr, insn.opcode_reg);
    return set;
}

bool touches_memory(const Instruction& insn) {
    return insn.mem.present && (insn.mem.read || insn.mem.write);
}

}  // namespace strata::engine::soft
