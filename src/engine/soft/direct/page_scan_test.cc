// PageScan: what is found, and what only looks like it.
#include "engine/soft/direct/page_scan.h"

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

namespace strata::engine::soft {
namespace {

constexpr std::size_t kMiddle = 2000;

// A page of NOPs with these bytes at `at`, and some of the next page behind it.
std::vector<std::uint8_t> page_with(std::size_t at, const std::vector<std::uint8_t>& bytes) {
    std::vector<std::uint8_t> page(kPageBytes + kScanReach, 0x90);
    std::copy(bytes.begin(), bytes.end(), page.begin() + static_cast<std::ptrdiff_t>(at));
    return page;
}
bool runs(std::size_t at, const std::vector<std::uint8_t>& bytes) {
    return page_runs_natively(page_with(at, bytes), 0, ~std::uint64_t{0});
}

TEST(PageScanTest, OrdinaryCodeRuns) {
    EXPECT_TRUE(runs(kMiddle, {0x48, 0x89, 0xd8, 0x0f, 0xb6, 0xc0, 0xc3}));
    EXPECT_TRUE(runs(kMiddle, {0x0f, 0x05}));        // syscall traps by itself
    EXPECT_TRUE(runs(kMiddle, {0x0f, 0x31}));        // rdtsc as well, in a stub
    EXPECT_TRUE(runs(kMiddle, {0x0f, 0xae, 0xe8}));  // lfence shares its opcode with xrstor
    EXPECT_TRUE(runs(kMiddle, {0x0f, 0xc7, 0x4c, 0x24, 0x08}));  // cmpxchg8b
}

TEST(PageScanTest, SensitiveInstructionsAreFound) {
    EXPECT_FALSE(runs(kMiddle, {0x0f, 0xa2}));                          // cpuid
    EXPECT_FALSE(runs(kMiddle, {0x0f, 0x01, 0xd0}));                    // xgetbv
    EXPECT_FALSE(runs(kMiddle, {0xf3, 0x0f, 0xc7, 0xf8}));              // rdpid
    EXPECT_FALSE(runs(kMiddle, {0x0f, 0x01, 0xef}));                    // wrpkru
    EXPECT_FALSE(runs(kMiddle, {0x0f, 0x03, 0xc1}));                    // lsl
    EXPECT_FALSE(runs(kMiddle, {0x0f, 0x01, 0x44, 0x24, 0x08}));        // sgdt
    EXPECT_FALSE(runs(kMiddle, {0x66, 0x0f, 0x00, 0xc8}));              // str
    EXPECT_FALSE(runs(kMiddle, {0x48, 0x0f, 0xc7, 0x64, 0x24, 0x40}));  // xsavec64
    EXPECT_FALSE(runs(kMiddle, {0x0f, 0xae, 0x28}));                    // xrstor
}

TEST(PageScanTest, StateImagesRunWhereTheStateIsTheSame) {
    const auto xsavec = page_with(kMiddle, {0x48, 0x0f, 0xc7, 0x64, 0x24, 0x40});
    EXPECT_TRUE(page_runs_natively(xsavec, 0, 0));
    EXPECT_FALSE(page_runs_natively(page_with(kMiddle, {0x0f, 0xa2}), 0, 0));
}

TEST(PageScanTest, ComponentsThatOneHasAloneAreForeign) {
    constexpr std::uint64_t kAvx512 = 0xE7, kPkru = 1U << 9U;
    EXPECT_EQ(foreign_components(kAvx512, kAvx512), 0U);
    EXPECT_EQ(foreign_components(7, kAvx512), 0xE0U);
    EXPECT_EQ(foreign_components(kAvx512 | kPkru, kAvx512), kPkru);
    EXPECT_EQ(foreign_components(kAvx512 | kPkru, kAvx512 | kPkru), kPkru);
}

// As the dynamic linker's lazy binding has it.
TEST(PageScanTest, StateImagesOfSharedComponentsRun) {
    constexpr std::uint64_t kPkru = 1U << 9U;
    std::vector<std::uint8_t> code = {0xb8, 0xee, 0, 0, 0, 0x31, 0xd2};  // mov eax; xor edx, edx
    for (int i = 0; i < 6; ++i) {                                        // mov [rsp+250h], rdx
        code.insert(code.end(), {0x48, 0x89, 0x94, 0x24, 0x50, 0x02, 0, 0});
    }
    code.insert(code.end(), {0x0f, 0xc7, 0x64, 0x24, 0x40});  // xsavec [rsp+40h]
    EXPECT_TRUE(page_runs_natively(page_with(kMiddle, code), 0, kPkru));
    EXPECT_FALSE(page_runs_natively(page_with(kMiddle, code), 0, kPkru | 0xe0));
    code[2] = 2;  // PKRU too
    EXPECT_FALSE(page_runs_natively(page_with(kMiddle, code), 0, kPkru));
    code[2] = 0;
    code[5] = 0x90;
    code[6] = 0x58;  // pop rax
    EXPECT_FALSE(page_runs_natively(page_with(kMiddle, code), 0, kPkru));
}

TEST(PageScanTest, StateImagesBehindAJoinDoNotRun) {
    constexpr std::uint64_t kPkru = 1U << 9U;
    // mov eax, 7; xor edx, edx; xsave [rdi], and a branch before or behind that leads into it or
    // to its mov.
    const std::vector<std::uint8_t> image = {0xb8, 7, 0, 0, 0, 0x31, 0xd2, 0x0f, 0xae, 0x27};
    const auto with = [&](std::uint8_t before, std::uint8_t behind) {
        std::vector<std::uint8_t> code = {0x74, before};
        code.insert(code.end(), image.begin(), image.end());
        code.insert(code.end(), {0x75, behind});
        return page_runs_natively(page_with(kMiddle, code), 0, kPkru);
    };
    const auto back = [](int by) { return static_cast<std::uint8_t>(-by); };
    EXPECT_TRUE(with(0, back(12)));  // both to the mov
    EXPECT_TRUE(with(10, 0));        // both behind the image
    EXPECT_FALSE(with(7, 0));        // je to the xsave
    EXPECT_FALSE(with(5, 0));        // je behind the mov
    EXPECT_FALSE(with(0, back(5)));  // jne to the xsave
}

TEST(PageScanTest, BytesWithinOtherInstructionsAreNot) {
    EXPECT_TRUE(runs(kMiddle, {0xba, 0x0f, 0x00, 0x00, 0x00}));              // mov edx, 15
    EXPECT_TRUE(runs(kMiddle, {0xe8, 0x8a, 0x2b, 0x0f, 0x00}));              // call
    EXPECT_TRUE(runs(kMiddle, {0x48, 0xb8, 1, 2, 0x0f, 0xa2, 3, 4, 5, 6}));  // mov rax, constant
}

TEST(PageScanTest, PageEdges) {
    EXPECT_FALSE(runs(0, {0x0f, 0xa2}));
    EXPECT_FALSE(runs(kPageBytes - 1, {0x0f, 0xa2}));  // the second byte is on the next page
    EXPECT_TRUE(runs(kPageBytes, {0x0f, 0xa2}));       // wholly on the next page
}

TEST(PageScanTest, ThePageBeforeTellsWhereInstructionsBegin) {
    std::vector<std::uint8_t> code(kScanBefore + kPageBytes, 0x90);
    const std::uint8_t move[] = {0xba, 0x0f, 0x00, 0x00, 0x00};
    std::copy(std::begin(move), std::end(move), code.begin() + kScanBefore - 1);
    EXPECT_TRUE(page_runs_natively(code, kScanBefore, 0xe0));
}

}  // namespace
}  // namespace strata::engine::soft
