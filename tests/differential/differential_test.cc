// Differential: a fixed budget of random cases on host CPU, interpreter and translator must agree
// in everything.
#include <cstdint>
#include <cstdio>

#include <gtest/gtest.h>

#include "differential/native_runner.h"
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

TEST(DifferentialTest, HostsOwnMemoryIsKnown) {
    auto native = NativeRunner::create();
    ASSERT_TRUE(native.ok()) << native.error().text();
    const int local = 0;  // the child, a fork, has its stack here too
    const auto own = [&](std::uint64_t address) {
        auto answer = (*native)->has_own_memory_at(address);
        return answer.ok() && *answer;
    };
    EXPECT_TRUE(own(reinterpret_cast<std::uintptr_t>(&local)));
    EXPECT_TRUE(own(reinterpret_cast<std::uintptr_t>(&std::fputs)));
    EXPECT_FALSE(own(Layout::kData));
    EXPECT_FALSE(own(Layout::kHole));
    EXPECT_FALSE(own(Layout::kStack + kPage));
    EXPECT_FALSE(own(0x36));
}

}  // namespace
}  // namespace strata::differential
