// Appliances: made, read, checked; descriptions and archives that cannot be are refused.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/formats/archive/tar.h"
#include "block/formats/ova/appliance.h"
#include "block/formats/ova/envelope.h"
#include "block/formats/xva/blocks.h"
#include "block/formats/xva/sums.h"
#include "block/jobs/copy.h"
#include "block/loop.h"
#include "block/registry.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kMiB = 1U << 20;

class Appliances : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "ovaXXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        loop_ = std::move(Loop::create({.engine = IoEngine::Threads})).value();
    }
    void TearDown() override {
        loop_.reset();
        std::filesystem::remove_all(folder_);
    }
    [[nodiscard]] std::string path(const std::string& name) const { return folder_ + "/" + name; }
    Result<NodePtr> open(const std::string& name, const std::string& format, bool writable = false,
                         OptionList extra = {}) {
        OpenOptions options;
        options.path = path(name);
        options.format = format;
        options.read_only = !writable;
        options.extra = std::move(extra);
        return loop_->run(open_node(*loop_, std::move(options)));
    }
    void put(const std::string& name, const std::vector<std::byte>& bytes) {
        std::ofstream out(path(name), std::ios::binary);
        out.write(reinterpret_cast<const char*>(bytes.data()),
                  static_cast<std::streamsize>(bytes.size()));
    }
    static void add(std::vector<std::byte>& archive, const std::string& name,
                    std::string_view content) {
        const auto header = archive::tar_header(name, content.size(), 0);
        archive.insert(archive.end(), header.begin(), header.end());
        const auto bytes = std::as_bytes(std::span(content));
        archive.insert(archive.end(), bytes.begin(), bytes.end());
        archive.resize((archive.size() + 511) / 512 * 512);
    }
    std::string folder_;
    std::unique_ptr<Loop> loop_;
};

TEST_F(Appliances, WhatIsWrittenIsReadAndMatchesItsManifest) {
    CreateRequest request{path("a.ova"), 9 * kMiB, {{"name", "a <machine> & more"}}};
    ASSERT_TRUE(loop_->run(create_image(*loop_, "ova", std::move(request))).ok());
    std::vector<std::byte> model(9 * kMiB);
    std::ranges::fill(std::span(model).subspan(3 * kMiB, 2 * kMiB), std::byte{7});
    std::ranges::fill(std::span(model).last(100000), std::byte{9});
    {
        auto target = open("a.ova", "ova", true);
        ASSERT_TRUE(target.ok()) << target.error().text();
        for (std::uint64_t at = 0; at < model.size(); at += 65536) {
            const auto part = std::span(model).subspan(at, 65536);
            ASSERT_TRUE(loop_->run((*target)->write(at, Buffers::of(part))).ok());
        }
        ASSERT_TRUE(loop_->run((*target)->close()).ok());
    }
    EXPECT_FALSE(open("a.ova", "ova", true).ok()) << "it has its content";
    auto node = open("a.ova", "ova");
    ASSERT_TRUE(node.ok()) << node.error().text();
    std::vector<std::byte> got(model.size());
    ASSERT_EQ((*node)->size(), model.size());
    ASSERT_TRUE(loop_->run((*node)->read(0, Buffers(std::span(got)))).ok());
    EXPECT_TRUE(got == model);
    auto report = loop_->run((*node)->check(Repair::Nothing));
    ASSERT_TRUE(report.ok());
    EXPECT_TRUE(report->clean());
    {
        std::fstream damage(path("a.ova"), std::ios::in | std::ios::out | std::ios::binary);
        damage.seekp(80000);
        damage << "x";
    }
    report = loop_->run((*node)->check(Repair::Nothing));
    ASSERT_TRUE(report.ok());
    EXPECT_EQ(report->corruptions, 1U);
}

// However long the name is that is taken, the description ends as it must.
TEST_F(Appliances, DescriptionsKeepTheirEnd) {
    bool refused = false;
    for (std::size_t length = 1000; !refused; ++length) {
        ASSERT_LT(length, 5000U);
        ova::NewAppliance appliance;
        appliance.name = std::string(length, 'n');
        appliance.capacity = kMiB;
        const auto text = ova::describe_appliance(appliance, "disk.vmdk", 0);
        refused = !text.ok();
        if (!refused) {
            EXPECT_GE(text->size() - text->find_last_not_of('\n') - 1, 20U);
        }
    }
    ova::NewAppliance appliance;
    appliance.name = "\xFF";
    EXPECT_FALSE(ova::describe_appliance(appliance, "disk.vmdk", 0).ok());
}

