// Factory: the words of STRATA_TRANSLATOR.
#include "engine/soft/translate/factory.h"

#include <gtest/gtest.h>

namespace strata::engine::soft {
namespace {

TEST(FactoryTest, WordsOfDirectExecution) {
    const auto none = parse_translate_options("");
    ASSERT_TRUE(none.ok());
    EXPECT_FALSE(none->direct || none->no_direct || none->always_direct);
    const auto off = parse_translate_options("direct,no-direct");
    ASSERT_TRUE(off.ok());
    EXPECT_TRUE(off->no_direct);
    EXPECT_FALSE(parse_translate_options("nodirect").ok());
}

}  // namespace
}  // namespace strata::engine::soft
