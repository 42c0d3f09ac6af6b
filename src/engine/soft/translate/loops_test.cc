// Tests of loops with hoisted checks: random loops under the translator and under the interpreter
// end in the same state.
#include "engine/soft/translate/loops.h"

#include <random>
#include <string>

#include <gtest/gtest.h>

#include "engine/soft/translate/translate_test_machine.h"

namespace strata::engine::soft {
namespace {

using Machine = TranslateTestMachine;
using Bytes = std::vector<std::uint8_t>;
using Random = std::mt19937_64;

constexpr unsigned kRcx = 1, kRdx = 2, kRbx = 3, kRsi = 6, kRdi = 7, kR9 = 9;

std::uint64_t pick(Random& random, std::uint64_t below) {
    return random() % below;
}

// A body instruction: its bytes, and whether the last of them is drawn.
struct Template {
    Bytes bytes;
    bool drawn;
};

const std::vector<Template>& templates() {
    static const std::vector<Template> all = {
        {{0x48, 0x8B, 0x46, 0}, true},                  // mov rax, [rsi + d]
        {{0x48, 0x89, 0x47, 0}, true},                  // mov [rdi + d], rax
        {{0x88, 0x07}, false},                          // mov [rdi], al
        {{0x48, 0x03, 0x04, 0x32}, false},              // add rax, [rdx + rsi]
        {{0x48, 0x33, 0x04, 0xF2}, false},              // xor rax, [rdx + rsi*8]
        {{0x89, 0x44, 0xBA, 0}, true},                  // mov [rdx + rdi*4 + d], eax
        {{0x4D, 0x8B, 0x0C, 0x31}, false},              // mov r9, [r9 + rsi]
        {{0x43, 0x8A, 0x44, 0x0D, 0}, true},            // mov al, [r13 + r9 + d]
        {{0xF3, 0x0F, 0x6F, 0x46, 0}, true},            // movdqu xmm0, [rsi + d]
        {{0xF3, 0x0F, 0x7F, 0x47, 0}, true},            // movdqu [rdi + d], xmm0
        {{0x48, 0x01, 0x44, 0x24, 0}, true},            // add [rsp + d], rax
        {{0xF0, 0xFF, 0x07}, false},                    // lock inc dword [rdi]
        {{0x8A, 0x03}, false},                          // mov al, [rbx]
        {{0x48, 0x8B, 0x05, 0x00, 0x0E, 0, 0}, false},  // mov rax, [rip + 0xE00]
        {{0x48, 0x83, 0xC6, 0}, true},                  // add rsi, d
        {{0x48, 0x83, 0xEF, 0}, true},                  // sub rdi, d
        {{0x48, 0xFF, 0xC7}, false},                    // inc rdi
        {{0x48, 0x8D, 0x76, 0}, true},                  // lea rsi, [rsi + d]
        {{0x48, 0x01, 0xD6}, false},                    // add rsi, rdx
        {{0x83, 0xC6, 0}, true},                        // add esi, d
        {{0x48, 0x8D, 0x1C, 0x32}, false},              // lea rbx, [rdx + rsi]
        {{0x3C, 0x77}, false},                          // cmp al, 77h
        {{0x48, 0x0F, 0x44, 0xF0}, false},              // cmove rsi, rax
    };
    return all;
}

Bytes random_loop(Random& random) {
    Bytes code = {0x31, 0xC0};  // xor eax, eax
    const std::size_t head = code.size();
    code.insert(code.end(), {0x48, 0x85, 0xC9});  // test rcx, rcx
    for (std::uint64_t left = 1 + pick(random, 7); left != 0; --left) {
        const Template& chosen = templates()[pick(random, templates().size())];
        code.insert(code.end(), chosen.bytes.begin(), chosen.bytes.end());
        if (chosen.drawn) {
            code.back() = pick(random, 3) == 0 ? static_cast<std::uint8_t>(random())
                                               : static_cast<std::uint8_t>(pick(random, 9));
        }
        if (pick(random, 8) == 0) {
            code.insert(code.end(), {0x3C, 0x55, 0x74, 0x00});  // cmp al, 55h; je to the next
        }
    }
    code.insert(code.end(), {0x48, 0xFF, 0xC9});  // dec rcx
    code.insert(code.end(), {0x75, static_cast<std::uint8_t>(head - (code.size() + 2))});
    code.push_back(0xF4);
    return code;
}

std::uint64_t address(Random& random) {
    switch (pick(random, 12)) {
        case 0:
            return Machine::kData + 0x2000 - pick(random, 300);
        case 1:
            return Machine::kReadOnly + pick(random, 4096);
        case 2:
            return 0x00007FFFFFFFFFF0ULL + pick(random, 32);
        case 3:
            return pick(random, 64);
        case 4:
            return 0 - pick(random, 64);
        case 5:
            return Machine::kCode + 0x1000 + pick(random, 64);
        case 6:
            return random();
        default:
            return Machine::kData + pick(random, 0x2000);
    }
}

void prepare(Machine& machine, const Bytes& code, std::uint64_t seed) {
    Random random(seed);
    machine.reset();
    machine.load(code);
    CpuState& cpu = machine.cpu();
    for (const unsigned reg : {kRsi, kRdi, kRbx, kR9, 13U}) {
        cpu.gpr[reg] = address(random);
    }
    cpu.gpr[kRdx] = pick(random, 3) == 0 ? address(random) : pick(random, 256);
    if (pick(random, 3) == 0) {
        cpu.gpr[kRdx] = Machine::kData;
        cpu.gpr[kRsi] = pick(random, 1024);
        cpu.gpr[kRdi] = pick(random, 1024);
    }
    cpu.gpr[kRcx] = 1 + pick(random, 600);
    // Mostly the loop looks its pages up by itself from the start.
    cpu.translator.deltas[LoopWindows::kSample] = pick(random, 4) == 0 ? 0 : 1000;
    Random content(seed);
    for (std::byte& value : machine.data()) {
        value = static_cast<std::byte>(content());
    }
}

std::string difference(Machine& translated, Machine& interpreted) {
    ExecResult left = translated.run_translated();
    for (int i = 0; i < 10 && left == ExecResult::Polled; ++i) {
        left = translated.run_translated();  // stores into pages of code poll
    }
    const ExecResult right = interpreted.run_interpreted();
    const CpuState &a = translated.cpu(), &b = interpreted.cpu();
    std::string text = left == right ? "" : "result; ";
    for (unsigned i = 0; i < 16; ++i) {
        text += a.gpr[i] == b.gpr[i] ? "" : "gpr" + std::to_string(i) + "; ";
    }
    text += a.rip == b.rip ? "" : "rip; ";
    const bool same = a.exception.pending == b.exception.pending &&
                      a.exception.vector == b.exception.vector &&
                      a.exception.error == b.exception.error &&
                      a.exception.fault_address == b.exception.fault_address;
    text += same || !b.exception.pending ? "" : "exception; ";
    text +=
        std::equal(translated.data().begin(), translated.data().end(), interpreted.data().begin())
            ? ""
            : "memory; ";
    return text;
}

void run_random_loops(bool alias, std::uint64_t first, std::uint64_t count,
                      const TranslateOptions& options = {}) {
    Machine translated(options), interpreted;
    if (alias) {
        // Else the data's two pages are neighbours in the host too.
        translated.remap(Machine::kData + 0x1000, Machine::kStack);
        interpreted.remap(Machine::kData + 0x1000, Machine::kStack);
    }
    for (std::uint64_t seed = first; seed < first + count; ++seed) {
        Random random(seed);
        const Bytes code = random_loop(random);
        prepare(translated, code, seed);
        prepare(interpreted, code, seed);
        std::string text;
        for (const std::uint8_t byte : code) {
            text += std::to_string(byte) + " ";
        }
        ASSERT_EQ(difference(translated, interpreted), "") << "seed " << seed << " code " << text;
    }
}

TEST(LoopsTest, RandomLoopsEndAsInTheInterpreter) {
    run_random_loops(false, 1, 2000);
}
TEST(LoopsTest, RandomLoopsOverPagesThatAreNoNeighbours) {
    run_random_loops(true, 100000, 2000);
}
TEST(LoopsTest, RandomLoopsOfFloatingBlocks) {
    TranslateOptions options;
    options.float_all = true;
    run_random_loops(false, 200000, 2000, options);
}

TEST(LoopsTest, RandomLoopsWhosePagesTheHelperFinds) {
    TranslateOptions options;
    options.quick_fills = false;
    run_random_loops(true, 600000, 1000, options);
}

// A loop whose pages the TLB has asks nobody, at its start and at each page's end, until it is its
// turn to be looked at.
TEST(LoopsTest, KnownPagesAreFoundByTheLoopItself) {
    Machine machine;
    std::uint64_t& sample = machine.cpu().translator.deltas[LoopWindows::kSample];
    const auto& asked = machine.translator().counters().loop_fills;
    for (int turn = 0; turn < 2; ++turn) {
        const std::uint64_t before = asked.load();
        if (turn == 0) {
            machine.reset();
        }
        machine.cpu().rip = Machine::kCode;
        machine.load(Bytes{0x48, 0x8B, 0x06,                    // mov rax, [rsi]
                           0x48, 0x89, 0x84, 0x17, 0, 0, 0, 0,  // mov [rdi + rdx], rax
                           0x48, 0x83, 0xC6, 0x08,              // add rsi, 8
                           0x48, 0x83, 0xC7, 0x08,              // add rdi, 8
                           0x49, 0xFF, 0xC2,                    // inc r10
                           0x48, 0xFF, 0xC9,                    // dec rcx
                           0x75, 0xE5, 0xF4});                  // jnz
        machine.cpu().gpr[kRsi] = Machine::kData + 0x800;
        machine.cpu().gpr[kRdi] = Machine::kData;
        machine.cpu().gpr[kRdx] = 0;
        machine.cpu().gpr[kRcx] = 0x300;
        machine.cpu().gpr[10] = 0;
        sample = 100;
        for (std::size_t i = 0; i < 2 * Machine::kPage; ++i) {
            machine.data()[i] = static_cast<std::byte>(i * 31 >> 3);
        }
        EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
        EXPECT_EQ(machine.cpu().gpr[10], 0x300U);
        for (std::size_t i = 0; i < 0x1800; ++i) {
            ASSERT_EQ(machine.data()[i], static_cast<std::byte>((i + 0x800) * 31 >> 3));
        }
        EXPECT_LT(sample, 100U);  // one for each fill
        EXPECT_GT(sample, 90U);
        // The TLB has the pages since the first turn.
        EXPECT_TRUE(turn == 0 || asked.load() == before) << asked.load() - before;
    }
}

// Two loops that take turns, one of which does not pay: whichever is looked at first, it is found
// out.
TEST(LoopsTest, LoopsThatTakeTurnsAreAllLookedAt) {
    for (const std::uint64_t first : {0, 1}) {
        Machine machine;
        const auto data = static_cast<std::uint8_t>(Machine::kData >> 16U);
        static_assert((Machine::kData & 0xFF00FFFF) == 0);
        machine.load(Bytes{0xB9, 64,   0,    0,    0,  // mov ecx, 64
                           0xBE, 0,    0,    data, 0,  // mov esi, data
                           0x48, 0x8B, 0x06,           // mov rax, [rsi]
                           0x48, 0x83, 0xC6, 0x08,     // add rsi, 8
                           0x48, 0xFF, 0xC9,           // dec rcx
                           0x75, 0xF4,                 // jnz
                           0xB9, 8,    0,    0,    0,  // mov ecx, 8
                           0xBE, 0,    0,    data, 0,  // mov esi, data
                           0x48, 0x8B, 0x06,           // mov rax, [rsi]
                           0x48, 0x83, 0xC6, 0x08,     // add rsi, 8
                           0x48, 0xFF, 0xC9,           // dec rcx
                           0x75, 0xF4,                 // jnz
                           0xFF, 0xCB,                 // dec ebx
                           0x75, 0xD0, 0xF4});         // jnz
        machine.cpu().gpr[kRbx] = 8000;
        machine.cpu().translator.deltas[LoopWindows::kSample] = first;
        EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
        EXPECT_GT(machine.translator().counters().killed.load(), 0U) << first;
    }
}

TEST(LoopsTest, RandomLoopsOfSeveralIterationsInABlock) {
    TranslateOptions options;
    options.hoist_loops = false;
    run_random_loops(false, 300000, 2000, options);
    run_random_loops(true, 400000, 1000, options);
    options.float_all = true;
    run_random_loops(false, 500000, 1000, options);
}

// The interpreter's part of a copy of a page: nothing but the iterations at the page's ends.
TEST(LoopsTest, ACopyStaysInTheLoop) {
    Machine machine;
    machine.load(Bytes{0x8A, 0x06,              // mov al, [rsi]
                       0x88, 0x07,              // mov [rdi], al
                       0x48, 0x83, 0xC6, 0x01,  // add rsi, 1
                       0x48, 0x83, 0xC7, 0x01,  // add rdi, 1
                       0x48, 0x83, 0xE9, 0x01,  // sub rcx, 1
                       0x75, 0xEE, 0xF4});      // jnz
    for (std::size_t i = 0; i < Machine::kPage; ++i) {
        machine.data()[i] = static_cast<std::byte>(i * 7);
    }
    machine.cpu().gpr[kRsi] = Machine::kData;
    machine.cpu().gpr[kRdi] = Machine::kData + Machine::kPage;
    machine.cpu().gpr[kRcx] = Machine::kPage;
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_TRUE(std::equal(machine.data().begin(), machine.data().begin() + Machine::kPage,
                           machine.data().begin() + Machine::kPage));
    EXPECT_EQ(machine.cpu().gpr[kRsi], Machine::kData + Machine::kPage);
    EXPECT_LE(machine.translator().counters().slow_accesses.load(), 4U);
}

// Four iterations in a block, one check for all of a register's accesses, though guest r9 is not in
// a register and the branch may end the loop in any of them.
TEST(LoopsTest, ShortLoopsShareChecks) {
    TranslateOptions options;
    options.hoist_loops = false;
    for (std::uint64_t count = 1; count < 14; ++count) {
        Machine machine(options);
        machine.load(Bytes{0x49, 0x8B, 0x01,              // mov rax, [r9]
                           0x48, 0x01, 0x44, 0xCF,        // add [rdi + rcx*8 + 8], rax
                           0x08, 0x49, 0x83, 0xC1, 0x08,  // add r9, 8
                           0x48, 0xFF, 0xC9,              // dec rcx
                           0x75, 0xEF, 0xF4});            // jnz
        for (std::uint64_t i = 0; i < 16; ++i) {
            std::memcpy(&machine.data()[i * 8], &i, 8);
        }
        machine.cpu().gpr[kR9] = Machine::kData;
        machine.cpu().gpr[kRdi] = Machine::kData + 0x800;
        machine.cpu().gpr[kRcx] = count;
        EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
        EXPECT_EQ(machine.cpu().gpr[kR9], Machine::kData + 8 * count);
        for (std::uint64_t i = 0; i < count; ++i) {
            std::uint64_t value = 0;
            std::memcpy(&value, &machine.data()[0x808 + (count - i) * 8], 8);
            EXPECT_EQ(value, i);
        }
    }
}

// A register of which 32 bits are stepped wraps around: it is no window's.
TEST(LoopsTest, A32BitIndexWrapsAround) {
    Machine machine;
    machine.load(Bytes{0x8A, 0x04, 0x32,    // mov al, [rdx + rsi]
                       0x83, 0xC6, 0x01,    // add esi, 1
                       0xFF, 0xC9,          // dec ecx
                       0x75, 0xF6, 0xF4});  // jnz
    machine.cpu().gpr[kRdx] = Machine::kData - 0xFFFFFF00ULL;
    machine.cpu().gpr[kRsi] = 0xFFFFFF00ULL;
    machine.cpu().gpr[kRcx] = 0x200;
    EXPECT_EQ(machine.run_translated(), ExecResult::Exception);
    EXPECT_EQ(machine.cpu().gpr[kRsi], 0U);
    EXPECT_EQ(machine.cpu().exception.fault_address, Machine::kData - 0xFFFFFF00ULL);
}

}  // namespace
}  // namespace strata::engine::soft
