// CodeMemory: what is written runs, at the address that was foretold, also behind the first huge
// page.
#include "engine/soft/cache/code_memory.h"

#include <array>
#include <vector>

#include <gtest/gtest.h>

namespace strata::engine::soft {
namespace {

int call(std::uint64_t address) {
    // SAFETY: the code at this address is `mov eax, imm; ret`.
    return reinterpret_cast<int (*)()>(address)();
}

TEST(CodeMemory, RunsWhatIsWrittenAndPatched) {
    auto memory = CodeMemory::create(32U << 20U);
    ASSERT_TRUE(memory.ok());
    CodeMemory& code = *memory.value();
    EXPECT_EQ(code.base() % (2U << 20U), 0U);
    EXPECT_EQ(code.regions(), 4U);
    const std::array<std::uint8_t, 6> seven = {0xB8, 7, 0, 0, 0, 0xC3};
    const std::uint64_t first = code.next();
    EXPECT_EQ(code.write(seven), first);
    EXPECT_EQ(call(first), 7);
    code.patch32(first + 1, 9);
    EXPECT_EQ(call(first), 9);
    const std::vector<std::uint8_t> filler(2U << 20U, 0xCC);
    (void)code.write(filler);
    EXPECT_EQ(call(code.write(seven)), 7);
    const std::uint64_t cold = code.next_cold();
    EXPECT_EQ(code.write_cold(seven), cold);
    EXPECT_EQ(call(cold), 7);
    EXPECT_TRUE(code.is_cold(cold - code.base()));
    EXPECT_FALSE(code.is_cold(first - code.base()));
}

TEST(CodeMemory, RegionsBeginAnewBehindWhatIsKept) {
    auto memory = CodeMemory::create(1U << 20U);
    ASSERT_TRUE(memory.ok());
    CodeMemory& code = *memory.value();
    const std::array<std::uint8_t, 6> five = {0xB8, 5, 0, 0, 0, 0xC3};
    const std::uint64_t kept = code.write(five);
    code.keep();
    const std::uint64_t size = code.size() / code.regions();
    for (std::uint32_t turn = 1; turn <= 2 * code.regions(); ++turn) {
        const std::vector<std::uint8_t> filler(code.free() - 16, 0xCC);
        (void)code.write(filler);
        EXPECT_EQ(call(code.write(five)), 5);
        EXPECT_EQ(code.current_region(), (turn - 1) % code.regions());
        code.begin_region(turn % code.regions());
        EXPECT_EQ(code.next() - code.base(),
                  turn % code.regions() == 0 ? 16 : turn % code.regions() * size);
        EXPECT_EQ(code.region_of(code.next_cold() - code.base()), code.current_region());
    }
    EXPECT_EQ(call(kept), 5);
}

}  // namespace
}  // namespace strata::engine::soft
