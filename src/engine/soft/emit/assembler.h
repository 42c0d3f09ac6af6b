// Assembler: writes x86-64 host code into a buffer: the few instructions that translation adds
// around guest instructions.
//
// Code is written where it is not executed (a scratch buffer) and knows the address at which it
// will run, so that rel32 distances to the glue come out right. What is seldom run can be set
// apart: from begin_cold() on, code is for another address. Overflow of the buffer is sticky and
// checked once by the caller, who throws the code away. Labels are local to one Assembler. Not
// thread-safe; one per translation.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace strata::engine::soft {

/// Host general registers, numbered as in ModRM/REX.
enum class Reg : std::uint8_t {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15
};

/// Condition codes as in Jcc's low opcode bits.
enum class Cond : std::uint8_t { O, No, B, Ae, E, Ne, Be, A, S, Ns, P, Np, L, Ge, Le, G };

enum class OpSize : std::uint8_t { Bits32, Bits64 };

/// A host memory operand: [base + index * scale + disp], or gs:[… disp] if `gs`.
struct Mem {
    static constexpr std::int8_t kNone = -1;
    std::int8_t base = kNone;
    std::int8_t index = kNone;
    std::uint8_t scale = 1;
    std::int32_t disp = 0;
    bool gs = false;

    static Mem at(Reg base, std::int32_t disp = 0) {
        return {.base = static_cast<std::int8_t>(base), .disp = disp};
    }
    static Mem at(Reg base, Reg index, std::uint8_t scale, std::int32_t disp) {
        return {.base = static_cast<std::int8_t>(base),
                .index = static_cast<std::int8_t>(index),
                .scale = scale,
                .disp = disp};
    }
    static Mem gs_at(std::size_t disp) {
        return {.disp = static_cast<std::int32_t>(disp), .gs = true};
    }
    static Mem gs_at(Reg index, std::size_t disp) {
        return {.base = static_cast<std::int8_t>(index),
                .disp = static_cast<std::int32_t>(disp),
                .gs = true};
    }
};

/// A place in the code, bound once, before or behind the references to it.
struct Label {
    std::uint32_t id = 0;
};

/// The eight two-operand ALU instructions, numbered as in the opcode map.
enum class Alu : std::uint8_t { Add, Or, Adc, Sbb, And, Sub, Xor, Cmp };

class Assembler {
  public:
    /// Writes into `buffer`; the first byte will run at `address`.
    Assembler(std::span<std::uint8_t> buffer, std::uint64_t address)
        : buffer_(buffer), address_(address) {}
    /// As if made anew, with the memory that it has.
    void restart(std::uint64_t address) {
        address_ = address;
        offset_ = 0;
        cold_ = ~0U;
        overflow_ = false;
        places_.clear();
        fixups_.clear();
    }

    [[nodiscard]] std::uint32_t offset() const { return offset_; }
    [[nodiscard]] std::uint64_t here() const { return address_of(offset_); }
    [[nodiscard]] bool overflowed() const { return overflow_; }
    /// Everything, with all labels bound.
    [[nodiscard]] std::span<const std::uint8_t> code();
    /// The two parts of code(); cold() is empty without begin_cold().
    [[nodiscard]] std::span<const std::uint8_t> hot() { return code().first(hot_size()); }
    [[nodiscard]] std::span<const std::uint8_t> cold() { return code().subspan(hot_size()); }
    [[nodiscard]] std::uint32_t hot_size() const { return cold_ < offset_ ? cold_ : offset_; }

    /// What follows will run at `address`, within 2 GiB.
    void begin_cold(std::uint64_t address) {
        cold_ = offset_;
        cold_address_ = address;
    }

    void byte(std::uint8_t value) {
        if (offset_ < buffer_.size()) [[likely]] {
            buffer_[offset_++] = value;
        } else {
            overflow_ = true;
        }
    }
    void u32(std::uint32_t value) { append(&value, sizeof value); }
    void u64(std::uint64_t value) { append(&value, sizeof value); }
    /// The machine's own byte order is the one of instructions.
    void append(const void* bytes, std::uint32_t count) {
        if (count <= buffer_.size() - offset_) [[likely]] {
            std::memcpy(&buffer_[offset_], bytes, count);
            offset_ += count;
        } else {
            overflow_ = true;
        }
    }

    Label label() {
        places_.push_back(kUnbound);
        return {static_cast<std::uint32_t>(places_.size() - 1)};
    }
    void bind(Label label) { places_[label.id] = offset_; }

    /// An instruction of form opcode /reg with a register or memory r/m operand. `opcode` holds up
    /// to three bytes, the first written in the highest non-zero byte (0x0FB6 is 0F B6). `prefix`:
    /// 0, 0x66, 0xF2 or 0xF3.
    void op(OpSize size, std::uint32_t opcode, std::uint8_t reg, Reg rm, std::uint8_t prefix = 0);
    void op(OpSize size, std::uint32_t opcode, std::uint8_t reg, const Mem& rm,
            std::uint8_t prefix = 0, std::uint8_t immediate_bytes = 0);

