// Compressed clusters: every kind of content comes back, and settings do not make it larger.
#include "block/formats/qcow2/compression.h"

#include <cstdint>
#include <fstream>
#include <string_view>
#include <vector>

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <zstd.h>

namespace strata::block::qcow2 {
namespace {

constexpr std::size_t kCluster = 64U << 10;

/// Numbers that look random and are the same each time.
class Source {
  public:
    std::uint32_t next() {
        state_ = state_ * 6364136223846793005U + 1442695040888963407U;
        return static_cast<std::uint32_t>(state_ >> 33);
    }

  private:
    std::uint64_t state_ = 1;
};

std::vector<std::byte> text(std::size_t bytes) {
    constexpr std::string_view kWords[] = {"the ",    "disk ", "of a ", "guest ",
                                           "reads\n", "0x1f ", "and ",  "is "};
    Source source;
    std::vector<std::byte> out;
    while (out.size() < bytes) {
        for (const char each : kWords[source.next() % 8]) {
            out.push_back(static_cast<std::byte>(each));
        }
    }
    out.resize(bytes);
    return out;
}

/// Like instructions: a few openings, operands of which some come again.
std::vector<std::byte> code(std::size_t bytes) {
    constexpr std::uint32_t kOpenings[] = {0x48, 0x89, 0xE8, 0x0F, 0x8B, 0xC3, 0x00, 0x00};
    Source source;
    std::vector<std::byte> out;
    while (out.size() < bytes) {
        out.push_back(static_cast<std::byte>(kOpenings[source.next() % 8]));
        out.push_back(static_cast<std::byte>(kOpenings[source.next() % 8]));
        out.push_back(static_cast<std::byte>(source.next() % 24));
    }
    out.resize(bytes);
    return out;
}

/// Spread evenly, with something that repeats.
std::vector<std::byte> dense(std::size_t bytes) {
    Source source;
    std::vector<std::byte> out(bytes);
    for (std::size_t at = 0; at < bytes; ++at) {
        out[at] = at % 96 < 32 && at >= 4096 ? out[at - 4096]
                                             : static_cast<std::byte>(source.next() & 0xFF);
    }
    return out;
}

std::size_t packed_size(Compression method, const std::vector<std::byte>& content) {
    std::vector<std::byte> packed(content.size());
    const std::size_t size = compress(method, content, packed);
    if (size == 0) {
        return 0;
    }
    packed.resize(size + 100);  // the rest of the last sector is part of what is read
    std::vector<std::byte> again(content.size());
    EXPECT_TRUE(decompress(method, packed, again));
    EXPECT_EQ(again, content);
    return size;
}

std::size_t size_at_level_3(const std::vector<std::byte>& content) {
    std::vector<std::byte> packed(ZSTD_compressBound(content.size()));
    return ZSTD_compress(packed.data(), packed.size(), content.data(), content.size(), 3);
}

TEST(CompressionTest, EveryContentComesBackFromEveryClusterSize) {
    for (const std::size_t bytes :
         {std::size_t{512}, kCluster / 2, kCluster, std::size_t{2} << 20}) {
        for (const Compression method : {Compression::Zlib, Compression::Zstd}) {
            EXPECT_NE(packed_size(method, text(bytes)), 0U);
            EXPECT_NE(packed_size(method, code(bytes)), 0U);
            EXPECT_NE(packed_size(method, std::vector<std::byte>(bytes, std::byte{7})), 0U);
            (void)packed_size(method, dense(bytes));  // may not pay
        }
    }
}

TEST(CompressionTest, ALibraryTakesLessRoomThanAtLevel3) {
    Dl_info library{};
    // SAFETY: only the address is looked at.
    ASSERT_NE(::dladdr(reinterpret_cast<const void*>(&EVP_sha256), &library), 0);
    std::ifstream file(library.dli_fname, std::ios::binary);
    std::size_t size = 0, usual = 0;
    std::vector<std::byte> content(kCluster);
    // SAFETY: bytes as the stream's characters.
    while (file.read(reinterpret_cast<char*>(content.data()), kCluster)) {
        size += packed_size(Compression::Zstd, content);
        usual += size_at_level_3(content);
    }
    ASSERT_NE(usual, 0U);
    EXPECT_LT(size, usual);
}

TEST(CompressionTest, AFrameSaysHowLargeItsClusterIs) {
    const std::vector<std::byte> content = code(kCluster);
    std::vector<std::byte> packed(kCluster);
    const std::size_t size = compress(Compression::Zstd, content, packed);
    ASSERT_NE(size, 0U);
    EXPECT_EQ(ZSTD_getFrameContentSize(packed.data(), size), kCluster);
}

TEST(CompressionTest, WhatDoesNotPayIsNotPacked) {
    Source source;
    std::vector<std::byte> noise(kCluster);
    for (std::byte& each : noise) {
        each = static_cast<std::byte>(source.next() & 0xFF);
    }
    std::vector<std::byte> packed(kCluster - 512);
    EXPECT_EQ(compress(Compression::Zstd, noise, packed), 0U);
    EXPECT_EQ(compress(Compression::Zlib, noise, packed), 0U);
}

}  // namespace
}  // namespace strata::block::qcow2
