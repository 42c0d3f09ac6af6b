// Generator: encodings by the format's own structure (prefixes, map, opcode, ModRM, SIB,
// displacement, immediate), filtered by the decoder; registers and memory chosen so that operands
// are aligned, misaligned, page-crossing, unmapped, read-only and non-canonical.
#include "differential/generator.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>

#include <Zydis/Zydis.h>

#include "arch/x86/registers.h"
#include "differential/random.h"

namespace strata::differential {
namespace {

using engine::soft::CodeMode;
using engine::soft::DecodeStatus;
using engine::soft::InsnClass;
using engine::soft::Instruction;

// Instructions whose outcome is not the code's alone: host state, time, randomness, other
// privileges, the FPU's last-instruction pointers.
bool outside_the_comparison(const Instruction& insn) {
    switch (insn.cls) {
        case InsnClass::Undefined:
        case InsnClass::FarFlow:
        case InsnClass::Segment:
        case InsnClass::System:
        case InsnClass::Io:
            return true;
        default:
            break;
    }
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_RDRAND:
        case ZYDIS_MNEMONIC_RDSEED:
        case ZYDIS_MNEMONIC_RDTSC:
        case ZYDIS_MNEMONIC_RDTSCP:
        case ZYDIS_MNEMONIC_RDPID:
        case ZYDIS_MNEMONIC_CPUID:
        case ZYDIS_MNEMONIC_POPF:
        case ZYDIS_MNEMONIC_POPFD:
        case ZYDIS_MNEMONIC_POPFQ:
        case ZYDIS_MNEMONIC_XSAVE:
        case ZYDIS_MNEMONIC_XSAVE64:
        case ZYDIS_MNEMONIC_XSAVEC:
        case ZYDIS_MNEMONIC_XSAVEC64:
        case ZYDIS_MNEMONIC_XSAVEOPT:
        case ZYDIS_MNEMONIC_XSAVEOPT64:
        case ZYDIS_MNEMONIC_XRSTOR:
        case ZYDIS_MNEMONIC_XRSTOR64:
        case ZYDIS_MNEMONIC_FXSAVE:
        case ZYDIS_MNEMONIC_FXSAVE64:
        case ZYDIS_MNEMONIC_FXRSTOR:
        case ZYDIS_MNEMONIC_FXRSTOR64:
        case ZYDIS_MNEMONIC_FNSAVE:
        case ZYDIS_MNEMONIC_FRSTOR:
        case ZYDIS_MNEMONIC_FNSTENV:
        case ZYDIS_MNEMONIC_FLDENV:
        case ZYDIS_MNEMONIC_XGETBV:
        case ZYDIS_MNEMONIC_RDPKRU:
        case ZYDIS_MNEMONIC_WRPKRU:
            return true;
        default:
            // fs is the C library's own
            return (insn.mem.present && insn.mem.segment == arch::x86::Fs) ||
                   insn.implicit_segment == arch::x86::Fs;
    }
}

// AMD's Zen 4 reads an old RSP here right behind a PUSH (a million of a million times; not if LEA
// moved the stack pointer): no reference.
bool converts_stack_pointer(const Instruction& insn) {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_VCVTSI2SD:
        case ZYDIS_MNEMONIC_VCVTSI2SS:
        case ZYDIS_MNEMONIC_VCVTUSI2SD:
        case ZYDIS_MNEMONIC_VCVTUSI2SS:
            return insn.rm_is_gpr && insn.rm == arch::x86::Rsp;
        default:
            return false;
    }
}

// What processors of different makers do differently, so that agreement with this host would prove
// nothing: near branches with an operand size prefix (AMD truncates rip, Intel ignores the prefix),
// LOOPcc with F2/F3 (undocumented), register forms of the 0F 0D hints.
bool differs_by_maker(const Instruction& insn, const std::vector<std::uint8_t>& bytes) {
    const bool branch = insn.cls >= InsnClass::Jcc && insn.cls <= InsnClass::Loop;
    const auto prefixes_end = bytes.begin() + insn.opcode_offset;
    const bool operand_size = std::find(bytes.begin(), prefixes_end, 0x66) != prefixes_end;
    return (branch && operand_size) ||
           (insn.cls == InsnClass::Loop && (insn.raw_f2 || insn.raw_f3)) ||
           (insn.opcode_map == 1 && insn.opcode == 0x0d && insn.mod == 3) ||
           converts_stack_pointer(insn);
}

