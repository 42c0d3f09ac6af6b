// Parallels' .hdd folders: stretches and snapshots are read as one disk; descriptions that cannot
// be are refused, and no file is opened that the caller did not allow.
#include "block/formats/parallels/bundle.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/loop.h"
#include "block/registry.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kMiB = 1U << 20;
constexpr const char* kBase = "{11111111-0000-0000-0000-000000000000}";
constexpr const char* kTop = "{5fbaabe3-6958-40ff-92a7-860e329aab41}";
constexpr const char* kNobody = "{00000000-0000-0000-0000-000000000000}";

std::string image(const char* guid, const char* type, const std::string& file) {
    return fmt::format("<Image><GUID>{}</GUID><Type>{}</Type><File>{}</File></Image>", guid, type,
                       file);
}
std::string shot(const char* guid, const char* parent) {
    return fmt::format("<Shot><GUID>{}</GUID><ParentGUID>{}</ParentGUID></Shot>", guid, parent);
}
std::string bundle(const std::string& storages, const std::string& shots) {
    return "<?xml version='1.0'?><Parallels_disk_image Version='1.0'><StorageData>" + storages +
           "</StorageData><Snapshots>" + shots + "</Snapshots></Parallels_disk_image>";
}
std::string storage(unsigned start, unsigned end, const std::string& images) {
    return fmt::format("<Storage><Start>{}</Start><End>{}</End>{}</Storage>", start, end, images);
}

class Bundles : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "hddXXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        loop_ = std::move(Loop::create({.engine = IoEngine::Threads})).value();
    }
    void TearDown() override {
        loop_.reset();
        std::filesystem::remove_all(folder_);
    }
    Result<NodePtr> open(const std::string& name, bool follow, bool writable = false) {
        OpenOptions options;
        options.path = folder_ + "/" + name;
        options.format = "parallels";
        options.read_only = !writable;
        options.references = follow ? follow_references() : nullptr;
        return loop_->run(open_node(*loop_, std::move(options)));
    }
    void make(const std::string& name, std::uint64_t at, std::byte value) {
        CreateRequest request{folder_ + "/" + name, 4 * kMiB, {}};
        ASSERT_TRUE(loop_->run(create_image(*loop_, "parallels", std::move(request))).ok());
        auto node = open(name, false, true);
        ASSERT_TRUE(node.ok());
        const std::vector<std::byte> bytes(kMiB, value);
        ASSERT_TRUE(loop_->run((*node)->write(at, Buffers::of(bytes))).ok());
        ASSERT_TRUE(loop_->run((*node)->close()).ok());
    }
    std::string folder_;
    std::unique_ptr<Loop> loop_;
};

TEST_F(Bundles, StretchesAndSnapshotsAreOneDisk) {
    make("base.hds", 0, std::byte{1});
    make("top.hds", kMiB, std::byte{2});
    std::ofstream(folder_ + "/plain.hds") << std::string(2 * kMiB, 'p');
    std::ofstream(folder_ + "/DiskDescriptor.xml") << bundle(
        storage(0, 8192,
                image(kBase, "Compressed", "base.hds") + image(kTop, "Compressed", "top.hds")) +
            storage(8192, 12288,
                    image(kTop, "Plain", "plain.hds") + image(kBase, "Plain", "plain.hds")),
        shot(kTop, kBase) + shot(kBase, kNobody));
    EXPECT_FALSE(open("DiskDescriptor.xml", false).ok()) << "nobody allowed it to name files";
    EXPECT_FALSE(open("DiskDescriptor.xml", true, true).ok()) << "it is read only";
    auto node = open("DiskDescriptor.xml", true);
    ASSERT_TRUE(node.ok()) << node.error().text();
    ASSERT_EQ((*node)->size(), 6 * kMiB);
    std::vector<std::byte> got(6 * kMiB), wanted(6 * kMiB);
    std::ranges::fill(std::span(wanted).first(kMiB), std::byte{1});
    std::ranges::fill(std::span(wanted).subspan(kMiB, kMiB), std::byte{2});
    std::ranges::fill(std::span(wanted).last(2 * kMiB), std::byte{'p'});
    ASSERT_TRUE(loop_->run((*node)->read(0, Buffers(std::span(got)))).ok());
    EXPECT_TRUE(got == wanted);
    std::uint64_t data = 0;
    for (std::uint64_t at = 0; at < got.size();) {
        const auto extent = loop_->run((*node)->status(at, got.size() - at));
        ASSERT_TRUE(extent.ok());
        data += extent->kind == Extent::Kind::Data ? extent->length : 0;
        at += extent->length;
    }
    EXPECT_EQ(data, 4 * kMiB);
}

TEST(BundleTest, DescriptionsThatCannotBeAreRefused) {
    const std::string fine = image(kTop, "Compressed", "a.hds");
    EXPECT_TRUE(parallels::parse_bundle(bundle(storage(0, 8, fine), ""), "x").ok());
    for (const std::string& bad :
         {bundle("", ""), bundle(storage(8, 16, fine), ""), bundle(storage(0, 0, fine), ""),
          bundle(storage(0, 8, fine) + storage(9, 16, fine), ""),
          bundle(storage(0, 8, image(kTop, "Compressed", "../a")), ""),
          bundle(storage(0, 8, image(kTop, "Compressed", "/etc/passwd")), ""),
          bundle(storage(0, 8, image(kTop, "Odd", "a")), ""),
          bundle(storage(0, 8, image(kBase, "Plain", "a")), ""),
          bundle(storage(0, 8, fine), shot(kTop, kTop)),
          bundle(storage(0, 8, fine), shot(kTop, kBase) + shot(kBase, kTop)), std::string("<?xml"),
          std::string()}) {
        EXPECT_FALSE(parallels::parse_bundle(bad, "x").ok()) << bad;
    }
}

}  // namespace
}  // namespace strata::block
