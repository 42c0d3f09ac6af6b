// BlockProfile: sums by guest address, in order; and a translated loop that counts itself.
#include "engine/soft/translate/profile.h"

#include <gtest/gtest.h>

#include "engine/soft/translate/translate_test_machine.h"

namespace strata::engine::soft {
namespace {

void add(BlockProfile& profile, std::uint64_t rip, std::uint64_t executions) {
    Block block;
    block.rip = rip;
    block.executions = executions;
    block.guest_length = 3;
    block.code_size = 40;
    block.code = 0x100;
    block.parts =
        BlockParts(block, {}, std::vector<InsnMark>{{0, 0}, {4, InsnMark::kHostFlags}, {9, 1}});
    profile.add(block);
}

TEST(BlockProfile, AddsUpByAddressAndSorts) {
    BlockProfile profile;
    add(profile, 0x1000, 3);
    add(profile, 0x1000, 4);
    add(profile, 0x2000, 100);
    add(profile, 0x3000, 0);
    EXPECT_EQ(profile.text(),
              "# share rip cpl executions guest_instructions guest_bytes host_bytes cold_bytes "
              "blocks code\n"
              "93.458% 0x2000 0 100 200 3 40 0 1 0x100\n"
              "6.542% 0x1000 0 7 14 3 40 0 2 0x100\n"
              "# others: 0 guest instructions\n");
}

TEST(BlockProfile, TranslatedCodeCountsItself) {
    TranslateOptions options;
    options.profile_fd = 1;
    TranslateTestMachine machine(options);
    machine.load(std::vector<std::uint8_t>{0xFF, 0xC9, 0x75, 0xFC, 0xF4});  // dec ecx; jnz; hlt
    machine.cpu().gpr[1] = 1000;
    EXPECT_EQ(machine.run_translated(), ExecResult::Halted);
    EXPECT_NE(machine.translator().profile().find("0x400000 0 1000 2000 4 "), std::string::npos);
}

}  // namespace
}  // namespace strata::engine::soft
