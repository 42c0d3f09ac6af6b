// FatNode, FatVolume, FatNames: a folder's content comes back from the sectors; names; what
// changes, leads out, or does not fit.
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/loop.h"
#include "block/protocols/fat/fat_node.h"
#include "block/protocols/fat/fat_walker.h"
#include "block/registry.h"

namespace strata::block::fat {
namespace {

namespace fs = std::filesystem;

std::string text_of(const std::vector<std::byte>& bytes) {
    std::string text;
    for (const std::byte each : bytes) {
        text += static_cast<char>(each);
    }
    return text;
}

class FatTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "fatXXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        loop_ = Loop::create().value();
    }
    void TearDown() override { fs::remove_all(folder_); }
    void write(const std::string& name, const std::string& text) const {
        fs::create_directories((folder_ / name).parent_path());
        std::ofstream(folder_ / name) << text;
    }
    Result<NodePtr> open(const std::string& words = "") {
        OpenOptions options;
        options.read_only = true;
        options.tree = NodeTree(location_options("fat:" + words + folder_.string()));
        options.tree.set("driver", "vvfat");
        return loop_->run(open_node(*loop_, std::move(options)));
    }
    Result<std::vector<std::byte>> read(Node& node, std::uint64_t offset, std::uint64_t length) {
        std::vector<std::byte> bytes(length);
        auto done = loop_->run(node.read(offset, Buffers(std::span(bytes))));
        return done.ok() ? Result<std::vector<std::byte>>(std::move(bytes)) : done.error();
    }
    FatWalker walk(const std::string& words = "") {
        auto node = open(words);
        STRATA_CHECK(node.ok(), "the folder opens");
        return FatWalker([&](std::uint64_t offset,
                             std::uint64_t length) { return read(**node, offset, length).value(); },
                         words.find("floppy") != std::string::npos);
    }
    fs::path folder_;
    std::unique_ptr<Loop> loop_;
};

TEST_F(FatTest, ContentComesBack) {
    const std::string large(100'000, 'x');
    write("README", "short");
    write("Ein längerer Name.txt", large);
    write("empty.txt", "");
    write("sub/deeper/日本語 😀.dat", "deep");
    fs::create_directories(folder_ / "none");
    for (const char* words : {"", "12:", "16:", "32:", "floppy:", "12:floppy:", "16:floppy:"}) {
        SCOPED_TRACE(words);
        const FatWalker disk = walk(words);
        ASSERT_EQ(disk.files().size(), 7U);
        EXPECT_EQ(text_of(disk.files().at("README").content), "short");
        EXPECT_EQ(text_of(disk.files().at("Ein längerer Name.txt").content), large);
        EXPECT_EQ(disk.files().at("empty.txt").size, 0U);
        EXPECT_EQ(text_of(disk.files().at("sub/deeper/日本語 😀.dat").content), "deep");
        EXPECT_TRUE(disk.files().at("none").folder);
        EXPECT_EQ(disk.label(), "STRATA     ");
    }
}

TEST_F(FatTest, KindsAndSizesAreThePeers) {
    const std::map<std::string, std::pair<unsigned, std::uint64_t>> kinds{
        {"", {16, 528482304}},        {"12:", {12, 33030144}},    {"16:", {16, 528482304}},
        {"32:", {32, 528482304}},     {"floppy:", {12, 2949120}}, {"12:floppy:", {12, 1474560}},
        {"16:floppy:", {16, 2949120}}};
    for (const auto& [words, wanted] : kinds) {
        SCOPED_TRACE(words);
        EXPECT_EQ(walk(words).bits(), wanted.first);
        EXPECT_EQ((*open(words))->size(), wanted.second);
    }
}

TEST_F(FatTest, DiskGrowsWithItsContent) {
    for (int i = 0; i < 3; ++i) {
        write("f" + std::to_string(i), "");
        fs::resize_file(folder_ / ("f" + std::to_string(i)), 1 << 30);  // holes
    }
    const auto node = open();
    ASSERT_TRUE(node.ok()) << node.error().text();
    EXPECT_EQ((*node)->size(), 8ULL * 528482304);
    EXPECT_FALSE(open("16:").ok());
    EXPECT_FALSE(open("floppy:").ok());
    fs::resize_file(folder_ / "f1", 4ULL << 30);
    const auto refused = open();
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().text().find("f1"), std::string::npos);
}

