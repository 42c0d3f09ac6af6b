// Tests of amending qcow2 images: what they hold stays, checks stay clean, what cannot be is
// refused and changes nothing.
#include "block/amend.h"

#include <filesystem>
#include <fstream>
#include <random>

#include <gtest/gtest.h>

#include "base/endian.h"
#include "block/blocking_image.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = 3U << 20;

class Qcow2AmendTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "amendXXXXXX";
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        model_.resize(kSize);
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }
    [[nodiscard]] std::string path() const { return folder_ + "/a"; }
    void create(OptionList options) const {
        CreateRequest request;
        request.path = path();
        request.size = kSize;
        request.options = std::move(options);
        const auto made = BlockingImage::create("qcow2", std::move(request));
        ASSERT_TRUE(made.ok()) << made.error().text();
    }
    [[nodiscard]] std::unique_ptr<BlockingImage> open() const {
        OpenOptions options;
        options.extra = opening_;
        options.path = path();
        options.format = "qcow2";
        options.references = follow_references();
        auto image = BlockingImage::open(std::move(options));
        EXPECT_TRUE(image.ok()) << (image.ok() ? "" : image.error().text());
        return image.ok() ? std::move(*image) : nullptr;
    }
    void fill(unsigned seed) {
        const auto image = open();
        ASSERT_NE(image, nullptr);
        std::mt19937 random(seed);
        for (int i = 0; i < 40; ++i) {
            const std::uint64_t offset = random() % (kSize / 512) * 512;
            const auto part = std::span(model_).subspan(
                offset, std::min<std::uint64_t>((random() % 200 + 1) * 512, kSize - offset));
            const bool zero = i % 3 == 0;
            std::fill(part.begin(), part.end(),
                      zero ? std::byte{0} : static_cast<std::byte>(random()));
            ASSERT_TRUE((zero ? image->write_zeroes(offset, part.size(), i % 2 == 0)
                              : image->write(offset, part))
                            .ok());
        }
        ASSERT_TRUE(image->close().ok());
    }
    [[nodiscard]] Result<> amend(OptionList options) const {
        const auto image = open();
        AmendRequest request;
        request.options = std::move(options);
        auto done =
            image->loop().run(amend_image(image->node().shared_from_this(), std::move(request)));
        EXPECT_TRUE(image->close().ok());
        return done;
    }
    void expect_sound(std::string_view compat, std::int64_t bits) const {
        const auto image = open();
        ASSERT_NE(image, nullptr);
        const auto report = image->loop().run(image->node().check(Repair::Nothing));
        ASSERT_TRUE(report.ok()) << report.error().text();
        EXPECT_TRUE(report->clean()) << (report->messages.empty() ? "" : report->messages[0]);
        std::vector<std::byte> got(kSize);
        ASSERT_TRUE(image->read(0, got).ok());
        EXPECT_TRUE(got == model_);
        const auto info = image->loop().run(image->node().info());
        for (const InfoField& field : info->specific) {
            if (field.name == "compat") {
                EXPECT_EQ(std::get<std::string>(field.value), compat);
            } else if (field.name == "refcount-bits") {
                EXPECT_EQ(std::get<std::int64_t>(field.value), bits);
            }
        }
    }
    void write(std::uint64_t offset, std::uint64_t length, int value) {
        const auto part = std::span(model_).subspan(offset, length);
        std::fill(part.begin(), part.end(), static_cast<std::byte>(value));
        const auto image = open();
        ASSERT_TRUE(image->write(offset, part).ok());
        ASSERT_TRUE(image->close().ok());
    }
    void snapshot() const {
        const auto image = open();
        ASSERT_TRUE(image->loop().run(image->node().create_snapshot(SnapshotInfo{})).ok());
        ASSERT_TRUE(image->close().ok());
    }
    [[nodiscard]] static std::uint64_t word_at(std::fstream& file, std::uint64_t offset) {
        Be64 word;
        file.seekg(static_cast<std::streamoff>(offset));
        // SAFETY: bytes of an integer.
        file.read(reinterpret_cast<char*>(&word), sizeof word);
        return word;
    }
    /// The first cluster reads as zeros and keeps its place, as QEMU leaves it.
    void zero_first_entry() {
        std::fstream file(path(), std::ios::binary | std::ios::in | std::ios::out);
        const std::uint64_t l2 = word_at(file, word_at(file, 40)) & 0x00FFFFFFFFFFFE00ULL;
        const Be64 entry = word_at(file, l2) | 1;
        ASSERT_GT(entry.value(), 1U);
        file.seekp(static_cast<std::streamoff>(l2));
        // SAFETY: bytes of an integer.
        file.write(reinterpret_cast<const char*>(&entry), sizeof entry);
        std::fill_n(model_.begin(), 65536, std::byte{0});
    }
    std::string folder_;
    OptionList opening_;
    std::vector<std::byte> model_;
};

