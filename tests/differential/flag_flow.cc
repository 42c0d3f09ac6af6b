// FlagFlow: one pass in each direction; branches only go forward.
#include "differential/flag_flow.h"

#include <Zydis/Mnemonic.h>

#include "arch/x86/registers.h"

namespace strata::differential {
namespace {

using engine::soft::InsnClass;
using engine::soft::Instruction;

constexpr std::uint64_t kArithmetic = arch::x86::rflags::kArithmetic;

// Shifts by CL or an immediate that may be a multiple of the width, repeated strings, and BSF/BSR
// of zero.
bool may_keep_flags(const Instruction& insn) {
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
            const unsigned mask = insn.operand_size == 8 ? 63 : 31;
            const bool by_one =
                insn.opcode_map == 0 && (insn.opcode == 0xd0 || insn.opcode == 0xd1);
            return !by_one &&
                   (insn.imm_count == 0 || (static_cast<unsigned>(insn.imm[0]) & mask) == 0);
        }
        case ZYDIS_MNEMONIC_BSF:
        case ZYDIS_MNEMONIC_BSR:
            return true;
        default:
            return insn.cls == InsnClass::String && (insn.raw_f2 || insn.raw_f3);
    }
}

}  // namespace

FlowStep flow_step(const Instruction& insn) {
    FlowStep step;
    step.read = insn.flags_read & kArithmetic;
    step.written = insn.flags_written & kArithmetic;
    step.undefined = insn.flags_undefined & kArithmetic;
    step.may_keep = may_keep_flags(insn);
    step.branch = insn.cls >= InsnClass::Jcc && insn.cls <= InsnClass::Loop;
    step.falls_through = !step.branch || insn.cls == InsnClass::Jcc || insn.cls == InsnClass::Loop;
    return step;
}

std::vector<LooseFlags> follow_flags(const std::vector<FlowStep>& steps) {
    std::vector<LooseFlags> at(steps.size() + 1);
    for (std::size_t i = 0; i < steps.size(); ++i) {
        const FlowStep& step = steps[i];
        const std::uint64_t kept =
            step.may_keep ? at[i].undefined : at[i].undefined & ~step.written;
        const std::uint64_t after = kept | step.undefined;
        // An indirect branch or a return may go anywhere, but behind it as well.
        if (step.falls_through || step.target == FlowStep::kNoTarget) {
            at[i + 1].undefined |= after;
        }
        if (step.target != FlowStep::kNoTarget) {
            at[step.target].undefined |= after;
        }
    }
    for (std::size_t i = steps.size(); i-- > 0;) {
        const FlowStep& step = steps[i];
        at[i].dead =
            step.branch ? 0 : (at[i + 1].dead | (step.may_keep ? 0 : step.written)) & ~step.read;
    }
    return at;
}

}  // namespace strata::differential