    void mov(Reg to, Reg from) { op(OpSize::Bits64, 0x8B, raw(to), from); }
    void mov32(Reg to, Reg from) { op(OpSize::Bits32, 0x8B, raw(to), from); }
    void load(Reg to, const Mem& from) { op(OpSize::Bits64, 0x8B, raw(to), from); }
    void load32(Reg to, const Mem& from) { op(OpSize::Bits32, 0x8B, raw(to), from); }
    void store(const Mem& to, Reg from) { op(OpSize::Bits64, 0x89, raw(from), to); }
    void store32(const Mem& to, Reg from) { op(OpSize::Bits32, 0x89, raw(from), to); }
    /// Shortest form that loads the 64-bit constant; leaves flags alone.
    void mov_imm(Reg to, std::uint64_t value);
    /// Stores a sign-extended immediate.
    void store_imm32(OpSize size, const Mem& to, std::int32_t value);
    void lea(Reg to, const Mem& from) { op(OpSize::Bits64, 0x8D, raw(to), from); }
    void lea32(Reg to, const Mem& from) { op(OpSize::Bits32, 0x8D, raw(to), from); }
    void alu(Alu operation, OpSize size, Reg to, Reg from) {
        op(size, opcode_of(operation) | 3U, raw(to), from);
    }
    void alu(Alu operation, OpSize size, Reg to, const Mem& from) {
        op(size, opcode_of(operation) | 3U, raw(to), from);
    }
    void alu_store(Alu operation, OpSize size, const Mem& to, Reg from) {
        op(size, opcode_of(operation) | 1U, raw(from), to);
    }
    void alu_imm(Alu operation, OpSize size, Reg to, std::int32_t value);
    void alu_imm(Alu operation, OpSize size, const Mem& to, std::int32_t value);
    void shr_imm(OpSize size, Reg to, std::uint8_t count);
    void shl_imm(OpSize size, Reg to, std::uint8_t count);
    /// RORX r32/r64: needs BMI2; leaves flags alone.
    void rorx(OpSize size, Reg to, Reg from, std::uint8_t count);
    void push(Reg from);
    void push_imm32(std::int32_t value);  ///< sign-extended
    void pop(Reg to);
    void push(const Mem& from) { op(OpSize::Bits32, 0xFF, 6, from); }
    void pop(const Mem& to) { op(OpSize::Bits32, 0x8F, 0, to); }
    void pushfq() { byte(0x9C); }
    void popfq() { byte(0x9D); }
    void lahf() { byte(0x9F); }
    void sahf() { byte(0x9E); }
    void ret() { byte(0xC3); }
    void jmp(Reg to) { op(OpSize::Bits32, 0xFF, 4, to); }
    void jmp(const Mem& to) { op(OpSize::Bits32, 0xFF, 4, to); }
    void call(Reg to) { op(OpSize::Bits32, 0xFF, 2, to); }
    void call(const Mem& to) { op(OpSize::Bits32, 0xFF, 2, to); }
    void call(Label to);

    void jmp(Label to);
    void jcc(Cond cond, Label to);
    void jrcxz(Label to);  ///< rel8: the label must end up within 127 bytes ahead, in the same part
    void jmp_to(std::uint64_t address);
    void jcc_to(Cond cond, std::uint64_t address);
    void call_to(std::uint64_t address);

    /// Pads with NOPs so that four bytes at offset() + `ahead` do not cross a 64-byte line: they
    /// can be patched atomically.
    void align_patch(std::uint32_t ahead);
    void align(std::uint32_t boundary);
    /// `bytes` bytes of as few instructions as possible that do nothing.
    void nop(std::uint32_t bytes);

    static constexpr std::uint8_t raw(Reg reg) { return static_cast<std::uint8_t>(reg); }

  private:
    static constexpr std::uint32_t kUnbound = ~0U;
    struct Fixup {
        std::uint32_t label;
        std::uint32_t offset;
        bool short_form;
    };
    static constexpr std::uint32_t opcode_of(Alu operation) {
        return static_cast<std::uint32_t>(operation) << 3;
    }
    void reference(Label to, bool short_form);
    void patch(const Fixup& fixup);
    [[nodiscard]] std::uint64_t address_of(std::uint32_t offset) const {
        return offset < cold_ ? address_ + offset : cold_address_ + (offset - cold_);
    }

    std::span<std::uint8_t> buffer_;
    std::uint64_t address_;
    std::uint32_t offset_ = 0;
    std::uint32_t cold_ = ~0U;  ///< offset at which the cold part begins
    std::uint64_t cold_address_ = 0;
    bool overflow_ = false;
    std::vector<std::uint32_t> places_;
    std::vector<Fixup> fixups_;
};

}  // namespace strata::engine::soft
