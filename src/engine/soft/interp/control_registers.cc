// Control registers: moves to and from control and debug registers, CLTS, LMSW, SMSW. SDM 2; SDM
// 3A, 2.5 and 17.2.
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp/descriptors.h"
#include "engine/soft/interp/handlers.h"

namespace strata::engine::soft {
namespace {

namespace c0 = x86::cr0;
namespace c4 = x86::cr4;

bool pae_tables_valid(const CpuState& cpu, std::uint64_t cr3) {
    const bool pae =
        (cpu.cr0 & c0::kPg) != 0 && (cpu.cr4 & c4::kPae) != 0 && (cpu.efer & x86::efer::kLma) == 0;
    return !pae || pdptes_valid(cpu, cr3);
}

bool cr0_allowed(const CpuState& cpu, std::uint64_t value) {
    const bool paging = (value & c0::kPg) != 0;
    if ((value >> 32U) != 0 || (paging && (value & c0::kPe) == 0) ||
        ((value & c0::kNw) != 0 && (value & c0::kCd) == 0)) {
        return false;
    }
    const bool was_paging = (cpu.cr0 & c0::kPg) != 0;
    if (paging && !was_paging && (cpu.efer & x86::efer::kLme) != 0) {
        return (cpu.cr4 & c4::kPae) != 0 && (cpu.segments[x86::Cs].attributes & 0x2000U) == 0;
    }
    return paging || !was_paging || !(code64(cpu) || (cpu.cr4 & c4::kPcide) != 0);
}

StepResult write_cr0(CpuState& cpu, std::uint64_t value) {
    constexpr std::uint64_t kKept = c0::kPe | c0::kMp | c0::kEm | c0::kTs | c0::kEt | c0::kNe |
                                    c0::kWp | c0::kAm | c0::kNw | c0::kCd | c0::kPg;
    if (!cr0_allowed(cpu, value)) {
        return raise_gp(cpu);
    }
    const std::uint64_t old = cpu.cr0;
    const std::uint64_t old_efer = cpu.efer;
    cpu.cr0 = (value & kKept) | c0::kEt;
    const bool lma = (cpu.cr0 & c0::kPg) != 0 && (cpu.efer & x86::efer::kLme) != 0;
    cpu.efer = lma ? cpu.efer | x86::efer::kLma : cpu.efer & ~x86::efer::kLma;
    if ((cpu.cr0 & ~old & c0::kPg) != 0 && !pae_tables_valid(cpu, cpu.cr3)) {
        cpu.cr0 = old;
        cpu.efer = old_efer;
        return raise_gp(cpu);
    }
    update_mode(cpu);
    if (((old ^ cpu.cr0) & (c0::kPg | c0::kPe | c0::kWp)) != 0) {
        flush_tlb_all(cpu);
    }
    privilege_changed(cpu);
    return StepResult::EndBlock;
}

StepResult write_cr3(CpuState& cpu, std::uint64_t value) {
    const bool pcid = (cpu.cr4 & c4::kPcide) != 0;
    const bool keep = pcid && (value >> 63U) != 0;
    if (pcid) {
        value &= ~(1ULL << 63U);
    }
    if (!long_mode(cpu)) {
        value &= 0xffffffffU;
    } else if ((value & context(cpu).physical_mask) != 0) {
        return raise_gp(cpu);
    }
    if (!pae_tables_valid(cpu, value)) {
        return raise_gp(cpu);
    }
    cpu.cr3 = value;
    address_space_changed(cpu, keep);
    return StepResult::EndBlock;
}

StepResult write_cr4(CpuState& cpu, std::uint64_t value) {
    const std::uint64_t old = cpu.cr4;
    const bool sets_pcide = (value & ~old & c4::kPcide) != 0;
    if ((value & context(cpu).cr4_reserved) != 0 || (long_mode(cpu) && (value & c4::kPae) == 0) ||
        (sets_pcide && (!long_mode(cpu) || (cpu.cr3 & 0xfffU) != 0))) {
        return raise_gp(cpu);
    }
    cpu.cr4 = value;
    constexpr std::uint64_t kPaging =
        c4::kPse | c4::kPae | c4::kPge | c4::kPcide | c4::kSmep | c4::kSmap | c4::kPke;
    if (((old ^ value) & (c4::kPae | c4::kPse | c4::kPge)) != 0 &&
        !pae_tables_valid(cpu, cpu.cr3)) {
        cpu.cr4 = old;
        return raise_gp(cpu);
    }
    update_mode(cpu);
    if (((old ^ value) & kPaging) != 0) {
        flush_tlb_all(cpu);
    }
    privilege_changed(cpu);
    return StepResult::EndBlock;
}

StepResult write_control(CpuState& cpu, unsigned number, std::uint64_t value) {
    switch (number) {
        case 0:
            return write_cr0(cpu, value);
        case 2:
            cpu.cr2 = value;
            return StepResult::EndBlock;
        case 3:
            return write_cr3(cpu, value);
        case 4:
            return write_cr4(cpu, value);
        case 8:
            if (value > 15) {
                return raise_gp(cpu);
            }
            cpu.cr8 = value;
            return StepResult::EndBlock;
        default:
            return raise_ud(cpu);
    }
}

StepResult op_mov_control(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    const bool write = insn.opcode == 0x22;
    const unsigned number = insn.reg;
    const unsigned size = code64(cpu) ? 8 : 4;
    const unsigned gpr = insn.rm & 15U;
    if (number != 0 && number != 2 && number != 3 && number != 4 && number != 8) {
        return raise_ud(cpu);
    }
    if (!privileged(cpu)) {
        return StepResult::Exception;
    }
    if (!write) {
        const std::uint64_t values[9] = {cpu.cr0, 0, cpu.cr2, cpu.cr3, cpu.cr4, 0, 0, 0, cpu.cr8};
        set_gpr(cpu, gpr, size, values[number]);
        return done(cpu, insn);
    }
    const std::uint64_t next = next_rip(cpu, insn);
    const StepResult result = write_control(cpu, number, get_gpr(cpu, gpr, size));
    if (result == StepResult::EndBlock) {
        cpu.rip = next;
    }
    return result;
}

StepResult op_mov_debug(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    const bool write = insn.opcode == 0x23;
    unsigned number = insn.reg;
    const unsigned size = code64(cpu) ? 8 : 4;
    if (number > 7 || ((number == 4 || number == 5) && (cpu.cr4 & c4::kDe) != 0)) {
        return raise_ud(cpu);
    }
    if (!privileged(cpu)) {
        return StepResult::Exception;
    }
    if ((cpu.dr7 & (1ULL << 13U)) != 0) {
        cpu.dr6 |= 1ULL << 13U;
        return raise(cpu, vec::kDb);
    }
    if (number == 4 || number == 5) {
        number += 2;
    }
    if (!write) {
        set_gpr(cpu, insn.rm, size, number < 4 ? cpu.dr[number] : number == 6 ? cpu.dr6 : cpu.dr7);
        return done(cpu, insn);
    }
    const std::uint64_t value = get_gpr(cpu, insn.rm, size);
    if (number >= 6 && (value >> 32U) != 0) {
        return raise_gp(cpu);
    }
    if (number < 4) {
        cpu.dr[number] = value;
    } else if (number == 6) {
        cpu.dr6 = (value & 0xe00fU) | 0xffff0ff0U;
    } else {
        cpu.dr7 = (value & 0xffff2bffU) | 0x400U;
    }
    update_mode(cpu);
    return done_end_block(cpu, insn);
}

StepResult op_clts(CpuState& cpu, Op& op) noexcept {
    if (!privileged(cpu)) {
        return StepResult::Exception;
    }
    cpu.cr0 &= ~c0::kTs;
    update_mode(cpu);
    return done_end_block(cpu, op.insn);
}

StepResult op_lmsw(CpuState& cpu, Op& op) noexcept {
    std::uint64_t value = 0;
    if (!privileged(cpu) || !read_operand(cpu, op.insn, 2, value)) {
        return StepResult::Exception;
    }
    const std::uint64_t next = next_rip(cpu, op.insn);
    const std::uint64_t low = (cpu.cr0 & ~0xeULL) | (value & 0xfU);  // PE can be set, not cleared
    const StepResult result = write_cr0(cpu, low | (cpu.cr0 & c0::kPe));
    if (result == StepResult::EndBlock) {
        cpu.rip = next;
    }
    return result;
}

bool umip_blocks(CpuState& cpu) {
    if ((cpu.cr4 & c4::kUmip) != 0 && cpu.cpl != 0) {
        (void)raise_gp(cpu);
        return true;
    }
    return false;
}

StepResult op_smsw(CpuState& cpu, Op& op) noexcept {
    if (umip_blocks(cpu)) {
        return StepResult::Exception;
    }
    const unsigned size = op.insn.mem.present ? 2 : op.insn.operand_size;
    return write_operand(cpu, op.insn, size, cpu.cr0) ? done(cpu, op.insn) : StepResult::Exception;
}

}  // namespace

Handler select_control_register(const Instruction& insn) noexcept {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_MOV:
            return (insn.opcode & 1U) == 0 ? op_mov_control : op_mov_debug;
        case ZYDIS_MNEMONIC_CLTS:
            return op_clts;
        case ZYDIS_MNEMONIC_LMSW:
            return op_lmsw;
        case ZYDIS_MNEMONIC_SMSW:
            return op_smsw;
        default:
            return select_descriptor(insn);
    }
}

}  // namespace strata::engine::soft
