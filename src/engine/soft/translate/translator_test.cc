// Tests of the Translator: chaining, polling, self-modifying code, remapped pages, a full cache.
#include "engine/soft/translate/translator.h"

#include <chrono>
#include <thread>

#include <gtest/gtest.h>

#include "engine/soft/translate/translate_test_machine.h"

namespace strata::engine::soft {
namespace {

using Machine = TranslateTestMachine;
using Bytes = std::vector<std::uint8_t>;

constexpr unsigned kRax = 0, kRcx = 1;

TEST(TranslatorTest, LoopStaysInTranslatedCode) {
    Machine machine;
    machine.load(Bytes{0xB9, 0x40, 0x42, 0x0F, 0x00,  // mov ecx, 1000000
                       0x83, 0xC0, 0x03,              // add eax, 3
                       0xFF, 0xC9,                    // dec ecx
                       0x75, 0xF9,                    // jnz -7
                       0xF4});
    machine.cpu().gpr[kRax] = 0;
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[kRax], 3000000U);
    EXPECT_LT(machine.translator().counters().enters.load(), 6U);
    EXPECT_GE(machine.translator().counters().links.load(), 1U);
}

TEST(TranslatorTest, CallsAndReturnsStayInTranslatedCode) {
    Machine machine;
    machine.load(Bytes{0xB9, 0xE8, 0x03, 0x00, 0x00,  // mov ecx, 1000
                       0xE8, 0xF6, 0x0F, 0x00, 0x00,  // call the next page
                       0xFF, 0xC9,                    // dec ecx
                       0x75, 0xF7,                    // jnz to the call
                       0xF4});
    machine.load(Bytes{0x83, 0xC0, 0x01, 0xC3}, 0x1000);  // add eax, 1; ret
    machine.cpu().gpr[kRax] = 0;
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[kRax], 1000U);
    EXPECT_LT(machine.translator().counters().enters.load(), 12U);
    EXPECT_GE(machine.translator().counters().page_links.load(), 1U);
}

TEST(TranslatorTest, FlagsSurviveCallAndReturn) {
    Machine machine;
    machine.load(Bytes{0x83, 0xF9, 0x05,              // cmp ecx, 5
                       0xE8, 0xF8, 0x0F, 0x00, 0x00,  // call the next page
                       0x74, 0x01,                    // je +1
                       0xF4,                          // hlt
                       0xB8, 0x2A, 0x00, 0x00, 0x00,  // mov eax, 42
                       0xF4});
    machine.load(Bytes{0x48, 0x8B, 0x14, 0x25, 0x00, 0x00, 0x60, 0x00, 0xC3},
                 0x1000);  // mov rdx, [data]; ret
    machine.cpu().gpr[kRcx] = 5;
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[kRax], 42U);
}

TEST(TranslatorTest, FlagsSurviveRepeatedComparesOfNothing) {
    for (const std::uint8_t opcode : Bytes{0xA6, 0xAF}) {  // cmpsb, scasd
        Machine machine;
        machine.load(Bytes{0x39, 0xC9,        // cmp ecx, ecx
                           0xF3, opcode,      // repe, with rcx = 0
                           0x0F, 0x94, 0xC2,  // sete dl
                           0xF4});
        machine.cpu().gpr[kRcx] = 0;
        EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
        EXPECT_EQ(machine.cpu().gpr[2] & 0xFF, 1U);
    }
}

TEST(TranslatorTest, RequestStopsAnEndlessLoop) {
    Machine machine;
    machine.load(Bytes{0xEB, 0xFE});  // jmp $
    std::thread other([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        machine.cpu().request.fetch_or(Request::kExit);
    });
    EXPECT_EQ(machine.translator().run(machine.cpu()), ExecResult::Polled);
    other.join();
    EXPECT_EQ(machine.cpu().rip, Machine::kCode);
}

