// Descriptor operations: LGDT, LIDT, SGDT, SIDT, LLDT, LTR, SLDT, STR, LAR, LSL, VERR, VERW, ARPL.
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp/descriptors.h"
#include "engine/soft/interp/handlers.h"

namespace strata::engine::soft {
namespace {

bool umip_blocks(CpuState& cpu) {
    if ((cpu.cr4 & x86::cr4::kUmip) != 0 && cpu.cpl != 0) {
        (void)raise_gp(cpu);
        return true;
    }
    return false;
}

StepResult op_store_table(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    if (umip_blocks(cpu)) {
        return StepResult::Exception;
    }
    const arch::x86::DescriptorTable& table =
        insn.mnemonic == ZYDIS_MNEMONIC_SGDT ? cpu.gdtr : cpu.idtr;
    std::uint8_t image[10];
    __builtin_memcpy(image, &table.limit, 2);
    __builtin_memcpy(image + 2, &table.base, 8);
    const std::uint32_t bytes = code64(cpu) ? 10 : 6;
    return store_bytes(cpu, insn.mem.segment, effective_address(cpu, insn), image, bytes)
               ? done(cpu, insn)
               : StepResult::Exception;
}

StepResult op_load_table(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    if (cpu.cpl != 0) {
        return raise_gp(cpu);
    }
    std::uint8_t image[10] = {};
    const std::uint32_t bytes = code64(cpu) ? 10 : 6;
    if (!load_bytes(cpu, insn.mem.segment, effective_address(cpu, insn), image, bytes)) {
        return StepResult::Exception;
    }
    arch::x86::DescriptorTable table;
    __builtin_memcpy(&table.limit, image, 2);
    __builtin_memcpy(&table.base, image + 2, 8);
    if (!code64(cpu)) {
        table.base &= insn.operand_size == 2 ? 0xffffffU : 0xffffffffU;
    } else if (!canonical_address(table.base)) {
        return raise_gp(cpu);
    }
    (insn.mnemonic == ZYDIS_MNEMONIC_LGDT ? cpu.gdtr : cpu.idtr) = table;
    return done_end_block(cpu, insn);
}

StepResult op_store_selector(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    if (!protected_mode(cpu)) {
        return raise_ud(cpu);
    }
    if (umip_blocks(cpu)) {
        return StepResult::Exception;
    }
    const std::uint16_t selector =
        insn.mnemonic == ZYDIS_MNEMONIC_SLDT ? cpu.ldtr.selector : cpu.tr.selector;
    return write_operand(cpu, insn, insn.mem.present ? 2 : insn.operand_size, selector)
               ? done(cpu, insn)
               : StepResult::Exception;
}

/// What LLDT and LTR share: the descriptor of a GDT selector, 16 bytes in long mode.
bool system_descriptor(CpuState& cpu, std::uint16_t selector, Descriptor& d) {
    if ((selector & 4U) != 0) {
        return selector_fault(cpu, vec::kGp, selector);
    }
    if (!read_descriptor(cpu, selector, vec::kGp, d)) {
        return false;
    }
    return !long_mode(cpu) || read_descriptor_high(cpu, selector, vec::kGp, d);
}

Segment system_segment(const CpuState& cpu, std::uint16_t selector, const Descriptor& d) {
    Segment s = segment_from(selector, d);
    if (long_mode(cpu)) {
        s.base |= d.high << 32U;
    }
    return s;
}

bool load_selector_operand(CpuState& cpu, const Instruction& insn, std::uint16_t& selector) {
    if (!protected_mode(cpu)) {
        (void)raise_ud(cpu);
        return false;
    }
    if (cpu.cpl != 0) {
        (void)raise_gp(cpu);
        return false;
    }
    std::uint64_t value = 0;
    if (!read_operand(cpu, insn, 2, value)) {
        return false;
    }
    selector = static_cast<std::uint16_t>(value);
    return true;
}

StepResult op_lldt(CpuState& cpu, Op& op) noexcept {
    std::uint16_t selector = 0;
    if (!load_selector_operand(cpu, op.insn, selector)) {
        return StepResult::Exception;
    }
    if (is_null(selector)) {
        cpu.ldtr = null_segment(selector);
        return done(cpu, op.insn);
    }
    Descriptor d;
    if (!system_descriptor(cpu, selector, d)) {
        return StepResult::Exception;
    }
    if (d.code_or_data() || d.type() != 2) {
        (void)selector_fault(cpu, vec::kGp, selector);
        return StepResult::Exception;
    }
    if (!d.present()) {
        (void)selector_fault(cpu, vec::kNp, selector);
        return StepResult::Exception;
    }
    const Segment s = system_segment(cpu, selector, d);
    if (long_mode(cpu) && !canonical_address(s.base)) {
        (void)selector_fault(cpu, vec::kGp, selector);
        return StepResult::Exception;
    }
    cpu.ldtr = s;
    return done(cpu, op.insn);
}

StepResult op_ltr(CpuState& cpu, Op& op) noexcept {
    std::uint16_t selector = 0;
    if (!load_selector_operand(cpu, op.insn, selector)) {
        return StepResult::Exception;
    }
    if (is_null(selector)) {
        return raise_gp(cpu);
    }
    Descriptor d;
    if (!system_descriptor(cpu, selector, d)) {
        return StepResult::Exception;
    }
    const bool available = d.type() == 9 || (d.type() == 1 && !long_mode(cpu));
    if (d.code_or_data() || !available) {
        (void)selector_fault(cpu, vec::kGp, selector);
        return StepResult::Exception;
    }
    if (!d.present()) {
        (void)selector_fault(cpu, vec::kNp, selector);
        return StepResult::Exception;
    }
    Segment s = system_segment(cpu, selector, d);
    if (long_mode(cpu) && !canonical_address(s.base)) {
        (void)selector_fault(cpu, vec::kGp, selector);
        return StepResult::Exception;
    }
    if (!set_tss_busy(cpu, selector, true)) {
        return StepResult::Exception;
    }
    s.attributes |= 2U;
    cpu.tr = s;
    return done(cpu, op.insn);
}

/// Whether the current privilege may know about `d`.
bool visible(const CpuState& cpu, std::uint16_t selector, const Descriptor& d) {
    const bool conforming = d.code() && d.conforming();
    return conforming || (d.dpl() >= cpu.cpl && d.dpl() >= (selector & 3U));
}

StepResult with_zf(CpuState& cpu, const Instruction& insn, bool zf) {
    set_arithmetic(cpu, zf ? x86::rflags::kZf : 0, x86::rflags::kZf);
    return done(cpu, insn);
}

bool inspected(CpuState& cpu, const Instruction& insn, std::uint16_t& selector, Descriptor& d,
               bool& found) {
    std::uint64_t value = 0;
    found = false;
    if (!protected_mode(cpu)) {
        (void)raise_ud(cpu);
        return false;
    }
    if (!read_operand(cpu, insn, 2, value)) {
        return false;
    }
    selector = static_cast<std::uint16_t>(value);
    return is_null(selector) || find_descriptor(cpu, selector, d, found);
}

StepResult op_lar_lsl(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    const bool limit = insn.mnemonic == ZYDIS_MNEMONIC_LSL;
    std::uint16_t selector = 0;
    Descriptor d;
    bool found = false;
    if (!inspected(cpu, insn, selector, d, found)) {
        return StepResult::Exception;
    }
    if (found && !d.code_or_data()) {
        // Types valid for LAR and LSL: SDM 2, tables 3-54 and 3-62.
        const unsigned legacy = limit ? 0x0a0eU : 0x1a3eU;    // LSL: 1 2 3 9 11; LAR: also 4 5 12
        const unsigned extended = limit ? 0x0a04U : 0x1a04U;  // long mode: 2 9 11 and 12
        found = (((long_mode(cpu) ? extended : legacy) >> d.type()) & 1U) != 0;
    }
    if (!found || !visible(cpu, selector, d)) {
        return with_zf(cpu, insn, false);
    }
    const std::uint64_t value =
        limit ? segment_from(selector, d).limit : (d.low >> 32U) & 0xf0ff00U;
    set_gpr(cpu, insn.reg, insn.operand_size, value);
    return with_zf(cpu, insn, true);
}

StepResult op_verify(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    std::uint16_t selector = 0;
    Descriptor d;
    bool found = false;
    if (!inspected(cpu, insn, selector, d, found)) {
        return StepResult::Exception;
    }
    bool good = found && d.code_or_data() && visible(cpu, selector, d);
    if (insn.mnemonic == ZYDIS_MNEMONIC_VERW) {
        good = good && !d.code() && d.readable();
    } else {
        good = good && (!d.code() || d.readable());
    }
    return with_zf(cpu, insn, good);
}

}  // namespace

Handler select_descriptor(const Instruction& insn) noexcept {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_SGDT:
        case ZYDIS_MNEMONIC_SIDT:
            return op_store_table;
        case ZYDIS_MNEMONIC_LGDT:
        case ZYDIS_MNEMONIC_LIDT:
            return op_load_table;
        case ZYDIS_MNEMONIC_SLDT:
        case ZYDIS_MNEMONIC_STR:
            return op_store_selector;
        case ZYDIS_MNEMONIC_LLDT:
            return op_lldt;
        case ZYDIS_MNEMONIC_LTR:
            return op_ltr;
        case ZYDIS_MNEMONIC_LAR:
        case ZYDIS_MNEMONIC_LSL:
            return op_lar_lsl;
        case ZYDIS_MNEMONIC_VERR:
        case ZYDIS_MNEMONIC_VERW:
            return op_verify;
        default:
            return nullptr;
    }
}

}  // namespace strata::engine::soft
