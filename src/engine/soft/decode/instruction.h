// Instruction: one decoded guest instruction, the type that interpreter and translator share.
//
// Made by decode() from up to 15 bytes with Zydis; plain data, no pointers, so it can be cached,
// compared and printed. It says what a translator that copies instructions needs: where each field
// stands in the bytes (to rename registers and to replace the memory operand), which registers and
// flags are read and written, explicitly or not, and the class (classify.h), which is an allowlist:
// an instruction that no row of the table describes is InsnClass::Undefined.
//
// decode() calls a library built with SSE: save_vector_state() first if guest vector values are
// live in host registers.
#pragma once

#include <cstdint>

namespace strata::engine::soft {

class IsaSupport;

/// What kind of work an instruction is, and thereby who may execute it how.
enum class InsnClass : std::uint8_t {
    Undefined,  ///< raises #UD
    Copy,  ///< data processing on GPRs, flags and `mem` only: safe to run on the host with `mem`
           ///< replaced
    CopyVector,  ///< the same, and touches x87/MMX/SSE/AVX state (see `vector`)
    Lea,         ///< computes the address of `mem` and does not touch memory
    Special,  ///< data processing with implicit or computed memory or host state: the interpreter's
              ///< own code
    Nop,      ///< no effect at all: NOP, PREFETCHx, ENDBR (`mem`, if there, is not accessed)
    Fence,    ///< LFENCE, MFENCE, SFENCE, PAUSE: run as they are, no operands
    Jcc,      ///< conditional near branch to rip + imm
    Jmp,      ///< near direct
    JmpIndirect,   ///< near, through register or `mem`
    Call,          ///< near direct
    CallIndirect,  ///< near, through register or `mem`
    Ret,           ///< near, imm[0] bytes released
    Loop,          ///< LOOPcc, JrCXZ
    FarFlow,  ///< far JMP/CALL/RET, IRET, INT n, INT3, INTO, SYSCALL, SYSRET, SYSENTER, SYSEXIT
    String,   ///< MOVS, STOS, LODS, SCAS, CMPS with or without REP
    Stack,    ///< PUSH, POP, ENTER, LEAVE, PUSHF, POPF, PUSHA, POPA (segment registers are Segment)
    Segment,  ///< MOV/PUSH/POP of segment registers, LDS …, RD/WR FS/GS base
    System,   ///< reads or changes system state, privileged or not (CPUID, RDTSC, CLI, LGDT, MOV CR
              ///< …)
    Io,       ///< IN, OUT, INS, OUTS
};

enum class Encoding : std::uint8_t { Legacy, Vex, Evex };

/// Which register file a vector instruction needs, for #UD and #NM and XCR0 checks.
enum class VectorKind : std::uint8_t { None, X87, Mmx, Sse, Avx, Avx512 };

/// Decoding mode: the code segment's default size.
enum class CodeMode : std::uint8_t { Real16, Bits16, Bits32, Bits64 };

enum class DecodeStatus : std::uint8_t {
    Ok,         ///< also for InsnClass::Undefined, whose length is valid then
    Invalid,    ///< not an instruction: #UD
    Truncated,  ///< the bytes given are a prefix of an instruction: the fetch of the next one
                ///< faults
    TooLong,    ///< more than 15 bytes: #GP(0)
};

inline constexpr std::uint8_t kNoOffset = 0xff;  ///< "this field is not in the bytes"
inline constexpr std::int8_t kNoRegister = -1;
inline constexpr std::int8_t kRipRegister = 16;  ///< MemoryOperand::base of RIP-relative operands

/// The explicit memory operand (ModRM or moffs). Implicit ones (stack, strings, XLAT …) are not
/// described here.
struct MemoryOperand {
    bool present = false;
    bool read = false, write = false;  ///< neither: LEA, NOP, PREFETCH, INVLPG …
    bool vsib = false;                 ///< `index` is a vector register
    bool aligned = false;  ///< the host raises #GP(0) unless the address is a multiple of `size`
    std::int8_t base = kNoRegister;   ///< GPR number 0..15 or kRipRegister
    std::int8_t index = kNoRegister;  ///< GPR number (vector register number if vsib)
    std::uint8_t scale = 1;           ///< 1, 2, 4, 8
    std::uint8_t segment = 3;         ///< SegmentIndex, overrides and defaults applied
    std::uint16_t size = 0;           ///< bytes accessed (0: varies)
    std::uint16_t element_size = 0;   ///< bytes of one element (masked AVX-512 operands)
    std::int64_t displacement = 0;    ///< RIP-relative: from the end of the instruction
};

struct Instruction {
    std::uint8_t bytes[16] = {};
    std::uint8_t length = 0;
    InsnClass cls = InsnClass::Undefined;
    VectorKind vector = VectorKind::None;
    Encoding encoding = Encoding::Legacy;
    CodeMode mode = CodeMode::Bits64;
    std::uint16_t mnemonic = 0;        ///< ZydisMnemonic
    std::uint16_t isa_set = 0;         ///< ZydisISASet
    std::uint8_t exception_class = 0;  ///< ZydisExceptionClass
    std::uint8_t opcode = 0;
    std::uint8_t opcode_map = 0;    ///< ZydisOpcodeMap: 0 one-byte, 1 0F, 2 0F38, 3 0F3A
    std::uint8_t operand_size = 0;  ///< bytes: 1, 2, 4, 8; the integer operand size in effect
    std::uint8_t address_size = 0;  ///< bytes: 2, 4, 8
    std::uint8_t stack_size =
        0;  ///< bytes pushed or popped per item by near flow and stack instructions

