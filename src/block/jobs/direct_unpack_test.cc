// Direct unpacking: the same copy as through the nodes, when it is taken and when not.
#include "block/jobs/direct_unpack.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/endian.h"
#include "block/jobs/copy.h"
#include "block/loop.h"
#include "block/protocols/file/file_node.h"
#include "block/registry.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kCluster = 64U << 10, kClusters = 80;
constexpr std::uint64_t kSize = kClusters * kCluster;

class DirectUnpackTest : public testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "unpackXXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        loop_ = std::move(Loop::create({.engine = IoEngine::Threads})).value();
        CreateRequest request{path("packed"), kSize, {{"compression_type", GetParam()}}};
        ASSERT_TRUE(loop_->run(create_image(*loop_, "qcow2", std::move(request))).ok());
        const NodePtr node = open("packed", "qcow2", false);
        for (std::uint64_t index = 0; index < kClusters; ++index) {
            if (index % 16 != 7) {  // some are not there
                const auto bytes = content(index);
                ASSERT_TRUE(
                    loop_->run(node->write_compressed(index * kCluster, Buffers::of(bytes))).ok());
            }
        }
        ASSERT_TRUE(loop_->run(node->close()).ok());
        std::ofstream(path("target")).close();
        std::filesystem::resize_file(path("target"), kSize);
    }
    void TearDown() override {
        loop_.reset();
        std::filesystem::remove_all(folder_);
    }
    [[nodiscard]] std::string path(const std::string& name) const { return folder_ + "/" + name; }
    NodePtr open(const std::string& name, const std::string& format, bool read_only,
                 CacheMode cache = CacheMode::Writeback) {
        OpenOptions options;
        options.path = path(name);
        options.format = format;
        options.read_only = read_only;
        options.cache = cache;
        options.lock = false;
        auto node = loop_->run(open_node(*loop_, std::move(options)));
        EXPECT_TRUE(node.ok()) << (node.ok() ? "" : node.error().text());
        return node.ok() ? *node : nullptr;
    }
    /// Half of each cluster is zeros.
    static std::vector<std::byte> content(std::uint64_t index) {
        std::vector<std::byte> bytes(kCluster);
        for (std::size_t at = 0; at < kCluster / 2; ++at) {
            bytes[at] = static_cast<std::byte>((at * 7 + index * 13 + at / 251) % 255 + 1);
        }
        return bytes;
    }
    std::vector<PackedPiece> pieces_of(Node& node) {
        auto* source = dynamic_cast<PackedSource*>(&node);
        EXPECT_TRUE(loop_->run(node.status(0, kSize)).ok());  // brings the tables to memory
        return source->packed_pieces(0, kSize);
    }
    Result<> copy(Node& target, std::uint64_t sparse) {
        const NodePtr source = open("packed", "qcow2", true);
        CopyOptions options;
        options.target_zero = true;
        options.sparse = sparse;
        options.in_order = false;
        JobControl control;
        return loop_->run(copy_image({source.get()}, target, options, control));
    }
    void expect_the_content() {
        const NodePtr target = open("target", "raw", true);
        std::vector<std::byte> bytes(kCluster);
        for (std::uint64_t index = 0; index < kClusters; ++index) {
            ASSERT_TRUE(loop_->run(target->read(index * kCluster, Buffers(std::span(bytes)))).ok());
            ASSERT_EQ(bytes, index % 16 == 7 ? std::vector<std::byte>(kCluster) : content(index));
        }
    }
    void poke(std::uint64_t offset, std::span<const std::byte> bytes) {
        std::fstream file(path("packed"), std::ios::in | std::ios::out | std::ios::binary);
        file.seekp(static_cast<std::streamoff>(offset));
        file.write(reinterpret_cast<const char*>(bytes.data()),  // SAFETY: plain bytes
                   static_cast<std::streamsize>(bytes.size()));
    }
    template <typename T>
    T peek(std::uint64_t offset) {
        T value{};
        std::ifstream in(path("packed"), std::ios::binary);
        in.seekg(static_cast<std::streamoff>(offset));
        in.read(reinterpret_cast<char*>(&value), sizeof value);  // SAFETY: a plain number
        return value;
    }
    /// A cluster that is in its packed form as it is.
    [[nodiscard]] std::vector<std::byte> unpacked_form(std::span<const std::byte> cluster) const {
        std::vector<std::byte> out;
        const auto add = [&](std::initializer_list<unsigned> bytes) {
            for (const unsigned each : bytes) {
                out.push_back(static_cast<std::byte>(each));
            }
        };
        if (std::string(GetParam()) == "zstd") {  // a frame of a block, both of 65536 bytes
            add({0x28, 0xB5, 0x2F, 0xFD, 0xA0, 0, 0, 1, 0, 1, 0, 8});
            out.insert(out.end(), cluster.begin(), cluster.end());
        } else {  // a block of 65535 bytes and one of one
            add({0, 0xFF, 0xFF, 0, 0});
            out.insert(out.end(), cluster.begin(), cluster.end() - 1);
            add({1, 1, 0, 0xFE, 0xFF});
            out.push_back(cluster.back());
        }
        return out;
    }
    std::string folder_;
    std::unique_ptr<Loop> loop_;
};