TEST(TranslatorTest, RequestStopsALoopThatCarriesFlags) {
    Machine machine;
    machine.load(Bytes{0xF9,                    // stc
                       0x48, 0x83, 0xD0, 0x00,  // adc rax, 0
                       0x72, 0xFA,              // jc to adc
                       0xF9,                    // stc
                       0xEB, 0xF7});            // jmp to adc
    machine.cpu().gpr[kRax] = 0;
    std::thread other([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        machine.cpu().request.fetch_or(Request::kExit);
    });
    EXPECT_EQ(machine.translator().run(machine.cpu()), ExecResult::Polled);
    other.join();
    EXPECT_GT(machine.cpu().gpr[kRax], 1000U);
}

TEST(TranslatorTest, StoreIntoTheRunningBlockTakesEffectAtTheNextInstruction) {
    Machine machine;
    machine.load(Bytes{0xC6, 0x05, 0x01, 0x00, 0x00, 0x00, 0x07,  // mov byte [rip+1], 7
                       0xB8, 0x01, 0x00, 0x00, 0x00,              // mov eax, 1: becomes 7
                       0xF4});
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[kRax], 7U);
}

TEST(TranslatorTest, StoreThroughAnotherMappingInvalidates) {
    Machine machine;
    // Twice: mov eax, N; then patches N through the alias and runs again.
    machine.load(Bytes{0xB8, 0x01, 0x00, 0x00, 0x00,                    // mov eax, 1
                       0x01, 0xC3,                                      // add ebx, eax
                       0xFF, 0xC9,                                      // dec ecx
                       0x74, 0x0A,                                      // jz to hlt
                       0xC6, 0x04, 0x25, 0x01, 0x00, 0x80, 0x00, 0x64,  // mov byte [alias+1], 100
                       0xEB, 0xEB,                                      // jmp to the start
                       0xF4});
    machine.cpu().gpr[3] = 0;
    machine.cpu().gpr[kRcx] = 3;
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[3], 201U);
}

TEST(TranslatorTest, DeviceWriteInvalidates) {
    Machine machine;
    const Bytes program{0xB8, 0x01, 0x00, 0x00, 0x00, 0xF4};
    machine.load(program);
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[kRax], 1U);
    std::memset(machine.code(1), 9, 1);
    machine.translator().invalidate(
        nullptr, static_cast<std::uint64_t>(machine.code(1) - machine.vm().ram->base()), 1);
    machine.reset();
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[kRax], 9U);
}

TEST(TranslatorTest, RemappedPageIsNotEnteredThroughAnOldLink) {
    Machine machine;
    machine.load(Bytes{0xE9, 0xFB, 0x0F, 0x00, 0x00});                // jmp to page 1
    machine.load(Bytes{0xB8, 0x01, 0x00, 0x00, 0x00, 0xF4}, 0x1000);  // mov eax, 1; hlt
    machine.load(Bytes{0xB8, 0x02, 0x00, 0x00, 0x00, 0xF4}, 0x2000);  // mov eax, 2; hlt
    for (int i = 0; i < 3; ++i) {
        machine.reset();
        EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
        EXPECT_EQ(machine.cpu().gpr[kRax], 1U);
    }
    machine.remap(Machine::kCode + 0x1000, Machine::kCode + 0x2000);
    flush_tlb_page(machine.cpu(), Machine::kCode + 0x1000);
    machine.cpu().rip = Machine::kCode;
    machine.cpu().halted = false;
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[kRax], 2U);
}

TEST(TranslatorTest, CallsThatNeverReturnDoNotFillTheHostsStack) {
    Machine machine;
    machine.load(Bytes{0xB9, 0x40, 0x0D, 0x03, 0x00,  // mov ecx, 200000
                       0xE8, 0x00, 0x00, 0x00, 0x00,  // call the next instruction
                       0x48, 0x8D, 0x64, 0x24, 0x08,  // lea rsp, [rsp+8]
                       0x83, 0xC0, 0x01,              // add eax, 1
                       0xFF, 0xC9,                    // dec ecx
                       0x75, 0xEF,                    // jnz to the call
                       0xF4});
    machine.cpu().gpr[kRax] = 0;
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[kRax], 200000U);
    EXPECT_EQ(machine.cpu().gpr[4], Machine::kStack + Machine::kPage + 512);
    EXPECT_EQ(machine.translator().counters().host_faults.load(), 0U);
}