// REP CMPS with two operands that fault: the manuals do not say which one does, and one processor
// does it both ways.
bool either_operand(const Instruction& insn) {
    return insn.cls == InsnClass::String && (insn.opcode & 0xfe) == 0xa6 &&
           (insn.raw_f2 || insn.raw_f3);
}

// x87 operands of 10 bytes may be two accesses: the first can be a page fault although the second
// is not canonical. AMD processors push a CALL's return address before they look at the target.
// MASKMOVDQU is two accesses at the end of the canonical range, too.
bool two_parts(const Instruction& insn) {
    return insn.mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
           insn.mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU ||
           insn.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ||
           (insn.vector == engine::soft::VectorKind::X87 && insn.mem.size == 10) ||
           insn.cls == InsnClass::CallIndirect;
}

bool uses_gs(const Instruction& insn) {
    return (insn.mem.present && insn.mem.segment == arch::x86::Gs) ||
           insn.implicit_segment == arch::x86::Gs;
}

void append(std::vector<std::uint8_t>& bytes, Random& random, unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
        bytes.push_back(static_cast<std::uint8_t>(random.next() >> 13));
    }
}

// ModRM with a bias to memory operands, its SIB, displacement; then a few random bytes that serve
// as immediates.
void append_operands(std::vector<std::uint8_t>& bytes, Random& random) {
    auto modrm = static_cast<std::uint8_t>(random.next() >> 7);
    if (random.one_in(3)) {
        modrm |= 0xc0;
    }
    bytes.push_back(modrm);
    if (modrm < 0xc0 && (modrm & 7) == 4) {
        append(bytes, random, 1);
    }
    if ((modrm >> 6) == 2) {
        // A displacement of a few pages at most keeps the solved base register within the layout's
        // reach.
        const auto displacement = static_cast<std::int32_t>(random.below(8192)) - 4096;
        const auto* raw = reinterpret_cast<const std::uint8_t*>(
            &displacement);  // SAFETY: bytes of a trivial type
        bytes.insert(bytes.end(), raw, raw + 4);
    }
    append(bytes, random, 8);
}

void make_legacy(std::vector<std::uint8_t>& bytes, Random& random) {
    constexpr std::uint8_t kPrefixes[] = {0x66, 0xf2, 0xf3, 0xf0, 0x65, 0x67};
    while (random.one_in(4)) {
        bytes.push_back(kPrefixes[random.below(std::size(kPrefixes))]);
    }
    if (random.one_in(2)) {
        bytes.push_back(static_cast<std::uint8_t>(0x40 | random.below(16)));
    }
    switch (random.below(4)) {
        case 0:
            bytes.push_back(0x0f);
            break;
        case 1:
            bytes.push_back(0x0f);
            bytes.push_back(random.one_in(2) ? 0x38 : 0x3a);
            break;
        default:
            break;
    }
    append(bytes, random, 1);
    append_operands(bytes, random);
}

void make_vex(std::vector<std::uint8_t>& bytes, Random& random) {
    if (random.one_in(2)) {
        bytes.push_back(0xc5);
        append(bytes, random, 1);
    } else {
        bytes.push_back(0xc4);
        bytes.push_back(static_cast<std::uint8_t>((random.next() & 0xe0) | (1 + random.below(3))));
        append(bytes, random, 1);
    }
    append(bytes, random, 1);
    append_operands(bytes, random);
}

void make_evex(std::vector<std::uint8_t>& bytes, Random& random) {
    bytes.push_back(0x62);
    bytes.push_back(static_cast<std::uint8_t>((random.next() & 0xf0) | (1 + random.below(3))));
    bytes.push_back(static_cast<std::uint8_t>((random.next() & 0xfb) | 4));
    append(bytes, random, 1);
    append(bytes, random, 1);
    append_operands(bytes, random);
}

// One accepted instruction.
Instruction pick(Random& random, const engine::soft::IsaSupport& isa) {
    for (;;) {
        std::vector<std::uint8_t> bytes;
        switch (random.below(5)) {
            case 0:
                make_vex(bytes, random);
                break;
            case 1:
                make_evex(bytes, random);
                break;
            default:
                make_legacy(bytes, random);
                break;
        }
        Instruction insn;
        const auto available = static_cast<std::uint32_t>(std::min<std::size_t>(bytes.size(), 15));
        if (engine::soft::decode(bytes.data(), available, CodeMode::Bits64, isa, insn) !=
                DecodeStatus::Ok ||
            outside_the_comparison(insn) || differs_by_maker(insn, bytes)) {
            continue;
        }
        return insn;
    }
}