TEST_F(Qcow2AmendTest, RefcountsOfEveryWidthKeepTheContent) {
    for (const char* cluster : {"512", "4096", "65536"}) {
        std::fill(model_.begin(), model_.end(), std::byte{0});
        create({{"cluster_size", cluster}});
        for (const std::int64_t bits : {64, 1, 2, 32, 4, 8, 16}) {
            SCOPED_TRACE(testing::Message()
                         << "clusters of " << cluster << ", refcounts of " << bits);
            fill(static_cast<unsigned>(bits));
            const auto done = amend({{"refcount_bits", std::to_string(bits)}});
            ASSERT_TRUE(done.ok()) << done.error().text();
            expect_sound("1.1", bits);
        }
    }
}

TEST_F(Qcow2AmendTest, NarrowRefcountsAreRefusedWhereClustersAreShared) {
    create({});
    fill(1);
    {
        const auto image = open();
        ASSERT_TRUE(image->loop().run(image->node().create_snapshot(SnapshotInfo{})).ok());
        ASSERT_TRUE(image->close().ok());
    }
    const auto refused = amend({{"refcount_bits", "1"}});
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().text().find("has a refcount of 2"), std::string::npos)
        << refused.error().text();
    expect_sound("1.1", 16);
    ASSERT_TRUE(amend({{"refcount_bits", "2"}}).ok());
    expect_sound("1.1", 2);
}

TEST_F(Qcow2AmendTest, DowngradesWithZerosAndSnapshots) {
    for (const bool over : {false, true}) {
        SCOPED_TRACE(over ? "overlay" : "alone");
        std::fill(model_.begin(), model_.end(), std::byte{0});
        if (over) {
            CreateRequest base;
            base.path = folder_ + "/base";
            base.size = kSize;
            ASSERT_TRUE(BlockingImage::create("raw", std::move(base)).ok());
            std::filesystem::resize_file(folder_ + "/base", 0);
            std::filesystem::resize_file(folder_ + "/base", kSize);
        }
        create(over ? OptionList{{"backing_file", "base"},
                                 {"backing_fmt", "raw"},
                                 {"cluster_size", "4096"}}
                    : OptionList{{"cluster_size", "4096"}});
        fill(3);
        const std::vector<std::byte> before = model_;
        {
            const auto image = open();
            ASSERT_TRUE(image->loop().run(image->node().create_snapshot(SnapshotInfo{})).ok());
            ASSERT_TRUE(image->close().ok());
        }
        fill(4);
        std::uint64_t steps = 0;
        {
            const auto image = open();
            AmendRequest request;
            request.options = {{"compat", "0.10"}};
            request.progress = [&](std::uint64_t done, std::uint64_t total) {
                EXPECT_LE(done, total);
                ++steps;
            };
            const auto done = image->loop().run(
                amend_image(image->node().shared_from_this(), std::move(request)));
            ASSERT_TRUE(done.ok()) << done.error().text();
            ASSERT_TRUE(image->close().ok());
        }
        EXPECT_GT(steps, 1U);
        expect_sound("0.10", 16);
        {
            const auto image = open();
            ASSERT_TRUE(image->loop().run(image->node().apply_snapshot("1")).ok());
            ASSERT_TRUE(image->close().ok());
        }
        model_ = before;
        expect_sound("0.10", 16);
        ASSERT_TRUE(
            amend({{"compat", "v3"}, {"lazy_refcounts", "on"}, {"refcount_bits", "8"}}).ok());
        expect_sound("1.1", 8);
    }
}