TEST(TranslatorTest, ReturnsGoWhereTheGuestSays) {
    Machine machine;
    machine.load(Bytes{0xE8, 0x07, 0x00, 0x00, 0x00,              // call f
                       0xB8, 0x01, 0x00, 0x00, 0x00, 0xF4, 0x90,  // mov eax, 1; hlt
                       0x48, 0x83, 0x04, 0x24, 0x0D,              // f: add qword [rsp], 13
                       0xC3,                                      // ret
                       0xB8, 0x02, 0x00, 0x00, 0x00, 0xF4});      // mov eax, 2; hlt
    for (int i = 0; i < 3; ++i) {
        machine.reset();
        EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
        EXPECT_EQ(machine.cpu().gpr[kRax], 2U);
        EXPECT_EQ(machine.cpu().gpr[4], Machine::kStack + Machine::kPage + 512);
    }
}

TEST(TranslatorTest, ReturnToChangedCodeRunsTheNewCode) {
    Machine machine;
    machine.load(Bytes{0xB9, 0x03, 0x00, 0x00, 0x00,  // mov ecx, 3
                       0xE8, 0x0A, 0x00, 0x00, 0x00,  // call f
                       0xB8, 0x00, 0x00, 0x00, 0x00,  // mov eax, 0: the immediate is written by f
                       0xFF, 0xC9,                    // dec ecx
                       0x75, 0xF2,                    // jnz to the call
                       0xF4,                          // hlt
                       0x88, 0x0D, 0xF1, 0xFF, 0xFF, 0xFF,  // f: mov [rip-15], cl
                       0xC3});
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[kRax], 1U);
}

TEST(TranslatorTest, FlagsComeBackFromACall) {
    Machine machine;
    machine.load(Bytes{0x31, 0xDB,                    // xor ebx, ebx
                       0xE8, 0x0A, 0x00, 0x00, 0x00,  // again: call f
                       0x83, 0xD3, 0x00,              // adc ebx, 0
                       0xFF, 0xC9,                    // dec ecx
                       0x75, 0xF4,                    // jnz again
                       0xF4, 0x90, 0x90,              // hlt
                       0x83, 0xF9, 0x05,              // f: cmp ecx, 5: carry below
                       0xC3});
    machine.cpu().gpr[kRcx] = 8;
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[3], 4U);
}

// A loop whose `mov eax, imm32` begins three bytes before the end of its page.
void load_straddling_loop(Machine& machine) {
    machine.load(Bytes{0xB8, 0x05, 0x00}, 0xFFD);  // mov eax, 5 …
    machine.load(Bytes{0x00, 0x00, 0x01, 0xC3,     // … add ebx, eax
                       0xFF, 0xC9,                 // dec ecx
                       0x75, 0xF5,                 // jnz to the mov
                       0xF4},
                 0x1000);
    machine.cpu().rip = Machine::kCode + 0xFFD;
    machine.cpu().gpr[3] = 0;
    machine.cpu().gpr[kRcx] = 1000;
}

TEST(TranslatorTest, InstructionAcrossPagesStaysInTranslatedCode) {
    Machine machine;
    load_straddling_loop(machine);
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[3], 5000U);
    EXPECT_LT(machine.translator().counters().enters.load(), 12U);
    EXPECT_LT(machine.translator().counters().interpreted.load(), 4U);
}

TEST(TranslatorTest, InstructionAcrossPagesDependsOnBoth) {
    Machine machine;
    load_straddling_loop(machine);
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    machine.reset();
    load_straddling_loop(machine);
    machine.load(Bytes{0x01}, 0x1000);  // the immediate's fourth byte
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[3], static_cast<std::uint32_t>(1000 * (5 + 0x10000)));
    // Another page behind the first, told by a flush only.
    machine.reset();
    load_straddling_loop(machine);
    machine.load(Bytes{0x02, 0x00, 0xF4}, 0x2000);
    machine.remap(Machine::kCode + 0x1000, Machine::kCode + 0x2000);
    flush_tlb_page(machine.cpu(), Machine::kCode + 0x1000);
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[kRax], 0x20005U);
}

