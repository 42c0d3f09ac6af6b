// ImageTool: option lists, and keys for the layers of a chain.
#include "cli/image/image_tool.h"

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace strata::cli {
namespace {

TEST(OptionListsTest, TwoCommasAreOneInAValue) {
    const std::vector<std::string_view> lists = {"data_file=a,,b,lazy_refcounts", "compat=1.1"};
    const auto options = option_lists(lists);
    ASSERT_TRUE(options.ok());
    const block::OptionList wanted = {
        {"data_file", "a,b"}, {"lazy_refcounts", "on"}, {"compat", "1.1"}};
    EXPECT_EQ(*options, wanted);
}

TEST(OptionListsTest, PassphrasesAreRefused) {
    const std::vector<std::string_view> lists = {"encrypt.key-secret=geheim"};
    EXPECT_FALSE(option_lists(lists).ok());
}

class EncryptedChainTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "chainXXXXXX";
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        auto tool = ImageTool::start();
        ASSERT_TRUE(tool.ok());
        ASSERT_TRUE(tool->create("qcow2", request("base", "unten", {})).ok());
        ASSERT_TRUE(
            tool->create("qcow2", request("top", "oben",
                                          {{"backing_file", "base"}, {"backing_fmt", "qcow2"}}))
                .ok());
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }
    [[nodiscard]] block::CreateRequest request(const std::string& name,
                                               const std::string& passphrase,
                                               block::OptionList options) const {
        const block::OptionList more = encryption_options("qcow2", passphrase);
        options.insert(options.end(), more.begin(), more.end());
        options.emplace_back("encrypt.iter-time", "1");
        return {folder_ + "/" + name, 1U << 20, std::move(options)};
    }
    [[nodiscard]] Result<> read_with(const ImageAccess& access) const {
        ImageTool tool = STRATA_TRY(ImageTool::start());
        block::NodePtr node = STRATA_TRY(tool.open_as(folder_ + "/top", "qcow2", true, access));
        std::vector<std::byte> bytes(4096);
        STRATA_TRY_VOID(tool.run(node->write_zeroes(0, 100, {})));
        STRATA_TRY_VOID(tool.run(node->read(0, block::Buffers(std::span(bytes)))));
        return tool.close(node);
    }
    std::string folder_;
};

TEST_F(EncryptedChainTest, EachLayerHasItsKey) {
    EXPECT_TRUE(
        read_with({.write = true, .passphrase = "oben", .backing_passphrase = "unten"}).ok());
    EXPECT_FALSE(read_with({.write = true, .passphrase = "oben"}).ok());
}

TEST_F(EncryptedChainTest, WithoutAKeyAllButTheDataIsThere) {
    auto tool = ImageTool::start();
    ASSERT_TRUE(tool.ok());
    auto node = tool->open_as(folder_ + "/top", "qcow2", true, {.write = true, .key = false});
    ASSERT_TRUE(node.ok()) << node.error().text();
    EXPECT_TRUE(tool->run((*node)->resize(2U << 20, block::Preallocation::Off)).ok());
    block::SnapshotInfo snapshot;
    snapshot.name = "vorher";
    EXPECT_TRUE(tool->run((*node)->create_snapshot(snapshot)).ok());
    std::vector<std::byte> bytes(512, std::byte{1});
    EXPECT_FALSE(tool->run((*node)->write(0, block::Buffers::of(bytes))).ok());
    EXPECT_TRUE(tool->close(*node).ok());
}

}  // namespace
}  // namespace strata::cli
