// Crash test: random requests side by side on an image whose file records everything; then the power goes, at many moments, and of what
// was not durable any part is left. What the guest had flushed is there, sectors are old or new, a check finds nothing but leaks.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <map>
#include <set>

#include <gtest/gtest.h>

#include "block/amend.h"
#include "block/blocking_image.h"
#include "block/sync.h"
#include "recording_node.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSector = 512;

struct Case {
    friend void PrintTo(const Case& shown, std::ostream* out) { *out << shown.name; }
    std::string name, format;
    OptionList options;
    std::uint64_t size;
    unsigned rounds;
    bool snapshots;
    bool check;  ///< the format has checks
    bool amends = false;
    bool bitmaps = false;
};

/// What each sector may show: the first 8 bytes tell writes apart; 0 stands for zeros.
using Sectors = std::vector<std::set<std::uint64_t>>;

class CrashTest : public testing::TestWithParam<Case> {
  protected:
    void SetUp() override {
        loop_ = std::move(Loop::create({.engine = IoEngine::Threads, .depth = 4, .workers = 1})).value();
        path_ = testing::TempDir() + "crash-" + std::to_string(::getpid());
        CreateRequest request;
        request.path = path_;
        request.size = GetParam().size;
        request.options = GetParam().options;
        const auto made = loop_->run(create_image(*loop_, GetParam().format, std::move(request)));
        ASSERT_TRUE(made.ok()) << made.error().text();
        std::ifstream in(path_, std::ios::binary);
        const std::string bytes((std::istreambuf_iterator<char>(in)), {});
        start_.resize(bytes.size());
        std::memcpy(start_.data(), bytes.data(), bytes.size());
    }
    void TearDown() override { (void)::unlink(path_.c_str()); }
    Result<NodePtr> open(NodePtr file, bool for_check) {
        OpenOptions options;
        options.path = path_;
        options.format = GetParam().format;
        options.for_check = for_check;
        return loop_->run((*find_format(GetParam().format))->open(std::move(file), std::move(options)));
    }
    Task<> request(Node& node, std::uint64_t sector, std::uint64_t count, unsigned kind, std::uint64_t stamp) {
        if (kind == 0) {
            co_return co_await node.discard(sector * kSector, count * kSector);
        }
        if (kind == 1) {
            ZeroOptions zero;
            zero.may_unmap = stamp % 2 == 0;
            co_return co_await node.write_zeroes(sector * kSector, count * kSector, zero);
        }
        std::vector<std::byte> bytes(count * kSector);
        for (std::uint64_t at = 0; at < bytes.size(); at += kSector) {
            std::memcpy(bytes.data() + at, &stamp, sizeof stamp);
        }
        co_return co_await node.write(sector * kSector, Buffers::of(bytes));
    }
    /// A few requests at a time that do not overlap.
    void burst(Node& node, std::mt19937& random) {
        TaskGroup group(*loop_, 32);
        std::set<std::uint64_t> busy;
        for (auto i = random() % 12 + 1; i != 0; --i) {
            const std::uint64_t first = random() % sectors_.size();
            const std::uint64_t count = std::min<std::uint64_t>(random() % 3 == 0 ? random() % 300 + 1 : random() % 12 + 1, sectors_.size() - first);
            if (busy.lower_bound(first) != busy.lower_bound(first + count)) {
                continue;
            }
            const auto kind = static_cast<unsigned>(random() % 8);
            const std::uint64_t stamp = kind < 2 ? 0 : ++stamp_;
            for (std::uint64_t s = first; s < first + count; ++s) {
                busy.insert(s);
                sectors_[s].insert(stamp);
            }
            last_.push_back({first, count, kind == 0 ? ~0ULL : stamp});
            group.start(request(node, first, count, kind, kind == 1 ? random() : stamp));
        }
        const auto done = loop_->run(group.finish());
        ASSERT_TRUE(done.ok()) << done.error().text();
    }
    void flush(Node& node, const RecordingNode& file) {
        ASSERT_TRUE(loop_->run(node.flush()).ok());
        // Only the last of the values is left; a discarded sector may be as it was.
        for (const auto& each : last_) {
            for (std::uint64_t s = each.first; s < each.first + each.count; ++s) {
                if (each.stamp == ~0ULL) {
                    sectors_[s].insert(0);
                } else {
                    sectors_[s] = {each.stamp};
                }
            }
        }
        last_.clear();
        flushed_[file.now()] = sectors_;
    }
    /// What may be there after a crash at `moment`: what was flushed before, or anything written since.
    [[nodiscard]] bool possible(std::size_t moment, std::uint64_t sector, std::uint64_t value) const {
        for (auto at = --flushed_.upper_bound(moment); at != flushed_.end(); ++at) {
            if (at->second[sector].contains(value)) {
                return true;
            }
            if (at->first > moment) {
                // Values that came and went between two flushes.
                break;
            }
        }
        const auto next = flushed_.upper_bound(moment);
        return next != flushed_.end() && between_.at(next->first)[sector].contains(value);
    }
    void crash(const RecordingNode& file, std::size_t moment, unsigned seed) {
        std::mt19937 random(seed);
        const auto left = std::make_shared<RecordingNode>(*loop_, path_, file.after_crash(moment, random), seed);
        {
            // A snapshot that was being made or deleted left the dirty bit: opening mends that.
            auto node = open(left, false);
            ASSERT_TRUE(node.ok()) << node.error().text();
            ASSERT_EQ((*node)->size(), GetParam().size);
            if (GetParam().check) {
                const auto report = loop_->run((*node)->check(Repair::Nothing));
                ASSERT_TRUE(report.ok()) << report.error().text();
                ASSERT_EQ(report->corruptions + report->check_errors, 0U) << (report->messages.empty() ? "" : report->messages[0]);
            }
            std::vector<std::byte> bytes(GetParam().size);
            const auto done = loop_->run((*node)->read(0, Buffers(std::span(bytes))));
            ASSERT_TRUE(done.ok()) << done.error().text();
            for (std::uint64_t s = 0; s < sectors_.size(); ++s) {
                std::uint64_t value = 0;
                std::memcpy(&value, bytes.data() + s * kSector, sizeof value);
                ASSERT_TRUE(possible(moment, s, value)) << "sector " << s << " shows " << value;
            }
        }
    }
    /// Another refcount width, or the other version: the image's tables are made anew under it.
    void amend(Node& node, std::mt19937& random) {
        static constexpr std::array kWidths = {"8", "16", "32", "64"};
        AmendRequest request;
        if (!GetParam().snapshots && random() % 2 == 0) {
            request.options = {{"compat", "v2"}, {"refcount_bits", "16"}};
        } else {
            request.options = {{"compat", "v3"}, {"refcount_bits", kWidths.at(random() % kWidths.size())}};
        }
        const auto done = loop_->run(amend_image(node.shared_from_this(), std::move(request)));
        ASSERT_TRUE(done.ok()) << done.error().text();
    }
    /// One bitmap records writes; others come and go.
    void change_bitmaps(Node& node, std::mt19937& random) {
        const std::string name = std::to_string(random() % 3);
        const auto known = loop_->run(node.bitmaps());
        ASSERT_TRUE(known.ok());
        const bool there = std::any_of(known->begin(), known->end(), [&](const BitmapInfo& each) { return each.name == name; });
        if (there && name != "0") {
            ASSERT_TRUE(loop_->run(node.remove_bitmap(name)).ok());
            return;
        }
        Bitmap bitmap;
        bitmap.info = {.name = name, .granularity = 512, .in_use = false, .automatic = name == "0"};
        bitmap.size = node.size();
        bitmap.bits.assign(node.size() / 512 / 64, random());
        ASSERT_TRUE(loop_->run(node.store_bitmap(std::move(bitmap))).ok());
    }
    struct Range {
        std::uint64_t first, count, stamp;
    };
    std::unique_ptr<Loop> loop_;
    std::string path_;
    std::vector<std::byte> start_;
    Sectors sectors_;
    std::vector<Range> last_;
    std::map<std::size_t, Sectors> flushed_;  ///< by the moment a flush of the guest's had ended
    std::map<std::size_t, Sectors> between_;  ///< all values possible until then
    std::uint64_t stamp_ = 0;
};

