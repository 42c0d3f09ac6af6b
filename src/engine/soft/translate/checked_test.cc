// Tests of checked blocks: code that is rewritten again and again, by others and by itself.
#include <random>

#include <gtest/gtest.h>

#include "engine/soft/translate/translate_test_machine.h"

namespace strata::engine::soft {
namespace {

using Machine = TranslateTestMachine;
using Bytes = std::vector<std::uint8_t>;

constexpr unsigned kRax = 0, kRcx = 1, kRbx = 3, kRsi = 6, kR13 = 13;

TranslateOptions options_with(bool early) {
    TranslateOptions options;
    options.check_rewritten = true;
    options.check_early = early;
    return options;
}

// A function is written anew before each of its calls.
Bytes writer_and_caller() {
    return {0x41, 0xC6, 0x45, 0x00, 0xB8,   // mov byte [r13], B8h
            0x41, 0x89, 0x4D, 0x01,         // mov [r13+1], ecx
            0x41, 0xC6, 0x45, 0x05, 0xC3,   // mov byte [r13+5], C3h
            0x41, 0xFF, 0xD5,               // call r13: mov eax, ecx; ret
            0x48, 0x01, 0xC3,               // add rbx, rax
            0xFF, 0xC9, 0x75, 0xE8, 0xF4};  // dec ecx; jnz; hlt
}

void start(Machine& machine, std::uint64_t times) {
    machine.load(writer_and_caller());
    machine.load(Bytes{0xCC}, 0x1000);
    machine.cpu().gpr[kR13] = Machine::kCode + 0x1000;
    machine.cpu().gpr[kRcx] = times;
    machine.cpu().gpr[kRbx] = 0;
}

TEST(CheckedTest, ChangedImmediatesNeedNoTranslation) {
    Machine machine(options_with(false));
    start(machine, 10000);
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[kRbx], 50005000U);
    const TranslatorCounters& counters = machine.translator().counters();
    EXPECT_EQ(counters.checked_blocks.load(), 1U);
    EXPECT_LT(counters.invalidations.load(), 30U);
    EXPECT_LT(counters.blocks.load(), 40U);
    EXPECT_LT(counters.slow_accesses.load(), 300U) << "the page was to be an ordinary one again";
}

TEST(CheckedTest, SwitchedOffEachStoreKills) {
    TranslateOptions options;
    options.check_rewritten = false;
    Machine machine(options);
    start(machine, 1000);
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[kRbx], 500500U);
    EXPECT_EQ(machine.translator().counters().checked_blocks.load(), 0U);
    EXPECT_GT(machine.translator().counters().invalidations.load(), 900U);
}

TEST(CheckedTest, ADevicesWriteIsSeen) {
    Machine machine(options_with(true));
    start(machine, 10);
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    ASSERT_GE(machine.translator().counters().checked_blocks.load(), 1U);
    for (const std::uint8_t value : Bytes{7, 9}) {
        machine.reset();
        machine.cpu().rip = Machine::kCode + 0x1000;
        machine.load(Bytes{0x6A, value, 0x58, 0xF4}, 0x1000);  // push value; pop rax; hlt
        EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
        EXPECT_EQ(machine.cpu().gpr[kRax], value);
    }
}

// What has not changed for long is translated as usual.
TEST(CheckedTest, QuietCodeIsComparedNoMore) {
    Machine machine(options_with(true));
    start(machine, 3);
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    machine.reset();
    machine.load(Bytes{0x41, 0xFF, 0xD5, 0xFF, 0xC9, 0x75, 0xF9, 0xF4});  // call r13; dec ecx; jnz
    machine.cpu().gpr[kR13] = Machine::kCode + 0x1000;
    machine.cpu().gpr[kRcx] = 1'100'000;
    const std::uint64_t killed = machine.translator().counters().killed.load();
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.translator().counters().checked_blocks.load(), 1U);
    EXPECT_EQ(machine.translator().counters().killed.load(), killed + 1);
}

// Random code of slots of eight bytes, each with six for itself and MOV DL, imm8; before each call
// of it a slot is replaced by another.
class RandomCode {
  public:
    static constexpr std::size_t kSlots = 12, kCalls = 80;

    explicit RandomCode(std::uint32_t seed) : random_(seed) {}

