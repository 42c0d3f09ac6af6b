// Persistent dirty bitmaps, both ways: what is stored here qemu-nbd serves bit by bit, what QEMU
// stored is read and kept up here.
#include <fstream>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/blocking_image.h"
#include "peer_test.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = 16U << 20;

class Qcow2BitmapPeerTest : public PeerTest {
  protected:
    Qcow2BitmapPeerTest() : PeerTest("qemu-img qemu-io qemu-nbd") {}
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
        shell(fmt::format(
            "qemu-nbd --fork --pid-file=pid -k {0}/sock -r -f qcow2 -B {1} a.qcow2 && "
            "server=$(cat pid) && qemu-img map --output=json --image-opts "
            "driver=nbd,server.type=unix,server.path={0}/sock,x-dirty-bitmap=qemu:dirty-bitmap:{1} "
            ">map && "
            "sed -n 's/.*\"start\": \\([0-9]*\\), \"length\": \\([0-9]*\\).*\"data\": false.*/\\1 "
            "\\2/p' map >dirty && "
            "timeout 60 tail -s 0.1 --pid=$server -f /dev/null",  // it gives the image back when
                                                                  // its last client has gone
            folder_, name));
        std::ifstream in(folder_ + "/dirty");
        return {std::istreambuf_iterator<char>(in), {}};
    }
};

TEST_F(Qcow2BitmapPeerTest, WhatIsStoredHereIsServedThere) {
    for (const char* options :
         {"", "-o cluster_size=512", "-o extended_l2=on", "-o cluster_size=2M"}) {
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
            ASSERT_TRUE(
                image->loop().run(image->node().resize(kSize * 2, Preallocation::Off)).ok());
            ASSERT_TRUE(
                image->write(kSize * 2 - 512, std::vector<std::byte>(512, std::byte{7})).ok());
            ASSERT_TRUE(image->close().ok());
        }
        shell("qemu-img check -f qcow2 a.qcow2");
        EXPECT_EQ(dirty("b0"),
                  "327680 65536\n1048576 131072\n4194304 65536\n8388608 65536\n16711680 "
                  "65536\n33488896 65536\n");
    }
}

TEST_F(Qcow2BitmapPeerTest, WhatWasStoredThereIsReadHere) {
    shell(
        "qemu-img create -f qcow2 a.qcow2 16M && qemu-img bitmap -f qcow2 --add -g 32k a.qcow2 one "
        "&& qemu-img bitmap -f qcow2 --add --disable a.qcow2 two && "
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
    shell(
        "qemu-img check -f qcow2 a.qcow2 && ! qemu-img info a.qcow2 | grep 'name: one' && qemu-img "
        "info a.qcow2 | grep 'name: two'");
}

}  // namespace
}  // namespace strata::block