TEST_P(CrashTest, NothingFlushedIsLostAndNothingIsTorn) {
    const Case& c = GetParam();
    std::mt19937 random(c.rounds);
    sectors_.assign(c.size / kSector, {0});
    const auto file = std::make_shared<RecordingNode>(*loop_, path_, start_, 1);
    flushed_[0] = sectors_;
    auto node = open(file, false);
    ASSERT_TRUE(node.ok()) << node.error().text();
    unsigned snapshots = 0;
    for (unsigned round = 0; round < c.rounds; ++round) {
        for (auto i = random() % 4 + 1; i != 0; --i) {
            burst(**node, random);
        }
        const Sectors all = sectors_;
        if (c.snapshots && random() % 6 == 0) {
            if (snapshots < 3) {
                ASSERT_TRUE(loop_->run((*node)->create_snapshot(SnapshotInfo{})).ok());
                ++snapshots;
            } else {
                const auto list = loop_->run((*node)->snapshots());
                ASSERT_TRUE(list.ok());
                ASSERT_TRUE(loop_->run((*node)->delete_snapshot((*list)[random() % list->size()].id)).ok());
                --snapshots;
            }
        }
        if (c.bitmaps && random() % 3 == 0) {
            change_bitmaps(**node, random);
        }
        if (c.amends && random() % 3 == 0) {
            amend(**node, random);
        }
        flush(**node, *file);
        between_[file->now()] = all;
    }
    ASSERT_TRUE(loop_->run((*node)->close()).ok());
    const std::size_t end = (--flushed_.end())->first;
    for (unsigned i = 0; i < c.rounds * 12; ++i) {
        crash(*file, random() % (end + 1), i);
        if (HasFatalFailure()) {
            FAIL() << "crash " << i;
        }
    }
    for (const auto& each : flushed_) {
        crash(*file, each.first, static_cast<unsigned>(each.first));
        ASSERT_FALSE(HasFatalFailure()) << "after the flush at " << each.first;
    }
}

