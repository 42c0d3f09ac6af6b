// PackageTool: which users subuid(5) gives ids to.
#include "cli/image/package_tool.h"

#include <gtest/gtest.h>

namespace strata::cli {
namespace {

TEST(PackageToolTest, SubordinateIdsAreFoundByNameAndNumber) {
    constexpr std::string_view kTable = "alice:100000:65536\n1001:165536:65536\nmallory:0:0\n";
    EXPECT_TRUE(gives_subordinate_ids(kTable, "alice", 1000));
    EXPECT_TRUE(gives_subordinate_ids(kTable, "bob", 1001));
    EXPECT_FALSE(gives_subordinate_ids(kTable, "mallory", 1002));
    EXPECT_FALSE(gives_subordinate_ids(kTable, "ali", 1003));
    EXPECT_FALSE(gives_subordinate_ids("", "alice", 1000));
    EXPECT_FALSE(gives_subordinate_ids("alice\n:::\n", "alice", 1000));
}

}  // namespace
}  // namespace strata::cli
