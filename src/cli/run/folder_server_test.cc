// FolderServer: connections that are served, one after the other and at its end; folders that are
// not there.
#include "cli/run/folder_server.h"

#include <array>
#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

namespace strata::cli {
namespace {

class FolderServerTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "folderXXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        std::ofstream(folder_ / "file") << "content";
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }
    /// What the server says first; empty at its end.
    static std::string greeting(const UniqueFd& socket) {
        pollfd wanted{.fd = socket.get(), .events = POLLIN, .revents = 0};
        std::array<char, 8> bytes{};
        if (::poll(&wanted, 1, 10'000) != 1) {
            return "nothing came";
        }
        const ssize_t got = ::read(socket.get(), bytes.data(), bytes.size());
        return {bytes.data(), static_cast<std::size_t>(got < 0 ? 0 : got)};
    }
    std::filesystem::path folder_;
};

TEST_F(FolderServerTest, EachConnectionIsServedUntilTheServerGoes) {
    auto server = FolderServer::create("fat:" + folder_.string());
    ASSERT_TRUE(server.ok());
    ASSERT_TRUE((*server)->start().ok());
    auto first = (*server)->connect();
    ASSERT_TRUE(first.ok()) << first.error().text();
    EXPECT_EQ(greeting(*first), "NBDMAGIC");
    first->reset();  // as a client that was killed
    const auto second = (*server)->connect();
    ASSERT_TRUE(second.ok());
    EXPECT_EQ(greeting(*second), "NBDMAGIC");
    server->reset();
    std::string rest = greeting(*second);
    while (!rest.empty() && rest != "nothing came") {
        rest = greeting(*second);
    }
    EXPECT_EQ(rest, "");
}

TEST_F(FolderServerTest, FolderThatIsNotThereIsToldToWhoConnects) {
    auto server = FolderServer::create("fat:" + folder_.string() + "/missing");
    ASSERT_TRUE(server.ok());
    ASSERT_TRUE((*server)->start().ok());
    const auto refused = (*server)->connect();
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().kind(), ErrorKind::NotFound);
}

TEST_F(FolderServerTest, ServerThatWasNotStartedGoes) {
    EXPECT_TRUE(FolderServer::create("fat:" + folder_.string()).ok());
}

}  // namespace
}  // namespace strata::cli