INSTANTIATE_TEST_SUITE_P(
    Formats, CrashTest,
    testing::Values(Case{"Qcow2", "qcow2", {}, 2U << 20, 25, false, true},
                    Case{"Qcow2Small", "qcow2", {{"cluster_size", "4096"}}, 1U << 20, 60, false, true},
                    Case{"Qcow2Tiny", "qcow2", {{"cluster_size", "512"}, {"refcount_bits", "64"}}, 512U << 10, 40, false, true},
                    Case{"Qcow2V2", "qcow2", {{"compat", "v2"}, {"cluster_size", "8192"}}, 1U << 20, 50, false, true},
                    Case{"Qcow2Subclusters", "qcow2", {{"extended_l2", "on"}, {"cluster_size", "32768"}}, 2U << 20, 60, false, true},
                    Case{"Qcow2Snapshots", "qcow2", {{"cluster_size", "4096"}}, 1U << 20, 60, true, true},
                    Case{"Qcow2SubclusterSnapshots", "qcow2", {{"extended_l2", "on"}, {"cluster_size", "16384"}}, 1U << 20, 40, true, true},
                    Case{"Qcow2Amended", "qcow2", {{"cluster_size", "4096"}}, 1U << 20, 60, false, true, true},
                    Case{"Qcow2AmendedSnapshots", "qcow2", {{"cluster_size", "4096"}}, 1U << 20, 40, true, true, true},
                    Case{"Qcow2Bitmaps", "qcow2", {{"cluster_size", "4096"}}, 1U << 20, 60, false, true, false, true}),
    [](const testing::TestParamInfo<Case>& each) { return each.param.name; });

}  // namespace
}  // namespace strata::block
