// Host run: data-processing instructions executed by the host CPU itself, on the guest's registers
// and operand.
//
// The operand is RAM itself where it lies in one page (so atomicity and alignment are the
// hardware's own); a copy where it crosses pages or belongs to a device. Registers are committed
// after the last thing that can fault. Locked accesses that cross a page run while every other vCPU
// is stopped.
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp/handlers.h"
#include "engine/soft/interp/operands.h"
#include "engine/soft/interp/xsave_image.h"
#include "engine/soft/runtime/host_faults.h"
#include "engine/soft/runtime/soft_vm.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kHostFlags = x86::rflags::kFixed | x86::rflags::kIf;
constexpr std::size_t kMxcsrOffset = 24;
constexpr std::uint32_t kMisalignedMask = 1U << 17;  // MXCSR.MM (AMD)

std::uint32_t guest_mxcsr(CpuState& cpu) {
    if (cpu.vector_live != 0) {
        std::uint32_t value = 0;
        __asm__ volatile("stmxcsr %0" : "=m"(value));
        return value;
    }
    return *reinterpret_cast<const std::uint32_t*>(cpu.xsave + kMxcsrOffset);
}

/// A host exception inside a stub as the guest sees it. One that no guest operand explains (a page
/// fault: the stub touched memory that its table row does not tell of) is an error of this engine,
/// and #UD to the guest.
StepResult guest_exception(CpuState& cpu, const Instruction& insn, std::uint64_t trap) {
    const auto vector = static_cast<std::uint8_t>(trap - 1);
    switch (vector) {
        case vec::kDe:
        case vec::kUd:
        case vec::kMf:
            return raise(cpu, vector);
        case vec::kXm:
            return (cpu.cr4 & x86::cr4::kOsxmmexcpt) != 0 ? raise(cpu, vec::kXm) : raise_ud(cpu);
        case vec::kAc:
            return raise_error(cpu, vec::kAc, 0);
        case vec::kGp:
            return raise_gp(cpu);
        default:
            save_vector_state(cpu);
            report_unexplained_fault(mnemonic_name(insn), vector);
            return raise_ud(cpu);
    }
}

/// Splits an access that one host pointer cannot serve.
StepResult run_on_copy(CpuState& cpu, Op& op, std::uint64_t linear) {
    const MemoryOperand& mem = op.insn.mem;
    if (mem.write && !probe_write(cpu, linear, mem.size)) {
        (void)memory_fault(cpu, mem.segment);
        return StepResult::Exception;
    }
    std::byte* copy = context(cpu).scratch + (linear & 63U);
    if (mem.read && !read_linear(cpu, linear, copy, mem.size)) {
        (void)memory_fault(cpu, mem.segment);
        return StepResult::Exception;
    }
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): filled by run_in_frame()
    HostFrame frame;
    if (!run_in_frame(cpu, op, copy, frame)) {
        return StepResult::Exception;
    }
    if (mem.write && !write_linear(cpu, linear, copy, mem.size)) {
        return StepResult::Exception;
    }
    commit_frame(cpu, op, frame);
    return done(cpu, op.insn);
}

StepResult run_split_lock(CpuState& cpu, Op& op, std::uint64_t linear) {
    StepResult result = StepResult::Done;
    save_vector_state(cpu);
    cpu.vm->run_exclusive(&cpu, [&] { result = run_on_copy(cpu, op, linear); });
    return result;
}

bool is_atomic(const Instruction& insn) {
    return insn.lock || (insn.mnemonic == ZYDIS_MNEMONIC_XCHG && insn.mem.present);
}

StepResult run_with_memory(CpuState& cpu, Op& op) {
    const Instruction& insn = op.insn;
    const MemoryOperand& mem = insn.mem;
    std::uint64_t linear = 0;
    if (!segment_linear(cpu, mem.segment, effective_address(cpu, insn), mem.size, mem.write,
                        linear)) {
        return StepResult::Exception;
    }
    if (mem.aligned && (linear & (mem.size - 1U)) != 0 &&
        (insn.encoding != Encoding::Legacy || (guest_mxcsr(cpu) & kMisalignedMask) == 0 ||
         insn.vector == VectorKind::None)) {
        return raise_gp(cpu);
    }
    const bool crosses = (linear & 0xfffU) + mem.size > 0x1000;
    if (!crosses) {
        std::byte* host = tlb_hit(cpu, linear, mem.size, mem.write);
        if (host == nullptr) {
            host =
                host_pointer(cpu, linear, mem.size, mem.write ? MemAccess::Write : MemAccess::Read);
        }
        if (host != nullptr) {
            return run_with_operand(cpu, op, host) ? done(cpu, insn) : StepResult::Exception;
        }
        if (cpu.exception.pending) {
            (void)memory_fault(cpu, mem.segment);
            return StepResult::Exception;
        }
    } else if (is_atomic(insn)) {
        return run_split_lock(cpu, op, linear);
    }
    return run_on_copy(cpu, op, linear);
}

