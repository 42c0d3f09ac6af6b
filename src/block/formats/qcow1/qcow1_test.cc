// Encrypted qcow images: what is written is read back, parts of sectors too, and nothing of it
// stands in the file.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "block/blocking_image.h"
#include "block/registry.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = 1U << 20;
constexpr std::string_view kPhrase = "ein langer Schluesselsatz";

class Qcow1EncryptionTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "qcow1XXXXXX";
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        CreateRequest request;
        request.path = folder_ + "/a";
        request.size = kSize;
        request.options = {{"encrypt.format", "aes"}, {"encrypt.key-secret", std::string(kPhrase)}};
        const auto made = BlockingImage::create("qcow", std::move(request));
        ASSERT_TRUE(made.ok()) << made.error().text();
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }
    [[nodiscard]] Result<std::unique_ptr<BlockingImage>> open(std::string_view passphrase,
                                                              bool data = true) const {
        OpenOptions options;
        options.path = folder_ + "/a";
        options.format = "qcow";
        options.open_data = data;
        if (!passphrase.empty()) {
            options.extra = {{"encrypt.key-secret", std::string(passphrase)}};
        }
        return BlockingImage::open(std::move(options));
    }
    [[nodiscard]] static std::vector<std::byte> read(BlockingImage& image, std::uint64_t offset,
                                                     std::size_t length) {
        std::vector<std::byte> bytes(length, std::byte{0xEE});
        const auto done = image.loop().run(image.node().read(offset, Buffers(std::span(bytes))));
        EXPECT_TRUE(done.ok()) << done.error().text();
        return bytes;
    }
    static void write(BlockingImage& image, std::uint64_t offset,
                      const std::vector<std::byte>& bytes) {
        const auto done = image.loop().run(image.node().write(offset, Buffers::of(bytes)));
        EXPECT_TRUE(done.ok()) << done.error().text();
    }
    std::string folder_;
};

TEST_F(Qcow1EncryptionTest, PartsOfSectorsAndZerosAreReadBack) {
    const std::vector<std::byte> text(1000, std::byte{'x'});
    {
        const auto image = open(kPhrase);
        ASSERT_TRUE(image.ok()) << image.error().text();
        write(**image, 5000, text);  // its cluster has no place yet
        write(**image, 5100, std::vector<std::byte>(10, std::byte{'y'}));
        const auto zeroed = (*image)->loop().run((*image)->node().write_zeroes(5200, 700, {}));
        EXPECT_TRUE(zeroed.ok());
        ASSERT_TRUE((*image)->close().ok());
    }
    std::vector<std::byte> wanted(3000);
    std::fill_n(wanted.begin() + 1000, 1000, std::byte{'x'});
    std::fill_n(wanted.begin() + 1100, 10, std::byte{'y'});
    std::fill_n(wanted.begin() + 1200, 700, std::byte{0});
    const auto image = open(kPhrase);
    ASSERT_TRUE(image.ok());
    EXPECT_EQ(read(**image, 4000, wanted.size()), wanted);
    EXPECT_EQ(read(**image, 8192, 4096), std::vector<std::byte>(4096));
    std::ifstream file(folder_ + "/a", std::ios::binary);
    const std::string raw(std::istreambuf_iterator<char>(file), {});
    EXPECT_EQ(raw.find("xxxxxxxx"), std::string::npos);
}

TEST_F(Qcow1EncryptionTest, TheDataAloneNeedsThePassphrase) {
    EXPECT_FALSE(open("").ok());
    const auto image = open("", false);
    ASSERT_TRUE(image.ok()) << image.error().text();
    const auto info = (*image)->loop().run((*image)->node().info());
    ASSERT_TRUE(info.ok());
    EXPECT_TRUE(info->encrypted);
}

}  // namespace
}  // namespace strata::block
