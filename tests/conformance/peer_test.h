// PeerTest: a folder of its own for a test that works beside QEMU's programs, and a shell in it.
// Skips where the programs are not installed.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace strata::block {

class PeerTest : public testing::Test {
  protected:
    /// `programs`: what the test needs in PATH, separated by blanks.
    explicit PeerTest(std::string_view programs = "qemu-img qemu-io") : programs_(programs) {}
    void SetUp() override {
        const std::string look = fmt::format(
            "for each in {}; do command -v $each >/dev/null || exit 1; done", programs_);
        if (std::system(look.c_str()) != 0) {  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
            GTEST_SKIP() << "no qemu-img here: install qemu-utils";
        }
        std::string pattern = testing::TempDir() + "peerXXXXXX";
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
    }
    void TearDown() override {
        if (!folder_.empty()) {
            std::filesystem::remove_all(folder_);
        }
    }
    /// Runs `line` in the folder; it must end with status 0, and what it said is shown if it does
    /// not.
    void shell(const std::string& line) const {
        const std::string command =
            fmt::format("cd {} && {{ {}; }} >log 2>&1 || {{ cat log; false; }}", folder_, line);
        EXPECT_EQ(std::system(command.c_str()), 0)
            << line;  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
    }

    std::string folder_;

  private:
    std::string programs_;
};

}  // namespace strata::block