bool waits_for_x87(const Instruction& insn) {
    const bool control =
        insn.mnemonic == ZYDIS_MNEMONIC_FNSTSW || insn.mnemonic == ZYDIS_MNEMONIC_FNSTCW;
    return (insn.vector == VectorKind::X87 && !control) || insn.vector == VectorKind::Mmx;
}

}  // namespace

bool vector_allowed(CpuState& cpu, const Instruction& insn) noexcept {
    const bool extended = insn.encoding != Encoding::Legacy;
    if (extended &&
        (cpu.mode & (ModeBits::kProtected | ModeBits::kV8086)) != ModeBits::kProtected) {
        (void)raise_ud(cpu);
        return false;
    }
    bool undefined = false;
    bool not_available = (cpu.cr0 & x86::cr0::kTs) != 0;
    switch (insn.vector) {
        case VectorKind::None:
            return true;
        case VectorKind::X87:
            if (insn.mnemonic == ZYDIS_MNEMONIC_FWAIT) {
                not_available = not_available && (cpu.cr0 & x86::cr0::kMp) != 0;
            } else {
                not_available = not_available || (cpu.cr0 & x86::cr0::kEm) != 0;
            }
            break;
        case VectorKind::Mmx:
            undefined = (cpu.cr0 & x86::cr0::kEm) != 0;
            break;
        case VectorKind::Sse:
            undefined = (cpu.cr0 & x86::cr0::kEm) != 0 || (cpu.cr4 & x86::cr4::kOsfxsr) == 0;
            break;
        case VectorKind::Avx:
            undefined = (cpu.cr4 & x86::cr4::kOsxsave) == 0 || (cpu.xcr0 & 6U) != 6;
            break;
        case VectorKind::Avx512:
            undefined = (cpu.cr4 & x86::cr4::kOsxsave) == 0 || (cpu.xcr0 & 0xe6U) != 0xe6;
            break;
    }
    if (undefined) {
        (void)raise_ud(cpu);
        return false;
    }
    if (not_available) {
        (void)raise(cpu, vec::kNm);
        return false;
    }
    return true;
}

bool x87_error_pending(const CpuState& cpu) noexcept {
    std::uint16_t status = 0;
    if (cpu.vector_live != 0) {
        __asm__ volatile("fnstsw %0" : "=m"(status));
    } else if ((xstate_bv(cpu) & 1U) != 0) {
        __builtin_memcpy(&status, cpu.xsave + 2, 2);
    }
    return (status & 0x80U) != 0;
}

bool run_in_frame(CpuState& cpu, Op& op, std::byte* host, HostFrame& frame) noexcept {
    InterpreterContext& here = context(cpu);
    if (!here.arena->valid(op.stub) && !here.arena->make(op.insn, op.stub)) {
        (void)raise_ud(cpu);
        return false;
    }
    for (unsigned i = 0; i < 16; ++i) {
        frame.gpr[i] = cpu.gpr[i];
    }
    if (op.stub.rsp_alias != kNoHostRegister) {
        frame.gpr[op.stub.rsp_alias] = cpu.gpr[x86::Rsp];
    }
    if (op.stub.base != kNoHostRegister) {
        frame.gpr[op.stub.base] = reinterpret_cast<std::uint64_t>(host);
    }
    frame.flags = (cpu.rflags & x86::rflags::kArithmetic) | kHostFlags;
    frame.trap = 0;
    const bool vector = op.insn.vector != VectorKind::None;
    const bool was_live = cpu.vector_live != 0;
    if (vector && !was_live) {
        load_vector_state(cpu);
    }
    run_stub(frame, op.stub.code);
    if (vector && !was_live) {
        save_vector_state(cpu);
    }
    if (frame.trap != 0) [[unlikely]] {
        (void)guest_exception(cpu, op.insn, frame.trap);
        return false;
    }
    return true;
}

void commit_frame(CpuState& cpu, const Op& op, const HostFrame& frame) noexcept {
    std::uint32_t written = op.insn.gpr_write;
    while (written != 0) {
        const auto reg = static_cast<unsigned>(__builtin_ctz(written));
        written &= written - 1;
        cpu.gpr[reg] = frame.gpr[reg == x86::Rsp ? op.stub.rsp_alias : reg];
    }
    set_arithmetic(cpu, frame.flags);
}

bool run_with_operand(CpuState& cpu, Op& op, std::byte* host) noexcept {
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): filled by run_in_frame()
    HostFrame frame;
    if (!run_in_frame(cpu, op, host, frame)) {
        return false;
    }
    commit_frame(cpu, op, frame);
    return true;
}

StepResult op_on_host(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    if ((insn.vector != VectorKind::None || insn.encoding != Encoding::Legacy) &&
        !vector_allowed(cpu, insn)) {
        return StepResult::Exception;
    }
    if (insn.mem.present && (insn.mem.read || insn.mem.write)) {
        const StepResult result = run_with_memory(cpu, op);
        if (result == StepResult::Exception && waits_for_x87(insn) && x87_error_pending(cpu)) {
            return raise(cpu, vec::kMf);  // goes before faults of the operand
        }
        return result;
    }
    return run_with_operand(cpu, op, nullptr) ? done(cpu, insn) : StepResult::Exception;
}

}  // namespace strata::engine::soft