TEST(OvfTest, NamesAndSizesThatCannotBeAreRefused) {
    const auto disks = [](std::string_view href, std::string_view disk) {
        return ova::parse_ovf(
            fmt::format("<e:Envelope xmlns:e='x'><e:References><e:File e:id='f' e:href='{}'/>"
                        "</e:References><e:DiskSection><e:Disk {}/></e:DiskSection></e:Envelope>",
                        href, disk),
            "x");
    };
    const char* fine = "e:fileRef='f' e:capacity='3' e:capacityAllocationUnits='byte * 2^30'";
    const auto good = disks("a.vmdk", fine);
    ASSERT_TRUE(good.ok()) << good.error().text();
    ASSERT_EQ(good->size(), 1U);
    EXPECT_EQ((*good)[0].capacity, 3ULL << 30);
    for (const char* href : {"../a.vmdk", "/etc/passwd", "a/b", "", "..", "file:x"}) {
        EXPECT_FALSE(disks(href, fine).ok()) << href;
    }
    for (const char* disk :
         {"e:fileRef='f' e:capacity='x'", "e:fileRef='f' e:capacity='99999999999999999999'",
          "e:fileRef='g' e:capacity='1'",
          "e:fileRef='f' e:capacity='9' e:capacityAllocationUnits='byte * 2^99'",
          "e:fileRef='f' e:capacity='999999999999' e:capacityAllocationUnits='byte * 2^40'",
          "e:fileRef='f' e:capacity='9' e:capacityAllocationUnits='furlongs'"}) {
        EXPECT_FALSE(disks("a.vmdk", disk).ok()) << disk;
    }
    EXPECT_FALSE(ova::parse_ovf("<Envelope", "x").ok());
    std::string deep;
    for (int i = 0; i < 200000; ++i) {
        deep += "<a>";
    }
    EXPECT_FALSE(ova::parse_ovf(deep, "x").ok());
    // No entities: what they would be stays unread, whatever they name.
    (void)ova::parse_ovf("<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><Envelope>&b;",
                         "x");
}

TEST_F(Appliances, ExportsOfXenServer) {
    std::vector<std::byte> archive;
    add(archive, "ova.xml",
        "<value><struct><member><name>objects</name><value><array><data><value><struct>"
        "<member><name>class</name><value>VDI</value></member>"
        "<member><name>id</name><value>Ref:7</value></member>"
        "<member><name>snapshot</name><value><struct><member><name>virtual_size</name>"
        "<value>5242880</value></member></struct></value></member>"
        "</struct></value></data></array></value></member></struct></value>");
    const std::string one(kMiB, 'a'), two(kMiB, 'b');
    add(archive, "Ref:7/00000000", one);
    add(archive, "Ref:7/00000000.checksum", "3ea6f1e7a0b9ee4a7a9a0a6d6fb1e6bd7f0a5a2f");
    add(archive, "Ref:7/00000003", two);
    add(archive, "Ref:7/00000004", "");
    put("a.xva", archive);
    auto node = open("a.xva", "xva");
    ASSERT_TRUE(node.ok()) << node.error().text();
    ASSERT_EQ((*node)->size(), 5 * kMiB);
    std::vector<std::byte> got(5 * kMiB), wanted(5 * kMiB);
    std::ranges::fill(std::span(wanted).first(kMiB), std::byte{'a'});
    std::ranges::fill(std::span(wanted).subspan(3 * kMiB, kMiB), std::byte{'b'});
    ASSERT_TRUE(loop_->run((*node)->read(0, Buffers(std::span(got)))).ok());
    EXPECT_TRUE(got == wanted);
    const auto report = loop_->run((*node)->check(Repair::Nothing));
    ASSERT_TRUE(report.ok());
    EXPECT_EQ(report->corruptions, 1U) << "the checksum is of something else";
    add(archive, "Ref:8/00000000", one);
    put("b.xva", archive);
    EXPECT_FALSE(open("b.xva", "xva").ok()) << "which of two disks?";
    EXPECT_TRUE(open("b.xva", "xva", false, {{"disk", "Ref:8"}}).ok());
    archive.resize(archive.size() - kMiB);
    put("c.xva", archive);
    EXPECT_FALSE(open("c.xva", "xva", false, {{"disk", "Ref:8"}}).ok()) << "it is cut off";
    for (const char* name : {"Ref:7", "Ref:7/", "Ref:7/x", "/0", "Ref:7/99999999999", "a/0"}) {
        EXPECT_FALSE(xva::parse_block_name(name).has_value()) << name;
    }
}

