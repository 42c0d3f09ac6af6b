// Differential: a fixed budget of random cases on host CPU, interpreter and translator must agree
// in everything.
#include <cstdio>

#include <gtest/gtest.h>

#include "differential/session.h"

namespace strata::differential {
namespace {

TEST(DifferentialTest, InterpreterTranslatorAndHostAgree) {
    SessionOptions options;
    options.cases = 30000;
    options.budget = std::chrono::seconds(120);
    auto result = run_session(options);
    ASSERT_TRUE(result.ok()) << result.error().text();
    EXPECT_EQ(result->differing, 0U) << result->report;
    EXPECT_GT(result->faulted, result->cases / 20)
        << "the cases hardly fault: the generator is broken";
    EXPECT_GT(result->cases, 500U);
    std::fputs(result->coverage.c_str(), stdout);
}

}  // namespace
}  // namespace strata::differential
