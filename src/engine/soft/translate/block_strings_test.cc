// Tests of strings that are done in place: REP MOVS and REP STOS at every distance from the ends of
// pages, in both directions, overlapping and not, against the interpreter.
#include <random>

#include <gtest/gtest.h>

#include "engine/soft/translate/translate_test_machine.h"

namespace strata::engine::soft {
namespace {

using Machine = TranslateTestMachine;
using Bytes = std::vector<std::uint8_t>;
using Random = std::mt19937;

constexpr unsigned kRax = 0, kRcx = 1, kRsi = 6, kRdi = 7;

unsigned pick(Random& random, unsigned count) {
    return static_cast<unsigned>(random() % count);
}

// Near a page's end as a rule; sometimes where nothing is, or no address at all.
std::uint64_t address(Random& random) {
    switch (pick(random, 12)) {
        case 0:
            return Machine::kReadOnly + pick(random, 4096);
        case 1:
            return 0 - std::uint64_t{pick(random, 8192)};
        case 2:
            return 0x800000000000ULL - pick(random, 64);
        case 3:
        case 4:
            return Machine::kData + pick(random, 0x2100);
        default:
            return Machine::kData + 0x1000 - pick(random, 160) + pick(random, 40);
    }
}

Bytes program(Random& random) {
    Bytes code;
    if (pick(random, 4) == 0) {
        code.push_back(0xFD);  // std
    }
    code.insert(code.end(), {0x85, 0xC0});  // test eax, eax
    code.push_back(0xF3);
    const unsigned width = pick(random, 4);
    if (width == 1) {
        code.push_back(0x66);
    } else if (width == 3) {
        code.push_back(0x48);
    }
    const std::uint8_t kind = pick(random, 2) != 0 ? 0xA4 : 0xAA;
    code.push_back(static_cast<std::uint8_t>(kind | (width != 0 ? 1 : 0)));
    code.insert(code.end(), {0x0F, 0x94, 0xC2, 0x49, 0x89, 0xF9, 0xF4});  // setz dl; mov r9, rdi
    return code;
}

void prepare(Machine& machine, Random random) {
    machine.reset();
    for (auto& byte : machine.data()) {
        byte = static_cast<std::byte>(random());
    }
    CpuState& cpu = machine.cpu();
    cpu.gpr[kRax] = pick(random, 2) != 0 ? 0 : (std::uint64_t{random()} << 32) | random();
    cpu.gpr[kRsi] = address(random);
    cpu.gpr[kRdi] = pick(random, 4) == 0 ? cpu.gpr[kRsi] + pick(random, 64) - 32 : address(random);
    cpu.gpr[kRcx] = pick(random, 16) == 0 ? (std::uint64_t{random()} << 40) : pick(random, 200);
    // The TLB knows some of it.
    (void)host_pointer(cpu, Machine::kData + 8, 1, MemAccess::Write);
    (void)host_pointer(cpu, Machine::kData + 0x1008, 1,
                       pick(random, 2) != 0 ? MemAccess::Write : MemAccess::Read);
    (void)host_pointer(cpu, Machine::kReadOnly + 8, 1, MemAccess::Read);
}

TEST(BlockStringsTest, RepeatedStringsDoWhatTheInterpreterDoes) {
    Machine translated, interpreted;
    for (std::uint32_t seed = 0; seed < 4000; ++seed) {
        Random random(seed);
        const Bytes code = program(random);
        prepare(translated, random);
        prepare(interpreted, random);
        translated.load(code);
        interpreted.load(code);
        ASSERT_EQ(translated.run_translated(), interpreted.run_interpreted()) << seed;
        const CpuState &one = translated.cpu(), &other = interpreted.cpu();
        ASSERT_EQ(one.rip, other.rip) << seed;
        ASSERT_EQ(one.exception.vector, other.exception.vector) << seed;
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
