// Strings: MOVS, STOS, LODS, SCAS, CMPS with and without REP.
//
// A REP instruction works in chunks: as many elements as fit in the pages at hand that follow each
// other in the host too, all in RAM, at the host's speed; then registers are brought up to date.
// The step ends, with rip left in place, as soon as a request waits. So it is interruptible and
// restartable at each chunk. What the fast chunk cannot do (devices, page crossings, DF = 1,
// watchpoints) goes element by element.
#include <algorithm>

#include <Zydis/Mnemonic.h>

#include "engine/soft/interp/handlers.h"
#include "engine/soft/interp/operands.h"
#include "engine/soft/mmu/mmu_state.h"

namespace strata::engine::soft {
namespace {

namespace fl = x86::rflags;
constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kMaxBytes = 16 * kPage;  // of a chunk: some microseconds

enum class Kind : std::uint8_t { Movs, Stos, Lods, Scas, Cmps };

Kind kind_of(const Instruction& insn) {
    switch (insn.opcode & 0xfeU) {
        case 0xa4:
            return Kind::Movs;
        case 0xaa:
            return Kind::Stos;
        case 0xac:
            return Kind::Lods;
        case 0xae:
            return Kind::Scas;
        default:
            return Kind::Cmps;
    }
}

struct StringState {
    CpuState& cpu;
    const Instruction& insn;
    unsigned size;     ///< of an element
    unsigned address;  ///< address size
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
        case 1:
            __asm__("cmpb %b2, %b1\n\tpushfq\n\tpopq %0" : "=r"(flags) : "q"(a), "q"(b) : "cc");
            break;
        case 2:
            __asm__("cmpw %w2, %w1\n\tpushfq\n\tpopq %0" : "=r"(flags) : "r"(a), "r"(b) : "cc");
            break;
        case 4:
            __asm__("cmpl %k2, %k1\n\tpushfq\n\tpopq %0" : "=r"(flags) : "r"(a), "r"(b) : "cc");
            break;
        default:
            __asm__("cmpq %2, %1\n\tpushfq\n\tpopq %0" : "=r"(flags) : "r"(a), "r"(b) : "cc");
            break;
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
            if (!load_sized(cpu, source, s.reg(x86::Rsi), s.size, a) ||
                !store_sized(cpu, x86::Es, s.reg(x86::Rdi), s.size, a)) {
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
            if (!load_sized(cpu, x86::Es, s.reg(x86::Rdi), s.size, b) ||
                !load_sized(cpu, source, s.reg(x86::Rsi), s.size, a)) {
                return false;
            }
            compare_flags(cpu, a, b, s.size);
            s.step(x86::Rsi, s.size);
            s.step(x86::Rdi, s.size);
            return true;
    }
    return false;
}

/// As host_pointer(), but what the TLB knows is found without a call.
std::byte* page_pointer(CpuState& cpu, std::uint64_t linear, std::uint64_t bytes, bool write) {
    const TlbEntry& entry = cpu.tlb[tlb_index(linear)];
    if (((write ? entry.tag_write : entry.tag_read) ^ linear) < kPage) [[likely]] {
        // SAFETY: the MMU vouches for the page; the caller stays in it.
        return reinterpret_cast<std::byte*>(entry.host_page + (linear & (kPage - 1)));
    }
    return host_pointer(cpu, linear, static_cast<std::uint32_t>(bytes),
                        write ? MemAccess::Write : MemAccess::Read);
}

/// How many of `count` elements from `linear` on lie behind each other in the host's memory too;
/// the first `found`, at `host`, do. A page that would fault, or holds code to be forgotten, ends
/// the chunk.
std::uint64_t extend(const StringState& s, std::uint64_t linear, bool write, const std::byte* host,
                     std::uint64_t found, std::uint64_t count) {
    CpuState& cpu = s.cpu;
    if (((linear + found * s.size) & (kPage - 1)) != 0) {
        return found;  // an element crosses the page's end
    }
    while (found < count && !cpu.mmu->rewrite_pending) {
        const std::uint64_t part = std::min(count - found, kPage / s.size);
        const std::byte* next = page_pointer(cpu, linear + found * s.size, part * s.size, write);
        if (next != host + found * s.size) {
            break;
        }
        found += part;
    }
    return found;
}

/// Host memory for `count` elements at segment:offset; lowers `count` to what fits. Null: go
/// element by element.
std::byte* chunk(const StringState& s, unsigned segment, std::uint64_t offset, bool write,
                 std::uint64_t& count) {
    CpuState& cpu = s.cpu;
    std::uint64_t linear = offset;
    // 64-bit mode has no segments but FS and GS; that addresses are canonical is seen when a page
    // is looked up.
    const bool flat = s.address == 8 && segment < x86::Fs;
    const auto within = [&](std::uint64_t elements) {
        return flat || segment_linear(cpu, segment, offset,
                                      static_cast<std::uint32_t>(elements * s.size), write, linear);
    };
    if (!within(1)) {
        cpu.exception.pending = false;  // one_element() finds it again
        return nullptr;
    }
    const std::uint64_t wrap_room =
        s.address == 8 ? ~0ULL : (size_mask(s.address) - offset + 1) / s.size;
    const std::uint64_t wanted = std::min(count, wrap_room);
    count = std::min(wanted, (kPage - (linear & (kPage - 1))) / s.size);
    if (count < 2 || !within(count)) {
        cpu.exception.pending = false;
        return nullptr;
    }
    std::byte* host = page_pointer(cpu, linear, count * s.size, write);
    if (host != nullptr && count < wanted && within(wanted)) {
        count = extend(s, linear, write, host, count, wanted);
    }
    cpu.exception.pending = false;
    return host;
}

// A few bytes, upward, where `to` does not begin within what is still to be read.
void copy_few(std::byte* to, const std::byte* from, std::uint64_t bytes) {
    for (; bytes >= 8; bytes -= 8, to += 8, from += 8) {
        std::uint64_t value = 0;
        __builtin_memcpy(&value, from, 8);
        __builtin_memcpy(to, &value, 8);
    }
    for (; bytes > 0; --bytes) {
        *to++ = *from++;
    }
}

void host_movs(std::byte* to, const std::byte* from, std::uint64_t count, unsigned size) {
    constexpr std::uint64_t kFew = 128;  // the host's string instructions take as long to begin
    if (count * size <= kFew && static_cast<std::uint64_t>(to - from) >= count * size) {
        copy_few(to, from, count * size);
        return;
    }
    switch (size) {
        case 1:
            __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
            break;
        case 2:
            __asm__ volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
            break;
        case 4:
            __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
            break;
        default:
            __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
            break;
    }
}

void host_stos(std::byte* to, std::uint64_t value, std::uint64_t count, unsigned size) {
    switch (size) {
        case 1:
            __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory");
            break;
        case 2:
            __asm__ volatile("rep stosw" : "+D"(to), "+c"(count) : "a"(value) : "memory");
            break;
        case 4:
            __asm__ volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(value) : "memory");
            break;
        default:
            __asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(value) : "memory");
            break;
    }
}

