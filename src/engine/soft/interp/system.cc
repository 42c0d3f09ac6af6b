// System: MSRs, CPUID, TSC, interrupt flag, halting, TLB maintenance, extended control registers.
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp/descriptors.h"
#include "engine/soft/interp/handlers.h"
#include "engine/soft/runtime/soft_vm.h"

namespace strata::engine::soft {
namespace {

namespace fl = x86::rflags;
namespace c4 = x86::cr4;

constexpr std::uint64_t kApicEnabled = 1U << 11U;  // of IA32_APIC_BASE
constexpr std::uint32_t kCpuidApic = 1U << 9U;     // leaf 1, EDX
constexpr std::uint32_t kCpuidOspke = 1U << 4U;    // leaf 7, ECX

std::uint64_t edx_eax(const CpuState& cpu) {
    return (cpu.gpr[x86::Rdx] << 32U) | (cpu.gpr[x86::Rax] & 0xffffffffU);
}
void set_edx_eax(CpuState& cpu, std::uint64_t value) {
    cpu.gpr[x86::Rax] = value & 0xffffffffU;
    cpu.gpr[x86::Rdx] = value >> 32U;
}

StepResult op_cpuid(CpuState& cpu, Op& op) noexcept {
    save_vector_state(cpu);
    const auto leaf = static_cast<std::uint32_t>(cpu.gpr[x86::Rax]);
    const auto subleaf = static_cast<std::uint32_t>(cpu.gpr[x86::Rcx]);
    arch::x86::CpuidRegisters r = cpu.vm->cpuid(cpu).find(leaf, subleaf);
    if (leaf == 1) {
        std::uint64_t apic = 0;
        if (cpu.vm->read_msr(cpu, x86::msr::kApicBase, apic) && (apic & kApicEnabled) == 0) {
            r.edx &= ~kCpuidApic;
        }
        r.ecx = (r.ecx & ~(1U << 27U)) | ((cpu.cr4 & c4::kOsxsave) != 0 ? 1U << 27U : 0U);
    } else if (leaf == 7 && subleaf == 0) {
        r.ecx = (r.ecx & ~kCpuidOspke) | ((cpu.cr4 & c4::kPke) != 0 ? kCpuidOspke : 0U);
    } else if (leaf == 0xd && subleaf <= 1) {
        // EBX: the size of the image for what XCR0 enables.
        std::uint32_t bytes = 576;
        for (unsigned i = 2; i < 10; ++i) {
            if (((cpu.xcr0 >> i) & 1U) != 0) {
                const arch::x86::CpuidRegisters part = cpu.vm->cpuid(cpu).find(0xd, i);
                const std::uint32_t end = subleaf == 0 ? part.ebx + part.eax : bytes + part.eax;
                bytes = end > bytes ? end : bytes;
            }
        }
        r.ebx = subleaf == 0 || (r.eax & 0xaU) != 0 ? bytes : r.ebx;
    }
    cpu.gpr[x86::Rax] = r.eax;
    cpu.gpr[x86::Rbx] = r.ebx;
    cpu.gpr[x86::Rcx] = r.ecx;
    cpu.gpr[x86::Rdx] = r.edx;
    return done(cpu, op.insn);
}

StepResult op_rdmsr(CpuState& cpu, Op& op) noexcept {
    if (!privileged(cpu)) {
        return StepResult::Exception;
    }
    save_vector_state(cpu);
    std::uint64_t value = 0;
    if (!cpu.vm->read_msr(cpu, static_cast<std::uint32_t>(cpu.gpr[x86::Rcx]), value)) {
        return raise_gp(cpu);
    }
    set_edx_eax(cpu, value);
    return done(cpu, op.insn);
}

StepResult op_wrmsr(CpuState& cpu, Op& op) noexcept {
    if (!privileged(cpu)) {
        return StepResult::Exception;
    }
    save_vector_state(cpu);
    if (!cpu.vm->write_msr(cpu, static_cast<std::uint32_t>(cpu.gpr[x86::Rcx]), edx_eax(cpu))) {
        return raise_gp(cpu);
    }
    update_mode(cpu);
    return done_end_block(cpu, op.insn);
}

bool tsc_allowed(CpuState& cpu) {
    if ((cpu.cr4 & c4::kTsd) != 0 && cpu.cpl != 0) {
        (void)raise_gp(cpu);
        return false;
    }
    return true;
}

StepResult op_rdtsc(CpuState& cpu, Op& op) noexcept {
    if (!tsc_allowed(cpu)) {
        return StepResult::Exception;
    }
    set_edx_eax(cpu, __builtin_ia32_rdtsc() + cpu.tsc_offset);
    if (op.insn.mnemonic == ZYDIS_MNEMONIC_RDTSCP) {
        cpu.gpr[x86::Rcx] = cpu.tsc_aux & 0xffffffffU;
    }
    return done(cpu, op.insn);
}

StepResult op_rdpid(CpuState& cpu, Op& op) noexcept {
    set_gpr(cpu, op.insn.rm, 8, cpu.tsc_aux & 0xffffffffU);
    return done(cpu, op.insn);
}

/// No performance counters are offered: any index is wrong.
StepResult op_rdpmc(CpuState& cpu, Op& /*op*/) noexcept {
    return raise_gp(cpu);
}

StepResult op_swapgs(CpuState& cpu, Op& op) noexcept {
    if (!code64(cpu)) {
        return raise_ud(cpu);
    }
    if (!privileged(cpu)) {
        return StepResult::Exception;
    }
    const std::uint64_t base = cpu.segments[x86::Gs].base;
    cpu.segments[x86::Gs].base = cpu.kernel_gs_base;
    cpu.kernel_gs_base = base;
    return done(cpu, op.insn);
}

template <bool set>
StepResult op_access_flag(CpuState& cpu, Op& op) noexcept {
    if (cpu.cpl != 0) {
        return raise_ud(cpu);
    }
    cpu.rflags = set ? cpu.rflags | fl::kAc : cpu.rflags & ~fl::kAc;
    update_mode(cpu);
    privilege_changed(cpu);
    return done_end_block(cpu, op.insn);
}

/// How CLI and STI act: 0 #GP, 1 IF, 2 VIF. SDM 2, CLI.
unsigned interrupt_flag_target(const CpuState& cpu) {
    if ((cpu.mode & ModeBits::kProtected) == 0 || (!v8086(cpu) && cpu.cpl <= iopl(cpu)) ||
        (v8086(cpu) && iopl(cpu) == 3)) {
        return 1;
    }
    const bool virtual_flag =
        v8086(cpu) ? (cpu.cr4 & c4::kVme) != 0 : cpu.cpl == 3 && (cpu.cr4 & c4::kPvi) != 0;
    return virtual_flag ? 2 : 0;
}

StepResult op_cli(CpuState& cpu, Op& op) noexcept {
    switch (interrupt_flag_target(cpu)) {
        case 0:
            return raise_gp(cpu);
        case 1:
            cpu.rflags &= ~fl::kIf;
            break;
        default:
            cpu.rflags &= ~fl::kVif;
            break;
    }
    return done(cpu, op.insn);
}

StepResult op_sti(CpuState& cpu, Op& op) noexcept {
    switch (interrupt_flag_target(cpu)) {
        case 0:
            return raise_gp(cpu);
        case 1:
            cpu.interrupt_shadow = (cpu.rflags & fl::kIf) == 0;
            cpu.rflags |= fl::kIf;
            break;
        default:
            if ((cpu.rflags & fl::kVip) != 0) {
                return raise_gp(cpu);
            }
            cpu.rflags |= fl::kVif;
            break;
    }
    return done_end_block(cpu, op.insn);
}

template <bool set>
StepResult op_direction(CpuState& cpu, Op& op) noexcept {
    cpu.rflags = set ? cpu.rflags | fl::kDf : cpu.rflags & ~fl::kDf;
    return done(cpu, op.insn);
}

StepResult op_hlt(CpuState& cpu, Op& op) noexcept {
    if (!privileged(cpu)) {
        return StepResult::Exception;
    }
    cpu.rip = next_rip(cpu, op.insn);
    cpu.halted = true;
    return StepResult::Halted;
}

/// INVD, WBINVD: there are no caches to speak of.
StepResult op_privileged_nop(CpuState& cpu, Op& op) noexcept {
    return privileged(cpu) ? done(cpu, op.insn) : StepResult::Exception;
}

StepResult op_serialize(CpuState& cpu, Op& op) noexcept {
    return done_end_block(cpu, op.insn);
}

StepResult op_invlpg(CpuState& cpu, Op& op) noexcept {
    if (!privileged(cpu)) {
        return StepResult::Exception;
    }
    const std::uint64_t offset = effective_address(cpu, op.insn);
    const unsigned segment = op.insn.mem.segment;
    const bool flat = code64(cpu) && segment < x86::Fs;
    const std::uint64_t linear = flat ? offset : cpu.segments[segment].base + offset;
    flush_tlb_page(cpu, code64(cpu) ? linear : linear & 0xffffffffU);
    return done_end_block(cpu, op.insn);
}

StepResult op_invpcid(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    if (!privileged(cpu)) {
        return StepResult::Exception;
    }
    const std::uint64_t type = get_gpr(cpu, insn.reg, code64(cpu) ? 8 : 4);
    std::uint64_t words[2] = {};
    if (!load_bytes(cpu, insn.mem.segment, effective_address(cpu, insn), words, 16)) {
        return StepResult::Exception;
    }
    const auto pcid = static_cast<std::uint16_t>(words[0] & 0xfffU);
    const bool no_pcids = (cpu.cr4 & c4::kPcide) == 0 && pcid != 0;
    if (type > 3 || (type <= 1 && ((words[0] >> 12U) != 0 || no_pcids)) ||
        (type == 0 && !canonical_address(words[1]))) {
        return raise_gp(cpu);
    }
    switch (type) {
        case 0:
            flush_tlb_pcid_page(cpu, pcid, words[1]);
            break;
        case 1:
            flush_tlb_pcid(cpu, pcid, true);
            break;
        default:
            flush_tlb_all(cpu);
            break;  // 2 with, 3 without globals: more is allowed
    }
    return done_end_block(cpu, insn);
}

StepResult op_hypercall(CpuState& cpu, Op& op) noexcept {
    save_vector_state(cpu);
    const std::uint64_t mask = code64(cpu) ? ~0ULL : 0xffffffffU;
    constexpr std::uint64_t kNotPermitted = ~0ULL;  // -KVM_EPERM
    std::uint64_t answer = kNotPermitted;
    if (cpu.cpl == 0) {
        answer = cpu.vm->hypercall(cpu, cpu.gpr[x86::Rax] & mask, cpu.gpr[x86::Rbx] & mask,
                                   cpu.gpr[x86::Rcx] & mask, cpu.gpr[x86::Rdx] & mask,
                                   cpu.gpr[x86::Rsi] & mask);
    }
    cpu.gpr[x86::Rax] = answer & mask;
    return done_end_block(cpu, op.insn);
}

StepResult op_xgetbv(CpuState& cpu, Op& op) noexcept {
    if ((cpu.cr4 & c4::kOsxsave) == 0) {
        return raise_ud(cpu);
    }
    const auto index = static_cast<std::uint32_t>(cpu.gpr[x86::Rcx]);
    if (index > 1) {
        return raise_gp(cpu);
    }
    std::uint64_t value = cpu.xcr0;
    if (index == 1) {
        save_vector_state(cpu);
        std::uint64_t in_use = 0;
        __builtin_memcpy(&in_use, cpu.xsave + 512, 8);
        in_use |= cpu.pkru != 0 ? 1U << 9U : 0U;
        value &= in_use;
    }
    set_edx_eax(cpu, value);
    return done(cpu, op.insn);
}

bool xcr0_allowed(const InterpreterContext& here, std::uint64_t value) {
    const std::uint64_t avx512 = value & 0xe0U;
    return (value & 1U) != 0 && (value & ~here.xcr0_supported) == 0 &&
           ((value & 4U) == 0 || (value & 2U) != 0) &&
           (avx512 == 0 || (avx512 == 0xe0 && (value & 4U) != 0));
}

StepResult op_xsetbv(CpuState& cpu, Op& op) noexcept {
    if ((cpu.cr4 & c4::kOsxsave) == 0) {
        return raise_ud(cpu);
    }
    if (!privileged(cpu)) {
        return StepResult::Exception;
    }
    const std::uint64_t value = edx_eax(cpu);
    if ((cpu.gpr[x86::Rcx] & 0xffffffffU) != 0 || !xcr0_allowed(context(cpu), value)) {
        return raise_gp(cpu);
    }
    cpu.xcr0 = value;
    update_mode(cpu);
    return done_end_block(cpu, op.insn);
}

bool pkru_access(CpuState& cpu) {
    if ((cpu.cr4 & c4::kPke) == 0) {
        (void)raise_ud(cpu);
        return false;
    }
    if ((cpu.gpr[x86::Rcx] & 0xffffffffU) != 0) {
        (void)raise_gp(cpu);
        return false;
    }
    return true;
}

StepResult op_rdpkru(CpuState& cpu, Op& op) noexcept {
    if (!pkru_access(cpu)) {
        return StepResult::Exception;
    }
    set_edx_eax(cpu, cpu.pkru);
    return done(cpu, op.insn);
}

StepResult op_wrpkru(CpuState& cpu, Op& op) noexcept {
    if (!pkru_access(cpu)) {
        return StepResult::Exception;
    }
    if ((cpu.gpr[x86::Rdx] & 0xffffffffU) != 0) {
        return raise_gp(cpu);
    }
    write_pkru(cpu, static_cast<std::uint32_t>(cpu.gpr[x86::Rax]));
    return done_end_block(cpu, op.insn);
}

StepResult op_monitor(CpuState& cpu, Op& op) noexcept {
    if (cpu.cpl != 0) {
        return raise_ud(cpu);
    }
    __asm__ volatile("pause");
    return done_end_block(cpu, op.insn);
}

}  // namespace

Handler select_system(const Instruction& insn) noexcept {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_CPUID:
            return op_cpuid;
        case ZYDIS_MNEMONIC_RDMSR:
            return op_rdmsr;
        case ZYDIS_MNEMONIC_WRMSR:
            return op_wrmsr;
        case ZYDIS_MNEMONIC_RDTSC:
        case ZYDIS_MNEMONIC_RDTSCP:
            return op_rdtsc;
        case ZYDIS_MNEMONIC_RDPID:
            return op_rdpid;
        case ZYDIS_MNEMONIC_RDPMC:
            return op_rdpmc;
        case ZYDIS_MNEMONIC_SWAPGS:
            return op_swapgs;
        case ZYDIS_MNEMONIC_CLAC:
            return op_access_flag<false>;
        case ZYDIS_MNEMONIC_STAC:
            return op_access_flag<true>;
        case ZYDIS_MNEMONIC_CLI:
            return op_cli;
        case ZYDIS_MNEMONIC_STI:
            return op_sti;
        case ZYDIS_MNEMONIC_CLD:
            return op_direction<false>;
        case ZYDIS_MNEMONIC_STD:
            return op_direction<true>;
        case ZYDIS_MNEMONIC_HLT:
            return op_hlt;
        case ZYDIS_MNEMONIC_INVD:
        case ZYDIS_MNEMONIC_WBINVD:
            return op_privileged_nop;
        case ZYDIS_MNEMONIC_SERIALIZE:
            return op_serialize;
        case ZYDIS_MNEMONIC_INVLPG:
            return op_invlpg;
        case ZYDIS_MNEMONIC_INVPCID:
            return op_invpcid;
        case ZYDIS_MNEMONIC_VMCALL:
        case ZYDIS_MNEMONIC_VMMCALL:
            return op_hypercall;
        case ZYDIS_MNEMONIC_XGETBV:
            return op_xgetbv;
        case ZYDIS_MNEMONIC_XSETBV:
            return op_xsetbv;
        case ZYDIS_MNEMONIC_RDPKRU:
            return op_rdpkru;
        case ZYDIS_MNEMONIC_WRPKRU:
            return op_wrpkru;
        case ZYDIS_MNEMONIC_MONITOR:
        case ZYDIS_MNEMONIC_MWAIT:
            return op_monitor;
        default:
            return select_control_register(insn);
    }
}

}  // namespace strata::engine::soft
