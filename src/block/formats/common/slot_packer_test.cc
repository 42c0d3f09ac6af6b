// Packing of VDI, VHD and VHDX: whatever lies in the file, it reads as before, and the file is as
// long as what it holds.
#include "block/formats/common/slot_packer.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "base/endian.h"
#include "block/filters/filter_node.h"
#include "block/jobs/compact.h"
#include "block/loop.h"
#include "block/registry.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kMiB = 1U << 20, kBlocks = 12;

struct Kind {
    std::string name, format;
    OptionList options;
    std::uint64_t block;
    std::uint64_t most;  ///< bytes of the file besides blocks
};

/// What a server exports, or a device: its size stays.
class FirmNode final : public FilterNode {
  public:
    using FilterNode::FilterNode;
    [[nodiscard]] std::string_view format() const override { return "firm"; }
    Task<> resize(std::uint64_t /*size*/, Preallocation /*preallocation*/) override {
        co_return lacks("resizing");
    }
};

class SlotPacking : public testing::TestWithParam<Kind> {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "slotsXXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        loop_ = std::move(Loop::create({.engine = IoEngine::Threads, .workers = 1})).value();
        model_.assign(kBlocks, 0);
        create("image", GetParam().options);
        open();
    }
    void TearDown() override {
        node_.reset();
        loop_.reset();
        std::filesystem::remove_all(folder_);
    }
    [[nodiscard]] static std::uint64_t block() { return GetParam().block; }
    [[nodiscard]] std::string path(const std::string& name = "image") const {
        return folder_ + "/" + name;
    }
    void create(const std::string& name, OptionList options) {
        CreateRequest request{path(name), kBlocks * block(), std::move(options)};
        const auto made = loop_->run(create_image(*loop_, GetParam().format, std::move(request)));
        ASSERT_TRUE(made.ok()) << made.error().text();
    }
    void open(const std::string& name = "image") {
        OpenOptions options;
        options.path = path(name);
        options.format = GetParam().format;
        options.references = follow_references();
        auto node = loop_->run(open_node(*loop_, std::move(options)));
        ASSERT_TRUE(node.ok()) << node.error().text();
        node_ = *node;
    }
    void close() {
        ASSERT_TRUE(loop_->run(node_->close()).ok());
        node_.reset();
    }
    /// A mark at the block's start and one at its end; 0: zeros all over.
    void write(std::uint64_t index, char mark) {
        std::vector<std::byte> bytes(mark == 0 ? block() : 4096, static_cast<std::byte>(mark));
        const std::uint64_t at = index * block();
        ASSERT_TRUE(loop_->run(node_->write(at, Buffers::of(bytes))).ok());
        if (mark != 0) {
            ASSERT_TRUE(
                loop_->run(node_->write(at + block() - bytes.size(), Buffers::of(bytes))).ok());
        }
        model_[index] = mark;
    }
    /// The blocks lie in the file the other way round.
    void fill() {
        for (std::uint64_t i = kBlocks; i-- != 0;) {
            write(i, static_cast<char>('a' + i));
        }
    }
    Result<CompactReport> compact() {
        JobControl control;
        return loop_->run(compact_image(node_, control));
    }
    Result<CompactReport> stopped_after(unsigned steps) {
        CompactWatch watch;
        watch.advance = [&steps](std::uint64_t) -> Result<> {
            return steps-- == 0 ? Result<>(Error(ErrorKind::Failed, "stopped")) : ok();
        };
        return loop_->run(dynamic_cast<Compactable&>(*node_).pack_file(std::move(watch)));
    }
    [[nodiscard]] std::string content() const {
        std::ifstream file(path(), std::ios::binary);
        return {std::istreambuf_iterator<char>(file), {}};
    }
    void expect_whole() {
        const auto report = loop_->run(node_->check(Repair::Nothing));
        ASSERT_TRUE(report.ok());
        EXPECT_TRUE(report->clean()) << (report->messages.empty() ? "" : report->messages[0]);
        std::vector<std::byte> got(block());
        for (std::uint64_t i = 0; i < kBlocks; ++i) {
            ASSERT_TRUE(loop_->run(node_->read(i * block(), Buffers(std::span(got)))).ok());
            const auto mark = static_cast<std::byte>(model_[i]);
            const std::span<const std::byte> all(got);
            const auto is = [](std::span<const std::byte> part, std::byte value) {
                return std::ranges::all_of(part, [&](std::byte each) { return each == value; });
            };
            EXPECT_TRUE(is(all.first(4096), mark) && is(all.last(4096), mark) &&
                        is(all.subspan(4096, all.size() - 8192), std::byte{0}))
                << "block " << i;
        }
    }
    [[nodiscard]] std::uint64_t length() const { return std::filesystem::file_size(path()); }
    [[nodiscard]] std::uint64_t used() const {
        return static_cast<std::uint64_t>(
            std::ranges::count_if(model_, [](char each) { return each != 0; }));
    }
    std::string folder_;
    std::unique_ptr<Loop> loop_;
    NodePtr node_;
    std::vector<char> model_;
};

