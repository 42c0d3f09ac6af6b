// Amending qcow2 images, both ways: what is amended here qemu-img finds sound and equal, what it
// amended is read here.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/amend.h"
#include "block/blocking_image.h"
#include "peer_test.h"

namespace strata::block {
namespace {

class Qcow2AmendPeerTest : public PeerTest {
  protected:
    [[nodiscard]] Result<> amend(OptionList options) const {
        OpenOptions open;
        open.path = folder_ + "/a.qcow2";
        open.format = "qcow2";
        open.references = follow_references();
        auto image = STRATA_TRY(BlockingImage::open(std::move(open)));
        AmendRequest request;
        request.options = std::move(options);
        STRATA_TRY_VOID(
            image->loop().run(amend_image(image->node().shared_from_this(), std::move(request))));
        return image->close();
    }
};

TEST_F(Qcow2AmendPeerTest, WhatIsAmendedHereIsSoundThere) {
    const std::vector<std::string> bits = {"1", "64", "2", "32", "16"};
    for (const char* create :
         {"", "-o cluster_size=512", "-o cluster_size=4k -b base.qcow2 -F qcow2",
          "-b base.qcow2 -F qcow2"}) {
        SCOPED_TRACE(create);
        shell(
            "qemu-img create -f qcow2 base.qcow2 8M && qemu-io -f qcow2 -c 'write -P 9 0 8M' "
            "base.qcow2");
        shell(fmt::format(
            "qemu-img create -f qcow2 {} a.qcow2 8M && qemu-io -f qcow2 -c 'write -P 1 1M 1M' -c "
            "'write -z 3M 700k' -c 'write -z -u 1500k 100k' "
            "-c 'write -P 3 7M 64k' a.qcow2 && qemu-img convert -O raw a.qcow2 before.raw",
            create));
        for (const std::string& each : bits) {
            SCOPED_TRACE(each);
            const auto done = amend({{"refcount_bits", each}});
            ASSERT_TRUE(done.ok()) << done.error().text();
            shell(
                "qemu-img check -f qcow2 a.qcow2 && qemu-img compare -f raw -F qcow2 before.raw "
                "a.qcow2");
        }
        shell(
            "qemu-img snapshot -c one a.qcow2 && qemu-io -f qcow2 -c 'write -z 0 1M' -c 'write -P "
            "4 2M 512k' a.qcow2 && qemu-img convert -O raw a.qcow2 after.raw");
        const auto down = amend({{"compat", "0.10"}});
        ASSERT_TRUE(down.ok()) << down.error().text();
        shell(
            "qemu-img check -f qcow2 a.qcow2 && qemu-img compare -f raw -F qcow2 after.raw a.qcow2 "
            "&& qemu-img info a.qcow2 | grep 'compat: 0.10'");
        shell(
            "qemu-img snapshot -a one a.qcow2 && qemu-img check -f qcow2 a.qcow2 && qemu-img "
            "compare -f raw -F qcow2 before.raw a.qcow2");
        const auto up = amend({{"compat", "1.1"}, {"lazy_refcounts", "on"}, {"size", "16M"}});
        ASSERT_TRUE(up.ok()) << up.error().text();
        shell(
            "qemu-img check -f qcow2 a.qcow2 && qemu-img info a.qcow2 | grep 'lazy refcounts: "
            "true' && qemu-img info a.qcow2 | grep 16777216");
    }
}

TEST_F(Qcow2AmendPeerTest, WhatIsAmendedThereIsSoundHere) {
    for (const char* options :
         {"refcount_bits=1", "refcount_bits=64", "compat=0.10", "lazy_refcounts=on", "size=32M"}) {
        SCOPED_TRACE(options);
        shell(
            fmt::format("qemu-img create -f qcow2 a.qcow2 8M && qemu-io -f qcow2 -c 'write -P 1 1M "
                        "1M' -c 'write -z 3M 700k' a.qcow2 && "
                        "qemu-img amend -f qcow2 -o {} a.qcow2",
                        options));
        OpenOptions open;
        open.path = folder_ + "/a.qcow2";
        open.format = "qcow2";
        auto image = BlockingImage::open(std::move(open));
        ASSERT_TRUE(image.ok()) << image.error().text();
        const auto report = (*image)->loop().run((*image)->node().check(Repair::Nothing));
        ASSERT_TRUE(report.ok());
        EXPECT_TRUE(report->clean());
        std::vector<std::byte> got(1U << 20);
        ASSERT_TRUE((*image)->read(1U << 20, got).ok());
        EXPECT_EQ(got, std::vector<std::byte>(1U << 20, std::byte{1}));
        ASSERT_TRUE((*image)->close().ok());
    }
}

}  // namespace
}  // namespace strata::block
