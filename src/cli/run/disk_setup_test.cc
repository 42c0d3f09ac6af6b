// Disk setup: formats that were not named, and overlays.
#include "cli/run/disk_setup.h"

#include <filesystem>

#include <gtest/gtest.h>
#include <unistd.h>

#include "cli/image/image_tool.h"

namespace strata::cli {
namespace {

class DiskSetupTest : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = std::filesystem::path(testing::TempDir()) / ("setup-" + std::to_string(getpid()));
        std::filesystem::create_directories(folder_);
        auto tool = ImageTool::start();
        ASSERT_TRUE(tool.ok());
        ASSERT_TRUE(tool->create("raw", {path("a.raw"), 1 << 20, {}}).ok());
        ASSERT_TRUE(tool->create("qcow2", {path("a.qcow2"), 1 << 20, {}}).ok());
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }
    [[nodiscard]] std::string path(const std::string& name) const { return folder_ / name; }
    Result<PreparedDisk> prepare(const std::string& text) {
        return prepare_disk(api::parse_disk(path(text)).value());
    }
    std::filesystem::path folder_;
};

TEST_F(DiskSetupTest, WhatLooksLikeAnImageIsNotTakenAsRaw) {
    EXPECT_EQ(prepare("a.raw")->config.format, "raw");
    const auto refused = prepare("a.qcow2");
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().text().find("format=qcow2"), std::string::npos);
    EXPECT_EQ(prepare("a.qcow2,format=raw")->config.format, "raw");
    EXPECT_EQ(prepare("a.qcow2,format=qcow2")->config.format, "qcow2");
}

TEST_F(DiskSetupTest, NonpersistentDiskIsANamelessOverlay) {
    const auto disk = prepare("a.raw,mode=nonpersistent");
    ASSERT_TRUE(disk.ok()) << disk.error().text();
    EXPECT_EQ(disk->config.format, "qcow2");
    EXPECT_TRUE(disk->config.follow);
    EXPECT_TRUE(disk->config.pinned);
    const auto link =
        std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(disk->fd.get()));
    EXPECT_TRUE(link.string().ends_with("(deleted)")) << link;
}

TEST_F(DiskSetupTest, FolderIsReadOrItsWritesAreDropped) {
    const std::string folder = "fat:" + folder_.string();
    const auto read = prepare_disk(api::parse_disk(folder).value());
    ASSERT_TRUE(read.ok()) << read.error().text();
    EXPECT_TRUE(read->config.read_only);
    EXPECT_FALSE(read->folder.drop_writes);
    const auto dropped = prepare_disk(api::parse_disk(folder + ",mode=nonpersistent").value());
    ASSERT_TRUE(dropped.ok()) << dropped.error().text();
    EXPECT_FALSE(dropped->config.read_only);
    EXPECT_TRUE(dropped->folder.drop_writes);
    EXPECT_EQ(dropped->folder.location, folder);
    EXPECT_FALSE(prepare_disk(api::parse_disk(folder + ",mode=undoable").value()).ok());
}

TEST_F(DiskSetupTest, UndoableDiskKeepsItsOverlay) {
    const auto disk = prepare("a.raw,mode=undoable");
    ASSERT_TRUE(disk.ok()) << disk.error().text();
    EXPECT_TRUE(std::filesystem::exists(path("a.raw.undo")));
    EXPECT_FALSE(disk->notice.empty());
    EXPECT_TRUE(prepare("a.raw,mode=undoable").ok());
    std::filesystem::rename(path("a.raw.undo"), path("b.raw.undo"));
    std::filesystem::copy_file(path("a.raw"), path("b.raw"));
    EXPECT_FALSE(prepare("b.raw,mode=undoable").ok());  // an overlay of another disk
}

TEST_F(DiskSetupTest, DiskBelowKeptChangesStaysAsItIs) {
    ASSERT_TRUE(prepare("a.raw,mode=undoable").ok());
    const auto written = prepare("a.raw");
    ASSERT_FALSE(written.ok());
    EXPECT_NE(written.error().text().find("a.raw.undo"), std::string::npos);
    EXPECT_TRUE(prepare("a.raw,readonly").ok());
}

TEST_F(DiskSetupTest, KeptChangesThatNameAnotherFormatBelowAreRefused) {
    auto tool = ImageTool::start();
    ASSERT_TRUE(tool.ok());
    ASSERT_TRUE(
        tool->create("qcow2", {path("a.qcow2.undo"),
                               1 << 20,
                               {{"backing_file", path("a.qcow2")}, {"backing_fmt", "qcow2"}}})
            .ok());
    EXPECT_TRUE(prepare("a.qcow2,format=qcow2,mode=undoable").ok());
    EXPECT_FALSE(prepare("a.qcow2,format=raw,mode=undoable").ok());
}

TEST_F(DiskSetupTest, ReadOnlyStaysReadOnlyWhateverModeFollows) {
    EXPECT_TRUE(prepare("a.raw,readonly,mode=persistent")->config.read_only);
}

}  // namespace
}  // namespace strata::cli