TEST(TranslatorTest, FullCacheIsEvictedAndRefilled) {
    Machine machine({}, 1U << 20U);
    for (std::uint32_t i = 0; i < 20000; ++i) {
        Bytes program{0xB8, 0, 0, 0, 0, 0xEB, 0x00, 0xF4};  // mov eax, i; jmp +0; hlt
        std::memcpy(&program[1], &i, 4);
        machine.reset();
        machine.load(program);
        ASSERT_EQ(machine.run_translated(), ExecResult::Halted);
        ASSERT_EQ(machine.cpu().gpr[kRax], i);
    }
    EXPECT_GE(machine.translator().counters().evictions.load(), 1U);
}

// A function is written anew before each call, by three stores from a page of its own: only the
// first finds code that has to go.
TEST(TranslatorTest, StoresToCodeStayInTranslatedCode) {
    Machine machine;
    machine.load(Bytes{0x41, 0xC6, 0x45, 0x00, 0xB8,  // mov byte [r13], B8h
                       0x41, 0x89, 0x4D, 0x01,        // mov [r13+1], ecx
                       0x41, 0xC6, 0x45, 0x05, 0xC3,  // mov byte [r13+5], C3h
                       0x41, 0xFF, 0xD5,              // call r13: mov eax, ecx; ret
                       0x48, 0x01, 0xC3,              // add rbx, rax
                       0x41, 0xFF, 0x85, 0x80, 0x00,
                       0x00, 0x00,                      // inc dword [r13+80h]: data beside the code
                       0xFF, 0xC9, 0x75, 0xE1, 0xF4});  // dec ecx; jnz; hlt
    machine.load(Bytes{0xCC}, 0x1000);
    machine.cpu().gpr[13] = Machine::kCode + 0x1000;
    machine.cpu().gpr[1] = 1000;
    machine.cpu().gpr[3] = 0;
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[3], 500500U);
    std::uint32_t data = 0;
    std::memcpy(&data, machine.code(0x1080), sizeof data);
    EXPECT_EQ(data, 1000U);
    const TranslatorCounters& counters = machine.translator().counters();
    EXPECT_LT(counters.invalidations.load(), 1010U);
    EXPECT_LT(counters.interpreted_in_block.load(), 10U);
}

// Lasting code jumps to code that changes and back, across pages, until every region has been used
// several times.
TEST(TranslatorTest, LastingCodeSurvivesEvictions) {
    Machine machine({}, 1U << 20U);
    machine.load(
        Bytes{0x01, 0xC3, 0xE9, 0xF9, 0x0F, 0x00, 0x00, 0xF4, 0xE9, 0xF3, 0x1F, 0x00, 0x00},
        0x0);  // add ebx, eax; jmp +1000h; hlt; jmp +2000h
    machine.load(Bytes{0x01, 0xC3, 0x41, 0xFF, 0xE5}, 0x20);  // add ebx, eax; jmp r13
    machine.load(Bytes{0x43, 0x8D, 0x04, 0x24, 0x90, 0xE9, 0xFE, 0xEF, 0xFF, 0xFF},
                 0x1000);  // lea eax, [r12 + r12]; nop; jmp 0x1008 - 1000h
    std::uint32_t sum = 0;
    for (std::uint32_t i = 0; i < 30000; ++i) {
        Bytes program{0xB8, 0,    0,    0,    0,    0xEB,
                      0x00, 0xE9, 0xFB, 0xDF, 0xFF, 0xFF};  // mov eax, i; jmp +0; jmp 0x7
        std::memcpy(&program[1], &i, 4);
        machine.reset();
        machine.cpu().gpr[3] = sum;
        machine.cpu().gpr[kRax] = 1;
        machine.cpu().gpr[12] = i;
        machine.cpu().gpr[13] = Machine::kCode + 0x1000;
        machine.cpu().rip +=
            i % 3000 < 1000
                ? 0
                : 0x20;  // by a jump whose target is known, then by one whose target is not
        machine.load(program, 0x2000);
        ASSERT_EQ(machine.run_translated(), ExecResult::Halted);
        ++sum;
        ASSERT_EQ(machine.cpu().gpr[3], sum);
        ASSERT_EQ(machine.cpu().gpr[kRax], i);
    }
    EXPECT_GE(machine.translator().counters().evictions.load(), 8U);
}

