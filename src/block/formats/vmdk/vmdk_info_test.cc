// VMDK information: extents as the descriptor names them, whether their files are opened or not.
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "block/loop.h"
#include "block/registry.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = 4U << 20;

using Fields = std::vector<InfoField>;

class VmdkInfoTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "vmdkXXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        loop_ = std::move(Loop::create({.engine = IoEngine::Threads, .workers = 1})).value();
    }
    void TearDown() override {
        loop_.reset();
        std::filesystem::remove_all(folder_);
    }
    void create(const std::string& subformat) const {
        CreateRequest request{folder_ + "/a.vmdk", kSize, {{"subformat", subformat}}};
        ASSERT_TRUE(loop_->run(create_image(*loop_, "vmdk", std::move(request))).ok());
    }
    [[nodiscard]] Result<NodePtr> open(bool follow, bool extents) const {
        OpenOptions options;
        options.path = folder_ + "/a.vmdk";
        options.format = "vmdk";
        options.read_only = true;
        options.references = follow ? follow_references() : nullptr;
        if (!extents) {
            options.extra.emplace_back("extents", "optional");
        }
        return loop_->run(open_node(*loop_, std::move(options)));
    }
    /// Field `name` of the first extent, as text; empty if there is none.
    [[nodiscard]] std::string extent_field(Node& node, const std::string& name) const {
        const FormatInfo info = loop_->run(node.info()).value();
        const auto extents = std::get<std::vector<Fields>>(info.specific.back().value);
        for (const InfoField& each : extents.at(0)) {
            if (each.name == name) {
                const auto* number = std::get_if<std::int64_t>(&each.value);
                return number != nullptr ? std::to_string(*number)
                                         : std::get<std::string>(each.value);
            }
        }
        return {};
    }
    std::string folder_;
    std::unique_ptr<Loop> loop_;
};

TEST_F(VmdkInfoTest, ExtentsThatMayNotBeOpenedAreTold) {
    for (const std::string kind : {"Flat", "Sparse"}) {
        SCOPED_TRACE(kind);
        create(kind == "Flat" ? "monolithicFlat" : "twoGbMaxExtentSparse");
        const std::string file = kind == "Flat" ? "a-flat.vmdk" : "a-s001.vmdk";
        std::filesystem::remove(folder_ + "/" + file);
        auto node = open(false, false);
        ASSERT_TRUE(node.ok()) << node.error().text();
        EXPECT_EQ((*node)->size(), kSize);
        EXPECT_EQ(extent_field(**node, "filename"), file);
        EXPECT_EQ(extent_field(**node, "format"), kind == "Flat" ? "FLAT" : "SPARSE");
        EXPECT_EQ(extent_field(**node, "virtual-size"), std::to_string(kSize));
        std::vector<std::byte> bytes(512);
        EXPECT_EQ(loop_->run((*node)->read(0, Buffers(std::span(bytes)))).error().kind(),
                  ErrorKind::PermissionDenied);
        EXPECT_FALSE(loop_->run((*node)->status(0, kSize)).ok());
        EXPECT_FALSE(loop_->run((*node)->check(Repair::Nothing)).ok());
        EXPECT_TRUE(loop_->run((*node)->close()).ok());
    }
}

TEST_F(VmdkInfoTest, ExtentsAreNotOpenedUnlessTheImageIsTrusted) {
    create("monolithicFlat");
    const auto refused = open(false, true);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().kind(), ErrorKind::PermissionDenied);
    EXPECT_NE(refused.error().text().find("names an extent"), std::string::npos);
    EXPECT_TRUE(open(true, true).ok());
}

TEST_F(VmdkInfoTest, SparseExtentsHaveClusters) {
    create("twoGbMaxExtentSparse");
    auto split = open(true, false);
    ASSERT_TRUE(split.ok());
    EXPECT_EQ(extent_field(**split, "cluster-size"), "65536");
    EXPECT_EQ(extent_field(**split, "filename"), folder_ + "/a-s001.vmdk");
    split->reset();
    create("monolithicSparse");
    auto whole = open(false, true);
    ASSERT_TRUE(whole.ok());
    EXPECT_EQ(extent_field(**whole, "cluster-size"), "65536");
    EXPECT_EQ(extent_field(**whole, "format"), "SPARSE");
}

}  // namespace
}  // namespace strata::block