    bool lock = false, rep = false,
         repne = false;  ///< prefixes that are in effect (rep: F3 of a string instruction too)
    bool raw_f2 = false, raw_f3 = false;  ///< prefix bytes present, in effect or not
    bool mandatory_66 = false, mandatory_f2 = false,
         mandatory_f3 = false;  ///< prefix is part of the opcode
    bool segment_override = false;
    std::uint8_t implicit_segment =
        3;  ///< SegmentIndex of implicit source operands (strings, XLAT …): DS or the override
    bool privileged = false;

    // Where things stand in `bytes`; kNoOffset if absent.
    std::uint8_t rex_offset = kNoOffset;
    std::uint8_t rex = 0;                 ///< the REX byte, 0 if none
    std::uint8_t vex_offset = kNoOffset;  ///< first byte of the VEX or EVEX prefix
    std::uint8_t vex_length = 0;          ///< 2, 3 (VEX) or 4 (EVEX)
    std::uint8_t opcode_offset = 0;       ///< the opcode byte itself, after escapes
    std::uint8_t modrm_offset = kNoOffset;
    std::uint8_t sib_offset = kNoOffset;
    std::uint8_t disp_offset = kNoOffset, disp_size = 0;
    std::uint8_t imm_count = 0;
    std::uint8_t imm_offset[2] = {kNoOffset, kNoOffset};
    std::uint8_t imm_size[2] = {0, 0};

    std::uint8_t mod = 0;  ///< ModRM.mod
    std::uint8_t reg = 0;  ///< ModRM.reg with REX/VEX/EVEX extensions
    std::uint8_t rm = 0;   ///< ModRM.rm with extensions (register operand if mod == 3)
    std::uint8_t opcode_reg =
        0;  ///< the register in the low opcode bits with REX.B (PUSH r, BSWAP, MOV r, imm …)
    std::uint8_t vvvv = 0;  ///< VEX/EVEX.vvvv (not inverted, with V')
    bool reg_is_gpr = false, rm_is_gpr = false, vvvv_is_gpr = false, opcode_reg_is_gpr = false;
    bool uses_high_byte = false;  ///< AH, CH, DH or BH is an operand: no REX possible
    bool reg_is_high = false, rm_is_high = false;  ///< ModRM.reg, ModRM.rm name one of them
    std::uint8_t reg_size = 0;                     ///< bytes of the ModRM.reg operand

    // AVX-512.
    std::uint8_t mask = 0;  ///< EVEX.aaa: 0 none
    bool zeroing = false, broadcast = false;
    std::uint8_t broadcast_lanes = 0;  ///< N of {1toN}, 0 if the instruction broadcasts by itself
    std::uint16_t vector_length = 0;   ///< bits
    std::uint16_t element_count = 0;   ///< of the memory operand

    MemoryOperand mem;
    std::int64_t imm[2] = {0, 0};  ///< sign-extended where the instruction does so; branches:
                                   ///< relative to the next instruction

    // Explicit and implicit together. A partial (8/16-bit) or conditional write reads too; address
    // registers are read.
    std::uint16_t gpr_read = 0, gpr_write = 0;
    std::uint32_t flags_read = 0, flags_written = 0,
                  flags_undefined = 0;  ///< RFLAGS bits; written includes undefined
};

/// Decodes the instruction at `bytes` (`available` of them, at most 15 count). Extensions that
/// `isa` does not allow decode to Undefined. `insn` is filled for Ok only.
DecodeStatus decode(const std::uint8_t* bytes, std::uint32_t available, CodeMode mode,
                    const IsaSupport& isa, Instruction& insn) noexcept;

/// "mov rax, [rbx+8]": for traces and test failures. `address` is the instruction's own.
[[nodiscard]] const char* mnemonic_name(const Instruction& insn) noexcept;

}  // namespace strata::engine::soft
