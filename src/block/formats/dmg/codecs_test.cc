// The compressions of Apple's disk images: known streams, and damaged ones.
#include "block/formats/dmg/codecs.h"

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <bzlib.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <lzma.h>

namespace strata::block::dmg {
namespace {

// Made by Apple's reference encoder: an entropy-coded block (bvx2) and an LZVN block (bvxn).
constexpr std::string_view kBvx2 =
    "6276783200180000d401000e00870150db5f4f3ef2fb0210a30000003f04b000776fc0550510004004d0795400fc07"
    "80130100008f617c00749535fd"
    "0df618370fc0533057876e00000000002000000c00000000001e00000020c027f040bc11dfc37ff155fc14ffc413f1"
    "48100000000000000000004272"
    "1532608c7d01c905000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "7048a6db46183d5aaf293af0f1"
    "a1828e60fa56df14d0378e60c040f2122da69cbd2511fcd5bf59af56850ea7694536899439bcaba8ab84148abb5c79"
    "cd3d171acc724ea6b3cd1c8556"
    "26a406e965356171a4cf77205fab3ef7bb822ed223e81a8e4f7747b6561ecb3932edd03b984536939241c25ccdbb77"
    "606dbaeb605579da8094782a1c"
    "0cfcb40480084f39d48a83fa7850c4331b2ce2b4d59bf6f54f5b6393131ad8af9ae76dce84afb0b2e0a21ae1373b89"
    "19b59c7952e245c8917c27dff8"
    "d0c0ef372414fedef0d18a93813b5f6f4fee6fc8adbd53f0c64f03000000000000000000001040896ace845bd62c26"
    "57d3a4de025461729a66259568"
    "80e699947bf29f20293611a1879d8c1fc9c0c9e203a27450642622663afc3699e8ca3a0f30301b1d1b286612cc968d"
    "0596188bdda7d0413579d94d4d"
    "031a998d9d48a0cb4d1eb7f74f38d792a86100233a6e3c35025e9c0462200380162986a4636718d84e3e9f75c857e2"
    "f412305f6892a46cbd319b358a"
    "10c02358962856c7277eeece123e678739e81844c29e7699e8a00623db2b320057b11635c0a4349be282ca2ec3606e"
    "e6a1802c6150e40910b14ea850"
    "3fa25e650e250002c43f73a8017cc68861e31c12c2ec19d5a29647aa924a158a35b0aea84004612d5143ad7a60dd96"
    "870cb4609d38edba19b06da808"
    "8cd1d58412c8e2cb0d4a28d1610539d491ffc7c5be31a82c026c03aa26a2cc32a304753c02cea282e2490086451d7d"
    "10e3c2aa3c6446c0c579d306c9"
    "9c30ae285928b066d460a2e31f78d4712110e60245dcd9e3eac629b4a7c3d501aa0ec94025a3860985585baaf8d0b3"
    "aae152c4d84aacb2996543a2ce"
    "c43a71debe3261db51d164445733aab0f408188b0286905418b6d4f04988b972028c4396d1ea162dda5a4c0af400e8"
    "d6215287e70f2ccaa40e0a8f2c"
    "c2fdc5200887aace721e349c817596b683552c2235e8fa88c5a4867fcf585c2a109b982b47c0990118a754252466d6"
    "98323c7b14249b3a52a0142c9f"
    "0ac222c4da9700f13b33864ef57b0864ed2952b7a3ac696af87780b5a602b218739b124e17c41e746af5a51827d513"
    "9b4ce63e05063b8035a204b2d8"
    "277b32ee165b4464b21f44b41addb97f32bc2504891250336823fb5bce597b88d0237b43cfdbebe86aaafc412766d6"
    "16439087e6228124b25719c6c8"
    "5a6578bf50c63a29c0bbd1ac69d30c1eec315e9e286b0c19ec526bca1afe2219fb8ab97bd8f5be61fe0fabde2324c1"
    "9493144ae4684e086e8d0f9c14"
    "6f19625847c0ff61c933a319392a60404e00065ece33d28001ed0d0301c474c0e2c5608880cdc600209ae32cc021dd"
    "0c2718226eb26f0009a5796802"
    "26602f51e0840d3c970162767824";
constexpr std::string_view kBvxn =
    "6276786e000200001c000000c803616263f2e4642d3520380df0fff0c8e26162060000000000000062767824";

std::vector<std::byte> bytes_of(std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
}
std::vector<std::byte> unhex(std::string_view hex) {
    std::vector<std::byte> out;
    for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
        out.push_back(
            static_cast<std::byte>(std::stoul(std::string(hex.substr(i, 2)), nullptr, 16)));
    }
    return out;
}
std::string lines() {
    std::string text;
    for (unsigned i = 0; i < 160; ++i) {
        text += fmt::format("line {} of the test, and {} more to come; {}\n", i, i * i % 977,
                            i * 7919 % 1013);
    }
    text.resize(std::min<std::size_t>(text.size(), 6144));
    text.resize((text.size() + 511) / 512 * 512);
    return text;
}
std::string letters() {
    std::string text;
    for (unsigned i = 0; i < 40; ++i) {
        text += "abcabcabcd-5 ";
    }
    return text.substr(0, 512);
}

using Unpacker = Result<> (*)(std::span<const std::byte>, std::span<std::byte>);

void expect_unpacked(Unpacker unpack, const std::vector<std::byte>& packed,
                     const std::vector<std::byte>& content) {
    std::vector<std::byte> out(content.size());
    const auto done = unpack(packed, out);
    ASSERT_TRUE(done.ok()) << done.error().text();
    EXPECT_EQ(out, content);
    // One byte more or less than the stream has is an error, and so is a stream that is cut off.
    out.resize(content.size() + 1);
    EXPECT_FALSE(unpack(packed, out).ok());
    out.resize(content.size() - 1);
    EXPECT_FALSE(unpack(packed, out).ok());
    out.resize(content.size());
    EXPECT_FALSE(unpack(std::span(packed).first(packed.size() / 2), out).ok());
    EXPECT_FALSE(unpack({}, out).ok());
    std::mt19937 random(3);
    for (int round = 0; round < 400; ++round) {
        std::vector<std::byte> bad = packed;
        bad[random() % bad.size()] = static_cast<std::byte>(random());
        (void)unpack(bad, out);  // in bounds is all that is asked
    }
}

TEST(DmgCodecsTest, LzfseEntropyCoded) {
    expect_unpacked(&unpack_lzfse, unhex(kBvx2), bytes_of(lines()));
}
TEST(DmgCodecsTest, LzfseLzvn) {
    expect_unpacked(&unpack_lzfse, unhex(kBvxn), bytes_of(letters()));
}

// Else each 32 bytes of a chunk could ask for 40000 literals that come from no bits and go nowhere.
TEST(DmgCodecsTest, LzfseBlocksGiveWhatTheySay) {
    std::vector<std::byte> packed = unhex(kBvx2);
    std::vector<std::byte> out(6144);
    ASSERT_TRUE(unpack_lzfse(packed, out).ok());
    for (const int wrong : {0x00, 0x17, 0x19}) {  // of the block's 0x1800 bytes
        packed[5] = static_cast<std::byte>(wrong);
        EXPECT_FALSE(unpack_lzfse(packed, out).ok()) << wrong;
    }
}
TEST(DmgCodecsTest, NothingMayComeOut) {
    EXPECT_FALSE(unpack_lzfse(unhex("6276786e000000001c0000000100002b6223f2e4642d3220380df0fff2c8e2"
                                    "61620000000062767824"),
                              {})
                     .ok());
    EXPECT_TRUE(unpack_lzfse(bytes_of(std::string_view("bvx-\0\0\0\0bvx$", 12)), {}).ok());
}
TEST(DmgCodecsTest, LzfseStored) {
    expect_unpacked(&unpack_lzfse, bytes_of(std::string_view("bvx-\x05\0\0\0hellobvx$", 17)),
                    bytes_of("hello"));
}

TEST(DmgCodecsTest, AdcLiteralsAndBothMatches) {
    // "abcd", 3 from 4 back, 4 from 1 back.
    const std::vector<std::byte> packed =
        bytes_of(std::string_view("\x83"
                                  "abcd"
                                  "\x00\x03"
                                  "\x40\x00\x00",
                                  10));
    std::vector<std::byte> out(11);
    ASSERT_TRUE(unpack_adc(packed, out).ok());
    EXPECT_EQ(out, bytes_of("abcdabccccc"));
    EXPECT_FALSE(unpack_adc(std::span(packed).first(8), out).ok());
    EXPECT_FALSE(unpack_adc(bytes_of(std::string_view("\x80"
                                                      "a"
                                                      "\x00\x05",
                                                      4)),
                            out)
                     .ok());
    EXPECT_FALSE(unpack_adc(bytes_of("\xFF"
                                     "abc"),
                            out)
                     .ok());
}

TEST(DmgCodecsTest, Bzip2) {
    const std::vector<std::byte> content = bytes_of(lines());
    std::vector<char> source(content.size()), packed(content.size() + 1000);
    std::memcpy(source.data(), content.data(), content.size());
    auto length = static_cast<unsigned>(packed.size());
    ASSERT_EQ(BZ2_bzBuffToBuffCompress(packed.data(), &length, source.data(),
                                       static_cast<unsigned>(source.size()), 9, 0, 0),
              BZ_OK);
    expect_unpacked(&unpack_bzip2, bytes_of(std::string_view(packed.data(), length)), content);
}

TEST(DmgCodecsTest, Lzma) {
    const std::string content = lines();
    std::vector<std::uint8_t> packed(content.size() + 1000);
    std::size_t length = 0;
    // SAFETY: characters as the library's bytes.
    ASSERT_EQ(lzma_easy_buffer_encode(6, LZMA_CHECK_CRC32, nullptr,
                                      reinterpret_cast<const std::uint8_t*>(content.data()),
                                      content.size(), packed.data(), &length, packed.size()),
              LZMA_OK);
    packed.resize(length);
    const auto bytes = std::as_bytes(std::span(packed));
    expect_unpacked(&unpack_lzma, {bytes.begin(), bytes.end()}, bytes_of(content));
}

}  // namespace
}  // namespace strata::block::dmg