TEST(TranslatorTest, StackAcrossAPageUsesSingleChecks) {
    Machine machine;
    machine.load(Bytes{0x50, 0x53, 0x6A, 0x07, 0x58, 0x5B, 0x5A,
                       0xF4});  // push rax; push rbx; push 7; pop rax; pop rbx; pop rdx; hlt
    machine.cpu().gpr[4] = Machine::kStack + 0x1000 + 12;
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[kRax], 7U);
    EXPECT_EQ(machine.cpu().gpr[2], 0x1000U);
    EXPECT_EQ(machine.cpu().gpr[4], Machine::kStack + 0x1000 + 12);
}

TEST(TranslatorTest, AddressesInPageZeroNeverReachTheHost) {
    Machine machine;
    machine.load(
        Bytes{0x58, 0xF4});  // pop rax from linear 8: not mapped, but what "no stack page" matches
    machine.cpu().gpr[4] = 8;
    EXPECT_EQ(machine.run_translated(), ExecResult::Exception);
    EXPECT_EQ(machine.cpu().exception.vector, arch::x86::vector::kPf);
    EXPECT_EQ(machine.cpu().exception.fault_address, 8U);
    EXPECT_EQ(machine.cpu().rip, Machine::kCode);
}

TEST(TranslatorTest, NonCanonicalTargetFaultsBeforeAnythingChanges) {
    const Bytes programs[] = {
        {0x50, 0xC3},                     // push rax; ret
        {0x90, 0xFF, 0xE0},               // nop; jmp rax
        {0x90, 0xFF, 0xD0},               // nop; call rax
        {0xF9, 0xFF, 0x55, 0x00},         // stc; call [rbp]
        {0x90, 0x50, 0x53, 0x5B, 0xC3}};  // nop; push rax; push rbx; pop rbx; ret
    const std::uint64_t starts[] = {1, 1, 1, 1, 4};
    for (std::size_t i = 0; i < std::size(programs); ++i) {
        Machine machine;
        machine.load(programs[i]);
        machine.cpu().gpr[kRax] = 0x0000'8000'0000'1000;
        machine.cpu().gpr[5] = Machine::kData;
        std::memcpy(machine.data().data(), &machine.cpu().gpr[kRax], 8);
        const bool pushes = i == 0 || i == 4;
        const std::uint64_t stack = machine.cpu().gpr[4] - (pushes ? 8 : 0);
        EXPECT_EQ(machine.run_translated(), ExecResult::Exception) << i;
        EXPECT_EQ(machine.cpu().exception.vector, arch::x86::vector::kGp) << i;
        EXPECT_EQ(machine.cpu().rip, Machine::kCode + starts[i]) << i;
        EXPECT_EQ(machine.cpu().gpr[4], stack) << i;
        EXPECT_EQ(machine.cpu().rflags & 1, i == 3 ? 1U : 0U) << i;
        if (i == 2 || i == 3) {
            EXPECT_EQ(machine.translator().counters().interpreted_in_block.load(), 0U) << i;
        }
    }
}

TEST(TranslatorTest, VectorAccessAcrossPagesWorksOnACopy) {
    Machine machine;
    machine.load(Bytes{0xF9,                            // stc
                       0x0F, 0x10, 0x06,                // movups xmm0, [rsi]
                       0x0F, 0x11, 0x07,                // movups [rdi], xmm0
                       0x0F, 0x11, 0x46, 0x01,          // movups [rsi+1], xmm0
                       0x48, 0x83, 0xD0, 0x00, 0xF4});  // adc rax, 0; hlt
    for (std::size_t i = 0; i < 16; ++i) {
        machine.data()[0xFF9 + i] = static_cast<std::byte>(i + 1);
    }
    machine.cpu().gpr[6] = Machine::kData + 0xFF9;
    machine.cpu().gpr[7] = Machine::kData + 0x100;
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.cpu().gpr[kRax], 0x1001U);
    for (std::size_t i = 0; i < 16; ++i) {
        EXPECT_EQ(machine.data()[0x100 + i], static_cast<std::byte>(i + 1));
        EXPECT_EQ(machine.data()[0xFFA + i], static_cast<std::byte>(i + 1));
    }
    EXPECT_EQ(machine.translator().counters().interpreted_in_block.load(), 0U);
}

