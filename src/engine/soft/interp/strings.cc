// Strings: MOVS, STOS, LODS, SCAS, CMPS with and without REP.
//
// A REP instruction works in chunks: as many elements as fit in the pages at hand, all in RAM, at the host's speed; then registers
// are brought up to date and the step ends, with rip left in place until the count is zero. So it is interruptible and
// restartable at each chunk. What the fast chunk cannot do (devices, page crossings, DF = 1, watchpoints) goes element by element.
#include <Zydis/Mnemonic.h>

#include <algorithm>

#include "engine/soft/interp/handlers.h"
#include "engine/soft/interp/operands.h"

namespace strata::engine::soft {
namespace {

namespace fl = x86::rflags;
constexpr std::uint64_t kMaxElements = 4096;  // per step: a page of bytes

enum class Kind : std::uint8_t { Movs, Stos, Lods, Scas, Cmps };

Kind kind_of(const Instruction& insn) {
    switch (insn.opcode & 0xfeU) {
        case 0xa4: return Kind::Movs;
        case 0xaa: return Kind::Stos;
        case 0xac: return Kind::Lods;
        case 0xae: return Kind::Scas;
        default: return Kind::Cmps;
    }
}

struct StringState {
    CpuState& cpu;
    const Instruction& insn;
    unsigned size;      ///< of an element
    unsigned address;   ///< address size
    bool down;

