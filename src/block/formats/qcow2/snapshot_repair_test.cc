// Tests of snapshot tables that are not as they should be: they are refused, and a repair keeps
// what can be kept; and of table entries that cannot be.
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "base/endian.h"
#include "block/formats/qcow2/snapshot_table.h"
#include "block/loop.h"
#include "block/registry.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = 1U << 20, kCluster = 64U << 10;
constexpr std::uint64_t kVersion = 4, kL1 = 40, kCount = 60, kTable = 64;  // of the header
constexpr std::uint64_t kExtra = 36, kEntryHead = 40;  // of an entry of the table

class SnapshotRepair : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "snapshotsXXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        loop_ = std::move(Loop::create({.engine = IoEngine::Threads})).value();
        model_.assign(kSize, std::byte{0});
    }
    void TearDown() override {
        loop_.reset();
        std::filesystem::remove_all(folder_);
    }
    [[nodiscard]] std::string path() const { return folder_ + "/image"; }
    Result<NodePtr> open(bool for_check = false) {
        OpenOptions options;
        options.path = path();
        options.format = "qcow2";
        options.for_check = for_check;
        return loop_->run(open_node(*loop_, std::move(options)));
    }
    void make(OptionList options) {
        CreateRequest request{path(), kSize, std::move(options)};
        ASSERT_TRUE(loop_->run(create_image(*loop_, "qcow2", std::move(request))).ok());
    }
    /// Two snapshots, and content that is another in each.
    void make_snapshots(OptionList options) {
        make(std::move(options));
        NodePtr node = open().value();
        for (const char* name : {"one", "two"}) {
            write(*node, 3 * kCluster, static_cast<std::byte>(name[0]));
            SnapshotInfo info;
            info.name = name;
            ASSERT_TRUE(loop_->run(node->create_snapshot(info)).ok());
        }
        write(*node, 5 * kCluster, std::byte{7});
        ASSERT_TRUE(loop_->run(node->close()).ok());
    }
    void write(Node& node, std::uint64_t offset, std::byte value) {
        const std::vector<std::byte> bytes(kCluster, value);
        ASSERT_TRUE(loop_->run(node.write(offset, Buffers::of(bytes))).ok());
        std::ranges::copy(bytes, model_.begin() + static_cast<std::ptrdiff_t>(offset));
    }
    template <typename T>
    T peek(std::uint64_t offset) {
        T value{};
        std::ifstream in(path(), std::ios::binary);
        in.seekg(static_cast<std::streamoff>(offset));
        in.read(reinterpret_cast<char*>(&value), sizeof value);  // SAFETY: a plain number
        return value;
    }
    template <typename T>
    void poke(std::uint64_t offset, T value) {
        std::fstream out(path(), std::ios::binary | std::ios::in | std::ios::out);
        out.seekp(static_cast<std::streamoff>(offset));
        out.write(reinterpret_cast<const char*>(&value), sizeof value);  // SAFETY: a plain number
    }
    /// Where entry `index` of the table lies; both are of one length.
    std::uint64_t entry(std::uint64_t index) {
        const std::uint64_t table = peek<Be64>(kTable);
        return table + index * ((kEntryHead + 24 + 1 + 3 + 7) / 8 * 8);
    }
    /// Takes the last entry's extra data away, which version 3 wants.
    void shorten() {
        const std::uint64_t second = entry(1);
        const auto names = peek<Be32>(second + kEntryHead + 24);
        poke(second + kExtra, Be32(0U));
        poke(second + kEntryHead, names);
    }
    CheckReport check(Repair repair) {
        NodePtr node = open(true).value();
        const auto report = loop_->run(node->check(repair));
        EXPECT_TRUE(report.ok()) << report.error().text();
        EXPECT_TRUE(loop_->run(node->close()).ok());
        return report.ok() ? *report : CheckReport{};
    }
    /// Sound, with `snapshots` of them and the content as it was.
    void judge(std::size_t snapshots) {
        EXPECT_TRUE(check(Repair::Nothing).clean());
        auto node = open();
        ASSERT_TRUE(node.ok()) << node.error().text();
        EXPECT_EQ(loop_->run((*node)->snapshots())->size(), snapshots);
        std::vector<std::byte> bytes(kSize);
        ASSERT_TRUE(loop_->run((*node)->read(0, Buffers(std::span(bytes)))).ok());
        EXPECT_TRUE(bytes == model_);
    }
    std::unique_ptr<Loop> loop_;
    std::string folder_;
    std::vector<std::byte> model_;
};

TEST_F(SnapshotRepair, TooMuchExtraDataIsRefusedAndCutOff) {
    make_snapshots({});
    poke(entry(1) + kExtra, Be32(5000U));  // its name is read behind: zeros
    const auto refused = open();
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().text().find("--repair all"), std::string::npos);
    EXPECT_FALSE(loop_->run(open(true).value()->check(Repair::Leaks)).ok());
    const CheckReport mended = check(Repair::All);
    EXPECT_EQ(mended.corruptions_fixed, 1U);
    EXPECT_EQ(mended.corruptions, 0U);
    judge(2);
}

