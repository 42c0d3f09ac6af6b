// The personality's small parts: sizes, lists of options, JSON order, arguments.
#include <array>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "api/json.h"
#include "qemu_img/arguments.h"
#include "qemu_img/json_text.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"

namespace strata::qemu_img {
namespace {

TEST(Bytes, TakesSuffixesFractionsAndHexadecimal) {
    EXPECT_EQ(bytes_of("0"), 0U);
    EXPECT_EQ(bytes_of("12345"), 12345U);
    EXPECT_EQ(bytes_of("64k"), 65536U);
    EXPECT_EQ(bytes_of("1.5G"), 1610612736U);
    EXPECT_EQ(bytes_of("0x200"), 512U);
    EXPECT_EQ(bytes_of("7E"), 7ULL << 60);
    EXPECT_EQ(bytes_of("512b"), 512U);
}

TEST(Bytes, RefusesWhatIsNoSize) {
    for (const char* text :
         {"", " 1", "-1", "+1", "1x", "1kk", "1.5", "0x20k", "1.e3k", "k", "foo", "1k extra"}) {
        EXPECT_FALSE(bytes_of(text)) << text;
    }
    bool too_large = false;
    EXPECT_FALSE(bytes_of("16E", &too_large));
    EXPECT_TRUE(too_large);
    too_large = false;
    EXPECT_FALSE(bytes_of("99999999999999999999", &too_large));
    EXPECT_TRUE(too_large);
}

TEST(HumanSize, HasThreeDigits) {
    EXPECT_EQ(human_size(0), "0 B");
    EXPECT_EQ(human_size(512), "512 B");
    EXPECT_EQ(human_size(999), "999 B");
    EXPECT_EQ(human_size(1000), "0.977 KiB");
    EXPECT_EQ(human_size(64ULL << 20), "64 MiB");
    EXPECT_EQ(human_size(1610612736), "1.5 GiB");
    EXPECT_EQ(human_size(UINT64_MAX), "16 EiB");
}

TEST(Pairs, DoubledCommasBelongToValues) {
    const auto pairs = parse_pairs("a=b,,c,d=e,f,nog");
    ASSERT_TRUE(pairs.ok());
    const std::vector<std::pair<std::string, std::string>> wanted = {
        {"a", "b,c"}, {"d", "e"}, {"f", "on"}, {"g", "off"}};
    EXPECT_EQ(pairs.value(), wanted);
    EXPECT_EQ(parse_pairs("disk.img,driver=raw", "file")->front(),
              (std::pair<std::string, std::string>{"file", "disk.img"}));
}

TEST(Pairs, ListsThatCannotBeJoinedAreRefused) {
    EXPECT_TRUE(option_list({"size=1G", "cluster_size=4k"}).ok());
    for (const char* text : {"", ",", ",help", "help,", "a=b,,,"}) {
        EXPECT_FALSE(option_list({text}).ok()) << text;
    }
    EXPECT_TRUE(option_list({"backing_file=a,,"}).ok());
    EXPECT_TRUE(asks_for_help({"size=1,help"}).value());
    EXPECT_TRUE(asks_for_help({"?"}).value());
    EXPECT_FALSE(asks_for_help({"backing_file=help"}).value());
    EXPECT_FALSE(asks_for_help({"backing_file=a,", "help"}).ok());
}

TEST(JsonText, HasThePeersOrderAndLayout) {
    api::Json image = {{"filename", "a"},
                       {"virtual-size", 1},
                       {"dirty-flag", false},
                       {"format", "raw"},
                       {"children", api::Json::array()}};
    EXPECT_EQ(member_order(image).front(), "children");
    api::Json plain = {{"filename", "a"},
                       {"virtual-size", 1},
                       {"actual-size", 0},
                       {"format", "raw"},
                       {"dirty-flag", false}};
    EXPECT_EQ(json_text(plain),
              "{\n    \"virtual-size\": 1,\n    \"filename\": \"a\",\n    \"format\": \"raw\",\n   "
              " \"actual-size\": 0,\n    \"dirty-flag\": false\n}\n");
}

TEST(Arguments, NameTheOptionThatIsWrong) {
    constexpr std::array kOptions = {OptionSpec{'f', "format", true},
                                     OptionSpec{'q', nullptr, false}};
    std::string command = "info";
    std::string unknown = "--frob";
    std::string format = "-f";
    std::string file = "disk";
    std::array<char*, 2> wrong = {command.data(), unknown.data()};
    auto parsed = Arguments::parse(wrong, kOptions);
    ASSERT_FALSE(parsed.ok());
    EXPECT_EQ(parsed.error().text(), "unrecognized option '--frob'");
    std::array<char*, 2> missing = {command.data(), format.data()};
    EXPECT_EQ(Arguments::parse(missing, kOptions).error().text(),
              "missing argument for option '-f'");
    std::array<char*, 4> good = {command.data(), file.data(), format.data(), file.data()};
    parsed = Arguments::parse(good, kOptions);
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(parsed->last("format"), "disk");
    EXPECT_EQ(parsed->only().value(), "disk");
}

TEST(Names, RelativeOnesLieBesideTheImage) {
    EXPECT_EQ(beside("/a/b/top.qcow2", "base.raw"), "/a/b/base.raw");
    EXPECT_EQ(beside("top.qcow2", "base.raw"), "base.raw");
    EXPECT_EQ(beside("a/top.qcow2", "/x/base.raw"), "/x/base.raw");
    EXPECT_EQ(plain_path("file:a:b").value(), "./a:b");
    EXPECT_EQ(plain_path("file:/a:b").value(), "/a:b");
    EXPECT_FALSE(plain_path("gopher:x").ok());
    EXPECT_TRUE(plain_path("dir/a:b").ok());
}

}  // namespace
}  // namespace strata::qemu_img
