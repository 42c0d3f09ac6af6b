// GuestRam: the two ranges, the hole between them, dirty marking and the observer.
#include "memory/guest_ram.h"

#include <gtest/gtest.h>

namespace strata::memory {
namespace {

constexpr std::uint64_t kMiB = 1ULL << 20;

TEST(GuestRamTest, RamPastTheLimitAppearsAt4GiB) {
    auto ram = GuestRam::create(4 * kMiB, 3 * kMiB);
    ASSERT_TRUE(ram.ok());
    EXPECT_TRUE((*ram)->store<std::uint32_t>(GuestAddress(1ULL << 32), 7).ok());
    EXPECT_EQ(*(*ram)->load<std::uint32_t>(GuestAddress(1ULL << 32)), 7U);
    EXPECT_FALSE((*ram)->load<std::uint32_t>(GuestAddress(3 * kMiB)).ok());
}

TEST(GuestRamTest, AccessAcrossTheEndIsRefused) {
    auto ram = GuestRam::create(kMiB, kMiB);
    ASSERT_TRUE(ram.ok());
    EXPECT_FALSE((*ram)->load<std::uint64_t>(GuestAddress(kMiB - 4)).ok());
    EXPECT_FALSE((*ram)->load<std::uint64_t>(GuestAddress(~0ULL - 3)).ok());
}

TEST(GuestRamTest, WritesMarkDirtyWhileLogging) {
    auto ram = GuestRam::create(kMiB, kMiB);
    ASSERT_TRUE(ram.ok());
    (*ram)->set_dirty_logging(true);
    ASSERT_TRUE((*ram)->store<std::uint64_t>(GuestAddress(0x1ffc), 1).ok());
    EXPECT_TRUE((*ram)->dirty().test(1));
    EXPECT_TRUE((*ram)->dirty().test(2));
    EXPECT_FALSE((*ram)->dirty().test(3));
}

class Recorder final : public WriteObserver {
  public:
    void code_page_written(std::uint64_t ram_offset, std::uint64_t length) override {
        offset = ram_offset;
        size = length;
    }
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
};

TEST(GuestRamTest, WriteToACodePageReachesTheObserver) {
    auto ram = GuestRam::create(kMiB, kMiB);
    ASSERT_TRUE(ram.ok());
    Recorder recorder;
    (*ram)->set_observer(&recorder);
    (*ram)->page_flags(2) = PageFlags::kCode;
    ASSERT_TRUE((*ram)->store<std::uint64_t>(GuestAddress(0x1ffc), 1).ok());
    EXPECT_EQ(recorder.offset, 0x2000U);
    EXPECT_EQ(recorder.size, 4U);
}

TEST(GuestRamTest, UnusableSizesAreRefused) {
    EXPECT_FALSE(GuestRam::create(0, kMiB).ok());
    EXPECT_FALSE(GuestRam::create(kMiB + 1, kMiB).ok());
}

}  // namespace
}  // namespace strata::memory
