// Tests of persistent dirty bitmaps: kept, recorded, marked before writes, never trusted after a
// crash; broken directories refused.
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "block/amend.h"
#include "block/blocking_image.h"
#include "block/formats/qcow2/bitmap_directory.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = (9U << 20) + 512;
constexpr std::uint64_t kGranularity = 65536;

class Qcow2BitmapTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "bitmapXXXXXX";
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }
    [[nodiscard]] std::string path() const { return folder_ + "/a"; }
    void create(OptionList options = {}) const {
        CreateRequest request;
        request.path = path();
        request.size = kSize;
        request.options = std::move(options);
        ASSERT_TRUE(BlockingImage::create("qcow2", std::move(request)).ok());
    }
    [[nodiscard]] Result<std::unique_ptr<BlockingImage>> open(bool read_only = false) const {
        OpenOptions options;
        options.path = path();
        options.format = "qcow2";
        options.read_only = read_only;
        return BlockingImage::open(std::move(options));
    }
    static Bitmap bitmap(const std::string& name, bool automatic,
                         std::uint64_t granularity = kGranularity) {
        Bitmap made;
        made.info = {
            .name = name, .granularity = granularity, .in_use = false, .automatic = automatic};
        made.size = kSize;
        made.bits.resize(((kSize + granularity - 1) / granularity + 63) / 64);
        return made;
    }
    static Result<> store(BlockingImage& image, Bitmap bitmap) {
        return image.loop().run(image.node().store_bitmap(std::move(bitmap)));
    }
    static std::vector<BitmapInfo> list(BlockingImage& image) {
        auto all = image.loop().run(image.node().bitmaps());
        EXPECT_TRUE(all.ok()) << (all.ok() ? "" : all.error().text());
        return all.ok() ? *all : std::vector<BitmapInfo>();
    }
    static std::vector<std::uint64_t> bits(BlockingImage& image, const std::string& name) {
        const auto read = image.loop().run(image.node().read_bitmap(name));
        EXPECT_TRUE(read.ok()) << (read.ok() ? "" : read.error().text());
        return read.ok() ? read->bits : std::vector<std::uint64_t>();
    }
    static void expect_clean(BlockingImage& image) {
        const auto report = image.loop().run(image.node().check(Repair::Nothing));
        ASSERT_TRUE(report.ok()) << report.error().text();
        EXPECT_TRUE(report->clean()) << (report->messages.empty() ? "" : report->messages[0]);
    }
    std::string folder_;
};

TEST_F(Qcow2BitmapTest, IsKeptAndRecordsWhatIsWritten) {
    for (const char* cluster : {"512", "65536"}) {
        SCOPED_TRACE(cluster);
        create({{"cluster_size", cluster}});
        {
            auto image = open();
            ASSERT_TRUE(image.ok());
            Bitmap idle = bitmap("idle", false, 512);
            idle.bits[3] = 0x8000000000000001;
            ASSERT_TRUE(store(**image, std::move(idle)).ok());
            ASSERT_TRUE(store(**image, bitmap("live", true)).ok());
            ASSERT_TRUE((*image)
                            ->write(kGranularity * 3 + 1,
                                    std::vector<std::byte>(kGranularity, std::byte{1}))
                            .ok());
            ASSERT_TRUE((*image)->write_zeroes(kGranularity * 70, 512, true).ok());
            ASSERT_TRUE((*image)->discard(kGranularity * 100, kGranularity).ok());
            ASSERT_TRUE((*image)->write(kSize - 512, std::vector<std::byte>(512)).ok());
            ASSERT_TRUE((*image)->close().ok());
        }
        auto image = open(true);
        ASSERT_TRUE(image.ok());
        expect_clean(**image);
        ASSERT_EQ(list(**image).size(), 2U);
        EXPECT_EQ(list(**image)[0].granularity, 512U);
        EXPECT_TRUE(list(**image)[1].automatic);
        EXPECT_EQ(bits(**image, "idle")[3], 0x8000000000000001);
        EXPECT_EQ(bits(**image, "live"),
                  (std::vector<std::uint64_t>{3U << 3, 1ULL << 6 | 1ULL << 36, 1ULL << 16}));
    }
}

