// Tool: output, lines of standard error, last words, absence.
#include "host/tool.h"

#include <gtest/gtest.h>

namespace strata::host {
namespace {

TEST(ToolTest, OutputIsAnsweredAndLinesArePassedOn) {
    std::vector<std::string> lines;
    const auto text =
        run_tool({.words = {"sh", "-c", "pwd; echo one >&2; echo two >&2; cat"},
                  .folder = "/",
                  .on_line = [&](std::string_view line) { lines.emplace_back(line); }});
    ASSERT_TRUE(text.ok()) << text.error().text();
    EXPECT_EQ(*text, "/\n");
    EXPECT_EQ(lines, (std::vector<std::string>{"one", "two"}));
}

TEST(ToolTest, FailureBringsStatusAndLastWords) {
    const auto text = run_tool(
        {.words = {"sh", "-c", "echo first >&2; echo a >&2; echo b >&2; echo c >&2; exit 3"}});
    ASSERT_FALSE(text.ok());
    EXPECT_EQ(text.error().kind(), ErrorKind::Failed);
    EXPECT_EQ(text.error().text(), "sh ended with exit status 3: a / b / c");
}

TEST(ToolTest, MissingProgramIsNotFound) {
    EXPECT_EQ(run_tool({.words = {"no-such-program-anywhere"}}).error().kind(),
              ErrorKind::NotFound);
    EXPECT_EQ(run_tool({}).error().kind(), ErrorKind::InvalidArgument);
}

}  // namespace
}  // namespace strata::host
