// One go: what is told beforehand is what the images say.
#include "block/one_go.h"

#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/loop.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kImage = 4U << 20;

std::vector<std::pair<std::string, OptionList>> kinds() {
    std::vector<std::pair<std::string, OptionList>> all;
    for (const FormatDriver& each : format_drivers()) {
        if (each.create != nullptr && each.name != "luks") {  // needs a passphrase
            all.emplace_back(each.name, OptionList{});
        }
    }
    for (const char* kind : {"monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse",
                             "twoGbMaxExtentFlat", "streamOptimized"}) {
        all.emplace_back("vmdk", OptionList{{"subformat", kind}});
    }
    return all;
}

TEST(OneGoTest, IsWhatTheImageSays) {
    std::string folder = testing::TempDir() + "onegoXXXXXX";
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    auto loop = Loop::create({.engine = IoEngine::Threads}).value();
    unsigned streams = 0, number = 0;
    for (const auto& [format, extra] : kinds()) {
        SCOPED_TRACE(format + (extra.empty() ? "" : " " + extra[0].second));
        CreateRequest request{fmt::format("{}/{}", folder, number++), kImage, extra};
        OpenOptions options;
        options.path = request.path;
        options.format = format;
        options.references = follow_references();
        const bool told = written_in_one_go(format, request);
        const auto made = loop->run(create_image(*loop, format, std::move(request)));
        ASSERT_TRUE(made.ok()) << made.error().text();
        auto node = loop->run(open_node(*loop, std::move(options)));
        ASSERT_TRUE(node.ok()) << node.error().text();
        EXPECT_EQ((*node)->traits().whole_clusters, told);
        streams += told ? 1 : 0;
    }
    EXPECT_EQ(streams, 3U);
    loop.reset();
    std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace strata::block
