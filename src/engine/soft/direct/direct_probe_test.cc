// DirectProbe: it gives an answer, whatever the host allows, and leaves nothing behind.
#include "engine/soft/direct/direct_probe.h"

#include <gtest/gtest.h>

namespace strata::engine::soft {
namespace {

TEST(DirectProbeTest, AnswersTwiceTheSame) {
    const auto first = probe_direct_execution();
    const auto second = probe_direct_execution();
    EXPECT_EQ(first.ok(), second.ok());
    if (!first.ok()) {
        EXPECT_NE(first.error().text(), "");
    }
}

}  // namespace
}  // namespace strata::engine::soft
