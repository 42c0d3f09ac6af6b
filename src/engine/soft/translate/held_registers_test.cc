// Tests of guest r9 to r11 while scratch registers hold them: random runs of instructions that use
// little else, with accesses, branches and faults between them, against the interpreter.
#include <array>
#include <random>

#include <gtest/gtest.h>

#include "engine/soft/translate/translate_test_machine.h"

namespace strata::engine::soft {
namespace {

using Machine = TranslateTestMachine;
using Bytes = std::vector<std::uint8_t>;
using Random = std::mt19937;

constexpr unsigned kRsp = 4, kRbx = 3, kFirst = 8;

unsigned pick(Random& random, unsigned count) {
    return static_cast<unsigned>(random() % count);
}

// REX and ModRM name two of r8 to r12.
void two_registers(Random& random, Bytes& code, const Bytes& opcode) {
    const unsigned reg = pick(random, 5), rm = pick(random, 5);
    code.push_back(pick(random, 2) != 0 ? 0x4D : 0x45);
    code.insert(code.end(), opcode.begin(), opcode.end());
    code.push_back(static_cast<std::uint8_t>(0xC0 | reg << 3 | rm));
}

void lea(Random& random, Bytes& code) {
    const unsigned reg = pick(random, 5), base = pick(random, 5), index = pick(random, 5);
    code.push_back(pick(random, 2) != 0 ? 0x4F : 0x47);
    code.insert(code.end(), {0x8D, static_cast<std::uint8_t>(0x44 | reg << 3),
                             static_cast<std::uint8_t>(pick(random, 4) << 6 | index << 3 | base),
                             static_cast<std::uint8_t>(pick(random, 256))});
}

// A load from or a store to [base + 8 bits].
void access(Random& random, Bytes& code, unsigned base) {
    const unsigned reg = pick(random, 5);
    code.push_back(static_cast<std::uint8_t>(0x4C | (base >= kFirst ? 1 : 0)));
    code.push_back(std::array<std::uint8_t, 4>{0x89, 0x8B, 0x03, 0x01}[pick(random, 4)]);
    code.push_back(static_cast<std::uint8_t>(0x40 | reg << 3 | (base & 7)));
    if ((base & 7) == kRsp) {
        code.push_back(0x24);
    }
    code.push_back(static_cast<std::uint8_t>(pick(random, 16) * 8));
}

void append(Random& random, Bytes& code) {
    static constexpr std::array<std::uint8_t, 19> kTwo = {0x01, 0x03, 0x0B, 0x11, 0x13, 0x21, 0x23,
                                                          0x29, 0x2B, 0x31, 0x33, 0x39, 0x3B, 0x85,
                                                          0x87, 0x89, 0x8B, 0x88, 0x00};
    switch (pick(random, 16)) {
        case 0:
        case 1:
            return lea(random, code);
        case 2:
            return two_registers(
                random, code, {0x0F, static_cast<std::uint8_t>(0x40 | pick(random, 16))});  // cmov
        case 3:
            return two_registers(random, code, {0x0F, 0xB6});  // movzx
        case 4:
            code.insert(code.end(),
                        {0x49, 0x0F, static_cast<std::uint8_t>(0xC8 | pick(random, 4))});  // bswap
            return;
        case 5:
            return access(random, code, kRsp);
        case 6:
            return access(random, code, kRbx);
        case 7:  // mostly not canonical
            return access(random, code, pick(random, 4) == 0 ? kFirst + 1 + pick(random, 3) : kRbx);
        case 8: {  // jcc over one instruction
            Bytes skipped;
            two_registers(random, skipped, {0x01});
            code.push_back(static_cast<std::uint8_t>(0x70 | pick(random, 16)));
            code.push_back(static_cast<std::uint8_t>(skipped.size()));
            code.insert(code.end(), skipped.begin(), skipped.end());
            return;
        }
        case 9:
            if (pick(random, 8) == 0) {  // div r8 to r12: faults as a rule
                code.insert(code.end(),
                            {0x49, 0xF7, static_cast<std::uint8_t>(0xF0 | pick(random, 5))});
            }
            return;
        case 10:  // add with an immediate
            code.insert(code.end(), {0x41, 0x83, static_cast<std::uint8_t>(0xC0 | pick(random, 5)),
                                     static_cast<std::uint8_t>(pick(random, 256))});
            return;
        case 11:  // movq to and from xmm0
            code.insert(code.end(), {0x66, 0x49, 0x0F,
                                     static_cast<std::uint8_t>(pick(random, 2) != 0 ? 0x6E : 0x7E),
                                     static_cast<std::uint8_t>(0xC0 | pick(random, 5))});
            return;
        default:
            return two_registers(random, code, {kTwo[pick(random, kTwo.size())]});
    }
}

void prepare(Machine& machine, std::uint32_t seed) {
    machine.reset();
    Random random(seed);
    for (auto& byte : machine.data()) {
        byte = static_cast<std::byte>(random());
    }
    for (unsigned reg = kFirst; reg < 13; ++reg) {
        machine.cpu().gpr[reg] = (std::uint64_t{random()} << 32) | random();
    }
    machine.cpu().gpr[kFirst + 1 + pick(random, 3)] = Machine::kData + 0x80;
    machine.cpu().gpr[kRbx] = Machine::kData + 0x100;
}

TEST(HeldRegistersTest, RandomCodeDoesWhatTheInterpreterDoes) {
    Machine translated, interpreted;
    for (std::uint32_t seed = 0; seed < 3000; ++seed) {
        Random random(seed);
        Bytes code;
        const unsigned count = 4 + pick(random, 24);
        for (unsigned i = 0; i < count; ++i) {
            append(random, code);
        }
        code.push_back(0xF4);
        prepare(translated, seed);
        prepare(interpreted, seed);
        translated.load(code);
        interpreted.load(code);
        ASSERT_EQ(translated.run_translated(), interpreted.run_interpreted()) << seed;
        const CpuState &one = translated.cpu(), &other = interpreted.cpu();
        ASSERT_EQ(one.rip, other.rip) << seed;
        ASSERT_EQ(one.exception.pending, other.exception.pending) << seed;
        ASSERT_EQ(one.exception.fault_address, other.exception.fault_address) << seed;
        for (unsigned reg = 0; reg < 16; ++reg) {
            ASSERT_EQ(one.gpr[reg], other.gpr[reg]) << seed << " register " << reg;
        }
        ASSERT_EQ(0, std::memcmp(translated.data().data(), interpreted.data().data(),
                                 translated.data().size()))
            << seed;
    }
}

}  // namespace
}  // namespace strata::engine::soft
