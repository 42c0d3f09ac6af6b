// Command line tests: parsing against the tables, hints, the store's names, archives, escape from
// hostile image files.
#include "cli/arguments.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/command_list.h"
#include "cli/help.h"
#include "cli/image/cpio.h"
#include "cli/image/store.h"

namespace strata::cli {
namespace {

using Words = std::vector<std::string_view>;

Result<Arguments> parse_run(const Words& words) {
    return Arguments::parse(kRunCommand, words);
}

TEST(ArgumentsTest, OptionsInAllSpellings) {
    auto arguments =
        parse_run({"tiny", "--cpus=2", "-m", "512M", "--no-reboot", "--disk", "a", "-d", "b"});
    ASSERT_TRUE(arguments.ok()) << arguments.error().text();
    EXPECT_EQ(arguments->positional(0), "tiny");
    EXPECT_EQ(arguments->value("--cpus"), "2");
    EXPECT_EQ(arguments->value("--memory"), "512M");
    EXPECT_TRUE(arguments->flag("--no-reboot"));
    EXPECT_EQ(arguments->values("--disk").size(), 2U);
    EXPECT_FALSE(arguments->value("--kernel").has_value());
}

TEST(ArgumentsTest, MistakesAreUsageErrorsThatNameTheOption) {
    for (const Words& words : {Words{"--egine", "soft"}, Words{"--cpus"}, Words{"--no-reboot=yes"},
                               Words{"a", "b"}, Words{"--cpus", "1", "--cpus", "2"}, Words{"-x"}}) {
        auto arguments = parse_run(words);
        ASSERT_FALSE(arguments.ok()) << words[0];
        EXPECT_EQ(arguments.error().kind(), ErrorKind::InvalidArgument);
    }
    EXPECT_NE(parse_run({"--egine", "soft"}).error().text().find("--engine"), std::string::npos);
}

TEST(ArgumentsTest, DoubleDashEndsOptions) {
    EXPECT_EQ(parse_run({"--", "--cpus"})->positional(0), "--cpus");
}

TEST(ArgumentsTest, MissingPositionalIsNamedUnlessHelpIsWanted) {
    EXPECT_FALSE(Arguments::parse(kImageBuildCommand, Words{}).ok());
    EXPECT_TRUE(Arguments::parse(kImageBuildCommand, Words{"--help"}).ok());
}

TEST(CommandTest, LongestNameWins) {
    std::size_t used = 0;
    EXPECT_EQ(find_command(Words{"image", "build", "tiny"}, used), &kImageBuildCommand);
    EXPECT_EQ(used, 2U);
    EXPECT_EQ(find_command(Words{"image"}, used), nullptr);
    EXPECT_NE(unknown_command(Words{"rnu"}).text().find("'run'"), std::string::npos);
    EXPECT_NE(unknown_command(Words{"image"}).text().find("build"), std::string::npos);
}

TEST(HelpTest, NamesEveryOptionAndHidesHiddenCommands) {
    const std::string help = help_of(kRunCommand);
    for (const Option& option : kRunCommand.options) {
        EXPECT_NE(help.find(option.name), std::string::npos) << option.name;
    }
    EXPECT_EQ(overview().find("__complete"), std::string::npos);
}

TEST(HelpTest, GroupsListTheirCommandsOnly) {
    const std::string help = help_of_group("image");
    EXPECT_NE(help.find("image build"), std::string::npos);
    EXPECT_EQ(help.find("disk list"), std::string::npos);
    EXPECT_EQ(help_of_group("run"), "");
    EXPECT_EQ(help_of_group("imag"), "");
}

TEST(CpioTest, ParentsComeFirstAndOnceAndTheArchiveIsPadded) {
    CpioWriter writer;
    writer.file("a/b/c", "hello");
    writer.file("a/b/d", "world");
    const std::string bytes = std::move(writer).finish();
    EXPECT_EQ(bytes.size() % 512, 0U);
    EXPECT_EQ(bytes.substr(0, 6), "070701");
    EXPECT_LT(bytes.find("a/b"), bytes.find("hello"));
    EXPECT_NE(bytes.find("TRAILER!!!"), std::string::npos);
    std::size_t entries = 0;
    for (auto place = bytes.find("070701"); place != std::string::npos;
         place = bytes.find("070701", place + 1)) {
        ++entries;
    }
    EXPECT_EQ(entries, 5U);  // a, a/b, c, d, trailer
}

/// A store of its own for each test.
class StoreTest : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = (std::filesystem::temp_directory_path() / "strata-store-XXXXXX").string();
        ASSERT_NE(mkdtemp(folder_.data()), nullptr);
        ASSERT_EQ(setenv("STRATA_IMAGES", folder_.c_str(), 1), 0);
    }
    void TearDown() override {
        unsetenv("STRATA_IMAGES");
        std::filesystem::remove_all(folder_);
    }
    std::string folder_;
};

TEST_F(StoreTest, DraftBecomesAnImageOnlyOnCommit) {
    auto draft = ImageDraft::begin("mine", false);
    ASSERT_TRUE(draft.ok());
    EXPECT_TRUE(image_names().empty());
    ASSERT_TRUE(draft
                    ->commit({.name = "mine",
                              .description = "d",
                              .kernel = "k",
                              .initrd = "",
                              .append = "a=1",
                              .disks = {"x.raw"},
                              .memory_bytes = 5,
                              .folder = ""})
                    .ok());
    auto image = find_image("mine");
    ASSERT_TRUE(image.ok()) << image.error().text();
    EXPECT_EQ(image->append, "a=1");
    EXPECT_EQ(image->disks, std::vector<std::string>{"x.raw"});
    EXPECT_EQ(ImageDraft::begin("mine", false).error().kind(), ErrorKind::AlreadyExists);
}

TEST_F(StoreTest, DroppedDraftLeavesNothing) {
    { auto draft = ImageDraft::begin("gone", false); }
    EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(StoreTest, ReplaceTakesTheOldOnesPlace) {
    for (const char* text : {"old", "new"}) {
        auto draft = ImageDraft::begin("mine", true);
        ASSERT_TRUE(draft.ok());
        ASSERT_TRUE(draft
                        ->commit({.name = "mine",
                                  .description = text,
                                  .kernel = "",
                                  .initrd = "",
                                  .append = "",
                                  .disks = {},
                                  .memory_bytes = 0,
                                  .folder = ""})
                        .ok());
    }
    EXPECT_EQ(find_image("mine")->description, "new");
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_),
                            std::filesystem::directory_iterator()),
              1);
}

TEST_F(StoreTest, HostileNamesAndFilesAreRefused) {
    for (const char* name : {"", "..", "a/b", ".hidden", "-x", "a b"}) {
        EXPECT_FALSE(find_image(name).ok()) << name;
    }
    std::filesystem::create_directories(folder_ + "/bad");
    std::ofstream(folder_ + "/bad/image.json") << R"({"name":"bad","kernel":"../../etc/shadow"})";
    EXPECT_FALSE(find_image("bad").ok());
    std::ofstream(folder_ + "/bad/image.json") << "{\"disks\":[1]}";
    EXPECT_FALSE(find_image("bad").ok());
}

TEST_F(StoreTest, UnknownImageHasAHint) {
    EXPECT_EQ(find_image("tiny").error().kind(), ErrorKind::NotFound);
    EXPECT_NE(find_image("tiny").error().text().find("strata image build tiny"), std::string::npos);
    EXPECT_NE(find_image("tyny").error().text().find("'tiny'"), std::string::npos);
}

}  // namespace
}  // namespace strata::cli