TEST_F(Appliances, ExportsAreWrittenAndChecked) {
    for (const char* sums : {"sha1", "xxhash"}) {
        SCOPED_TRACE(sums);
        const std::uint64_t size = 9 * kMiB + 4096;
        CreateRequest request{
            path("w.xva"), size, {{"name", "a <machine>"}, {"cpus", "3"}, {"checksum", sums}}};
        ASSERT_TRUE(loop_->run(create_image(*loop_, "xva", std::move(request))).ok());
        EXPECT_FALSE(open("w.xva", "xva").ok()) << "it has no end yet";
        std::vector<std::byte> model(size);
        std::ranges::fill(std::span(model).subspan(3 * kMiB + 5, 2 * kMiB), std::byte{7});
        auto target = open("w.xva", "xva", true);
        ASSERT_TRUE(target.ok()) << target.error().text();
        for (std::uint64_t at = kMiB; at < 8 * kMiB; at += 2 * kMiB) {
            const auto part = std::span(model).subspan(at, 2 * kMiB);
            ASSERT_TRUE(loop_->run((*target)->write(at, Buffers::of(part))).ok());
        }
        EXPECT_FALSE(
            loop_->run((*target)->write(0, Buffers::of(std::span(model).first(kMiB)))).ok())
            << "that is over";
        EXPECT_FALSE(
            loop_->run((*target)->write(9 * kMiB, Buffers::of(std::span(model).first(512)))).ok())
            << "no whole block";
        ASSERT_TRUE(loop_->run((*target)->close()).ok());
        target->reset();
        EXPECT_FALSE(open("w.xva", "xva", true).ok()) << "it has its content";
        auto node = open("w.xva", "xva");
        ASSERT_TRUE(node.ok()) << node.error().text();
        ASSERT_EQ((*node)->size(), size);
        std::vector<std::byte> got(size);
        ASSERT_TRUE(loop_->run((*node)->read(0, Buffers(std::span(got)))).ok());
        EXPECT_TRUE(got == model);
        auto report = loop_->run((*node)->check(Repair::Nothing));
        ASSERT_TRUE(report.ok());
        EXPECT_TRUE(report->clean());
        {
            const auto end = std::filesystem::file_size(path("w.xva"));
            std::fstream damage(path("w.xva"), std::ios::in | std::ios::out | std::ios::binary);
            damage.seekp(static_cast<std::streamoff>(end) - 4096);  // in the last, short, block
            damage << "x";
        }
        report = loop_->run((*node)->check(Repair::Nothing));
        ASSERT_TRUE(report.ok());
        EXPECT_EQ(report->corruptions, 1U);
    }
    CreateRequest wrong{path("x.xva"), kMiB, {{"checksum", "md5"}}};
    EXPECT_FALSE(loop_->run(create_image(*loop_, "xva", std::move(wrong))).ok());
}

TEST(XvaSumTest, SumsAreTheKnownOnes) {
    const std::string_view text = "abc";
    const auto bytes = std::as_bytes(std::span(text));
    EXPECT_EQ(xva::sum_of(xva::SumKind::Sha1, bytes), "a9993e364706816aba3e25717850c26c9cd0d89d");
    EXPECT_EQ(xva::sum_of(xva::SumKind::Xxh64, bytes), "44BC2CF5AD770999");
}

