// Image files that were cut short: what is past their end is an error to read, never zeros; the
// rest is there.
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/endian.h"
#include "block/blocking_image.h"
#include "block/formats/common/wire.h"
#include "block/registry.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kBlock = 64U << 10;

class CutImages : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "cutXXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }
    [[nodiscard]] std::string path() const { return folder_ + "/image"; }
    void cut_to(std::uint64_t size) const { std::filesystem::resize_file(path(), size); }
    [[nodiscard]] std::uint64_t length() const { return std::filesystem::file_size(path()); }
    [[nodiscard]] Result<std::unique_ptr<BlockingImage>> open(const std::string& format,
                                                              bool read_only = true) const {
        OpenOptions options;
        options.path = path();
        options.format = format;
        options.read_only = read_only;
        return BlockingImage::open(std::move(options));
    }
    /// A disk of four blocks of 64 KiB, full of '1' to '4'; clusters at 2, 3, 4 and 5 times that.
    void make_qed() const {
        std::vector<std::byte> file(6 * kBlock);
        put(file, 0, std::array<Le32, 4>{0x00444551U, 4096U, 1U, 1U});
        put(file, 16, std::array<Le64, 5>{0U, 0U, 0U, 4096U, 4 * kBlock});
        put(file, 4096, Le64(kBlock));  // the only table of the second level
        for (std::uint64_t cluster = 0; cluster < 64; ++cluster) {
            const std::uint64_t at = 2 * kBlock + cluster * 4096;
            put(file, kBlock + cluster * 8, Le64(at));
            std::fill_n(file.begin() + static_cast<std::ptrdiff_t>(at), 4096,
                        static_cast<std::byte>('1' + cluster / 16));
        }
        std::ofstream(path(), std::ios::binary)
            .write(reinterpret_cast<const char*>(file.data()),  // SAFETY: plain bytes
                   static_cast<std::streamsize>(file.size()));
    }
    void make(const std::string& format, const OptionList& options, std::uint64_t block) {
        CreateRequest request;
        request.path = path();
        request.size = 4 * block;
        request.options = options;
        ASSERT_TRUE(BlockingImage::create(format, std::move(request)).ok());
        const auto image = open(format, false);
        ASSERT_TRUE(image.ok()) << image.error().text();
        for (std::uint64_t i = 0; i < 4; ++i) {
            const std::vector<std::byte> bytes(block, static_cast<std::byte>('1' + i));
            ASSERT_TRUE(write(**image, i * block, bytes).ok());
        }
        ASSERT_TRUE((*image)->close().ok());
    }
    static Result<> write(BlockingImage& image, std::uint64_t offset,
                          const std::vector<std::byte>& bytes) {
        return image.loop().run(image.node().write(offset, Buffers::of(bytes)));
    }
    /// The byte at `offset` as a letter, or the error.
    static std::string read(BlockingImage& image, std::uint64_t offset) {
        std::byte byte{};
        const auto done =
            image.loop().run(image.node().read(offset, Buffers(std::span<std::byte>(&byte, 1))));
        EXPECT_TRUE(done.ok() || done.error().system_errno() == EIO);
        return done.ok() ? std::string(1, static_cast<char>(byte)) : done.error().text();
    }
    static bool refused(BlockingImage& image, std::uint64_t offset) {
        const std::string text = read(image, offset);
        return text.find("past the end of the file") != std::string::npos &&
               text.find("--salvage") != std::string::npos;
    }
    static CheckReport check(BlockingImage& image) {
        auto report = image.loop().run(image.node().check(Repair::Nothing));
        EXPECT_TRUE(report.ok()) << report.error().text();
        return report.ok() ? *report : CheckReport{};
    }
    std::string folder_;
};

TEST_F(CutImages, QedReadsWhatIsThere) {
    make_qed();
    cut_to(4 * kBlock + 100);  // inside a cluster of block 2
    const auto image = open("qed");
    ASSERT_TRUE(image.ok()) << image.error().text();
    EXPECT_EQ(read(**image, 2 * kBlock - 1), "2");
    EXPECT_EQ(read(**image, 2 * kBlock + 99), "3");
    EXPECT_EQ(read(**image, 2 * kBlock + 4095), std::string(1, '\0'));
    EXPECT_TRUE(refused(**image, 2 * kBlock + 4096));
    EXPECT_TRUE(refused(**image, 4 * kBlock - 1));
    EXPECT_GE(check(**image).corruptions, 31U);
    const auto extent = (*image)->loop().run((*image)->node().status(3 * kBlock, kBlock));
    ASSERT_TRUE(extent.ok());
    EXPECT_EQ(extent->kind, Extent::Kind::Data);
    EXPECT_FALSE(extent->has_offset);
}