/// Elements of a MOVS or STOS that lie in pages the TLB knows, done at the host's speed. What lies
/// behind each other in the host too is one copy of the host's.
class KnownPages {
  public:
    KnownPages(const StringState& s, Kind kind) : s_(s), moves_(kind == Kind::Movs) {}

    /// How many of `wanted` elements were done; the registers are the caller's.
    std::uint64_t run(std::uint64_t wanted) {
        const std::uint64_t source = s_.reg(x86::Rsi), target = s_.reg(x86::Rdi);
        std::uint64_t found = 0;
        while (found < wanted) {
            const std::uint64_t at = target + found * s_.size, from = source + found * s_.size;
            std::uint64_t part = std::min(wanted - found, (kPage - (at & (kPage - 1))) / s_.size);
            part = moves_ ? std::min(part, (kPage - (from & (kPage - 1))) / s_.size) : part;
            std::byte* to = tlb_hit(s_.cpu, at, s_.size, true);
            const std::byte* in = moves_ ? tlb_hit(s_.cpu, from, s_.size, false) : to;
            if (part == 0 || to == nullptr || in == nullptr) {
                break;
            }
            add(to, in, part);
            found += part;
        }
        finish();
        return found;
    }

  private:
    void add(std::byte* to, const std::byte* from, std::uint64_t part) {
        const std::uint64_t bytes = count_ * s_.size;
        if (count_ != 0 && to_ + bytes == to && (!moves_ || from_ + bytes == from)) {
            count_ += part;
            return;
        }
        finish();
        to_ = to;
        from_ = from;
        count_ = part;
    }
    void finish() {
        if (count_ == 0) {
            return;
        }
        if (moves_) {
            host_movs(to_, from_, count_, s_.size);
        } else {
            host_stos(to_, s_.cpu.gpr[x86::Rax], count_, s_.size);
        }
    }

    const StringState& s_;
    const bool moves_;
    std::byte* to_ = nullptr;
    const std::byte* from_ = nullptr;
    std::uint64_t count_ = 0;
};

/// Does as many elements of MOVS or STOS as one chunk allows; 0: none.
std::uint64_t fast_chunk(const StringState& s, Kind kind, std::uint64_t wanted) {
    CpuState& cpu = s.cpu;
    if (s.down || (kind != Kind::Movs && kind != Kind::Stos) ||
        (cpu.mode & (ModeBits::kTrap | ModeBits::kAlignCheck)) != 0) {
        return 0;
    }
    std::uint64_t count = std::min(wanted, kMaxBytes / s.size);
    if (s.address == 8 && s.insn.implicit_segment < x86::Fs && code64(cpu)) {
        if (const std::uint64_t did = KnownPages(s, kind).run(count); did != 0) {
            s.step(x86::Rdi, did * s.size);
            if (kind == Kind::Movs) {
                s.step(x86::Rsi, did * s.size);
            }
            return did;
        }
    }
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
        host_movs(to, from, count,
                  s.size);  // overlap behaves as on the host: element by element, upward
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
    while (did != 0) {
        count -= did;
        set_gpr(cpu, x86::Rcx, insn.address_size, count);
        if (count == 0) {
            return done(cpu, insn);
        }
        if (cpu.request.load(std::memory_order_relaxed) != 0) {
            return StepResult::Done;
        }
        did = fast_chunk(s, kind, count);
    }
    bool fault = false;
    bool early = false;
    const std::uint64_t limit =
        (cpu.mode & ModeBits::kTrap) != 0 ? 1 : std::min<std::uint64_t>(count, 256);
    do {
        fault = !one_element(s, kind);
        if (fault) {
            break;
        }
        ++did;
        early = ends_early(cpu, insn, kind);
    } while (did < limit && !early && cpu.request.load(std::memory_order_relaxed) == 0);
    count -= did;
    if (did != 0) {
        set_gpr(cpu, x86::Rcx, insn.address_size,
                count);  // a fault before the first element leaves even the upper half alone
    }
    if (fault) {
        return StepResult::Exception;
    }
    return count == 0 || early ? done(cpu, insn) : StepResult::Done;
}

}  // namespace

Handler select_string(const Instruction& /*insn*/) noexcept {
    return op_string;
}

}  // namespace strata::engine::soft