TEST(TranslatorTest, VectorStoreIntoAPageThatIsNotThereChangesNothing) {
    Machine machine;
    machine.load(Bytes{0x0F, 0x11, 0x07, 0xF4});  // movups [rdi], xmm0
    machine.data()[0x1FFF] = std::byte{7};
    machine.cpu().gpr[7] = Machine::kData + 0x1FFF;
    EXPECT_EQ(machine.run_translated(), ExecResult::Exception);
    EXPECT_EQ(machine.cpu().exception.vector, arch::x86::vector::kPf);
    EXPECT_EQ(machine.cpu().exception.fault_address, Machine::kData + 0x2000);
    EXPECT_EQ(machine.data()[0x1FFF], std::byte{7});
}

TEST(TranslatorTest, MaskedAccessTouchesOnlyWhatTheMaskLetsIn) {
    if ((host_vector_mask() & 0xe0U) == 0) {
        GTEST_SKIP() << "no AVX-512 here";
    }
    Machine machine;
    // kmovd k1, eax; vmovdqu8 [rdi]{k1}, ymm0; vpcmpub k2{k1}, ymm0, [rdi], 0; kmovd ecx, k2; hlt
    machine.load(Bytes{0xC5, 0xFB, 0x92, 0xC8, 0x62, 0xF1, 0x7F, 0x29, 0x7F, 0x07, 0x62,
                       0xF3, 0x7D, 0x29, 0x3E, 0x17, 0x00, 0xC5, 0xFB, 0x93, 0xCA, 0xF4});
    const auto run = [&](std::uint64_t mask, std::uint64_t at) {
        machine.reset();
        machine.cpu().gpr[kRax] = mask;
        machine.cpu().gpr[7] = at;
        return machine.run_translated();
    };
    machine.data()[0x1FFD] = machine.data()[0x1FFE] = machine.data()[0x1FFF] = std::byte{7};
    EXPECT_EQ(run(3, Machine::kData + 0x1FFE), ExecResult::Halted);  // the page behind is not there
    EXPECT_EQ(machine.cpu().gpr[1], 3U);
    EXPECT_EQ(machine.data()[0x1FFD], std::byte{7});
    EXPECT_EQ(machine.data()[0x1FFE], std::byte{0});
    EXPECT_EQ(machine.data()[0x1FFF], std::byte{0});
    machine.data()[0x1FFE] = std::byte{7};
    EXPECT_EQ(run(7, Machine::kData + 0x1FFE), ExecResult::Exception);
    EXPECT_EQ(machine.cpu().exception.fault_address, Machine::kData + 0x2000);
    EXPECT_EQ(machine.data()[0x1FFE], std::byte{7});
    // Known to the TLB, it is not the interpreter's any more.
    machine.data()[0x101] = std::byte{7};
    machine.data()[0x102] = std::byte{7};
    EXPECT_EQ(run(0x80000005, Machine::kData + 0x100), ExecResult::Halted);
    const std::uint64_t before = machine.translator().counters().interpreted_in_block.load();
    machine.cpu().rip = Machine::kCode;
    machine.data()[0x100] = std::byte{7};
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_EQ(machine.translator().counters().interpreted_in_block.load(), before);
    EXPECT_EQ(machine.cpu().gpr[1], 0x80000005U);
    EXPECT_EQ(machine.data()[0x100], std::byte{0});
    EXPECT_EQ(machine.data()[0x101], std::byte{7});
}

TEST(TranslatorTest, DivisionByZeroIsAGuestException) {
    Machine machine;
    machine.load(Bytes{0x31, 0xC9, 0xF7, 0xF1, 0xF4});  // xor ecx, ecx; div ecx
    EXPECT_EQ(machine.run_translated(), ExecResult::Exception);
    EXPECT_EQ(machine.cpu().exception.vector, arch::x86::vector::kDe);
    EXPECT_EQ(machine.cpu().rip, Machine::kCode + 2);
}

}  // namespace
}  // namespace strata::engine::soft