TEST_F(Qcow2BitmapTest, AfterACrashNothingIsTrusted) {
    create();
    {
        auto image = open();
        ASSERT_TRUE(image.ok());
        ASSERT_TRUE(store(**image, bitmap("live", true)).ok());
        ASSERT_TRUE(store(**image, bitmap("idle", false)).ok());
        ASSERT_TRUE((*image)->close().ok());
    }
    {
        auto image = open();
        ASSERT_TRUE(image.ok());
        ASSERT_TRUE((*image)->write(0, std::vector<std::byte>(512, std::byte{1})).ok());
        std::filesystem::copy_file(path(), folder_ + "/left");
        ASSERT_TRUE((*image)->close().ok());
    }
    std::filesystem::rename(folder_ + "/left", path());
    auto image = open();
    ASSERT_TRUE(image.ok()) << image.error().text();
    EXPECT_TRUE(list(**image)[0].in_use);
    EXPECT_FALSE(list(**image)[1].in_use);
    EXPECT_FALSE((*image)->loop().run((*image)->node().read_bitmap("live")).ok());
    EXPECT_FALSE(store(**image, bitmap("live", true)).ok());
    EXPECT_FALSE((*image)->loop().run((*image)->node().resize(kSize * 2, Preallocation::Off)).ok());
    EXPECT_FALSE((*image)->loop().run((*image)->node().remove_bitmap("other")).ok());
    ASSERT_TRUE((*image)->loop().run((*image)->node().remove_bitmap("live")).ok());
    ASSERT_TRUE((*image)->loop().run((*image)->node().resize(kSize * 2, Preallocation::Off)).ok());
    EXPECT_EQ(bits(**image, "idle").size(), (kSize * 2 + kGranularity - 1) / kGranularity / 64 + 1);
    expect_clean(**image);
    ASSERT_TRUE((*image)->loop().run((*image)->node().remove_bitmap("idle")).ok());
    expect_clean(**image);
    ASSERT_TRUE((*image)->close().ok());
}

TEST_F(Qcow2BitmapTest, WhatCannotBeIsRefused) {
    create();
    auto image = open();
    ASSERT_TRUE(image.ok());
    EXPECT_FALSE(store(**image, bitmap("a", true, 256)).ok());
    EXPECT_FALSE(store(**image, bitmap("a", true, 3 * 512)).ok());
    EXPECT_FALSE(store(**image, bitmap("a", true, 1ULL << 32)).ok());
    EXPECT_FALSE(store(**image, bitmap(std::string(1024, 'x'), true)).ok());
    EXPECT_FALSE(store(**image, bitmap("", true)).ok());
    ASSERT_TRUE(store(**image, bitmap("a", true)).ok());
    AmendRequest down;
    down.options = {{"compat", "0.10"}};
    EXPECT_FALSE((*image)
                     ->loop()
                     .run(amend_image((*image)->node().shared_from_this(), std::move(down)))
                     .ok());
    ASSERT_TRUE((*image)->loop().run((*image)->node().create_snapshot(SnapshotInfo{})).ok());
    EXPECT_EQ((*image)->loop().run((*image)->node().apply_snapshot("1")).error().system_errno(),
              EBUSY);
    ASSERT_TRUE((*image)->close().ok());
    image->reset();
    create({{"compat", "0.10"}});
    image = open();
    EXPECT_FALSE(store(**image, bitmap("a", true)).ok());
    ASSERT_TRUE((*image)->close().ok());
}

TEST_F(Qcow2BitmapTest, BrokenDirectoriesAreErrors) {
    qcow2::Header header;
    header.size = kSize;
    qcow2::StoredBitmap good;
    good.name = "a";
    good.table_offset = 65536;
    good.table_entries = 1;
    const auto parse = [&](const qcow2::StoredBitmap& each, std::uint32_t count = 1) {
        return qcow2::parse_bitmap_directory(qcow2::serialise_bitmap_directory({each}), count,
                                             header, "x")
            .ok();
    };
    EXPECT_TRUE(parse(good));
    EXPECT_FALSE(parse(good, 2));
    for (const auto& damage : std::vector<void (*)(qcow2::StoredBitmap&)>{
             [](auto& b) { b.name.clear(); }, [](auto& b) { b.table_offset = 512; },
             [](auto& b) { b.table_offset = 1ULL << 56; }, [](auto& b) { b.table_entries = 0; },
             [](auto& b) { b.table_entries = 0xFFFFFFFF; }, [](auto& b) { b.flags = 8; },
             [](auto& b) { b.granularity_bits = 8; }, [](auto& b) { b.granularity_bits = 63; },
             [](auto& b) { b.name = std::string(1024, 'x'); }}) {
        qcow2::StoredBitmap bad = good;
        damage(bad);
        EXPECT_FALSE(parse(bad));
    }
    auto bytes = qcow2::serialise_bitmap_directory({good, good});
    EXPECT_FALSE(qcow2::parse_bitmap_directory(bytes, 2, header, "x").ok());  // one name twice
    header.size = 1ULL << 50;
    EXPECT_FALSE(parse(good));  // too small for the disk
}

}  // namespace
}  // namespace strata::block
