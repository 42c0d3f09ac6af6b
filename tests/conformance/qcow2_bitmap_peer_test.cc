// Persistent dirty bitmaps, both ways: what is stored here qemu-nbd serves bit by bit, what QEMU stored is read and kept up here.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/blocking_image.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = 16U << 20;

class Qcow2BitmapPeerTest : public testing::Test {
  protected:
    void SetUp() override {
        if (std::system("command -v qemu-img >/dev/null && command -v qemu-io >/dev/null && command -v qemu-nbd >/dev/null") != 0) {  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
            GTEST_SKIP() << "no qemu-img here: install qemu-utils";
        }
        std::string pattern = testing::TempDir() + "bmpeerXXXXXX";
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
    }
    void TearDown() override {
        if (!folder_.empty()) {
            std::filesystem::remove_all(folder_);
        }
    }
    void shell(const std::string& line) const {
        const std::string command = fmt::format("cd {} && {{ {}; }} >log 2>&1 || {{ cat log; false; }}", folder_, line);
        EXPECT_EQ(std::system(command.c_str()), 0) << line;  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
    }
    [[nodiscard]] std::unique_ptr<BlockingImage> open() const {
        OpenOptions options;
        options.path = folder_ + "/a.qcow2";
        options.format = "qcow2";
        auto image = BlockingImage::open(std::move(options));
        EXPECT_TRUE(image.ok()) << (image.ok() ? "" : image.error().text());
        return image.ok() ? std::move(*image) : nullptr;
    }
    /// "start length" of each dirty stretch of bitmap `name`, as the peer's server tells.
    [[nodiscard]] std::string dirty(const std::string& name) const {
        shell(fmt::format("qemu-nbd --fork --pid-file=pid -k {0}/sock -r -f qcow2 -B {1} a.qcow2 && "
                          "server=$(cat pid) && qemu-img map --output=json --image-opts "
                          "driver=nbd,server.type=unix,server.path={0}/sock,x-dirty-bitmap=qemu:dirty-bitmap:{1} >map && "
                          "sed -n 's/.*\"start\": \\([0-9]*\\), \"length\": \\([0-9]*\\).*\"data\": false.*/\\1 \\2/p' map >dirty && "
                          "timeout 60 tail --pid=$server -f /dev/null",  // it gives the image back when its last client has gone
                          folder_, name));
        std::ifstream in(folder_ + "/dirty");
        return {std::istreambuf_iterator<char>(in), {}};
    }
    std::string folder_;
};

TEST_F(Qcow2BitmapPeerTest, WhatIsStoredHereIsServedThere) {
    for (const char* options : {"", "-o cluster_size=512", "-o extended_l2=on", "-o cluster_size=2M"}) {
        SCOPED_TRACE(options);
        shell(fmt::format("qemu-img create -f qcow2 {} a.qcow2 16M", options));
        {
            const auto image = open();
            ASSERT_NE(image, nullptr);
            Bitmap made;
            made.info = {.name = "b0", .granularity = 65536, .in_use = false, .automatic = true};
            made.size = kSize;
            made.bits = {1ULL << 5, 0, 0, 1ULL << 63};
            ASSERT_TRUE(image->loop().run(image->node().store_bitmap(std::move(made))).ok());
            ASSERT_TRUE(image->write(1U << 20, std::vector<std::byte>(100000, std::byte{7})).ok());
            ASSERT_TRUE(image->close().ok());
        }
        shell("qemu-img check -f qcow2 a.qcow2 && qemu-img info a.qcow2 | grep 'name: b0'");
        EXPECT_EQ(dirty("b0"), "327680 65536\n1048576 131072\n16711680 65536\n");
        // It goes on there, and here again.
        shell("qemu-io -f qcow2 -c 'write 4M 64k' a.qcow2");
        {
            const auto image = open();
            ASSERT_NE(image, nullptr);
            ASSERT_TRUE(image->write(8U << 20, std::vector<std::byte>(512, std::byte{7})).ok());
            ASSERT_TRUE(image->loop().run(image->node().resize(kSize * 2, Preallocation::Off)).ok());
            ASSERT_TRUE(image->write(kSize * 2 - 512, std::vector<std::byte>(512, std::byte{7})).ok());
            ASSERT_TRUE(image->close().ok());
        }
        shell("qemu-img check -f qcow2 a.qcow2");
        EXPECT_EQ(dirty("b0"), "327680 65536\n1048576 131072\n4194304 65536\n8388608 65536\n16711680 65536\n33488896 65536\n");
    }
}

TEST_F(Qcow2BitmapPeerTest, WhatWasStoredThereIsReadHere) {
    shell("qemu-img create -f qcow2 a.qcow2 16M && qemu-img bitmap -f qcow2 --add -g 32k a.qcow2 one && qemu-img bitmap -f qcow2 --add --disable a.qcow2 two && "
          "qemu-io -f qcow2 -c 'write 1M 64k' a.qcow2");
    auto image = open();
    ASSERT_NE(image, nullptr);
    const auto list = image->loop().run(image->node().bitmaps());
    ASSERT_TRUE(list.ok());
    ASSERT_EQ(list->size(), 2U);
    EXPECT_FALSE((*list)[1].automatic);
    const auto one = image->loop().run(image->node().read_bitmap("one"));
    ASSERT_TRUE(one.ok()) << one.error().text();
    EXPECT_EQ(one->bits[0], 3ULL << 32);
    ASSERT_TRUE(image->loop().run(image->node().remove_bitmap("one")).ok());
    ASSERT_TRUE(image->close().ok());
    image.reset();
    shell("qemu-img check -f qcow2 a.qcow2 && ! qemu-img info a.qcow2 | grep 'name: one' && qemu-img info a.qcow2 | grep 'name: two'");
}

}  // namespace
}  // namespace strata::block
