// ScannedPages: what is remembered, and what takes its place.
#include "engine/soft/direct/scanned_pages.h"

#include <gtest/gtest.h>

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kHash = 0x123456789abcdef0;

// Pages with sensitive instructions are met as often as others.
TEST(ScannedPagesTest, BothVerdictsAreRemembered) {
    ScannedPages pages;
    int looks = 0;
    const auto look = [&looks](bool verdict) {
        return [&looks, verdict] {
            ++looks;
            return verdict;
        };
    };
    EXPECT_TRUE(pages.runs_natively(kHash, look(true)));
    EXPECT_FALSE(pages.runs_natively(kHash + 4, look(false)));
    EXPECT_TRUE(pages.runs_natively(kHash, look(false)));
    EXPECT_FALSE(pages.runs_natively(kHash + 4, look(true)));
    EXPECT_EQ(looks, 2);
}

TEST(ScannedPagesTest, AnotherPageInItsPlaceIsLookedAt) {
    ScannedPages pages;
    constexpr std::uint64_t kOther = kHash ^ (1ULL << 60U);
    EXPECT_TRUE(pages.runs_natively(kHash, [] { return true; }));
    EXPECT_FALSE(pages.runs_natively(kOther, [] { return false; }));
    EXPECT_TRUE(pages.runs_natively(kHash, [] { return true; }));
    EXPECT_FALSE(pages.runs_natively(kOther, [] { return false; }));
}

}  // namespace
}  // namespace strata::engine::soft