    [[nodiscard]] std::uint64_t reg(unsigned number) const { return get_gpr(cpu, number, address); }
    void step(unsigned number, std::uint64_t bytes) const {
        const std::uint64_t value = cpu.gpr[number] + (down ? ~bytes + 1 : bytes);
        set_gpr(cpu, number, address, value);
    }
};

void compare_flags(CpuState& cpu, std::uint64_t a, std::uint64_t b, unsigned size) {
    std::uint64_t flags = 0;
    switch (size) {
        case 1: __asm__("cmpb %b2, %b1\n\tpushfq\n\tpopq %0" : "=r"(flags) : "q"(a), "q"(b) : "cc"); break;
        case 2: __asm__("cmpw %w2, %w1\n\tpushfq\n\tpopq %0" : "=r"(flags) : "r"(a), "r"(b) : "cc"); break;
        case 4: __asm__("cmpl %k2, %k1\n\tpushfq\n\tpopq %0" : "=r"(flags) : "r"(a), "r"(b) : "cc"); break;
        default: __asm__("cmpq %2, %1\n\tpushfq\n\tpopq %0" : "=r"(flags) : "r"(a), "r"(b) : "cc"); break;
    }
    set_arithmetic(cpu, flags);
}

/// One element, with registers updated. False: exception pending, nothing changed.
bool one_element(const StringState& s, Kind kind) {
    CpuState& cpu = s.cpu;
    const unsigned source = s.insn.implicit_segment;
    std::uint64_t a = 0;
    std::uint64_t b = 0;
    switch (kind) {
        case Kind::Movs:
            if (!load_sized(cpu, source, s.reg(x86::Rsi), s.size, a) || !store_sized(cpu, x86::Es, s.reg(x86::Rdi), s.size, a)) {
                return false;
            }
            s.step(x86::Rsi, s.size);
            s.step(x86::Rdi, s.size);
            return true;
        case Kind::Stos:
            if (!store_sized(cpu, x86::Es, s.reg(x86::Rdi), s.size, cpu.gpr[x86::Rax])) {
                return false;
            }
            s.step(x86::Rdi, s.size);
            return true;
        case Kind::Lods:
            if (!load_sized(cpu, source, s.reg(x86::Rsi), s.size, a)) {
                return false;
            }
            set_gpr(cpu, x86::Rax, s.size, a);
            s.step(x86::Rsi, s.size);
            return true;
        case Kind::Scas:
            if (!load_sized(cpu, x86::Es, s.reg(x86::Rdi), s.size, b)) {
                return false;
            }
            compare_flags(cpu, cpu.gpr[x86::Rax], b, s.size);
            s.step(x86::Rdi, s.size);
            return true;
        case Kind::Cmps:
            // Where both operands fault, processors report the one at ES:rDI.
            if (!load_sized(cpu, x86::Es, s.reg(x86::Rdi), s.size, b) || !load_sized(cpu, source, s.reg(x86::Rsi), s.size, a)) {
                return false;
            }
            compare_flags(cpu, a, b, s.size);
            s.step(x86::Rsi, s.size);
            s.step(x86::Rdi, s.size);
            return true;
    }
    return false;
}

/// How many elements from `offset` stay in one page, the segment and the address size, upward.
std::uint64_t run_length(const StringState& s, std::uint64_t offset, std::uint64_t linear) {
    const std::uint64_t page_room = (0x1000 - (linear & 0xfffU)) / s.size;
    const std::uint64_t wrap_room = s.address == 8 ? ~0ULL : (size_mask(s.address) - offset + 1) / s.size;
    return std::min(page_room, wrap_room);
}

/// Host memory for `count` elements at segment:offset; lowers `count` to what fits. Null: go element by element.
std::byte* chunk(const StringState& s, unsigned segment, std::uint64_t offset, bool write, std::uint64_t& count) {
    CpuState& cpu = s.cpu;
    std::uint64_t linear = 0;
    if (!segment_linear(cpu, segment, offset, s.size, write, linear)) {
        cpu.exception.pending = false;  // one_element() finds it again
        return nullptr;
    }
    count = std::min(count, run_length(s, offset, linear));
    if (count < 2 || !segment_linear(cpu, segment, offset, static_cast<std::uint32_t>(count * s.size), write, linear)) {
        cpu.exception.pending = false;
        return nullptr;
    }
    std::byte* host = host_pointer(cpu, linear, static_cast<std::uint32_t>(count * s.size), write ? MemAccess::Write : MemAccess::Read);
    cpu.exception.pending = false;
    return host;
}

void host_movs(std::byte* to, const std::byte* from, std::uint64_t count, unsigned size) {
    switch (size) {
        case 1: __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
        case 2: __asm__ volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
        case 4: __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
        default: __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
    }
}

void host_stos(std::byte* to, std::uint64_t value, std::uint64_t count, unsigned size) {
    switch (size) {
        case 1: __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
        case 2: __asm__ volatile("rep stosw" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
        case 4: __asm__ volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
        default: __asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
    }
}

/// Does as many elements of MOVS or STOS as one chunk allows; 0: none.
std::uint64_t fast_chunk(const StringState& s, Kind kind, std::uint64_t wanted) {
    CpuState& cpu = s.cpu;
    if (s.down || (kind != Kind::Movs && kind != Kind::Stos) || (cpu.mode & (ModeBits::kTrap | ModeBits::kAlignCheck)) != 0) {
        return 0;
    }
    std::uint64_t count = std::min(wanted, kMaxElements);
    const std::byte* from = nullptr;
    if (kind == Kind::Movs) {
        from = chunk(s, s.insn.implicit_segment, s.reg(x86::Rsi), false, count);
        if (from == nullptr) {
            return 0;
        }
    }
    std::byte* to = chunk(s, x86::Es, s.reg(x86::Rdi), true, count);
    if (to == nullptr) {
        return 0;
    }
    if (kind == Kind::Movs) {
        host_movs(to, from, count, s.size);  // overlap behaves as on the host: element by element, upward
        s.step(x86::Rsi, count * s.size);
    } else {
        host_stos(to, cpu.gpr[x86::Rax], count, s.size);
    }
    s.step(x86::Rdi, count * s.size);
    return count;
}

bool ends_early(const CpuState& cpu, const Instruction& insn, Kind kind) {
    if (kind != Kind::Scas && kind != Kind::Cmps) {
        return false;
    }
    const bool zero = (cpu.rflags & fl::kZf) != 0;
    return insn.repne ? zero : !zero;  // of F2 and F3 the last counts
}

StepResult op_string(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    const Kind kind = kind_of(insn);
    const unsigned size = (insn.opcode & 1U) == 0 ? 1 : insn.operand_size;
    const StringState s{cpu, insn, size, insn.address_size, (cpu.rflags & fl::kDf) != 0};
    if (!insn.raw_f2 && !insn.raw_f3) {
        return one_element(s, kind) ? done(cpu, insn) : StepResult::Exception;
    }
    std::uint64_t count = s.reg(x86::Rcx);
    if (count == 0) {
        return done(cpu, insn);
    }
    std::uint64_t did = fast_chunk(s, kind, count);
    bool fault = false;
    bool early = false;
    const std::uint64_t limit = (cpu.mode & ModeBits::kTrap) != 0 ? 1 : std::min<std::uint64_t>(count, 256);
    if (did == 0) {
        do {
            fault = !one_element(s, kind);
            if (fault) {
                break;
            }
            ++did;
            early = ends_early(cpu, insn, kind);
        } while (did < limit && !early && cpu.request.load(std::memory_order_relaxed) == 0);
    }
    count -= did;
    if (did != 0) {
        set_gpr(cpu, x86::Rcx, insn.address_size, count);  // a fault before the first element leaves even the upper half alone
    }
    if (fault) {
        return StepResult::Exception;
    }
    return count == 0 || early ? done(cpu, insn) : StepResult::Done;
}

}  // namespace

Handler select_string(const Instruction& /*insn*/) noexcept { return op_string; }

}  // namespace strata::engine::soft
