// Call in: INT n and its kin, fast system calls and their returns. SDM 2; SDM 3A, 5.8.7 and 6.4.4.
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp/events.h"
#include "engine/soft/interp/handlers.h"

namespace strata::engine::soft {
namespace {

namespace fl = x86::rflags;

constexpr std::uint64_t kSingleStep = 1ULL << 14U;  // DR6.BS
constexpr std::uint16_t kCode64 = 0xa09b, kCode32 = 0xc09b, kData32 = 0xc093;

Segment flat_segment(std::uint16_t selector, std::uint16_t attributes, unsigned dpl) {
    Segment s;
    s.selector = selector;
    s.attributes = static_cast<std::uint16_t>(attributes | (dpl << 5U));
    s.limit = 0xffffffffU;
    return s;
}

StepResult op_int(CpuState& cpu, Op& op) noexcept {
    if (v8086(cpu) && iopl(cpu) < 3) {
        return raise_gp(cpu);
    }
    return software_interrupt(cpu, static_cast<std::uint8_t>(op.insn.imm[0]),
                              next_rip(cpu, op.insn));
}

StepResult op_int3(CpuState& cpu, Op& op) noexcept {
    return software_interrupt(cpu, vec::kBp, next_rip(cpu, op.insn));
}

StepResult op_into(CpuState& cpu, Op& op) noexcept {
    return (cpu.rflags & fl::kOf) != 0 ? software_interrupt(cpu, vec::kOf, next_rip(cpu, op.insn))
                                       : done(cpu, op.insn);
}

/// INT1 is a #DB without DR6 bits, delivered like a hardware trap.
StepResult op_int1(CpuState& cpu, Op& op) noexcept {
    cpu.rip = next_rip(cpu, op.insn);
    (void)raise(cpu, vec::kDb);
    cpu.exception.trap = true;
    return StepResult::Exception;
}

StepResult op_syscall(CpuState& cpu, Op& op) noexcept {
    if ((cpu.efer & x86::efer::kSce) == 0 || !protected_mode(cpu)) {
        return raise_ud(cpu);
    }
    const auto selector = static_cast<std::uint16_t>((cpu.star >> 32U) & 0xfffcU);
    const bool from64 = code64(cpu);
    cpu.gpr[x86::Rcx] = next_rip(cpu, op.insn);
    if (long_mode(cpu)) {
        cpu.gpr[x86::R11] = cpu.rflags & ~fl::kRf;
        cpu.rip = from64 ? cpu.lstar : cpu.cstar;
        cpu.rflags = (cpu.rflags & ~cpu.sfmask & ~fl::kRf) | fl::kFixed;
    } else {
        cpu.rip = cpu.star & 0xffffffffU;
        cpu.rflags &= ~(fl::kVm | fl::kIf | fl::kRf);
    }
    cpu.segments[x86::Ss] = flat_segment(static_cast<std::uint16_t>(selector + 8), kData32, 0);
    set_cs(cpu, flat_segment(selector, long_mode(cpu) ? kCode64 : kCode32, 0), 0);
    return StepResult::EndBlock;
}

StepResult op_sysret(CpuState& cpu, Op& op) noexcept {
    if ((cpu.efer & x86::efer::kSce) == 0 || !protected_mode(cpu)) {
        return raise_ud(cpu);
    }
    if (cpu.cpl != 0) {
        return raise_gp(cpu);
    }
    const bool to64 = long_mode(cpu) && (op.insn.rex & 8U) != 0;
    if (to64 && !canonical_address(cpu.gpr[x86::Rcx])) {
        return raise_gp(cpu);
    }
    const auto base = static_cast<std::uint16_t>(cpu.star >> 48U);
    cpu.rip = to64 ? cpu.gpr[x86::Rcx] : cpu.gpr[x86::Rcx] & 0xffffffffU;
    if (long_mode(cpu)) {
        cpu.rflags = (cpu.gpr[x86::R11] & 0x3c7fd7U) | fl::kFixed;
    } else {
        cpu.rflags |= fl::kIf;
    }
    cpu.segments[x86::Ss] = flat_segment(static_cast<std::uint16_t>((base + 8U) | 3U), kData32, 3);
    const auto selector = static_cast<std::uint16_t>(to64 ? base + 16U : base);
    set_cs(cpu,
           flat_segment(static_cast<std::uint16_t>(selector | 3U), to64 ? kCode64 : kCode32, 3), 3);
    if ((cpu.rflags & fl::kTf) != 0) {
        // Unlike after IRET and POPF, the trap comes before the next instruction: TF counts as
        // SYSRET leaves it.
        cpu.dr6 |= kSingleStep;
        (void)raise(cpu, vec::kDb);
        cpu.exception.trap = true;
        return StepResult::Exception;
    }
    return StepResult::EndBlock;
}

StepResult op_sysenter(CpuState& cpu, Op& /*op*/) noexcept {
    if (!protected_mode(cpu) && !v8086(cpu)) {
        return raise_gp(cpu);
    }
    const auto selector = static_cast<std::uint16_t>(cpu.sysenter_cs & 0xfffcU);
    if (selector == 0) {
        return raise_gp(cpu);
    }
    cpu.rflags &= ~(fl::kVm | fl::kIf | fl::kRf);
    cpu.rip = long_mode(cpu) ? cpu.sysenter_eip : cpu.sysenter_eip & 0xffffffffU;
    cpu.gpr[x86::Rsp] = long_mode(cpu) ? cpu.sysenter_esp : cpu.sysenter_esp & 0xffffffffU;
    cpu.segments[x86::Ss] = flat_segment(static_cast<std::uint16_t>(selector + 8), kData32, 0);
    set_cs(cpu, flat_segment(selector, long_mode(cpu) ? kCode64 : kCode32, 0), 0);
    return StepResult::EndBlock;
}

StepResult op_sysexit(CpuState& cpu, Op& op) noexcept {
    const auto base = static_cast<std::uint16_t>(cpu.sysenter_cs & 0xfffcU);
    if (!protected_mode(cpu) || cpu.cpl != 0 || base == 0) {
        return raise_gp(cpu);
    }
    const bool to64 = long_mode(cpu) && (op.insn.rex & 8U) != 0;
    const std::uint64_t rip = cpu.gpr[x86::Rdx];
    const std::uint64_t rsp = cpu.gpr[x86::Rcx];
    if (to64 && (!canonical_address(rip) || !canonical_address(rsp))) {
        return raise_gp(cpu);
    }
    const std::uint64_t mask = to64 ? ~0ULL : 0xffffffffU;
    cpu.rip = rip & mask;
    cpu.gpr[x86::Rsp] = rsp & mask;
    cpu.segments[x86::Ss] =
        flat_segment(static_cast<std::uint16_t>((base + (to64 ? 40U : 24U)) | 3U), kData32, 3);
    const auto selector = static_cast<std::uint16_t>((base + (to64 ? 32U : 16U)) | 3U);
    set_cs(cpu, flat_segment(selector, to64 ? kCode64 : kCode32, 3), 3);
    return StepResult::EndBlock;
}

}  // namespace

Handler select_call_in(const Instruction& insn) noexcept {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_INT:
            return op_int;
        case ZYDIS_MNEMONIC_INT3:
            return op_int3;
        case ZYDIS_MNEMONIC_INT1:
            return op_int1;
        case ZYDIS_MNEMONIC_INTO:
            return op_into;
        case ZYDIS_MNEMONIC_SYSCALL:
            return op_syscall;
        case ZYDIS_MNEMONIC_SYSRET:
            return op_sysret;
        case ZYDIS_MNEMONIC_SYSENTER:
            return op_sysenter;
        case ZYDIS_MNEMONIC_SYSEXIT:
            return op_sysexit;
        default:
            return nullptr;
    }
}

}  // namespace strata::engine::soft