TEST_P(DirectUnpackTest, ACopyIsTheSameAndKeepsHoles) {
    const NodePtr target = open("target", "raw", false);
    ASSERT_TRUE(copy(*target, 4096).ok());
    expect_the_content();
    EXPECT_LE(loop_->run(target->allocated_bytes()).value(), kSize / 2 + (64U << 10));
}

TEST_P(DirectUnpackTest, WithoutHolesAllIsWritten) {
    const NodePtr target = open("target", "raw", false);
    ASSERT_TRUE(copy(*target, 0).ok());
    expect_the_content();
    EXPECT_GE(loop_->run(target->allocated_bytes()).value(), kSize - kSize / 16);
}

TEST_P(DirectUnpackTest, TheWorkerWritesWhatThePiecesHold) {
    const NodePtr source = open("packed", "qcow2", true), target = open("target", "raw", false);
    const std::vector<PackedPiece> pieces = pieces_of(*source);
    ASSERT_EQ(pieces.size(), 7U);  // up to the first that is not there
    const auto to = loop_->run(direct_target(*target));
    ASSERT_TRUE(to.ok() && to->has_value());
    const auto route = unpack_route(dynamic_cast<const PackedSource&>(*source), **to, 4096);
    ASSERT_TRUE(route);
    ASSERT_TRUE(unpack_pieces(*route, std::span(pieces).subspan(2), 2 * kCluster));
    std::vector<std::byte> bytes(kCluster);
    ASSERT_TRUE(loop_->run(target->read(6 * kCluster, Buffers(std::span(bytes)))).ok());
    EXPECT_EQ(bytes, content(6));
    ASSERT_TRUE(loop_->run(target->read(kCluster, Buffers(std::span(bytes)))).ok());
    EXPECT_TRUE(is_zero(bytes));
}

TEST_P(DirectUnpackTest, FilesThatMustBeReachedThroughTheirNodesAre) {
    const NodePtr source = open("packed", "qcow2", true), writable = open("packed", "qcow2", false);
    const NodePtr target = open("target", "raw", false);
    const auto to = loop_->run(direct_target(*target));
    ASSERT_TRUE(to.ok() && to->has_value());
    EXPECT_FALSE(unpack_route(dynamic_cast<const PackedSource&>(*writable), **to, 4096));
    for (const CacheMode cache : {CacheMode::None, CacheMode::Writethrough}) {
        EXPECT_FALSE(loop_->run(direct_target(*open("target", "raw", false, cache))).value());
        const NodePtr other = open("packed", "qcow2", true, cache);
        EXPECT_FALSE(unpack_route(dynamic_cast<const PackedSource&>(*other), **to, 4096));
    }
    EXPECT_FALSE(loop_->run(direct_target(*open("target", "raw", true))).value());
    EXPECT_FALSE(loop_->run(direct_target(*writable)).value());
}

