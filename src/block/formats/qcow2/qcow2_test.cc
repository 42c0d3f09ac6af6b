// Tests of qcow2 images: what was written is read again, in every shape of image; broken images are
// refused.
#include <cstring>
#include <filesystem>
#include <random>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "block/blocking_image.h"
#include "block/file_access.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = (4U << 20) + 512 * 3;

class Qcow2Test : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "qcow2XXXXXX";
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }
    [[nodiscard]] std::string path(const std::string& name) const { return folder_ + "/" + name; }
    static Result<std::unique_ptr<BlockingImage>> open(const std::string& path,
                                                       bool read_only = false,
                                                       bool follow = false) {
        OpenOptions options;
        options.path = path;
        options.format = "qcow2";
        options.read_only = read_only;
        options.references = follow ? follow_references() : nullptr;
        return BlockingImage::open(std::move(options));
    }
    /// Random writes, zeroes, discards and flushes on `layer`, mirrored in `model`; every byte is
    /// compared now and then.
    static void exercise(BlockingImage& layer, std::vector<std::byte>& model, unsigned seed,
                         unsigned rounds) {
        std::mt19937 random(seed);
        for (unsigned round = 0; round < rounds; ++round) {
            const std::uint64_t offset = random() % (model.size() / 512) * 512;
            const std::uint64_t length =
                std::min<std::uint64_t>((random() % 300 + 1) * 512, model.size() - offset);
            const auto at = model.begin() + static_cast<std::ptrdiff_t>(offset);
            switch (random() % 8) {
                case 0:
                    ASSERT_TRUE(layer.write_zeroes(offset, length, true).ok());
                    std::fill_n(at, length, std::byte{0});
                    break;
                case 1: {
                    ASSERT_TRUE(layer.discard(offset, length).ok());
                    ASSERT_TRUE(layer.read(offset, std::span(model).subspan(offset, length)).ok());
                    break;
                }
                case 2:
                    ASSERT_TRUE(layer.flush().ok());
                    break;
                default:
                    std::fill_n(at, length, static_cast<std::byte>(random()));
                    ASSERT_TRUE(layer.write(offset, std::span(model).subspan(offset, length)).ok());
            }
        }
        compare(layer, model);
    }
    static void compare(BlockingImage& layer, const std::vector<std::byte>& model) {
        std::vector<std::byte> got(model.size());
        ASSERT_TRUE(layer.read(0, got).ok());
        EXPECT_TRUE(got == model);
    }
    static Result<> create(const std::string& path, std::uint64_t size, OptionList options = {}) {
        CreateRequest request;
        request.path = path;
        request.size = size;
        request.options = std::move(options);
        return BlockingImage::create("qcow2", std::move(request));
    }
    std::string folder_;
};

struct Shape {
    std::string version, cluster, refcount_bits, extended;
};

TEST_F(Qcow2Test, KeepsWhatWasWrittenInEveryShape) {
    for (const Shape& shape :
         {Shape{"v3", "65536", "16", "off"}, Shape{"v2", "65536", "16", "off"},
          Shape{"v3", "512", "64", "off"}, Shape{"v3", "4096", "1", "off"},
          Shape{"v3", "1024", "2", "off"}, Shape{"v3", "2M", "8", "off"},
          Shape{"v3", "16384", "4", "on"}, Shape{"v3", "131072", "32", "on"}}) {
        SCOPED_TRACE(testing::Message()
                     << "cluster " << shape.cluster << " refcount bits " << shape.refcount_bits);
        const auto made = create(path("a"), kSize,
                                 {{"compat", shape.version},
                                  {"cluster_size", shape.cluster},
                                  {"refcount_bits", shape.refcount_bits},
                                  {"extended_l2", shape.extended}});
        ASSERT_TRUE(made.ok()) << made.error().text();
        std::vector<std::byte> model(kSize);
        for (unsigned round = 0; round < 3; ++round) {
            auto layer = open(path("a"));
            ASSERT_TRUE(layer.ok()) << layer.error().text();
            exercise(**layer, model, round + 1, 120);
            ASSERT_TRUE((*layer)->close().ok());
        }
        auto layer = open(path("a"), true);
        ASSERT_TRUE(layer.ok());
        compare(**layer, model);
        EXPECT_EQ((*layer)->write(0, std::vector<std::byte>(512)).error().system_errno(), EROFS);
        EXPECT_EQ((*layer)->read(kSize - 512, std::span(model).first(1024)).error().system_errno(),
                  EIO);
    }
}

