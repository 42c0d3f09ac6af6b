// Operands: registers, effective addresses, segment checks and memory access for the interpreter's
// own code.
//
// Everything that can fault answers false (or null) with cpu.exception set and leaves registers
// alone. Fast paths read the software TLB inline; everything else goes through mmu.h.
#pragma once

#include <cstdint>

#include "arch/x86/arch_state.h"
#include "arch/x86/registers.h"
#include "engine/soft/interp/context.h"
#include "engine/soft/mmu/mmu.h"
#include "engine/soft/runtime/cpu_state.h"

namespace strata::engine::soft {

namespace x86 = arch::x86;
namespace vec = arch::x86::vector;

inline bool long_mode(const CpuState& cpu) {
    return (cpu.efer & x86::efer::kLma) != 0;
}
inline bool code64(const CpuState& cpu) {
    return (cpu.mode & ModeBits::kCs64) != 0;
}
inline bool protected_mode(const CpuState& cpu) {
    return (cpu.mode & (ModeBits::kProtected | ModeBits::kV8086)) == ModeBits::kProtected;
}
inline bool v8086(const CpuState& cpu) {
    return (cpu.mode & ModeBits::kV8086) != 0;
}
inline unsigned iopl(const CpuState& cpu) {
    return static_cast<unsigned>(cpu.rflags >> 12U) & 3U;
}

// Exceptions.
inline StepResult raise(CpuState& cpu, std::uint8_t vector) noexcept {
    cpu.exception = PendingException{};
    cpu.exception.vector = vector;
    cpu.exception.pending = true;
    return StepResult::Exception;
}
inline StepResult raise_error(CpuState& cpu, std::uint8_t vector, std::uint32_t error) noexcept {
    (void)raise(cpu, vector);
    cpu.exception.has_error = true;
    cpu.exception.error = error;
    return StepResult::Exception;
}
inline StepResult raise_gp(CpuState& cpu, std::uint32_t error = 0) noexcept {
    return raise_error(cpu, vec::kGp, error);
}
/// #GP(0) unless CPL is 0.
inline bool privileged(CpuState& cpu) noexcept {
    if (cpu.cpl != 0) {
        (void)raise_gp(cpu);
        return false;
    }
    return true;
}
inline StepResult raise_ud(CpuState& cpu) noexcept {
    return raise(cpu, vec::kUd);
}

// Instruction pointer.
inline std::uint64_t next_rip(const CpuState& cpu, const Instruction& insn) {
    const std::uint64_t next = cpu.rip + insn.length;
    return code64(cpu) ? next : next & 0xffffffffU;
}
inline StepResult done(CpuState& cpu, const Instruction& insn) noexcept {
    cpu.rip = next_rip(cpu, insn);
    return StepResult::Done;
}
inline StepResult done_end_block(CpuState& cpu, const Instruction& insn) noexcept {
    cpu.rip = next_rip(cpu, insn);
    return StepResult::EndBlock;
}

// Registers.
inline std::uint8_t* byte_register(CpuState& cpu, unsigned number, bool high) {
    return reinterpret_cast<std::uint8_t*>(&cpu.gpr[high ? number - 4 : number]) + (high ? 1 : 0);
}
inline std::uint64_t size_mask(unsigned size) {
    return size >= 8 ? ~0ULL : (1ULL << (size * 8U)) - 1;
}
inline std::uint64_t get_gpr(const CpuState& cpu, unsigned number, unsigned size) {
    return cpu.gpr[number] & size_mask(size);
}
inline void set_gpr(CpuState& cpu, unsigned number, unsigned size, std::uint64_t value) {
    if (size >= 4) {
        cpu.gpr[number] = value & size_mask(size);
    } else {
        cpu.gpr[number] = (cpu.gpr[number] & ~size_mask(size)) | (value & size_mask(size));
    }
}
/// ModRM.rm as a register of `size` bytes.
inline std::uint64_t get_rm(CpuState& cpu, const Instruction& insn, unsigned size) {
    return insn.rm_is_high ? *byte_register(cpu, insn.rm, true) : get_gpr(cpu, insn.rm, size);
}
inline void set_rm(CpuState& cpu, const Instruction& insn, unsigned size, std::uint64_t value) {
    if (insn.rm_is_high) {
        *byte_register(cpu, insn.rm, true) = static_cast<std::uint8_t>(value);
    } else {
        set_gpr(cpu, insn.rm, size, value);
    }
}
inline void set_arithmetic(CpuState& cpu, std::uint64_t flags,
                           std::uint64_t mask = x86::rflags::kArithmetic) {
    cpu.rflags = (cpu.rflags & ~mask) | (flags & mask);
}

// Stack pointer width: SS.B, 64 bits in 64-bit mode.
inline unsigned stack_address_size(const CpuState& cpu) {
    return code64(cpu) ? 8 : (cpu.mode & ModeBits::kSs32) != 0 ? 4 : 2;
}

/// Offset of the explicit memory operand in its segment.
inline std::uint64_t effective_address(const CpuState& cpu, const Instruction& insn) {
    const MemoryOperand& mem = insn.mem;
    std::uint64_t address = static_cast<std::uint64_t>(mem.displacement);
    if (mem.base == kRipRegister) {
        address += cpu.rip + insn.length;
    } else if (mem.base >= 0) {
        address += cpu.gpr[mem.base];
    }
    if (mem.index >= 0 && !mem.vsib) {
        address += cpu.gpr[mem.index] * mem.scale;
    }
    return insn.address_size == 8 ? address : address & size_mask(insn.address_size);
}

/// The slow half of segment_linear(): legacy segmentation, alignment check, watchpoints.
bool segment_check(CpuState& cpu, unsigned segment, std::uint64_t offset, std::uint32_t size,
                   bool write, std::uint64_t& linear) noexcept;
bool access_hooks(CpuState& cpu, std::uint64_t linear, std::uint32_t size, bool write) noexcept;

/// Linear address of [segment:offset, +size) after all checks of segmentation. False: cpu.exception
/// is set.
inline bool segment_linear(CpuState& cpu, unsigned segment, std::uint64_t offset,
                           std::uint32_t size, bool write, std::uint64_t& linear) {
    if (code64(cpu)) [[likely]] {
        linear = segment >= x86::Fs ? cpu.segments[segment].base + offset : offset;
    } else if (!segment_check(cpu, segment, offset, size, write, linear)) {
        return false;
    }
    if ((cpu.mode & (ModeBits::kAlignCheck | ModeBits::kTrap)) != 0) [[unlikely]] {
        return access_hooks(cpu, linear, size, write);
    }
    return true;
}

/// A #GP(0) for a non-canonical address becomes #SS(0) when the access went through SS.
inline bool memory_fault(CpuState& cpu, unsigned segment) {
    if (segment == x86::Ss && cpu.exception.vector == vec::kGp) {
        cpu.exception.vector = vec::kSs;
    }
    return false;
}

/// Host pointer by TLB hit alone, or null (which says nothing).
inline std::byte* tlb_hit(CpuState& cpu, std::uint64_t linear, std::uint32_t size, bool write) {
    const TlbEntry& entry = cpu.tlb[(linear >> 12U) & (kTlbEntries - 1)];
    const std::uint64_t offset = linear ^ (write ? entry.tag_write : entry.tag_read);
    // SAFETY: the MMU vouches for host_page while the tag matches.
    return offset <= 4096U - size ? reinterpret_cast<std::byte*>(entry.host_page + offset)
                                  : nullptr;
}

template <typename T>
inline bool load(CpuState& cpu, unsigned segment, std::uint64_t offset, T& value) {
    std::uint64_t linear = 0;
    if (!segment_linear(cpu, segment, offset, sizeof(T), false, linear)) {
        return false;
    }
    if (const std::byte* host = tlb_hit(cpu, linear, sizeof(T), false)) [[likely]] {
        value = *reinterpret_cast<const volatile T*>(host);
        return true;
    }
    return read_linear(cpu, linear, &value, sizeof(T)) || memory_fault(cpu, segment);
}

template <typename T>
inline bool store(CpuState& cpu, unsigned segment, std::uint64_t offset, T value) {
    std::uint64_t linear = 0;
    if (!segment_linear(cpu, segment, offset, sizeof(T), true, linear)) {
        return false;
    }
    if (std::byte* host = tlb_hit(cpu, linear, sizeof(T), true)) [[likely]] {
        *reinterpret_cast<volatile T*>(host) = value;
        return true;
    }
    return write_linear(cpu, linear, &value, sizeof(T)) || memory_fault(cpu, segment);
}

/// The same with a size known at run time (1, 2, 4, 8); values zero-extended.
bool load_sized(CpuState& cpu, unsigned segment, std::uint64_t offset, unsigned size,
                std::uint64_t& value) noexcept;
bool store_sized(CpuState& cpu, unsigned segment, std::uint64_t offset, unsigned size,
                 std::uint64_t value) noexcept;

/// The explicit operand: ModRM.rm register or memory, `size` bytes.
bool read_operand(CpuState& cpu, const Instruction& insn, unsigned size,
                  std::uint64_t& value) noexcept;
bool write_operand(CpuState& cpu, const Instruction& insn, unsigned size,
                   std::uint64_t value) noexcept;

/// Any length through a segment, as one access (up to kScratchBytes).
bool load_bytes(CpuState& cpu, unsigned segment, std::uint64_t offset, void* out,
                std::uint32_t size) noexcept;
bool store_bytes(CpuState& cpu, unsigned segment, std::uint64_t offset, const void* data,
                 std::uint32_t size) noexcept;

/// Whether [linear, +size) may be written, without writing: false with the exception set.
bool probe_write(CpuState& cpu, std::uint64_t linear, std::uint32_t size) noexcept;

// Stack access. A StackCursor moves a copy of rsp, committed when the whole instruction has
// succeeded.
class StackCursor {
  public:
    explicit StackCursor(CpuState& cpu)
        : cpu_(cpu), mask_(size_mask(stack_address_size(cpu))), rsp_(cpu.gpr[x86::Rsp]) {}
    bool push(unsigned size, std::uint64_t value) noexcept {
        const std::uint64_t at = (rsp_ - size) & mask_;
        if (!store_sized(cpu_, x86::Ss, at, size, value)) {
            return false;
        }
        move(at);
        return true;
    }
    bool pop(unsigned size, std::uint64_t& value) noexcept {
        if (!load_sized(cpu_, x86::Ss, rsp_ & mask_, size, value)) {
            return false;
        }
        move((rsp_ + size) & mask_);
        return true;
    }
    void add(std::uint64_t bytes) { move((rsp_ + bytes) & mask_); }
    void commit() const { cpu_.gpr[x86::Rsp] = rsp_; }
    [[nodiscard]] std::uint64_t value() const { return rsp_; }

  private:
    // A 16-bit stack leaves the upper bits of rsp alone; a 32-bit one clears them.
    void move(std::uint64_t at) { rsp_ = mask_ == 0xffff ? (rsp_ & ~mask_) | at : at; }
    CpuState& cpu_;
    std::uint64_t mask_;
    std::uint64_t rsp_;
};

}  // namespace strata::engine::soft