TEST_F(FatTest, ManyNamesOfOneFolder) {
    for (int i = 0; i < 1200; ++i) {
        write("many/a long name that is cut short, number " + std::to_string(i), std::to_string(i));
        write("root file " + std::to_string(i), "");
    }
    const FatWalker disk = walk();
    EXPECT_EQ(disk.files().size(), 2401U);
    EXPECT_EQ(text_of(disk.files().at("many/a long name that is cut short, number 777").content),
              "777");
}

TEST_F(FatTest, LinksStayInside) {
    write("real/file", "inside");
    fs::create_symlink("real/file", folder_ / "link");
    fs::create_directory_symlink("real", folder_ / "folder");
    fs::create_symlink("/etc/passwd", folder_ / "absolute");
    fs::create_symlink("../../../../../etc/passwd", folder_ / "relative");
    fs::create_directory_symlink("..", folder_ / "real/up");
    fs::create_symlink("nowhere", folder_ / "broken");
    ASSERT_EQ(::mkfifo((folder_ / "fifo").c_str(), 0600), 0);
    const FatWalker disk = walk();
    std::string all;
    for (const auto& each : disk.files()) {
        all += each.first + " ";
    }
    EXPECT_EQ(all, "folder folder/file link real real/file ");
    EXPECT_EQ(text_of(disk.files().at("link").content), "inside");
}

TEST_F(FatTest, FileThatChangedIsAnErrorAndNeverOtherData) {
    write("a", std::string(5000, 'a'));
    write("b", std::string(5000, 'b'));
    const auto node = open();
    ASSERT_TRUE(node.ok());
    std::uint64_t at = 0;  // of the first cluster of `a`
    while (read(**node, at, 1).value()[0] != std::byte{'a'}) {
        at += 512;
    }
    ASSERT_TRUE(read(**node, at, 5000).ok());
    fs::remove(folder_ / "b");
    fs::create_symlink("a", folder_ / "b");
    EXPECT_FALSE(read(**node, at + 8192, 512).ok());  // another file's now
    write("a", std::string(4000, 'c'));
    std::vector<std::byte> bytes(5000);
    const auto changed = loop_->run((*node)->read(at, Buffers(std::span(bytes))));
    ASSERT_FALSE(changed.ok());
    EXPECT_EQ(changed.error().system_errno(), EIO);
    EXPECT_EQ(bytes, std::vector<std::byte>(5000));
    fs::remove(folder_ / "a");
    EXPECT_FALSE(read(**node, at, 512).ok());
    EXPECT_TRUE(read(**node, 0, 512).ok());  // the disk goes on
}

TEST_F(FatTest, StatusTellsWhatIsThere) {
    write("file", std::string(20000, 'x'));
    const auto node = open();
    ASSERT_TRUE(node.ok());
    std::uint64_t data = 0, at = 0;
    while (at < (*node)->size()) {
        const auto extent = loop_->run((*node)->status(at, (*node)->size() - at));
        ASSERT_TRUE(extent.ok());
        if (extent->kind == Extent::Kind::Zero) {
            EXPECT_TRUE(is_zero(*read(**node, at, std::min<std::uint64_t>(extent->length, 65536))));
        } else {
            data += extent->length;
        }
        at += extent->length;
    }
    EXPECT_EQ(at, (*node)->size());
    EXPECT_LT(data, 65536U);
    EXPECT_TRUE(is_zero(*read(**node, (*node)->size() - 512, 4096)));  // past the end, too
}