TEST_F(Qcow2Test, AnOverlayShowsWhatLiesBelowAndLeavesItAlone) {
    std::vector<std::byte> below(kSize / 2 / 512 * 512);
    ASSERT_TRUE(create(path("base"), below.size()).ok());
    {
        auto base = open(path("base"));
        ASSERT_TRUE(base.ok());
        exercise(**base, below, 7, 100);
        ASSERT_TRUE((*base)->close().ok());
    }
    for (const std::string& version : {std::string("v2"), std::string("v3")}) {
        // Longer than its backing file: zeros beyond.
        ASSERT_TRUE(
            create(path("over"), kSize,
                   {{"compat", version}, {"backing_file", "base"}, {"backing_fmt", "qcow2"}})
                .ok());
        std::vector<std::byte> model = below;
        model.resize(kSize);
        auto refused = open(path("over"));
        ASSERT_FALSE(refused.ok());
        EXPECT_EQ(refused.error().kind(), ErrorKind::PermissionDenied);
        auto over = open(path("over"), false, true);
        ASSERT_TRUE(over.ok()) << over.error().text();
        compare(**over, model);
        exercise(**over, model, version == "v2" ? 2 : 3, 150);
    }
    auto base = open(path("base"), true);
    ASSERT_TRUE(base.ok());
    compare(**base, below);
}

TEST_F(Qcow2Test, AChainThatNamesItselfEnds) {
    ASSERT_TRUE(create(path("a"), kSize, {{"backing_file", "a"}, {"backing_fmt", "qcow2"}}).ok());
    EXPECT_FALSE(open(path("a"), true, true).ok());
}

TEST_F(Qcow2Test, BrokenImagesAreRefusedOrReadInBounds) {
    ASSERT_TRUE(create(path("good"), kSize, {{"cluster_size", "4096"}}).ok());
    {
        std::vector<std::byte> model(kSize);
        auto layer = open(path("good"));
        ASSERT_TRUE(layer.ok());
        exercise(**layer, model, 3, 60);
        ASSERT_TRUE((*layer)->close().ok());
    }
    std::mt19937 random(11);
    std::vector<std::byte> into(kSize);
    for (int round = 0; round < 120; ++round) {
        std::filesystem::copy_file(path("good"), path("bad"),
                                   std::filesystem::copy_options::overwrite_existing);
        {
            const UniqueFd fd(::open(path("bad").c_str(), O_RDWR | O_CLOEXEC));
            const auto value = static_cast<std::byte>(random());
            // Header, refcount table, L1 table; or any metadata.
            const std::uint64_t place = round % 2 == 0 ? random() % 112 : random() % 32768;
            ASSERT_TRUE(write_file(fd.get(), place, std::span(&value, 1), "bad").ok());
            if (round % 10 == 0) {
                ASSERT_EQ(::ftruncate(fd.get(), random() % 40000), 0);
            }
        }
        auto layer = open(path("bad"));
        if (layer.ok() && (*layer)->size() <= kSize) {
            (void)(*layer)->read(0, std::span(into).first((*layer)->size()));
            (void)(*layer)->write(
                0, std::span(into).first(std::min<std::uint64_t>(8192, (*layer)->size())));
            (void)(*layer)->flush();
        }
    }
}

TEST_F(Qcow2Test, CreationRefusesWhatCannotBe) {
    EXPECT_FALSE(create(path("a"), 1U << 20, {{"cluster_size", "1000"}}).ok());
    EXPECT_FALSE(create(path("a"), 1ULL << 50, {{"cluster_size", "512"}}).ok());
    EXPECT_FALSE(create(path("a"), 512, {{"backing_file", "x"}}).ok());
    EXPECT_FALSE(create(path("a"), 512, {{"colour", "red"}}).ok());
    EXPECT_FALSE(std::filesystem::exists(path("a")));
}

}  // namespace
}  // namespace strata::block
