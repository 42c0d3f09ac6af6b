// Tests of qcow2 images: what was written is read again, in every shape of image; broken images are refused.
#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <random>

#include <gtest/gtest.h>

#include "block/file_access.h"
#include "block/formats/qcow2/create.h"
#include "block/layer.h"

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
    static Result<std::unique_ptr<Layer>> open(const std::string& path, bool read_only = false, bool follow = false) {
        DiskOptions options;
        options.path = path;
        options.format = "qcow2";
        options.read_only = read_only;
        options.follow_references = follow;
        return open_layer(std::move(options));
    }
    /// Random writes, zeroes, discards and flushes on `layer`, mirrored in `model`; every byte is compared now and then.
    static void exercise(Layer& layer, std::vector<std::byte>& model, unsigned seed, unsigned rounds) {
        std::mt19937 random(seed);
        for (unsigned round = 0; round < rounds; ++round) {
            const std::uint64_t offset = random() % (model.size() / 512) * 512;
            const std::uint64_t length = std::min<std::uint64_t>((random() % 300 + 1) * 512, model.size() - offset);
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
                case 2: ASSERT_TRUE(layer.flush().ok()); break;
                default:
                    std::fill_n(at, length, static_cast<std::byte>(random()));
                    ASSERT_TRUE(layer.write(offset, std::span(model).subspan(offset, length)).ok());
            }
        }
        compare(layer, model);
    }
    static void compare(Layer& layer, const std::vector<std::byte>& model) {
        std::vector<std::byte> got(model.size());
        ASSERT_TRUE(layer.read(0, got).ok());
        EXPECT_TRUE(got == model);
    }
    std::string folder_;
};

struct Shape {
    std::uint32_t version;
    std::uint64_t cluster, refcount_bits;
    bool extended;
};

TEST_F(Qcow2Test, KeepsWhatWasWrittenInEveryShape) {
    for (const Shape shape : {Shape{3, 65536, 16, false}, Shape{2, 65536, 16, false}, Shape{3, 512, 64, false}, Shape{3, 4096, 1, false},
                              Shape{3, 1024, 2, false}, Shape{3, 2U << 20, 8, false}, Shape{3, 16384, 4, true}, Shape{3, 131072, 32, true}}) {
        SCOPED_TRACE(testing::Message() << "cluster " << shape.cluster << " refcount bits " << shape.refcount_bits);
        qcow2::CreateOptions options;
        options.size = kSize;
        options.version = shape.version;
        options.cluster = shape.cluster;
        options.refcount_bits = shape.refcount_bits;
        options.extended_l2 = shape.extended;
        ASSERT_TRUE(qcow2::create(path("a"), options).ok());
        std::vector<std::byte> model(kSize);
        for (unsigned round = 0; round < 3; ++round) {
            auto layer = open(path("a"));
            ASSERT_TRUE(layer.ok()) << layer.error().text();
            exercise(**layer, model, round + 1, 120);
        }
        auto layer = open(path("a"), true);
        ASSERT_TRUE(layer.ok());
        compare(**layer, model);
        EXPECT_EQ((*layer)->write(0, std::vector<std::byte>(512)).error().system_errno(), EROFS);
        EXPECT_EQ((*layer)->read(kSize - 512, std::span(model).first(1024)).error().system_errno(), EIO);
    }
}

TEST_F(Qcow2Test, AnOverlayShowsWhatLiesBelowAndLeavesItAlone) {
    qcow2::CreateOptions options;
    options.size = kSize / 2 / 512 * 512;
    ASSERT_TRUE(qcow2::create(path("base"), options).ok());
    std::vector<std::byte> below(options.size);
    {
        auto base = open(path("base"));
        ASSERT_TRUE(base.ok());
        exercise(**base, below, 7, 100);
    }
    options.size = kSize;  // longer than its backing file: zeros beyond
    options.backing = "base";
    options.backing_format = "qcow2";
    for (const std::uint32_t version : {2U, 3U}) {
        options.version = version;
        ASSERT_TRUE(qcow2::create(path("over"), options).ok());
        std::vector<std::byte> model = below;
        model.resize(kSize);
        auto refused = open(path("over"));
        ASSERT_FALSE(refused.ok());
        EXPECT_EQ(refused.error().kind(), ErrorKind::PermissionDenied);
        auto over = open(path("over"), false, true);
        ASSERT_TRUE(over.ok()) << over.error().text();
        compare(**over, model);
        exercise(**over, model, version, 150);
    }
    auto base = open(path("base"), true);
    ASSERT_TRUE(base.ok());
    compare(**base, below);
}

TEST_F(Qcow2Test, AChainThatNamesItselfEnds) {
    qcow2::CreateOptions options;
    options.size = kSize;
    options.backing = "a";
    options.backing_format = "qcow2";
    ASSERT_TRUE(qcow2::create(path("a"), options).ok());
    EXPECT_FALSE(open(path("a"), true, true).ok());
}

TEST_F(Qcow2Test, BrokenImagesAreRefusedOrReadInBounds) {
    qcow2::CreateOptions options;
    options.size = kSize;
    options.cluster = 4096;
    ASSERT_TRUE(qcow2::create(path("good"), options).ok());
    {
        std::vector<std::byte> model(kSize);
        auto layer = open(path("good"));
        ASSERT_TRUE(layer.ok());
        exercise(**layer, model, 3, 60);
    }
    std::mt19937 random(11);
    std::vector<std::byte> into(kSize);
    for (int round = 0; round < 120; ++round) {
        std::filesystem::copy_file(path("good"), path("bad"), std::filesystem::copy_options::overwrite_existing);
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
            (void)(*layer)->write(0, std::span(into).first(std::min<std::uint64_t>(8192, (*layer)->size())));
            (void)(*layer)->flush();
        }
    }
}

TEST_F(Qcow2Test, CreationRefusesWhatCannotBe) {
    qcow2::CreateOptions options;
    options.size = 1U << 20;
    options.cluster = 1000;
    EXPECT_FALSE(qcow2::create(path("a"), options).ok());
    options.cluster = 512;
    options.size = 1ULL << 50;
    EXPECT_FALSE(qcow2::create(path("a"), options).ok());
    options.size = 512;
    options.backing = "x";
    EXPECT_FALSE(qcow2::create(path("a"), options).ok());
    EXPECT_FALSE(std::filesystem::exists(path("a")));
}

}  // namespace
}  // namespace strata::block
