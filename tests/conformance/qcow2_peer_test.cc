// qcow2 against qemu-img: what it writes is read here, what is written here it finds sound and
// equal.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "block/blocking_image.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = (6U << 20) + 1024;

class Qcow2PeerTest : public testing::Test {
  protected:
    void SetUp() override {
        if (std::system("command -v qemu-img >/dev/null") !=
            0) {  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
            GTEST_SKIP() << "no qemu-img here: install qemu-utils";
        }
        std::string pattern = testing::TempDir() + "peerXXXXXX";
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        model_.resize(kSize);
        std::mt19937 random(5);
        for (std::uint64_t at = 0; at + 4096 <= kSize; at += 4096) {
            if (random() % 3 == 0) {
                for (std::uint64_t i = 0; i < 4096; i += 1 + random() % 7) {
                    model_[at + i] = static_cast<std::byte>(random());
                }
            }
        }
        save("model.raw");
    }
    void TearDown() override {
        if (!folder_.empty()) {
            std::filesystem::remove_all(folder_);
        }
    }
    void save(const std::string& name) const {
        std::ofstream out(folder_ + "/" + name, std::ios::binary);
        // SAFETY: bytes as characters.
        out.write(reinterpret_cast<const char*>(model_.data()),
                  static_cast<std::streamsize>(model_.size()));
    }
    void qemu_img(const std::string& words) const {
        const std::string line =
            fmt::format("cd {} && qemu-img {} >log 2>&1 || {{ cat log; false; }}", folder_, words);
        EXPECT_EQ(std::system(line.c_str()), 0)
            << words;  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
    }
    [[nodiscard]] std::unique_ptr<BlockingImage> open(const std::string& name,
                                                      bool read_only) const {
        OpenOptions options;
        options.path = folder_ + "/" + name;
        options.format = "qcow2";
        options.read_only = read_only;
        options.references = follow_references();
        auto layer = BlockingImage::open(std::move(options));
        EXPECT_TRUE(layer.ok()) << (layer.ok() ? "" : layer.error().text());
        return layer.ok() ? std::move(*layer) : nullptr;
    }
    void expect_model(const std::string& name) const {
        const auto layer = open(name, true);
        ASSERT_NE(layer, nullptr);
        std::vector<std::byte> got(kSize);
        const auto done = layer->read(0, got);
        ASSERT_TRUE(done.ok()) << done.error().text();
        EXPECT_TRUE(got == model_);
    }
    /// Writes, zeroes and discards here, then lets qemu-img judge.
    void change(const std::string& name, unsigned seed) {
        {
            const auto layer = open(name, false);
            ASSERT_NE(layer, nullptr);
            std::mt19937 random(seed);
            for (int round = 0; round < 200; ++round) {
                const std::uint64_t offset = random() % (kSize / 512) * 512;
                const std::uint64_t length =
                    std::min<std::uint64_t>((random() % 400 + 1) * 512, kSize - offset);
                const auto part = std::span(model_).subspan(offset, length);
                if (random() % 5 == 0) {
                    std::fill(part.begin(), part.end(), std::byte{0});
                    ASSERT_TRUE(layer->write_zeroes(offset, length, true).ok());
                } else if (random() % 9 == 0) {
                    ASSERT_TRUE(layer->discard(offset, length).ok());
                    ASSERT_TRUE(layer->read(offset, part).ok());
                } else {
                    std::fill(part.begin(), part.end(), static_cast<std::byte>(random()));
                    ASSERT_TRUE(layer->write(offset, part).ok());
                }
                if (round % 50 == 49) {
                    ASSERT_TRUE(layer->flush().ok());
                    // In the middle of it: nothing but leaks, as after a crash (exit status 3).
                    const std::string line = fmt::format(
                        "cd {} && {{ qemu-img check -U -f qcow2 {} >log 2>&1; s=$?; [ $s = 0 ] || "
                        "[ $s = 3 ] || "
                        "{{ cat log; false; }}; }}",
                        folder_, name);
                    ASSERT_EQ(std::system(line.c_str()),
                              0);  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
                }
            }
            ASSERT_TRUE(layer->close().ok());
        }
        save("model.raw");
        qemu_img("check -f qcow2 " + name);
        qemu_img("compare -f raw -F qcow2 model.raw " + name);
    }
    void snapshot(const std::string& name, const std::string& as) const {
        {
            const auto image = open(name, false);
            ASSERT_NE(image, nullptr);
            SnapshotInfo info;
            info.name = as;
            const auto done = image->loop().run(image->node().create_snapshot(std::move(info)));
            ASSERT_TRUE(done.ok()) << done.error().text();
            ASSERT_TRUE(image->close().ok());
        }
        qemu_img("check -f qcow2 " + name);
    }
    void apply(const std::string& name, const std::string& which,
               const std::vector<std::byte>& content) {
        {
            const auto image = open(name, false);
            ASSERT_NE(image, nullptr);
            const auto done = image->loop().run(image->node().apply_snapshot(which));
            ASSERT_TRUE(done.ok()) << done.error().text();
            ASSERT_TRUE(image->close().ok());
        }
        model_ = content;
        expect_model(name);
    }
    void remove(const std::string& name, const std::string& which) const {
        const auto image = open(name, false);
        ASSERT_NE(image, nullptr);
        const auto done = image->loop().run(image->node().delete_snapshot(which));
        ASSERT_TRUE(done.ok()) << done.error().text();
        ASSERT_TRUE(image->close().ok());
    }
    void repair(const std::string& name) const {
        OpenOptions options;
        options.path = folder_ + "/" + name;
        options.format = "qcow2";
        options.for_check = true;
        auto image = BlockingImage::open(std::move(options));
        ASSERT_TRUE(image.ok()) << image.error().text();
        const auto report = (*image)->loop().run((*image)->node().check(Repair::All));
        ASSERT_TRUE(report.ok()) << report.error().text();
        EXPECT_TRUE(report->clean());
        ASSERT_TRUE((*image)->close().ok());
    }
    std::string folder_;
    std::vector<std::byte> model_;
};