TEST_F(SnapshotRepair, ShortEntriesOfVersion3AreCompleted) {
    make_snapshots({});
    shorten();
    EXPECT_EQ(check(Repair::Nothing).corruptions, 1U);
    EXPECT_EQ(check(Repair::All).corruptions_fixed, 1U);
    judge(2);
    EXPECT_EQ(loop_->run(open().value()->snapshots())->back().name, "two");
}

TEST_F(SnapshotRepair, SnapshotsOverTheLimitAreDropped) {
    constexpr std::uint64_t kFar = 2U << 20;
    make({{"compat", "v2"}});
    std::filesystem::resize_file(path(), kFar + (65536 + 3) * kEntryHead);
    poke(kTable, Be64(kFar));
    poke(kCount, Be32(65536U + 3));  // zeros are entries of version 2
    EXPECT_FALSE(open().ok());
    EXPECT_FALSE(loop_->run(open(true).value()->check(Repair::Nothing)).ok());
    EXPECT_GE(check(Repair::All).corruptions_fixed, 3U);  // and the table's clusters
    judge(65536);
}

// Whoever looks at the table before it is cut has no more of it in memory.
TEST_F(SnapshotRepair, NoMoreSnapshotsThanMayBeAreRead) {
    make({{"compat", "v2"}});
    OpenOptions options;
    options.path = path();
    options.format = "file";
    const NodePtr file = loop_->run(open_node(*loop_, std::move(options))).value();
    qcow2::Header header;
    header.version = 2;
    header.snapshots = 0xFFFFFFFF;
    header.snapshots_offset = 2U << 20;  // past the end: zeros
    const auto lenient = loop_->run(read_snapshots(*file, header, qcow2::SnapshotReading::Lenient));
    ASSERT_TRUE(lenient.ok()) << lenient.error().text();
    EXPECT_EQ(lenient->snapshots.size(), 65536U);
    EXPECT_EQ(lenient->overhanging, 0xFFFFFFFFU - 65536);
    EXPECT_FALSE(loop_->run(read_snapshots(*file, header)).ok());
    header.snapshots = 65536;
    EXPECT_TRUE(loop_->run(read_snapshots(*file, header)).ok());
}

TEST_F(SnapshotRepair, NothingIsMendedBesideAnL1TableThatCannotBe) {
    make_snapshots({});
    poke(entry(0), Be64(peek<Be64>(entry(0)) + 512));
    shorten();  // would be mended else
    EXPECT_EQ(loop_->run(open().value()->snapshots())->size(), 2U);
    const CheckReport found = check(Repair::Nothing);
    EXPECT_EQ(found.corruptions, 2U);
    const auto before = std::filesystem::file_size(path());
    EXPECT_FALSE(loop_->run(open(true).value()->check(Repair::All)).ok());
    EXPECT_EQ(std::filesystem::file_size(path()), before);
    EXPECT_EQ(check(Repair::Nothing).corruptions, 2U);
    EXPECT_FALSE(loop_->run(open().value()->delete_snapshot("1")).ok());
    EXPECT_FALSE(loop_->run(open().value()->apply_snapshot("1")).ok());
    EXPECT_FALSE(loop_->run(open().value()->load_snapshot("1")).ok());
    EXPECT_TRUE(loop_->run(open().value()->load_snapshot("2")).ok());
}

TEST_F(SnapshotRepair, SnapshotsLeaveEntriesThatCannotBeAlone) {
    for (const unsigned version : {2U, 3U}) {
        SCOPED_TRACE(version);
        make({{"compat", version == 2 ? "v2" : "v3"}});
        {
            NodePtr node = open().value();
            write(*node, 0, std::byte{1});
            ASSERT_TRUE(loop_->run(node->close()).ok());
        }
        const std::uint64_t l2 = peek<Be64>(peek<Be64>(kL1)) & ~(1ULL << 63);
        poke(l2, Be64((1ULL << 63) | 0xFFFFFF0000ULL));
        SnapshotInfo info;
        info.name = "one";
        const auto refused = loop_->run(open().value()->create_snapshot(info));
        ASSERT_FALSE(refused.ok());
        EXPECT_EQ(refused.error().system_errno(), EAGAIN);
        EXPECT_EQ(peek<Be64>(l2) & 0xFFFFFFFFFFFFFFULL, 0xFFFFFF0000ULL);
        EXPECT_EQ(peek<Be32>(kVersion), version);
        ASSERT_TRUE(std::filesystem::remove(path()));
    }
}

TEST_F(SnapshotRepair, SubclustersThatAreNotLostShowWhatTheyDid) {
    make({{"extended_l2", "on"}});
    {
        NodePtr node = open().value();
        write(*node, 0, std::byte{1});
        ASSERT_TRUE(loop_->run(node->close()).ok());
    }
    const std::uint64_t l2 = peek<Be64>(peek<Be64>(kL1)) & ~(1ULL << 63);
    poke(l2, Be64(peek<Be64>(l2) + 512));         // a cluster that lies nowhere,
    poke(l2 + 8, Be64((0x6ULL << 32) | 0x1ULL));  // one subcluster in it, two are zeros
    EXPECT_EQ(check(Repair::All).corruptions_fixed, 1U);
    EXPECT_EQ(peek<Be64>(l2), 0U);
    EXPECT_EQ(peek<Be64>(l2 + 8), 0x7ULL << 32);
}

}  // namespace
}  // namespace strata::block
