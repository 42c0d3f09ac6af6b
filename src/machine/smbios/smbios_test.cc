// SMBIOS tests: the entry point's checksum, and a walk over the structures to their end.
#include "machine/smbios/smbios.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/byte_reader.h"
#include "base/endian.h"

namespace strata::machine::smbios {
namespace {

constexpr std::uint64_t kAddress = 0xf0000;

TEST(SmbiosTest, EntryPointIsValid) {
    const auto bytes = build_tables({"pc-1.0", "0.1", 1ULL << 30}, kAddress);
    unsigned sum = 0;
    for (std::size_t i = 0; i < 24; ++i) {
        sum += std::to_integer<unsigned>(bytes[i]);
    }
    EXPECT_EQ(sum & 0xff, 0U);
    EXPECT_EQ(ByteReader(bytes).read_at<Le64>(16).value(), kAddress + 32);
    EXPECT_EQ(ByteReader(bytes).read_at<Le32>(12).value(), bytes.size() - 32);
}

TEST(SmbiosTest, StructuresEndWithType127) {
    const auto bytes = build_tables({"pc-1.0", "0.1", 64ULL << 30}, kAddress);
    std::vector<unsigned> types;
    std::size_t at = 32;
    while (at < bytes.size()) {
        types.push_back(std::to_integer<unsigned>(bytes[at]));
        at += std::to_integer<std::size_t>(bytes[at + 1]);
        while (at + 1 < bytes.size() &&
               (bytes[at] != std::byte{0} || bytes[at + 1] != std::byte{0})) {
            ++at;
        }
        at += 2;
    }
    EXPECT_EQ(at, bytes.size());
    EXPECT_THAT(types, ::testing::ElementsAre(0, 1, 3, 16, 17, 19, 32, 127));
}

}  // namespace
}  // namespace strata::machine::smbios