TEST_P(SlotPacking, ZerosGoAndTheFileEndsWithItsData) {
    fill();
    for (const std::uint64_t index : {0, 3, 5, 6, 9, 11}) {
        write(index, 0);
    }
    const std::uint64_t before = length();
    const auto report = compact();
    ASSERT_TRUE(report.ok()) << report.error().text();
    EXPECT_EQ(report->zeroes, 6 * block());
    EXPECT_GE(report->moved, 3 * block());
    EXPECT_LT(length(), before);
    EXPECT_LE(length(), used() * block() + GetParam().most);
    expect_whole();
    fill();  // what was cut off is given out again
    expect_whole();
    close();
    open();
    expect_whole();
}

TEST_P(SlotPacking, NothingIsDoneTwice) {
    fill();
    write(5, 0);
    ASSERT_TRUE(compact().ok());
    const std::uint64_t before = length();
    const auto report = compact();
    ASSERT_TRUE(report.ok());
    EXPECT_EQ(report->zeroes + report->moved, 0U);
    EXPECT_EQ(length(), before);
    expect_whole();
}

TEST_P(SlotPacking, StoppedItIsWholeAndGoesOn) {
    fill();
    for (const std::uint64_t index : {1, 2, 8, 10, 11}) {
        write(index, 0);
    }
    for (unsigned steps = 0;; ++steps) {
        ASSERT_LT(steps, 100U) << "it gets nowhere";
        const auto done = stopped_after(steps);
        expect_whole();
        if (done.ok()) {
            EXPECT_GT(steps, 0U);
            break;
        }
        close();
        open();
    }
    EXPECT_LE(length(), used() * block() + GetParam().most);
}

TEST_P(SlotPacking, FilesThatKeepTheirSizeArePacked) {
    fill();
    for (const std::uint64_t index : {1, 4, 10, 11}) {
        write(index, 0);
    }
    close();
    const std::uint64_t before = length();
    const auto footers = [&] {
        const std::string bytes = content();
        unsigned found = 0;
        for (std::size_t at = 0; (at = bytes.find("conectix", at)) != std::string::npos; ++at) {
            ++found;
        }
        return found;
    };
    const unsigned tails = footers();
    OpenOptions file, options;
    file.path = options.path = path();
    file.format = "file";
    options.format = GetParam().format;
    NodePtr firm =
        std::make_shared<FirmNode>(loop_->run(open_node(*loop_, std::move(file))).value());
    node_ = loop_->run(open_format(std::move(firm), std::move(options))).value();
    const auto report = compact();
    ASSERT_TRUE(report.ok()) << report.error().text();
    EXPECT_EQ(report->zeroes, 4 * block());
    EXPECT_GT(report->moved, 0U);
    EXPECT_EQ(length(), before);
    expect_whole();
    close();
    EXPECT_EQ(footers(), tails);
    open();
    expect_whole();
    ASSERT_TRUE(compact().ok());
    EXPECT_LE(length(), used() * block() + GetParam().most);
    expect_whole();
}

// What is looked through and what moves counts against a limit, and may be stopped there.
TEST_P(SlotPacking, MovesWaitAndMayBeStopped) {
    fill();
    for (const std::uint64_t index : {7, 8, 9, 10, 11}) {
        write(index, 0);
    }
    constexpr unsigned kLooks = kBlocks + 2;
    unsigned looks = 0, most = kLooks;
    const auto pack = [&] {
        CompactWatch watch;
        watch.look = [&](std::uint64_t) -> Task<> {
            if (looks == most) {
                co_return Error(ErrorKind::Failed, "stopped");
            }
            ++looks;
            co_return ok();
        };
        return loop_->run(dynamic_cast<Compactable&>(*node_).pack_file(std::move(watch)));
    };
    EXPECT_FALSE(pack().ok());  // two blocks have moved
    EXPECT_EQ(looks, kLooks);
    expect_whole();
    looks = 0, most = ~0U;
    const auto report = pack();
    ASSERT_TRUE(report.ok());
    EXPECT_GT(report->moved, 0U);
    EXPECT_GT(looks, used());
    EXPECT_LE(length(), used() * block() + GetParam().most);
    expect_whole();
}