TEST_F(Qcow2AmendTest, DowngradesLeaveClustersOfSnapshotsAlone) {
    for (const bool over : {false, true}) {
        SCOPED_TRACE(over ? "overlay" : "alone");
        std::fill(model_.begin(), model_.end(), static_cast<std::byte>(over ? 9 : 0));
        if (over) {
            // SAFETY: bytes are chars.
            std::ofstream(folder_ + "/base", std::ios::binary)
                .write(reinterpret_cast<const char*>(model_.data()), kSize);
        }
        create(over ? OptionList{{"backing_file", "base"}, {"backing_fmt", "raw"}} : OptionList{});
        write(0, 65536, 7);
        snapshot();
        const std::vector<std::byte> before = model_;
        write(1U << 20, 65536, 8);  // gives the active disk an L2 table of its own
        zero_first_entry();
        expect_sound("1.1", 16);
        const auto done = amend({{"compat", "0.10"}});
        ASSERT_TRUE(done.ok()) << done.error().text();
        expect_sound("0.10", 16);
        {
            const auto image = open();
            ASSERT_TRUE(image->loop().run(image->node().apply_snapshot("1")).ok());
            ASSERT_TRUE(image->close().ok());
        }
        model_ = before;
        expect_sound("0.10", 16);
    }
}

TEST_F(Qcow2AmendTest, DowngradesGiveBackWhatZerosKeptForAllOwners) {
    create({});
    write(0, 65536, 7);
    zero_first_entry();
    snapshot();  // one L2 table, two owners
    const auto done = amend({{"compat", "0.10"}});
    ASSERT_TRUE(done.ok()) << done.error().text();
    expect_sound("0.10", 16);
}

TEST_F(Qcow2AmendTest, EncryptedImagesDowngradeWithoutABackingFileOnly) {
    CreateRequest base;
    base.path = folder_ + "/base";
    base.size = kSize;
    ASSERT_TRUE(BlockingImage::create("raw", std::move(base)).ok());
    opening_ = {{"encrypt.key-secret", "geheim"}};
    OptionList options{
        {"encrypt.format", "luks"}, {"encrypt.key-secret", "geheim"}, {"encrypt.iter-time", "1"}};
    create(options);
    write(0, 65536, 7);
    zero_first_entry();
    const auto done = amend({{"compat", "0.10"}});
    ASSERT_TRUE(done.ok()) << done.error().text();
    expect_sound("0.10", 16);
    options.insert(options.end(), {{"backing_file", "base"}, {"backing_fmt", "raw"}});
    create(options);
    EXPECT_FALSE(amend({{"compat", "0.10"}}).ok());
    expect_sound("1.1", 16);
}

TEST_F(Qcow2AmendTest, CompressedClustersOfSnapshotsForbidTheDowngrade) {
    create({{"compression_type", "zstd"}});
    {
        const auto image = open();
        const std::vector<std::byte> content(65536, std::byte{7});
        ASSERT_TRUE(
            image->loop().run(image->node().write_compressed(0, Buffers::of(content))).ok());
        ASSERT_TRUE(image->close().ok());
    }
    snapshot();
    write(0, 65536, 8);
    EXPECT_FALSE(amend({{"compat", "0.10"}}).ok());
    expect_sound("1.1", 16);
}

TEST_F(Qcow2AmendTest, WhatCannotBeIsRefused) {
    create({{"extended_l2", "on"}});
    fill(5);
    for (const OptionList& options :
         {OptionList{{"compat", "0.10"}}, OptionList{{"compat", "0.42"}},
          OptionList{{"refcount_bits", "3"}}, OptionList{{"cluster_size", "4096"}},
          OptionList{{"data_file", "x"}}, OptionList{{"data_file_raw", "on"}},
          OptionList{{"backing_file", "x"}},
          OptionList{{"compat", "0.10"}, {"lazy_refcounts", "on"}},
          OptionList{{"compat", "0.10"}, {"refcount_bits", "8"}},
          OptionList{{"lazy_refcounts", "perhaps"}}}) {
        EXPECT_FALSE(amend(options).ok()) << options[0].first << "=" << options[0].second;
        expect_sound("1.1", 16);
    }
}

TEST_F(Qcow2AmendTest, ChangesTheSize) {
    create({});
    fill(6);
    ASSERT_TRUE(amend({{"size", "8M"}}).ok());
    EXPECT_EQ(open()->size(), 8U << 20);
    ASSERT_TRUE(amend({{"size", std::to_string(kSize)}}).ok());
    expect_sound("1.1", 16);
}

}  // namespace
}  // namespace strata::block