// A direct branch of the sequence whose displacement is still to be chosen.
struct OpenBranch {
    std::size_t index;
    std::size_t displacement_at;  // in the code
    std::size_t after;            // offset behind the instruction
    unsigned size;
};

// Whether a case can hold the instruction: direct branches need a displacement of 1 or 4 bytes to
// be redirected.
bool usable(const Instruction& insn) {
    switch (insn.cls) {
        case InsnClass::Jcc:
        case InsnClass::Jmp:
        case InsnClass::Call:
        case InsnClass::Loop:
            return insn.imm_offset[0] != engine::soft::kNoOffset &&
                   (insn.imm_size[0] == 1 || insn.imm_size[0] == 4);
        default:
            return true;
    }
}

// Branches go forward, to the start of a later instruction or to the INT3s behind the last, so that
// every case ends.
void close_branches(TestCase& test, const std::vector<OpenBranch>& branches,
                    std::vector<FlowStep>& steps, Random& random) {
    for (const OpenBranch& branch : branches) {
        std::vector<std::size_t> targets;  // of the instructions behind it, by their index
        std::size_t at = 0;
        for (const std::uint8_t length : test.lengths) {
            if (at >= branch.after) {
                targets.push_back(at);
            }
            at += length;
        }
        targets.push_back(at);
        const std::size_t chosen = random.below(targets.size());
        const auto ahead = static_cast<std::int32_t>(targets[chosen] - branch.after);
        steps[branch.index].target = branch.index + 1 + chosen;
        std::memcpy(test.code.data() + branch.displacement_at, &ahead, branch.size);
    }
}

std::uint64_t interesting_address(Random& random) {
    constexpr std::uint64_t kPages[] = {Layout::kData, Layout::kData + kPage, Layout::kReadOnly,
                                        Layout::kAfterReadOnly, Layout::kStack};
    const std::uint64_t page = kPages[random.below(std::size(kPages))];
    switch (random.below(16)) {
        case 0:  // at a page's end: crosses into the next page, mapped or not
        case 1:
        case 2:
            return page + kPage - random.below(70);
        case 3:
            return page - random.below(40);
        case 4:
            return Layout::kHole + random.below(kPage);
        case 5:
            return random.next();  // nearly always non-canonical
        case 6:
            return 0x7fffffffff00ULL + random.below(512);
        case 7:
            return 0xffff800000000000ULL - random.below(64);
        case 8:
        case 9:
            return page + random.below(kPage);
        default:
            return page + (random.below(kPage - 64) & ~63ULL);
    }
}

std::uint64_t interesting_number(Random& random) {
    switch (random.below(6)) {
        case 0:
            return random.below(16);
        case 1:
            return ~random.below(16);
        case 2:
            return 1ULL << random.below(64);
        case 3:
            return static_cast<std::uint64_t>(
                static_cast<std::int64_t>(static_cast<std::int32_t>(random.next())));
        default:
            return random.next();
    }
}

// Sets a base register so that the operand lies at an interesting address.
void aim(const Instruction& insn, Registers& start, Random& random) {
    if (!insn.mem.present || insn.mem.vsib || insn.mem.base < 0 || insn.mem.base >= 16) {
        return;
    }
    auto& gpr = start.gpr;
    if (insn.mem.index >= 0 && insn.mem.index < 16 && insn.mem.index != insn.mem.base) {
        gpr[static_cast<std::size_t>(insn.mem.index)] = random.below(64);
    }
    std::uint64_t address =
        interesting_address(random) - static_cast<std::uint64_t>(insn.mem.displacement);
    if (insn.mem.index >= 0 && insn.mem.index < 16 && insn.mem.index != insn.mem.base) {
        address -= gpr[static_cast<std::size_t>(insn.mem.index)] * insn.mem.scale;
    }
    if (insn.mem.base != arch::x86::Rsp || random.one_in(8)) {
        gpr[static_cast<std::size_t>(insn.mem.base)] = address;
    }
}