TEST_F(CutImages, QedWithoutItsTablesIsRefused) {
    make_qed();
    cut_to(kBlock);  // the second level is gone
    {
        const auto image = open("qed");
        ASSERT_TRUE(image.ok()) << image.error().text();
        EXPECT_TRUE(refused(**image, 0));
        EXPECT_GE(check(**image).corruptions, 1U);
    }
    cut_to(100);
    const auto image = open("qed");
    ASSERT_FALSE(image.ok());
    EXPECT_NE(image.error().text().find("cut short"), std::string::npos);
}

TEST_F(CutImages, QcowReadsWhatIsThereAndIsNotWritten) {
    make("qcow", {}, kBlock);
    cut_to(length() - kBlock - 100);
    const std::uint64_t before = length();
    const auto image = open("qcow", false);
    ASSERT_TRUE(image.ok()) << image.error().text();
    EXPECT_EQ(read(**image, 2 * kBlock), "3");
    EXPECT_EQ(read(**image, 3 * kBlock - 101), "3");
    EXPECT_TRUE(refused(**image, 3 * kBlock));
    EXPECT_TRUE(refused(**image, 4 * kBlock - 1));
    EXPECT_GE(check(**image).corruptions, 16U);
    EXPECT_FALSE(write(**image, 0, std::vector<std::byte>(4096)).ok());
    EXPECT_FALSE(write(**image, 3 * kBlock, std::vector<std::byte>(4096)).ok());
    ASSERT_TRUE((*image)->close().ok());
    EXPECT_EQ(length(), before);
}

TEST_F(CutImages, QcowWithoutItsTableIsRefused) {
    CreateRequest request;
    request.path = path();
    request.size = 16ULL << 30;
    ASSERT_TRUE(BlockingImage::create("qcow", std::move(request)).ok());
    ASSERT_TRUE(open("qcow").ok());
    cut_to(100);
    const auto image = open("qcow");
    ASSERT_FALSE(image.ok());
    EXPECT_NE(image.error().text().find("cut short"), std::string::npos);
}

TEST_F(CutImages, VhdxReadsWhatIsThereAndIsNotWritten) {
    constexpr std::uint64_t kMiB = 1U << 20;
    make("vhdx", {{"block_size", "1048576"}}, kMiB);
    cut_to(length() - kMiB - kBlock);
    {
        const auto image = open("vhdx");
        ASSERT_TRUE(image.ok()) << image.error().text();
        EXPECT_EQ(read(**image, 2 * kMiB), "3");
        EXPECT_EQ(read(**image, 3 * kMiB - kBlock - 1), "3");
        EXPECT_TRUE(refused(**image, 3 * kMiB - kBlock));
        EXPECT_TRUE(refused(**image, 3 * kMiB));
        EXPECT_EQ(check(**image).corruptions, 2U);
    }
    const auto image = open("vhdx", false);
    ASSERT_TRUE(image.ok());
    EXPECT_FALSE(write(**image, 0, std::vector<std::byte>(4096)).ok());
}

TEST_F(CutImages, VhdxWithoutItsTableIsRefused) {
    constexpr std::uint64_t kMiB = 1U << 20;
    make("vhdx", {{"block_size", "1048576"}}, kMiB);
    cut_to(3 * kMiB);  // behind the metadata
    const auto image = open("vhdx");
    ASSERT_FALSE(image.ok());
    EXPECT_NE(image.error().text().find("cut short"), std::string::npos);
}

TEST_F(CutImages, VhdReadsWhatIsThere) {
    constexpr std::uint64_t kTwoMiB = 2U << 20;
    make("vpc", {}, kTwoMiB);
    cut_to(length() - kTwoMiB - 2048 - kBlock);  // the last block, and the end of the one before
    const auto image = open("vpc");
    ASSERT_TRUE(image.ok()) << image.error().text();
    EXPECT_EQ(read(**image, 2 * kTwoMiB), "3");
    EXPECT_TRUE(refused(**image, 3 * kTwoMiB - 1));
    EXPECT_TRUE(refused(**image, 3 * kTwoMiB));
    EXPECT_EQ(check(**image).corruptions, 2U);
}

}  // namespace
}  // namespace strata::block