TEST_F(Appliances, DescriptionsInNoArchiveNameFilesBesideThem) {
    for (const auto& [name, fill] : {std::pair{"one", 1}, std::pair{"two", 2}}) {
        const std::string file = fmt::format("{}.vmdk", name);
        CreateRequest request{path(file), kMiB, {{"subformat", "streamOptimized"}}};
        ASSERT_TRUE(loop_->run(create_image(*loop_, "vmdk", std::move(request))).ok());
        auto node = open(file, "vmdk", true);
        ASSERT_TRUE(node.ok()) << node.error().text();
        const std::vector<std::byte> bytes(65536, static_cast<std::byte>(fill));
        ASSERT_TRUE(loop_->run((*node)->write(0, Buffers::of(bytes))).ok());
        ASSERT_TRUE(loop_->run((*node)->close()).ok());
    }
    const auto describe = [&](std::string_view second) {
        std::ofstream(path("a.ovf")) << fmt::format(
            "\xEF\xBB\xBF<Envelope><References><File id='f1' href='one.vmdk'/>"
            "<File id='f2' href='{}'/></References><DiskSection>"
            "<Disk diskId='d1' fileRef='f1' capacity='1048576' format='x#streamOptimized'/>"
            "<Disk diskId='d2' fileRef='f2' capacity='1048576' format='x#streamOptimized'/>"
            "</DiskSection></Envelope>",
            second);
    };
    const auto opened = [&](const std::string& disk, bool follow) {
        OpenOptions options;
        options.path = path("a.ovf");
        options.format = "ova";
        options.read_only = true;
        options.extra = {{"disk", disk}};
        options.references = follow ? follow_references() : nullptr;
        return loop_->run(open_node(*loop_, std::move(options)));
    };
    describe("two.vmdk");
    EXPECT_EQ(opened("1", false).error().kind(), ErrorKind::PermissionDenied);
    const auto which = opened("", true);
    ASSERT_FALSE(which.ok());
    EXPECT_NE(which.error().text().find("1 (one.vmdk), 2 (two.vmdk)"), std::string::npos);
    std::ofstream(path("a.mf")) << "SHA1(two.vmdk)= " << std::string(40, '0') << "\n"
                                << "SHA1(gone.vmdk)= " << std::string(40, '0') << "\n";
    for (const auto& [disk, fill] :
         {std::pair{"1", 1}, std::pair{"2", 2}, std::pair{"two.vmdk", 2}}) {
        auto node = opened(disk, true);
        ASSERT_TRUE(node.ok()) << node.error().text();
        std::vector<std::byte> got(1);
        ASSERT_TRUE(loop_->run((*node)->read(100, Buffers(std::span(got)))).ok());
        EXPECT_EQ(got[0], static_cast<std::byte>(fill));
        const auto report = loop_->run((*node)->check(Repair::Nothing));
        ASSERT_TRUE(report.ok()) << report.error().text();
        EXPECT_EQ(report->corruptions, 2U);
        EXPECT_TRUE(loop_->run((*node)->close()).ok());
    }
    EXPECT_FALSE(opened("3", true).ok());
    {
        auto node = opened("1", true);
        ASSERT_TRUE(node.ok()) << node.error().text();
        const auto other = open("two.vmdk", "file", true);
        ASSERT_TRUE(other.ok()) << "nobody uses it: " << other.error().text();
        const auto report = loop_->run((*node)->check(Repair::Nothing));
        ASSERT_TRUE(report.ok()) << report.error().text();
        EXPECT_EQ(report->check_errors, 1U) << "it is there, but in use";
        EXPECT_EQ(report->corruptions, 1U);
    }
    std::filesystem::remove(path("a.mf"));
    for (const bool there : {false, true}) {
        auto node = opened("1", true);
        ASSERT_TRUE(node.ok()) << node.error().text();
        if (there) {
            std::filesystem::create_directory(path("a.mf"));
        }
        const auto report = loop_->run((*node)->check(Repair::Nothing));
        ASSERT_TRUE(report.ok()) << report.error().text();
        EXPECT_EQ(report->check_errors, there ? 1U : 0U) << "what cannot be read is not missing";
        EXPECT_EQ(report->corruptions, 0U);
    }
    describe("gone.vmdk");
    EXPECT_FALSE(opened("2", true).ok());
    EXPECT_TRUE(opened("1", true).ok());
}

TEST_F(Appliances, ArchivesThatCannotBeAreRefused) {
    std::vector<std::byte> archive;
    add(archive, "a.ovf", "<Envelope/>");
    put("a.ova", archive);
    EXPECT_FALSE(open("a.ova", "ova").ok()) << "no disk";
    archive[0] = std::byte{'b'};
    put("b.ova", archive);
    EXPECT_FALSE(open("b.ova", "ova").ok()) << "a checksum is wrong";
    put("c.ova", std::vector<std::byte>(100));
    EXPECT_FALSE(open("c.ova", "ova").ok());
}

}  // namespace
}  // namespace strata::block
