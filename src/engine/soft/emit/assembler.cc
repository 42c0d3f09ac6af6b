// Assembler: the byte writing. SDM 2, 2.1 (instruction format) and 2.2.1 (REX).
#include "engine/soft/emit/assembler.h"

#include <cstring>

#include "base/check.h"

namespace strata::engine::soft {

namespace {

constexpr std::uint8_t kGsPrefix = 0x65;
constexpr bool fits8(std::int64_t value) {
    return value >= -128 && value <= 127;
}

std::uint8_t scale_bits(std::uint8_t scale) {
    return scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0;
}

}  // namespace

namespace {

// One instruction, put together where it is quick and written at once.
struct Bytes {
    std::uint8_t bytes[20];
    std::uint32_t count = 0;

    void add(std::uint8_t value) { bytes[count++] = value; }
    void add32(std::int32_t value) {
        std::memcpy(&bytes[count], &value, sizeof value);
        count += sizeof value;
    }
    void opcode(std::uint32_t opcode) {
        if (opcode > 0xFFFF) {
            add(static_cast<std::uint8_t>(opcode >> 16));
        }
        if (opcode > 0xFF) {
            add(static_cast<std::uint8_t>(opcode >> 8));
        }
        add(static_cast<std::uint8_t>(opcode));
    }
};

}  // namespace

void Assembler::op(OpSize size, std::uint32_t opcode, std::uint8_t reg, Reg rm,
                   std::uint8_t prefix) {
    Bytes out;
    if (prefix != 0) {
        out.add(prefix);
    }
    const std::uint8_t rex = static_cast<std::uint8_t>(0x40 | (size == OpSize::Bits64 ? 8 : 0) |
                                                       ((reg >> 3) << 2) | (raw(rm) >> 3));
    if (rex != 0x40) {
        out.add(rex);
    }
    out.opcode(opcode);
    out.add(static_cast<std::uint8_t>(0xC0 | ((reg & 7) << 3) | (raw(rm) & 7)));
    append(out.bytes, out.count);
}

void Assembler::op(OpSize size, std::uint32_t opcode, std::uint8_t reg, const Mem& rm,
                   std::uint8_t prefix, std::uint8_t /*immediate_bytes*/) {
    Bytes out;
    if (rm.gs) {
        out.add(kGsPrefix);
    }
    if (prefix != 0) {
        out.add(prefix);
    }
    const std::uint8_t base = rm.base == Mem::kNone ? 0 : static_cast<std::uint8_t>(rm.base);
    const std::uint8_t index = rm.index == Mem::kNone ? 0 : static_cast<std::uint8_t>(rm.index);
    const std::uint8_t rex =
        static_cast<std::uint8_t>(0x40 | (size == OpSize::Bits64 ? 8 : 0) | ((reg >> 3) << 2) |
                                  ((index >> 3) << 1) | (base >> 3));
    if (rex != 0x40) {
        out.add(rex);
    }
    out.opcode(opcode);
    const std::uint8_t reg_bits = static_cast<std::uint8_t>((reg & 7) << 3);
    const bool sib = rm.index != Mem::kNone || rm.base == Mem::kNone || (base & 7) == 4;
    const std::uint8_t index_bits = rm.index == Mem::kNone ? 4 : (index & 7);
    const std::uint8_t sib_byte = static_cast<std::uint8_t>(
        (scale_bits(rm.scale) << 6) | (index_bits << 3) | (rm.base == Mem::kNone ? 5 : (base & 7)));
    if (rm.base == Mem::kNone) {
        out.add(reg_bits | 4);
        out.add(sib_byte);
        out.add32(rm.disp);
        append(out.bytes, out.count);
        return;
    }
    // rbp and r13 as base need a displacement: mod 00 means something else there.
    const std::uint8_t mod = rm.disp == 0 && (base & 7) != 5 ? 0 : fits8(rm.disp) ? 1 : 2;
    out.add(static_cast<std::uint8_t>((mod << 6) | reg_bits | (sib ? 4 : (base & 7))));
    if (sib) {
        out.add(sib_byte);
    }
    if (mod == 1) {
        out.add(static_cast<std::uint8_t>(rm.disp));
    } else if (mod == 2) {
        out.add32(rm.disp);
    }
    append(out.bytes, out.count);
}

void Assembler::mov_imm(Reg to, std::uint64_t value) {
    if (value <= 0xFFFFFFFFU) {
        if (raw(to) >= 8) {
            byte(0x41);
        }
        byte(static_cast<std::uint8_t>(0xB8 | (raw(to) & 7)));
        u32(static_cast<std::uint32_t>(value));
    } else if (static_cast<std::int64_t>(value) == static_cast<std::int32_t>(value)) {
        op(OpSize::Bits64, 0xC7, 0, to);
        u32(static_cast<std::uint32_t>(value));
    } else {
        byte(raw(to) >= 8 ? 0x49 : 0x48);
        byte(static_cast<std::uint8_t>(0xB8 | (raw(to) & 7)));
        u64(value);
    }
}

void Assembler::store_imm32(OpSize size, const Mem& to, std::int32_t value) {
    op(size, 0xC7, 0, to, 0, 4);
    u32(static_cast<std::uint32_t>(value));
}

void Assembler::alu_imm(Alu operation, OpSize size, Reg to, std::int32_t value) {
    const std::uint8_t digit = static_cast<std::uint8_t>(operation);
    if (fits8(value)) {
        op(size, 0x83, digit, to);
        byte(static_cast<std::uint8_t>(value));
    } else {
        op(size, 0x81, digit, to);
        u32(static_cast<std::uint32_t>(value));
    }
}

void Assembler::alu_imm(Alu operation, OpSize size, const Mem& to, std::int32_t value) {
    const std::uint8_t digit = static_cast<std::uint8_t>(operation);
    if (fits8(value)) {
        op(size, 0x83, digit, to, 0, 1);
        byte(static_cast<std::uint8_t>(value));
    } else {
        op(size, 0x81, digit, to, 0, 4);
        u32(static_cast<std::uint32_t>(value));
    }
}

void Assembler::shr_imm(OpSize size, Reg to, std::uint8_t count) {
    op(size, 0xC1, 5, to);
    byte(count);
}

void Assembler::shl_imm(OpSize size, Reg to, std::uint8_t count) {
    op(size, 0xC1, 4, to);
    byte(count);
}

void Assembler::rorx(OpSize size, Reg to, Reg from, std::uint8_t count) {
    // VEX.LZ.F2.0F3A.W? F0 /r ib; R and B are inverted.
    byte(0xC4);
    byte(static_cast<std::uint8_t>((raw(to) >= 8 ? 0 : 0x80) | 0x40 | (raw(from) >= 8 ? 0 : 0x20) |
                                   3));
    byte(size == OpSize::Bits64 ? 0xFB : 0x7B);
    byte(0xF0);
    byte(static_cast<std::uint8_t>(0xC0 | ((raw(to) & 7) << 3) | (raw(from) & 7)));
    byte(count);
}

void Assembler::push(Reg from) {
    if (raw(from) >= 8) {
        byte(0x41);
    }
    byte(static_cast<std::uint8_t>(0x50 | (raw(from) & 7)));
}

void Assembler::push_imm32(std::int32_t value) {
    byte(0x68);
    u32(static_cast<std::uint32_t>(value));
}

void Assembler::pop(Reg to) {
    if (raw(to) >= 8) {
        byte(0x41);
    }
    byte(static_cast<std::uint8_t>(0x58 | (raw(to) & 7)));
}

std::span<const std::uint8_t> Assembler::code() {
    for (const Fixup& fixup : fixups_) {
        patch(fixup);
    }
    fixups_.clear();
    return buffer_.first(offset_);
}

void Assembler::patch(const Fixup& fixup) {
    if (overflow_) {
        return;
    }
    const std::uint32_t target = places_[fixup.label];
    STRATA_CHECK(target != kUnbound, "a label was never bound");
    if (fixup.short_form) {
        const std::int64_t distance = static_cast<std::int64_t>(target) - (fixup.offset + 1);
        STRATA_CHECK(fits8(distance), "short jump out of range");
        buffer_[fixup.offset] = static_cast<std::uint8_t>(distance);
        return;
    }
    const auto distance =
        static_cast<std::uint32_t>(address_of(target) - address_of(fixup.offset + 3) - 1);
    std::memcpy(&buffer_[fixup.offset], &distance, sizeof distance);
}

void Assembler::reference(Label to, bool short_form) {
    fixups_.push_back({to.id, offset_, short_form});
    if (short_form) {
        byte(0);
    } else {
        u32(0);
    }
}

void Assembler::jmp(Label to) {
    byte(0xE9);
    reference(to, false);
}

void Assembler::call(Label to) {
    byte(0xE8);
    reference(to, false);
}

void Assembler::jcc(Cond cond, Label to) {
    byte(0x0F);
    byte(static_cast<std::uint8_t>(0x80 | static_cast<std::uint8_t>(cond)));
    reference(to, false);
}

void Assembler::jrcxz(Label to) {
    byte(0xE3);
    reference(to, true);
}

void Assembler::jmp_to(std::uint64_t address) {
    byte(0xE9);
    u32(static_cast<std::uint32_t>(address - (here() + 4)));
}

void Assembler::jcc_to(Cond cond, std::uint64_t address) {
    byte(0x0F);
    byte(static_cast<std::uint8_t>(0x80 | static_cast<std::uint8_t>(cond)));
    u32(static_cast<std::uint32_t>(address - (here() + 4)));
}

void Assembler::call_to(std::uint64_t address) {
    byte(0xE8);
    u32(static_cast<std::uint32_t>(address - (here() + 4)));
}

void Assembler::align_patch(std::uint32_t ahead) {
    while (((here() + ahead) & 63) > 60) {
        byte(0x90);
    }
}

void Assembler::nop(std::uint32_t bytes) {
    static constexpr std::uint8_t kForms[8][8] = {{0x90},
                                                  {0x66, 0x90},
                                                  {0x0F, 0x1F, 0x00},
                                                  {0x0F, 0x1F, 0x40, 0x00},
                                                  {0x0F, 0x1F, 0x44, 0x00, 0x00},
                                                  {0x66, 0x0F, 0x1F, 0x44, 0x00, 0x00},
                                                  {0x0F, 0x1F, 0x80, 0x00, 0x00, 0x00, 0x00},
                                                  {0x0F, 0x1F, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00}};
    while (bytes > 0) {
        const std::uint32_t length = bytes < 8 ? bytes : 8;
        append(kForms[length - 1], length);
        bytes -= length;
    }
}

void Assembler::align(std::uint32_t boundary) {
    while ((here() & (boundary - 1)) != 0) {
        byte(0x90);
    }
}

}  // namespace strata::engine::soft