TEST_F(Qcow2PeerTest, ReadsAndChangesWhatQemuImgMade) {
    unsigned seed = 1;
    for (const char* options :
         {"", "-o compat=0.10", "-o cluster_size=512", "-o cluster_size=2M", "-o refcount_bits=1",
          "-o refcount_bits=64,cluster_size=4k", "-o extended_l2=on,cluster_size=128k",
          "-o preallocation=metadata", "-o preallocation=full", "-o lazy_refcounts=on", "-c",
          "-c -o compression_type=zstd", "-c -o cluster_size=1k", "-c -o extended_l2=on",
          "-c -o compression_type=zstd,cluster_size=2M"}) {
        SCOPED_TRACE(options);
        qemu_img(fmt::format("convert -f raw -O qcow2 {} model.raw a.qcow2", options));
        expect_model("a.qcow2");
        change("a.qcow2", seed++);
        if (std::string_view(options) != "-o refcount_bits=1") {  // which has no snapshots
            qemu_img("snapshot -c one a.qcow2");
            const std::vector<std::byte> before = model_;
            change("a.qcow2", seed++);
            qemu_img("snapshot -a one a.qcow2");
            model_ = before;
            expect_model("a.qcow2");
            change("a.qcow2", seed++);
        }
    }
}

TEST_F(Qcow2PeerTest, ReadsAndChangesChains) {
    for (const char* options : {"", "-o compat=0.10", "-o extended_l2=on", "-o cluster_size=4k"}) {
        SCOPED_TRACE(options);
        std::filesystem::copy_file(folder_ + "/model.raw", folder_ + "/base.raw",
                                   std::filesystem::copy_options::overwrite_existing);
        qemu_img(fmt::format("create -f qcow2 -b base.raw -F raw {} mid.qcow2", options));
        change("mid.qcow2", 50);
        qemu_img(fmt::format("create -f qcow2 -b mid.qcow2 -F qcow2 {} top.qcow2", options));
        expect_model("top.qcow2");
        change("top.qcow2", 60);
    }
}

TEST_F(Qcow2PeerTest, WhatIsCreatedHereIsSoundThere) {
    for (const std::uint64_t cluster : {512ULL, 4096ULL, 65536ULL, 2ULL << 20}) {
        for (const std::uint64_t bits : {1ULL, 2ULL, 4ULL, 8ULL, 16ULL, 32ULL, 64ULL}) {
            SCOPED_TRACE(fmt::format("cluster {} bits {}", cluster, bits));
            CreateRequest request;
            request.path = folder_ + "/new.qcow2";
            request.size = kSize;
            request.options = {{"cluster_size", std::to_string(cluster)},
                               {"refcount_bits", std::to_string(bits)}};
            ASSERT_TRUE(BlockingImage::create("qcow2", std::move(request)).ok());
            qemu_img("check -f qcow2 new.qcow2");
            model_.assign(kSize, std::byte{0});
            change("new.qcow2", static_cast<unsigned>(bits));
        }
    }
}