    /// Code, and a list of (offset, slot) for the data page.
    void load(Machine& machine) {
        for (std::size_t i = 0; i < kSlots; ++i) {
            const std::uint64_t slot = made(i);
            std::memcpy(machine.code(0x1000 + kStart + i * 8), &slot, 8);
        }
        const std::uint64_t end = 0xC390909090909090;  // nops; ret
        std::memcpy(machine.code(0x1000 + kStart + kSlots * 8), &end, 8);
        for (std::size_t i = 0; i < kCalls; ++i) {
            const std::uint64_t where = random_() % kSlots;
            const std::uint64_t entry[2] = {where * 8, made(where)};
            std::memcpy(machine.data().data() + i * 16, entry, 16);
        }
        const Bytes caller{0x4C, 0x8B, 0x06,               // mov r8, [rsi]
                           0x48, 0x8B, 0x56, 0x08,         // mov rdx, [rsi+8]
                           0x4B, 0x89, 0x54, 0x05, 0x00,   // mov [r13+r8], rdx
                           0x48, 0x83, 0xC6, 0x10,         // add rsi, 16
                           0x39, 0xD3,                     // cmp ebx, edx
                           0x41, 0xFF, 0xD5,               // call r13
                           0xFF, 0xC9, 0x75, 0xE7, 0xF4};  // dec ecx; jnz; hlt
        std::memcpy(machine.code(), caller.data(), caller.size());
        machine.cpu().gpr[kR13] = Machine::kCode + 0x1000 + kStart;
        machine.cpu().gpr[kRsi] = Machine::kData;
        machine.cpu().gpr[kRcx] = kCalls;
    }

  private:
    static constexpr std::size_t kStart = 0x28;  // not at the beginning of a line

    static std::uint64_t pack(std::initializer_list<int> bytes) {
        std::uint64_t slot = 0x00B2909090909090;
        unsigned at = 0;
        for (const int byte : bytes) {
            slot &= ~(std::uint64_t{0xFF} << at);
            slot |= std::uint64_t{static_cast<std::uint8_t>(byte)} << at;
            at += 8;
        }
        return slot;
    }

    // The first and the last slot keep an immediate that the others store to.
    std::uint64_t made(std::size_t at) {
        const auto byte = [this] { return static_cast<int>(random_() & 0xFF); };
        const bool fixed = at == 0 || at == kSlots - 1;
        std::uint64_t slot = 0;
        switch (fixed ? 0 : random_() % 10) {
            case 0:  // mov eax, imm32
                slot = pack({0xB8, byte(), byte(), byte(), byte()});
                break;
            case 1:  // add ebx, imm32
                slot = pack({0x81, 0xC3, byte(), byte(), byte(), byte()});
                break;
            case 2:  // mov r10d, imm32
                slot = pack({0x41, 0xBA, byte(), byte(), byte(), byte()});
                break;
            case 3:  // add ebx, r10d
                slot = pack({0x44, 0x01, 0xD3});
                break;
            case 4:  // add ebx, eax
                slot = pack({0x01, 0xC3});
                break;
            case 5:  // adc ebx, imm8
                slot = pack({0x83, 0xD3, byte()});
                break;
            case 6:  // jc over the next slot
                slot = pack({0x72, 0x0E, 0x90, 0x90, 0x90, 0x90});
                break;
            case 7:  // mov [r13 + the last byte of a slot], bl
                slot = pack({0x41, 0x88, 0x5D, static_cast<int>(random_() % kSlots * 8 + 7)});
                break;
            case 8:  // mov [r13 + an immediate], bl
                slot = pack({0x41, 0x88, 0x5D,
                             random_() % 2 != 0 ? 2 : static_cast<int>((kSlots - 1) * 8 + 2)});
                break;
            default:  // push rbx; pop r11; add ebx, [r13 + …]
                slot = pack({0x41, 0x03, 0x5D, static_cast<int>(random_() % kSlots * 8)});
                break;
        }
        return (slot & ~(std::uint64_t{0xFF} << 56)) |
               (std::uint64_t{static_cast<std::uint8_t>(byte())} << 56);
    }

    std::mt19937 random_;
};

void compare_with_interpreter(TranslateOptions options) {
    constexpr std::uint32_t kPrograms = 60;
    std::uint64_t checked = 0;
    for (std::uint32_t seed = 0; seed < kPrograms; ++seed) {
        Machine one(options), other(options);
        RandomCode(seed).load(one);
        RandomCode(seed).load(other);
        ASSERT_EQ(one.run_translated(), ExecResult::Halted) << seed;
        ASSERT_EQ(other.run_interpreted(), ExecResult::Halted) << seed;
        for (unsigned reg = 0; reg < 16; ++reg) {
            ASSERT_EQ(one.cpu().gpr[reg], other.cpu().gpr[reg])
                << "register " << reg << " seed " << seed;
        }
        ASSERT_EQ(one.cpu().rflags, other.cpu().rflags) << seed;
        ASSERT_EQ(std::memcmp(one.code(0x1000), other.code(0x1000), 4096), 0) << seed;
        checked += one.translator().counters().checked_blocks.load();
    }
    EXPECT_GE(checked, kPrograms);
}

TEST(CheckedTest, RandomRewritingDoesWhatTheInterpreterDoes) {
    compare_with_interpreter(options_with(false));
}

TEST(CheckedTest, RandomRewritingCheckedEarly) {
    compare_with_interpreter(options_with(true));
}

TEST(CheckedTest, RandomRewritingOfFloatingBlocks) {
    TranslateOptions options = options_with(true);
    options.float_all = true;
    compare_with_interpreter(options);
}

}  // namespace
}  // namespace strata::engine::soft