TEST_F(FatTest, WhatCannotBeIsRefused) {
    EXPECT_FALSE(open("rw:").ok());
    EXPECT_FALSE(open("32:floppy:").ok());
    EXPECT_FALSE(open("label=TOO LONG A LABEL:").ok());
    EXPECT_EQ(walk("label=data:").label(), "DATA       ");
    OpenOptions options;
    options.tree = NodeTree(location_options("fat:" + folder_.string()));
    options.tree.set("driver", "vvfat");
    auto writable = options.below();
    writable.tree = options.tree;
    EXPECT_FALSE(loop_->run(open_node(*loop_, std::move(writable))).ok());
    options.read_only = true;
    options.named_by_image = true;
    EXPECT_FALSE(loop_->run(open_node(*loop_, std::move(options))).ok());
    folder_ /= "missing";
    EXPECT_EQ(open().error().kind(), ErrorKind::NotFound);
}

std::string brief(const Names& names) {
    return {names.brief.data(), names.brief.size()};
}

TEST(FatNamesTest, ShortNamesAreCutAndNumbered) {
    const std::vector<std::string> hosts{"FILE.TXT",
                                         "file2.txt",
                                         "a long name.text",
                                         "a long name.texture",
                                         "x.tar.gz",
                                         ".profile",
                                         "a+b",
                                         "é",
                                         "trailing.",
                                         "plain"};
    const auto all = name_all(hosts);
    EXPECT_EQ(brief(all[0]), "FILE    TXT");
    EXPECT_TRUE(all[0].full.empty());
    EXPECT_EQ(brief(all[1]), "FILE2   TXT");
    EXPECT_EQ(all[1].full, u"file2.txt");
    EXPECT_EQ(brief(all[2]), "ALONGN~1TEX");
    EXPECT_EQ(brief(all[3]), "ALONGN~2TEX");
    EXPECT_EQ(brief(all[4]), "XTAR~1  GZ ");
    EXPECT_EQ(brief(all[5]), "PROFIL~1   ");
    EXPECT_EQ(brief(all[6]), "A_B~1      ");
    EXPECT_EQ(brief(all[7]), "_~1        ");
    EXPECT_EQ(all[8].full, u"trailing_");
    EXPECT_EQ(brief(all[9]), "PLAIN      ");
}

TEST(FatNamesTest, NamesThatClashAreNumbered) {
    const std::vector<std::string> hosts{"Name.txt", "NAME.TXT", "name.txt", "straße", "STRASSE",
                                         "ä",        "Ä",        "a:b",      "a?b",    "\xff\xfe"};
    const auto all = name_all(hosts);
    EXPECT_EQ(all[0].full, u"Name.txt");
    EXPECT_EQ(brief(all[0]), "NAME    TXT");
    EXPECT_EQ(brief(all[1]), "NAME~1  TXT");
    EXPECT_EQ(all[2].full, u"name~2.txt");
    EXPECT_EQ(all[6].full, u"Ä~1");
    EXPECT_EQ(all[7].full, u"a_b");
    EXPECT_EQ(all[8].full, u"a_b~1");
    EXPECT_EQ(brief(all[9]), "__         ");
}

TEST(FatNamesTest, AShortNameIsNobodysLongName) {
    const std::vector<std::string> hosts{"a long name.txt", "ALONGN~1.TXT"};
    const auto all = name_all(hosts);
    EXPECT_EQ(brief(all[0]), "ALONGN~2TXT");
    EXPECT_EQ(brief(all[1]), "ALONGN~1TXT");
    EXPECT_TRUE(all[1].full.empty());
}

TEST(FatLocationTest, WordsBeforeTheFolder) {
    const auto options = NodeTree(location_options("fat:32:label=X Y:/a:b/c"));
    NodeTree tree = options;
    EXPECT_EQ(tree.take("dir").value_or(""), "/a:b/c");
    EXPECT_EQ(tree.take("fat-type").value_or(""), "32");
    EXPECT_EQ(tree.take("label").value_or(""), "X Y");
    EXPECT_TRUE(tree.empty());
}

}  // namespace
}  // namespace strata::block::fat
