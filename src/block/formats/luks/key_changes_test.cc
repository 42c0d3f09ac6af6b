// Tests of adding and erasing keys: the last one is not put at risk, and nothing else is written
// over.
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "base/endian.h"
#include "block/amend.h"
#include "block/blocking_image.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSlots = 208, kSlotBytes = 48, kOffsetField = 40;

class LuksKeyChangesTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "keysXXXXXX";
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        CreateRequest request;
        request.path = folder_ + "/a";
        request.size = 1U << 20;
        request.options = {{"key-secret", "geheim"}, {"iter-time", "1"}};
        const auto made = BlockingImage::create("luks", std::move(request));
        ASSERT_TRUE(made.ok()) << made.error().text();
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }
    [[nodiscard]] Result<std::unique_ptr<BlockingImage>> open(const std::string& passphrase) const {
        OpenOptions options;
        options.path = folder_ + "/a";
        options.format = "luks";
        options.extra = {{"key-secret", passphrase}};
        return BlockingImage::open(std::move(options));
    }
    [[nodiscard]] Result<> amend(OptionList options, bool force,
                                 const std::string& passphrase = "geheim") const {
        const auto image = STRATA_TRY(open(passphrase));
        AmendRequest request;
        request.options = std::move(options);
        request.force = force;
        auto done =
            image->loop().run(amend_image(image->node().shared_from_this(), std::move(request)));
        STRATA_TRY_VOID(image->close());
        return done;
    }
    [[nodiscard]] Result<> add(const std::string& slot, const std::string& secret, bool force,
                               const std::string& passphrase = "geheim") const {
        return amend(
            {{"state", "active"}, {"keyslot", slot}, {"new-secret", secret}, {"iter-time", "1"}},
            force, passphrase);
    }
    [[nodiscard]] Be32 offset_of(unsigned slot) const {
        Be32 sector;
        std::ifstream file(folder_ + "/a", std::ios::binary);
        file.seekg(kSlots + slot * kSlotBytes + kOffsetField);
        // SAFETY: bytes of an integer.
        file.read(reinterpret_cast<char*>(&sector), sizeof sector);
        return sector;
    }
    void place(unsigned slot, Be32 sector) const {
        std::fstream file(folder_ + "/a", std::ios::binary | std::ios::in | std::ios::out);
        file.seekp(kSlots + slot * kSlotBytes + kOffsetField);
        // SAFETY: bytes of an integer.
        file.write(reinterpret_cast<const char*>(&sector), sizeof sector);
    }
    std::string folder_;
};

TEST_F(LuksKeyChangesTest, TheOnlyKeyIsOverwrittenByForceWithItsSpareGone) {
    EXPECT_FALSE(add("0", "neu", false).ok());
    EXPECT_TRUE(open("geheim").ok());
    ASSERT_TRUE(add("0", "neu", true).ok());
    EXPECT_FALSE(open("geheim").ok());
    EXPECT_TRUE(open("neu").ok());
    EXPECT_FALSE(amend({{"state", "inactive"}, {"keyslot", "1"}}, false, "neu").ok());
    ASSERT_TRUE(add("0", "geheim", true, "neu").ok());
}

TEST_F(LuksKeyChangesTest, TheOnlyKeyStaysIfTheSpareHasNoRoom) {
    place(1, offset_of(0));
    EXPECT_FALSE(add("0", "neu", true).ok());
    EXPECT_TRUE(open("geheim").ok());
}

TEST_F(LuksKeyChangesTest, OneOfTwoKeysIsOverwrittenByForce) {
    ASSERT_TRUE(add("1", "zweite", false).ok());
    EXPECT_FALSE(add("1", "dritte", false).ok());
    ASSERT_TRUE(add("1", "dritte", true).ok());
    EXPECT_FALSE(open("zweite").ok());
    EXPECT_TRUE(open("dritte").ok());
}

TEST_F(LuksKeyChangesTest, AKeyIsNotWrittenOverAnotherOrTheHeader) {
    const Be32 own = offset_of(1);
    for (const std::uint32_t sector :
         {0U, 1U, offset_of(0).value(), offset_of(0).value() + 1, UINT32_MAX}) {
        place(1, Be32(sector));
        EXPECT_FALSE(add("1", "zweite", false).ok()) << sector;
        EXPECT_FALSE(amend({{"state", "inactive"}, {"keyslot", "1"}}, true).ok()) << sector;
        EXPECT_TRUE(open("geheim").ok()) << sector;
    }
    place(1, own);
    EXPECT_TRUE(add("1", "zweite", false).ok());
    EXPECT_TRUE(open("zweite").ok());
}

}  // namespace
}  // namespace strata::block
