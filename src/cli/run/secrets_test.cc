// Secrets: from files to memory.
#include "cli/run/secrets.h"

#include <array>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <unistd.h>

namespace strata::cli {
namespace {

class SecretsTest : public testing::Test {
  protected:
    void TearDown() override { std::filesystem::remove(file_); }
    void write(const std::string& text) { std::ofstream(file_) << text; }
    const std::string file_ =
        std::filesystem::path(testing::TempDir()) / ("secret-" + std::to_string(getpid()));
    Secrets secrets_;
};

TEST_F(SecretsTest, FileIsTakenWhole) {
    write("geheim\n");
    ASSERT_TRUE(secrets_.add("secret,id=a,file=" + file_).ok());
    const auto file = secrets_.as_file("a");
    ASSERT_TRUE(file.ok());
    std::array<char, 32> bytes{};
    const ssize_t size = ::pread(file->get(), bytes.data(), bytes.size(), 0);
    EXPECT_EQ(std::string(bytes.data(), static_cast<std::size_t>(size)), "geheim\n");
}

TEST_F(SecretsTest, Base64IsDecoded) {
    write("Z2VoZWlt");
    ASSERT_TRUE(secrets_.add("secret,id=a,format=base64,file=" + file_).ok());
    const auto file = secrets_.as_file("a");
    ASSERT_TRUE(file.ok());
    EXPECT_EQ(::lseek(file->get(), 0, SEEK_END), 6);
}

TEST_F(SecretsTest, PassphraseOnTheCommandLineIsRefusedAndNotRepeated) {
    const auto refused = secrets_.add("secret,id=a,data=geheim");
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().text().find("geheim"), std::string::npos);
}

TEST_F(SecretsTest, WhatIsMissingOrTwiceIsSaid) {
    write("x");
    EXPECT_EQ(secrets_.as_file("a").error().kind(), ErrorKind::NotFound);
    EXPECT_FALSE(secrets_.add("secret,id=a").ok());
    EXPECT_FALSE(secrets_.add("tls-creds-x509,id=a,dir=/tmp").ok());
    EXPECT_FALSE(secrets_.add("secret,id=a,keyid=b,iv=AA==,file=" + file_).ok());
    EXPECT_TRUE(secrets_.add("secret,id=a,file=" + file_).ok());
    EXPECT_FALSE(secrets_.add("secret,id=a,file=" + file_).ok());
    write("\xff\xfe");
    EXPECT_TRUE(secrets_.add("secret,id=b,file=" + file_).ok());
    EXPECT_FALSE(secrets_.as_file("b").ok());
}

}  // namespace
}  // namespace strata::cli