void fill_vectors(Registers& start, Random& random) {
    // Legacy area: st0..st7 at 32 (16 bytes each, 10 used), xmm0..15 at 160; then the header and
    // the extended parts. SDM 1, 13.4.
    auto fill = [&](std::size_t from, std::size_t to) {
        for (std::size_t at = from; at + 8 <= to; at += 8) {
            const std::uint64_t value = random.one_in(3) ? random.below(256)
                                        : random.one_in(3)
                                            ? 0x3ff0000000000000ULL + (random.below(1 << 20) << 32)
                                            : random.next();
            std::memcpy(start.xsave.data() + at, &value, 8);
        }
    };
    std::uint64_t present = 0;
    std::memcpy(&present, start.xsave.data() + 512, 8);
    for (std::size_t reg = 0; reg < 8; ++reg) {
        const std::uint64_t mantissa = random.next() | (1ULL << 63);
        const auto exponent = static_cast<std::uint16_t>(0x3ff0 + random.below(32));
        std::memcpy(start.xsave.data() + 32 + 16 * reg, &mantissa, 8);
        std::memcpy(start.xsave.data() + 40 + 16 * reg, &exponent, 2);
    }
    fill(160, 416);
    for (const unsigned component : {2U, 5U, 6U, 7U}) {
        if ((present >> component & 1) != 0) {
            const XsaveComponent place = xsave_component(component);
            fill(place.offset, place.offset + place.size);
        }
    }
}

}  // namespace

Generator::Generator(const engine::soft::IsaSupport& isa, const arch::x86::ArchState& vector_start)
    : isa_(isa), xsave_start_(vector_start.xsave) {
    // A fixed sample says which are common, so that a case depends on its seed alone.
    constexpr unsigned kSample = 20000;
    constexpr std::uint32_t kOften = 40;
    std::map<std::uint16_t, std::uint32_t> counts;
    Random random(0);
    for (unsigned i = 0; i < kSample; ++i) {
        const Instruction insn = pick(random, isa_);
        if (++counts[insn.mnemonic] > kOften) {
            common_.insert(insn.mnemonic);
        }
    }
}

TestCase Generator::make(std::uint64_t seed, unsigned most) {
    Random random(seed);
    TestCase test;
    test.seed = seed;
    test.start.xsave = xsave_start_;
    fill_vectors(test.start, random);
    for (auto& reg : test.start.gpr) {
        reg = random.one_in(3) ? interesting_address(random) : interesting_number(random);
    }
    test.start.gpr[arch::x86::Rsp] =
        Layout::kStack + (random.one_in(8) ? random.below(kPage) : 2048 + 8 * random.below(64));
    test.start.rflags = 0x202 | (random.next() & arch::x86::rflags::kArithmetic) |
                        (random.one_in(4) ? arch::x86::rflags::kDf : 0);
    test.gs_base = Layout::kData + random.below(kPage);
    // Mostly well inside the first code page; sometimes across the two pages, sometimes up to the
    // end of the second.
    const std::uint64_t offsets[] = {64 + random.below(3000), kPage - 1 - random.below(40),
                                     Layout::kCodePages * kPage - 1 - random.below(40)};
    test.start.rip = Layout::kCode + offsets[random.one_in(6) ? 1 + random.below(2) : 0];
    const std::uint64_t room = Layout::kCode + Layout::kCodePages * kPage - test.start.rip;
    const auto count = 1 + random.below(most);
    bool aimed = false;
    std::vector<OpenBranch> branches;
    std::vector<FlowStep> steps;
    for (unsigned i = 0; i < count; ++i) {
        Instruction insn = pick(random, isa_);
        for (int retry = 0; retry < 3 && common_.contains(insn.mnemonic) && random.one_in(2);
             ++retry) {
            insn = pick(random, isa_);
        }
        if (!usable(insn) || test.code.size() + insn.length > room) {
            continue;
        }
        if (insn.cls == InsnClass::Jcc || insn.cls == InsnClass::Jmp ||
            insn.cls == InsnClass::Call || insn.cls == InsnClass::Loop) {
            branches.push_back({steps.size(), test.code.size() + insn.imm_offset[0],
                                test.code.size() + insn.length, insn.imm_size[0]});
        }
        if (!aimed || random.one_in(3)) {
            aim(insn, test.start, random);
            aimed = aimed || insn.mem.present;
        }
        test.traits.push_back({engine::soft::mnemonic_name(insn),
                               ZydisISASetGetString(static_cast<ZydisISASet>(insn.isa_set)),
                               either_operand(insn), two_parts(insn), uses_gs(insn)});
        steps.push_back(flow_step(insn));
        test.code.insert(test.code.end(), insn.bytes, insn.bytes + insn.length);
        test.lengths.push_back(insn.length);
    }
    close_branches(test, branches, steps, random);
    test.loose_flags = follow_flags(steps);
    for (auto& page : test.data) {
        for (std::size_t at = 0; at < kPage; at += 8) {
            const std::uint64_t value = interesting_number(random);
            std::memcpy(page.data() + at, &value, 8);
        }
    }
    return test;
}

}  // namespace strata::differential
