// CopyRecord: what it puts down, and whose files it leaves alone.
#include "cli/image/copy_record.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>

#include <gtest/gtest.h>

#include "cli/image/image_tool.h"

namespace strata::cli {
namespace {

constexpr std::uint64_t kSize = 1U << 20;

class CopyRecordTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "recordXXXXXX";
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        auto tool = ImageTool::start();
        ASSERT_TRUE(tool.ok());
        tool_.emplace(std::move(*tool));
        ASSERT_TRUE(tool_->create("raw", request("source")).ok());
        ASSERT_TRUE(tool_->create("raw", request("target")).ok());
        auto source = tool_->open_as(path("source"), "raw", true, {});
        ASSERT_TRUE(source.ok());
        source_ = *source;
    }
    void TearDown() override {
        source_.reset();
        tool_.reset();
        std::filesystem::remove_all(folder_);
    }
    [[nodiscard]] std::string path(const std::string& name) const { return folder_ + "/" + name; }
    [[nodiscard]] block::CreateRequest request(const std::string& name) const {
        return {path(name), kSize, {}};
    }
    [[nodiscard]] Result<CopyRecord> record() const {
        return CopyRecord::of(*source_, request("target"), {});
    }
    [[nodiscard]] std::uint64_t done() const {
        const auto one = record();
        const auto done = one.ok() ? one->done() : Result<std::uint64_t>(one.error());
        EXPECT_TRUE(done.ok()) << done.error().text();
        return done.ok() ? *done : 0;
    }
    [[nodiscard]] std::string content(const std::string& name) const {
        std::ifstream in(path(name));
        return {std::istreambuf_iterator<char>(in), {}};
    }
    void fill(const std::string& name, const std::string& text) const {
        std::ofstream(path(name)) << text;
    }
    std::string folder_;
    std::optional<ImageTool> tool_;
    block::NodePtr source_;
};

TEST_F(CopyRecordTest, WhatAKilledProgramLeftIsReplaced) {
    auto one = record();
    ASSERT_TRUE(one.ok()) << one.error().text();
    ASSERT_TRUE(one->put(512).ok());
    const std::string text = content("target.resume");
    for (const std::size_t part : {std::size_t{0}, std::size_t{5}, std::size_t{40}, text.size()}) {
        fill("target.resume.new", text.substr(0, part));
        EXPECT_TRUE(one->put(part + 1024).ok());
        EXPECT_EQ(done(), part + 1024);
        EXPECT_FALSE(std::filesystem::exists(path("target.resume.new")));
    }
    EXPECT_TRUE(one->remove().ok());
    EXPECT_EQ(done(), 0U);
}

TEST_F(CopyRecordTest, FilesOfOthersAreLeftAlone) {
    auto one = record();
    ASSERT_TRUE(one.ok()) << one.error().text();
    ASSERT_TRUE(one->put(512).ok());
    fill("mine", "mine");
    for (const char* name : {"target.resume.new", "target.resume"}) {
        SCOPED_TRACE(name);
        std::filesystem::remove(path(name));
        fill(name, "mine");
        EXPECT_EQ(one->put(1024).error().kind(), ErrorKind::AlreadyExists);
        EXPECT_EQ(record().error().kind(), ErrorKind::AlreadyExists);
        EXPECT_EQ(content(name), "mine");
        std::filesystem::remove(path(name));
        std::filesystem::create_symlink("mine", path(name));
        EXPECT_EQ(one->put(1024).error().kind(), ErrorKind::AlreadyExists);
        EXPECT_EQ(record().error().kind(), ErrorKind::AlreadyExists);
        EXPECT_TRUE(std::filesystem::is_symlink(path(name)));
        EXPECT_EQ(content("mine"), "mine");
        std::filesystem::remove(path(name));
        std::filesystem::create_directory(path(name));
        EXPECT_EQ(record().error().kind(), ErrorKind::AlreadyExists);
        std::filesystem::remove(path(name));
    }
}

TEST_F(CopyRecordTest, ATargetThatIsNotMadeAnewKeepsItsRecord) {
    auto one = record();
    ASSERT_TRUE(one.ok()) << one.error().text();
    ASSERT_TRUE(one->put(512).ok());
    const auto replaced = [&](const std::string& text, bool good) {
        return CopyRecord::replace(path("target"), {path("target")}, [&]() -> Result<> {
            EXPECT_FALSE(std::filesystem::exists(path("target.resume"))) << "it is out of force";
            if (!text.empty()) {
                fill("target", text);
            }
            return good ? ok() : Result<>(Error{ErrorKind::WrongState, "no"});
        });
    };
    EXPECT_EQ(replaced("", false).error().kind(), ErrorKind::WrongState);
    EXPECT_EQ(done(), 512U);
    EXPECT_FALSE(replaced("half", false).ok());
    EXPECT_EQ(done(), 0U);
    ASSERT_TRUE(one->put(512).ok());
    EXPECT_TRUE(replaced("", true).ok());
    EXPECT_EQ(done(), 0U);
    EXPECT_FALSE(std::filesystem::exists(path("target.resume.new")));
}

}  // namespace
}  // namespace strata::cli
