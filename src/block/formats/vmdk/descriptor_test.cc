// VmdkDescriptor: what is taken and what is refused.
#include "block/formats/vmdk/descriptor.h"

#include <gtest/gtest.h>

namespace strata::block::vmdk {
namespace {

Result<Descriptor> parse(std::string text) {
    return parse_descriptor(std::as_bytes(std::span(text)), "test");
}
constexpr const char* kHead =
    "# Disk DescriptorFile\nversion=1\nCID=12ab34cd\nparentCID=ffffffff\ncreateType=\"custom\"\n";

TEST(VmdkDescriptorTest, ExtentsOfAllKindsAreRead) {
    const auto d = parse(std::string(kHead) +
                         "RW 63 FLAT \"a b.vmdk\" 0\r\nRW 100 VMFS \"v-flat.vmdk\" 0\nRW 8 "
                         "ZERO\nRDONLY 4 SPARSE \"s.vmdk\"\nRW 9 VMFS \"w\" 12\n"
                         "ddb.adapterType = \"ide\"\n");
    ASSERT_TRUE(d.ok()) << d.error().text();
    EXPECT_EQ(d->extents.size(), 5U);
    EXPECT_EQ(d->extents[0].file, "a b.vmdk");
    EXPECT_EQ(d->extents[4].offset, 12U);
    EXPECT_FALSE(d->extents[3].writable);
    EXPECT_EQ(d->size(), (63U + 100 + 8 + 4 + 9) * 512);
    EXPECT_EQ(d->cid, 0x12ab34cdU);
}

TEST(VmdkDescriptorTest, WhatWasWrittenIsRead) {
    Descriptor d;
    d.create_type = "twoGbMaxExtentFlat";
    d.parent = "base.vmdk";
    d.parent_cid = 5;
    d.extents.push_back({.sectors = 77,
                         .type = ExtentType::Flat,
                         .type_name = "FLAT",
                         .file = "x-f001.vmdk",
                         .offset = 3});
    const auto again = parse(serialise_descriptor(d));
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again->parent, "base.vmdk");
    EXPECT_EQ(again->parent_cid, 5U);
    EXPECT_EQ(again->extents.at(0).offset, 3U);
}

TEST(VmdkDescriptorTest, NonsenseIsRefused) {
    const std::string head = kHead;
    EXPECT_FALSE(parse("").ok());
    EXPECT_FALSE(parse(head).ok());
    EXPECT_FALSE(parse("CID=1\nRW 1 FLAT \"a\" 0\n").ok());
    EXPECT_FALSE(parse(head + "RW 0 FLAT \"a\" 0\n").ok());
    EXPECT_FALSE(parse(head + "RW 99999999999999999999 FLAT \"a\" 0\n").ok());
    EXPECT_FALSE(
        parse(head + "RW 4503599627370496 FLAT \"a\" 0\nRW 4503599627370496 FLAT \"a\" 0\n").ok());
    EXPECT_FALSE(parse(head + "RW 1 FLAT\n").ok());
    EXPECT_FALSE(parse(head + "RW 1 DEVICE \"/dev/sda\" 0\n").ok());
    EXPECT_FALSE(parse(head + "RW 1 SPARSE \"a\" 7\n").ok());
    EXPECT_FALSE(parse("CID=zz\n" + head + "RW 1 FLAT \"a\" 0\n").ok());
    EXPECT_FALSE(parse(std::string(kMaxDescriptor + 1, ' ')).ok());
}

TEST(VmdkDescriptorTest, TheContentIdIsReplacedInPlace) {
    const auto text = with_cid(kHead, 0xFEDCBA90, "test");
    ASSERT_TRUE(text.ok());
    EXPECT_EQ(text->size(), std::string(kHead).size());
    EXPECT_NE(text->find("\nCID=fedcba90\nparentCID=ffffffff"), std::string::npos);
    EXPECT_FALSE(with_cid("parentCID=12345678\n", 1, "test").ok());
    EXPECT_EQ(with_cid("x\nCID=12345\nparentCID=9\n", 0xFEDCBA90, "test").value(),
              "x\nCID=fedcba90\nparentCID=9\n");
    const std::string padded = std::string("CID=1\nrest\n") + std::string(16, '\0');
    EXPECT_EQ(with_cid(padded, 0x10, "test")->size(), padded.size());
    EXPECT_EQ(with_cid("CID=123456789a\nrest\n", 0x10, "test").value(), "CID=00000010\nrest\n");
}

}  // namespace
}  // namespace strata::block::vmdk