TEST_F(Qcow2PeerTest, SnapshotsMadeHereAreSoundThere) {
    for (const char* options :
         {"", "-o compat=0.10", "-o cluster_size=4k", "-o extended_l2=on", "-c"}) {
        SCOPED_TRACE(options);
        save("model.raw");
        qemu_img(fmt::format("convert -f raw -O qcow2 {} model.raw a.qcow2", options));
        const std::vector<std::byte> first = model_;
        snapshot("a.qcow2", "one");
        change("a.qcow2", 70);
        const std::vector<std::byte> second = model_;
        snapshot("a.qcow2", "two");
        change("a.qcow2", 71);
        qemu_img("snapshot -l a.qcow2");
        apply("a.qcow2", "one", first);
        qemu_img("check -f qcow2 a.qcow2");
        change("a.qcow2", 72);
        apply("a.qcow2", "two", second);
        qemu_img("snapshot -a one a.qcow2");
        model_ = first;
        expect_model("a.qcow2");
        remove("a.qcow2", "two");
        qemu_img("check -f qcow2 a.qcow2");
        remove("a.qcow2", "one");
        qemu_img("check -f qcow2 a.qcow2");
        expect_model("a.qcow2");
    }
}

TEST_F(Qcow2PeerTest, DamageIsFoundAndMended) {
    std::mt19937 random(9);
    for (const char* options :
         {"", "-o compat=0.10,cluster_size=4k", "-o cluster_size=512", "-o refcount_bits=1",
          "-o refcount_bits=64", "-o extended_l2=on", "-c"}) {
        SCOPED_TRACE(options);
        qemu_img(fmt::format("convert -f raw -O qcow2 {} model.raw a.qcow2", options));
        // The refcount table's first entry, and the first block's first counts.
        for (const std::uint64_t place : {std::uint64_t{1}, std::uint64_t{2}}) {
            std::fstream file(folder_ + "/a.qcow2",
                              std::ios::in | std::ios::out | std::ios::binary);
            char at[8] = {};
            file.seekg(static_cast<std::streamoff>(48));
            file.read(at, 8);
            std::uint64_t offset = 0;
            for (const char c : at) {
                offset = offset << 8 | static_cast<unsigned char>(c);
            }
            if (place == 2) {
                file.seekg(static_cast<std::streamoff>(offset));
                file.read(at, 8);
                offset = 0;
                for (const char c : at) {
                    offset = offset << 8 | static_cast<unsigned char>(c);
                }
            }
            file.seekp(static_cast<std::streamoff>(offset + (place == 2 ? random() % 16 : 4)));
            file.put(static_cast<char>(place == 2 ? random() : 0));
            file.put(static_cast<char>(place == 2 ? random() : 0));
            file.close();
            repair("a.qcow2");
            qemu_img("check -f qcow2 a.qcow2");
            expect_model("a.qcow2");
        }
    }
}

TEST_F(Qcow2PeerTest, ResizedImagesAreSoundThere) {
    for (const char* options : {"", "-o compat=0.10", "-o cluster_size=512", "-o extended_l2=on"}) {
        SCOPED_TRACE(options);
        qemu_img(fmt::format("convert -f raw -O qcow2 {} model.raw a.qcow2", options));
        for (const std::uint64_t size : {kSize * 20, kSize / 2 / 512 * 512, kSize}) {
            {
                const auto image = open("a.qcow2", false);
                ASSERT_NE(image, nullptr);
                const auto done = image->loop().run(image->node().resize(size, Preallocation::Off));
                ASSERT_TRUE(done.ok()) << done.error().text();
                ASSERT_TRUE(image->close().ok());
            }
            qemu_img("check -f qcow2 a.qcow2");
            model_.resize(size);
            save("model.raw");
            qemu_img("compare -f raw -F qcow2 model.raw a.qcow2");
        }
        change("a.qcow2", 80);
    }
}

TEST_F(Qcow2PeerTest, CompressedHereIsReadThere) {
    for (const char* options : {"zlib", "zstd"}) {
        SCOPED_TRACE(options);
        CreateRequest request;
        request.path = folder_ + "/c.qcow2";
        request.size = kSize;
        request.options = {{"compression_type", options}};
        ASSERT_TRUE(BlockingImage::create("qcow2", std::move(request)).ok());
        {
            const auto image = open("c.qcow2", false);
            ASSERT_NE(image, nullptr);
            for (std::uint64_t at = 0; at < kSize; at += 65536) {
                const auto part =
                    std::span(model_).subspan(at, std::min<std::uint64_t>(65536, kSize - at));
                const auto done =
                    image->loop().run(image->node().write_compressed(at, Buffers::of(part)));
                ASSERT_TRUE(done.ok()) << done.error().text();
            }
            ASSERT_TRUE(image->close().ok());
        }
        qemu_img("check -f qcow2 c.qcow2");
        qemu_img("compare -f raw -F qcow2 model.raw c.qcow2");
        change("c.qcow2", 90);
    }
}

}  // namespace
}  // namespace strata::block