TEST_P(DirectUnpackTest, ABrokenClusterIsNamedAsEver) {
    const std::vector<PackedPiece> pieces = pieces_of(*open("packed", "qcow2", true));
    {
        std::fstream file(path("packed"), std::ios::in | std::ios::out | std::ios::binary);
        file.seekp(static_cast<std::streamoff>(pieces[3].host));
        const std::string junk(64, '\xFF');
        file.write(junk.data(), static_cast<std::streamsize>(junk.size()));
    }
    const NodePtr source = open("packed", "qcow2", true), target = open("target", "raw", false);
    const auto to = loop_->run(direct_target(*target));
    const auto route = unpack_route(dynamic_cast<const PackedSource&>(*source), **to, 4096);
    EXPECT_FALSE(unpack_pieces(*route, pieces, 0));
    const Result<> done = copy(*target, 4096);
    ASSERT_FALSE(done.ok());
    EXPECT_NE(done.error().text().find("broken"), std::string::npos) << done.error().text();
}

TEST_P(DirectUnpackTest, AFileThatEndsInsideAPieceIsBrokenNotMore) {
    const std::vector<PackedPiece> pieces = pieces_of(*open("packed", "qcow2", true));
    std::filesystem::resize_file(path("packed"), pieces[5].host + 3);
    const NodePtr target = open("target", "raw", false);
    EXPECT_FALSE(copy(*target, 4096).ok());
}

// The second cluster lies wholly inside the first one's bytes, and ends long before them.
TEST_P(DirectUnpackTest, APieceInsideAnotherEndsNoRead) {
    const std::vector<PackedPiece> pieces = pieces_of(*open("packed", "qcow2", true));
    std::vector<std::byte> small(pieces[1].length), first(kCluster);
    std::ifstream in(path("packed"), std::ios::binary);
    in.seekg(static_cast<std::streamoff>(pieces[1].host));
    in.read(reinterpret_cast<char*>(small.data()),  // SAFETY: plain bytes
            static_cast<std::streamsize>(small.size()));
    for (std::size_t at = 0; at < first.size(); ++at) {
        first[at] = static_cast<std::byte>(at * 31 % 251);
    }
    constexpr std::uint64_t kInside = 512;
    const std::size_t head = std::string(GetParam()) == "zstd" ? 12 : 5;  // of unpacked_form()
    std::ranges::copy(small, first.begin() + static_cast<std::ptrdiff_t>(kInside - head));
    const std::vector<std::byte> large = unpacked_form(first);
    const std::uint64_t place =
        (std::filesystem::file_size(path("packed")) + kCluster - 1) / kCluster * kCluster;
    poke(place, large);
    std::filesystem::resize_file(path("packed"), place + 4 * kCluster);
    const auto entry = [](std::uint64_t host, std::uint64_t bytes) {
        return Be64((1ULL << 62) | ((bytes + 511) / 512 - 1) << 54 | host);
    };
    const std::uint64_t l2 = peek<Be64>(peek<Be64>(40)) & ~(1ULL << 63);
    const Be64 entries[2] = {entry(place, large.size()), entry(place + kInside, small.size())};
    poke(l2, std::as_bytes(std::span(entries)));

    const NodePtr source = open("packed", "qcow2", true), target = open("target", "raw", false);
    std::vector<std::byte> got(3 * kCluster), wanted = first;
    for (const std::uint64_t index : {1, 2}) {
        const auto bytes = content(index);
        wanted.insert(wanted.end(), bytes.begin(), bytes.end());
    }
    ASSERT_TRUE(loop_->run(source->read(0, Buffers(std::span(got)))).ok());
    EXPECT_TRUE(got == wanted) << "through the node";
    const Result<> done = copy(*target, 4096);
    ASSERT_TRUE(done.ok()) << done.error().text();
    got.assign(got.size(), std::byte{0});
    ASSERT_TRUE(loop_->run(target->read(0, Buffers(std::span(got)))).ok());
    EXPECT_TRUE(got == wanted) << "by the worker";
}

INSTANTIATE_TEST_SUITE_P(Compressions, DirectUnpackTest, testing::Values("zlib", "zstd"),
                         [](const auto& which) { return std::string(which.param); });

}  // namespace
}  // namespace strata::block
