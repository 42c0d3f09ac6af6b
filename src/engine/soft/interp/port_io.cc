// Port I/O: IN, OUT, INS, OUTS: permission by IOPL and the TSS's bitmap, then the IoDispatcher. SDM
// 1, 19.5.
#include <span>

#include <Zydis/Mnemonic.h>

#include "engine/io_dispatcher.h"
#include "engine/soft/interp/handlers.h"
#include "engine/soft/interp/operands.h"
#include "engine/soft/runtime/soft_vm.h"

namespace strata::engine::soft {
namespace {

/// The I/O permission bitmap of a 32/64-bit TSS.
bool bitmap_allows(CpuState& cpu, std::uint16_t port, unsigned size) {
    const bool tss32 = (cpu.tr.attributes & 8U) != 0;
    std::uint16_t start = 0;
    if (!tss32 || cpu.tr.limit < 103) {
        (void)raise_gp(cpu);
        return false;
    }
    if (!read_linear(cpu, cpu.tr.base + 102, &start, 2, Privilege::ImplicitSupervisor)) {
        return false;
    }
    const std::uint32_t at = start + port / 8U;
    std::uint16_t bits = 0;
    if (at + 1 > cpu.tr.limit) {
        (void)raise_gp(cpu);
        return false;
    }
    if (!read_linear(cpu, cpu.tr.base + at, &bits, 2, Privilege::ImplicitSupervisor)) {
        return false;
    }
    if (((bits >> (port & 7U)) & ((1U << size) - 1)) != 0) {
        (void)raise_gp(cpu);
        return false;
    }
    return true;
}

bool port_allowed(CpuState& cpu, std::uint16_t port, unsigned size) {
    if ((cpu.mode & ModeBits::kProtected) == 0 || (!v8086(cpu) && cpu.cpl <= iopl(cpu))) {
        return true;
    }
    return bitmap_allows(cpu, port, size);
}

std::uint64_t port_in(CpuState& cpu, std::uint16_t port, unsigned size) {
    std::uint64_t value = 0;
    save_vector_state(cpu);
    cpu.vm->io->port_read(port, std::span(reinterpret_cast<std::byte*>(&value), size));
    return value;
}

void port_out(CpuState& cpu, std::uint16_t port, unsigned size, std::uint64_t value) {
    save_vector_state(cpu);
    cpu.vm->io->port_write(port, std::span(reinterpret_cast<const std::byte*>(&value), size));
}

unsigned io_size(const Instruction& insn) {
    const bool byte = (insn.opcode & 1U) == 0;
    return byte ? 1 : insn.operand_size == 2 ? 2 : 4;
}

std::uint16_t port_of(const CpuState& cpu, const Instruction& insn) {
    return static_cast<std::uint16_t>(
        insn.imm_count != 0 ? static_cast<std::uint64_t>(insn.imm[0]) & 0xffU : cpu.gpr[x86::Rdx]);
}

StepResult op_in(CpuState& cpu, Op& op) noexcept {
    const unsigned size = io_size(op.insn);
    const std::uint16_t port = port_of(cpu, op.insn);
    if (!port_allowed(cpu, port, size)) {
        return StepResult::Exception;
    }
    set_gpr(cpu, x86::Rax, size, port_in(cpu, port, size));
    return done(cpu, op.insn);
}

StepResult op_out(CpuState& cpu, Op& op) noexcept {
    const unsigned size = io_size(op.insn);
    const std::uint16_t port = port_of(cpu, op.insn);
    if (!port_allowed(cpu, port, size)) {
        return StepResult::Exception;
    }
    port_out(cpu, port, size, cpu.gpr[x86::Rax]);
    return done(cpu, op.insn);
}

void advance(CpuState& cpu, const Instruction& insn, unsigned reg, unsigned size) {
    const std::uint64_t step =
        (cpu.rflags & x86::rflags::kDf) != 0 ? ~static_cast<std::uint64_t>(size) + 1 : size;
    set_gpr(cpu, reg, insn.address_size, cpu.gpr[reg] + step);
}

bool one_ins(CpuState& cpu, const Instruction& insn, std::uint16_t port, unsigned size) {
    const std::uint64_t offset = get_gpr(cpu, x86::Rdi, insn.address_size);
    std::uint64_t linear = 0;
    if (!segment_linear(cpu, x86::Es, offset, size, true, linear) ||
        !probe_write(cpu, linear, size)) {
        return false;  // before the port is read: that may have effects
    }
    if (!store_sized(cpu, x86::Es, offset, size, port_in(cpu, port, size))) {
        return false;
    }
    advance(cpu, insn, x86::Rdi, size);
    return true;
}

bool one_outs(CpuState& cpu, const Instruction& insn, std::uint16_t port, unsigned size,
              unsigned segment) {
    std::uint64_t value = 0;
    if (!load_sized(cpu, segment, get_gpr(cpu, x86::Rsi, insn.address_size), size, value)) {
        return false;
    }
    port_out(cpu, port, size, value);
    advance(cpu, insn, x86::Rsi, size);
    return true;
}

/// INS and OUTS: with REP up to 64 elements a step, so that interrupts get in.
StepResult op_string_io(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    const unsigned size = io_size(insn);
    const auto port = static_cast<std::uint16_t>(cpu.gpr[x86::Rdx]);
    const bool input = insn.opcode < 0x6e;
    const bool repeated = insn.raw_f2 || insn.raw_f3;
    std::uint64_t count = repeated ? get_gpr(cpu, x86::Rcx, insn.address_size) : 1;
    if (count == 0) {
        return done(cpu, insn);
    }
    if (!port_allowed(cpu, port, size)) {
        return StepResult::Exception;
    }
    const unsigned most = (cpu.mode & ModeBits::kTrap) != 0 ? 1 : 64;
    for (unsigned i = 0; i < most && count != 0; ++i) {
        const bool good = input ? one_ins(cpu, insn, port, size)
                                : one_outs(cpu, insn, port, size, insn.implicit_segment);
        if (!good) {
            return StepResult::Exception;
        }
        --count;
        if (repeated) {
            set_gpr(cpu, x86::Rcx, insn.address_size, count);
        }
    }
    return count == 0 ? done(cpu, insn) : StepResult::Done;
}

}  // namespace

Handler select_io(const Instruction& insn) noexcept {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_IN:
            return op_in;
        case ZYDIS_MNEMONIC_OUT:
            return op_out;
        default:
            return op_string_io;
    }
}

}  // namespace strata::engine::soft