TEST_P(SlotPacking, EmptyImagesStayEmpty) {
    ASSERT_TRUE(compact().ok());
    fill();
    for (std::uint64_t index = 0; index < kBlocks; ++index) {
        write(index, 0);
    }
    ASSERT_TRUE(compact().ok());
    EXPECT_LE(length(), GetParam().most);
    expect_whole();
    write(7, 'x');
    expect_whole();
}

TEST_P(SlotPacking, WhatIsReadOnlyIsRefused) {
    close();
    OpenOptions options;
    options.path = path();
    options.format = GetParam().format;
    options.read_only = true;
    node_ = loop_->run(open_node(*loop_, std::move(options))).value();
    EXPECT_FALSE(stopped_after(~0U).ok());
}

INSTANTIATE_TEST_SUITE_P(
    Formats, SlotPacking,
    testing::Values(Kind{"Vdi", "vdi", {}, kMiB, kMiB}, Kind{"Vhd", "vpc", {}, 2 * kMiB, kMiB},
                    Kind{"Vhdx", "vhdx", {{"block_size", "1048576"}}, kMiB, 4 * kMiB}),
    [](const testing::TestParamInfo<Kind>& each) { return each.param.name; });

class SlotPackingVhd : public SlotPacking {
  protected:
    /// It opens for reading alone, and a check finds the damage; then it is open for reading.
    void expect_refused(const std::string& why) {
        OpenOptions options;
        options.path = path();
        options.format = "vpc";
        const std::string before = content();
        auto node = loop_->run(open_node(*loop_, std::move(options)));
        ASSERT_FALSE(node.ok());
        EXPECT_NE(node.error().text().find(why), std::string::npos) << node.error().text();
        EXPECT_NE(node.error().text().find("converted"), std::string::npos);
        options = {};
        options.path = path();
        options.format = "vpc";
        options.read_only = true;
        node_ = loop_->run(open_node(*loop_, std::move(options))).value();
        const auto report = loop_->run(node_->check(Repair::Nothing));
        ASSERT_TRUE(report.ok());
        EXPECT_EQ(report->corruptions, 1U);
        ASSERT_EQ(report->messages.size(), 1U);
        EXPECT_NE(report->messages[0].find(why), std::string::npos) << report->messages[0];
        EXPECT_TRUE(content() == before);
    }
};

// A block of zeros of a differencing image hides its parent's content.
TEST_P(SlotPackingVhd, BlocksThatHideTheirParentStay) {
    fill();
    close();
    create("child", {{"backing_file", "image"}});
    open("child");
    write(2, 0);
    write(4, 'X');
    const auto report = compact();
    ASSERT_TRUE(report.ok()) << report.error().text();
    EXPECT_EQ(report->zeroes, 0U);
    expect_whole();
}

// Another program cut the file off inside the last block: new blocks would go into that one.
TEST_P(SlotPackingVhd, ImagesCutInsideABlockAreReadAndNotWritten) {
    fill();
    close();
    std::filesystem::resize_file(path(), length() - 512 - 64 * 1024);
    expect_refused("and the file ends within it");
    model_[0] = 'a';
    std::vector<std::byte> start(4096);
    for (std::uint64_t i = 0; i < kBlocks; ++i) {  // the first block is the last one of the file
        ASSERT_TRUE(loop_->run(node_->read(i * block(), Buffers(std::span(start)))).ok());
        EXPECT_EQ(start[0], static_cast<std::byte>(model_[i])) << i;
    }
}

TEST_P(SlotPackingVhd, BlocksOnTheHeadersAreFoundAndNotWritten) {
    fill();
    close();
    std::fstream file(path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(1536 + 4 * 4);
    const Be32 wire = 0U;
    file.write(reinterpret_cast<const char*>(&wire), sizeof wire);  // SAFETY: plain bytes
    file.close();
    expect_refused("on the image's tables");
}

// The footer is written anew where the blocks end, not where it was.
TEST_P(SlotPackingVhd, WithoutItsFooterAnImageIsWhole) {
    fill();
    close();
    std::filesystem::resize_file(path(), length() - 512);
    open();
    write(3, 'x');
    ASSERT_TRUE(compact().ok());
    expect_whole();
}

INSTANTIATE_TEST_SUITE_P(Formats, SlotPackingVhd,
                         testing::Values(Kind{"Vhd", "vpc", {}, 2 * kMiB, kMiB}),
                         [](const testing::TestParamInfo<Kind>& each) { return each.param.name; });

class SlotPackingVdi : public SlotPacking {
  protected:
    void set_entry(std::uint64_t entry, std::uint32_t value) {
        std::fstream file(path(), std::ios::in | std::ios::out | std::ios::binary);
        file.seekp(static_cast<std::streamoff>(512 + entry * 4));
        const Le32 wire = value;
        file.write(reinterpret_cast<const char*>(&wire), sizeof wire);  // SAFETY: plain bytes
    }
};

// Moving one of them would take the other along.
TEST_P(SlotPackingVdi, BlocksThatShareAPlaceAreRefused) {
    fill();
    close();
    set_entry(3, 5);
    const std::uint64_t before = length();
    open();
    const auto report = compact();
    ASSERT_FALSE(report.ok());
    EXPECT_NE(report.error().text().find("damaged"), std::string::npos);
    EXPECT_EQ(length(), before);
}

INSTANTIATE_TEST_SUITE_P(Formats, SlotPackingVdi,
                         testing::Values(Kind{"Vdi", "vdi", {}, kMiB, kMiB}),
                         [](const testing::TestParamInfo<Kind>& each) { return each.param.name; });

class SlotPackingVhdxCut : public SlotPacking {};

TEST_P(SlotPackingVhdxCut, NewBlocksGoBehindTheOneThatTheFileEndsIn) {
    for (std::uint64_t i = kBlocks; i-- != 2;) {
        write(i, static_cast<char>('a' + i));
    }
    write(1, 0);
    close();
    std::filesystem::resize_file(path(), length() - 3 * kMiB);
    open();
    const auto report = loop_->run(node_->check(Repair::Nothing));
    ASSERT_TRUE(report.ok());
    EXPECT_EQ(report->corruptions, 1U);  // the end of block 2 is lost
    const std::vector<std::byte> mark(4096, std::byte{'c'});
    write(0, 'A');
    ASSERT_TRUE(loop_->run(node_->write(3 * block() - mark.size(), Buffers::of(mark))).ok());
    expect_whole();
    close();
    open();
    expect_whole();
}

INSTANTIATE_TEST_SUITE_P(Formats, SlotPackingVhdxCut,
                         testing::Values(Kind{
                             "Vhdx", "vhdx", {{"block_size", "4194304"}}, 4 * kMiB, 8 * kMiB}),
                         [](const testing::TestParamInfo<Kind>& each) { return each.param.name; });

class SlotPackingVhdx : public SlotPacking {
  protected:
    /// The block table's entry.
    [[nodiscard]] std::uint64_t entry(std::uint64_t block) const {
        std::ifstream file(path(), std::ios::binary);
        file.seekg(static_cast<std::streamoff>(3 * kMiB + block * 8));
        Le64 wire = 0U;
        file.read(reinterpret_cast<char*>(&wire), sizeof wire);  // SAFETY: plain bytes
        return wire;
    }
    void set_entry(std::uint64_t block, std::uint64_t value) {
        std::fstream file(path(), std::ios::in | std::ios::out | std::ios::binary);
        file.seekp(static_cast<std::streamoff>(3 * kMiB + block * 8));
        const Le64 wire = value;
        file.write(reinterpret_cast<const char*>(&wire), sizeof wire);  // SAFETY: plain bytes
    }
};

// Entries that mean nothing here still say where data is: they stay, and so does all else.
TEST_P(SlotPackingVhdx, UnknownStatesAreRefusedAndLeftAsTheyAre) {
    fill();
    write(9, 0);
    close();
    const std::uint64_t good = entry(2);
    for (const std::uint64_t state : {4, 5, 7}) {
        set_entry(2, (good & ~std::uint64_t{7}) | state);
        const std::string before = content();
        open();
        EXPECT_FALSE(compact().ok()) << state;
        close();
        EXPECT_TRUE(content() == before) << state;
    }
    set_entry(2, good);
    open();
    ASSERT_TRUE(compact().ok());
    expect_whole();
}

// Another writer leaves an unmapped block its place, and a write takes it again: but not after that
// place was given to another block.
TEST_P(SlotPackingVhdx, PlacesOfUnmappedBlocksAreGivenUp) {
    fill();
    close();
    constexpr std::uint64_t kUnmapped = 3, kState = 7;
    for (const std::uint64_t block : {8, 10, 11}) {
        set_entry(block, (entry(block) & ~kState) | kUnmapped);
        model_[block] = 0;
    }
    open();
    const auto report = compact();
    ASSERT_TRUE(report.ok()) << report.error().text();
    EXPECT_EQ(report->moved, 3 * block());
    EXPECT_EQ(entry(8), kUnmapped);
    expect_whole();
    write(10, 'z');
    expect_whole();
}

INSTANTIATE_TEST_SUITE_P(Formats, SlotPackingVhdx,
                         testing::Values(Kind{
                             "Vhdx", "vhdx", {{"block_size", "1048576"}}, kMiB, 4 * kMiB}),
                         [](const testing::TestParamInfo<Kind>& each) { return each.param.name; });

}  // namespace
}  // namespace strata::block
