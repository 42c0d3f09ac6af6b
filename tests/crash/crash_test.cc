// Crash test: random requests side by side on an image whose file records everything; then the
// power goes, at many moments, and of what was not durable any part is left. What the guest had
// flushed is there, sectors are old or new, a check finds nothing but leaks. Some of these images
// are judged by qemu-img as well, where it is installed: its check, and what it reads.
//
// STRATA_CRASH_ROUNDS multiplies the rounds (make soak), STRATA_CRASH_SEED makes them other ones.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include <gtest/gtest.h>
#include <unistd.h>

#include "block/amend.h"
#include "block/blocking_image.h"
#include "block/compact.h"
#include "block/packed_target.h"
#include "block/sync.h"
#include "crash_case.h"
#include "recording_node.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSector = 512;

using Parts = std::map<std::string, std::shared_ptr<RecordingNode>>;  ///< by the name of the file

std::vector<std::byte> content_of(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), {});
    std::vector<std::byte> content(bytes.size());
    std::memcpy(content.data(), bytes.data(), bytes.size());
    return content;
}

/// Beside the image, or one of its own parts; a format that does not tell is raw.
class Beside final : public ReferencePolicy {
  public:
    explicit Beside(Parts parts) : parts_(std::move(parts)) {}
    Result<Resolved> resolve(const Reference& reference) const override {
        const auto part = parts_.find(std::filesystem::path(reference.name).filename().string());
        if (part != parts_.end()) {
            Resolved open;
            open.node = part->second;
            return open;
        }
        auto found = follow_references()->resolve(reference);
        if (found.ok() && found->format.empty()) {
            found->format = "raw";
        }
        return found;
    }

  private:
    const Parts parts_;
};

unsigned from_environment(const char* name, unsigned fallback) {
    const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): one thread
    return text != nullptr ? static_cast<unsigned>(std::strtoul(text, nullptr, 10)) : fallback;
}

/// What each sector may show: the first 8 bytes tell writes apart; 0 stands for zeros.
using Sectors = std::vector<std::set<std::uint64_t>>;

class CrashTest : public testing::TestWithParam<Case> {
  protected:
    void SetUp() override {
        loop_ = std::move(Loop::create({.engine = IoEngine::Threads, .depth = 4, .workers = 1}))
                    .value();
        path_ = testing::TempDir() + "crash-" + std::to_string(::getpid());
        seed_ = from_environment("STRATA_CRASH_SEED", 0);
        sectors_.assign(GetParam().size / kSector, {0});
        CreateRequest request;
        request.path = path_;
        request.size = GetParam().size;
        request.options = GetParam().options;
        if (GetParam().can(kOverlay)) {
            make_base();
            request.options.emplace_back("backing_file", path_ + ".base");
            request.options.emplace_back("backing_fmt", "raw");
        }
        if (GetParam().can(kDataFile)) {
            request.options.emplace_back("data_file", path_ + ".data");
        }
        const auto made = loop_->run(create_image(*loop_, GetParam().format, std::move(request)));
        ASSERT_TRUE(made.ok()) << made.error().text();
        start_ = content_of(path_);
    }
    void TearDown() override {
        for (const std::string& each : files()) {
            (void)::unlink((testing::TempDir() + each).c_str());
        }
    }
    /// All files of this test.
    [[nodiscard]] std::vector<std::string> files() const {
        const std::string start = std::filesystem::path(path_).filename().string();
        std::vector<std::string> all;
        for (const auto& each : std::filesystem::directory_iterator(testing::TempDir())) {
            if (each.path().filename().string().starts_with(start)) {
                all.push_back(each.path().filename().string());
            }
        }
        return all;
    }
    /// What the image has beside its first file, as it was made.
    Parts make_parts(const RecordingNode::Clock& clock) {
        Parts parts;
        for (const std::string& each : files()) {
            if (testing::TempDir() + each != path_ && !each.ends_with(".base")) {
                auto content = content_of(testing::TempDir() + each);
                parts[each] = std::make_shared<RecordingNode>(*loop_, testing::TempDir() + each,
                                                              std::move(content), 2 + seed_, clock);
                parts[each]->discard_as(discarded());
            }
        }
        return parts;
    }
    /// What lies below: every other stretch has data, and it is shorter than the disk.
    void make_base() {
        std::ofstream out(path_ + ".base", std::ios::binary);
        std::string sector(kSector, '\0');
        for (std::uint64_t s = 0; s < sectors_.size() * 3 / 4; ++s) {
            const std::uint64_t stamp = s / 64 % 2 == 0 ? (1ULL << 48) + s : 0;
            std::memcpy(sector.data(), &stamp, sizeof stamp);
            out << sector;
            sectors_[s] = {stamp};
        }
    }
    Result<NodePtr> open(NodePtr file, Parts parts) {
        OpenOptions options;
        options.path = path_;
        options.format = GetParam().format;
        options.extra = GetParam().opening;
        options.references = std::make_shared<Beside>(std::move(parts));
        return loop_->run(
            (*find_format(GetParam().format))->open(std::move(file), std::move(options)));
    }
    Task<> request(Node& node, std::uint64_t sector, std::uint64_t count, unsigned kind,
                   std::uint64_t stamp) {
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
        if (kind == kPackedWrite) {
            auto* target = dynamic_cast<PackedTarget*>(&node);
            Result<> packed = co_await target->write_packed(sector * kSector, Buffers::of(bytes));
            if (packed.ok() || packed.error().system_errno() != EEXIST) {
                co_return packed;
            }
        }
        co_return co_await node.write(sector * kSector, Buffers::of(bytes));
    }
    Task<> tried(Node& node, std::uint64_t sector, std::uint64_t count, unsigned kind,
                 std::uint64_t stamp, bool* done) {
        Result<> result = co_await request(node, sector, count, kind, stamp);
        *done = result.ok();
        co_return GetParam().can(kFailures) ? ok() : std::move(result);
    }
    /// A few requests at a time that do not overlap.
    void burst(Node& node, std::mt19937& random) {
        TaskGroup group(*loop_, 32);
        std::deque<bool> done;
        const std::size_t before = last_.size();
        std::set<std::uint64_t> busy;
        for (auto i = random() % 12 + 1; i != 0; --i) {
            auto kind = static_cast<unsigned>(random() % 8);
            std::uint64_t first = random() % sectors_.size();
            std::uint64_t count =
                std::min<std::uint64_t>(random() % 3 == 0 ? random() % 300 + 1 : random() % 12 + 1,
                                        sectors_.size() - first);
            if (GetParam().can(kCompress) && kind == 2) {
                kind = kPackedWrite;
                const std::uint64_t cluster = node.traits().cluster_size / kSector;
                first = first / cluster * cluster;
                count = std::min((random() % 4 + 1) * cluster,
                                 (sectors_.size() - first) / cluster * cluster);
            }
            if (busy.lower_bound(first) != busy.lower_bound(first + count)) {
                continue;
            }
            const std::uint64_t stamp = kind < 2 ? 0 : ++stamp_;
            for (std::uint64_t s = first; s < first + count; ++s) {
                busy.insert(s);
                sectors_[s].insert(stamp);
            }
            last_.push_back({first, count, kind == 0 ? ~0ULL : stamp});
            done.push_back(false);
            group.start(
                tried(node, first, count, kind, kind == 1 ? random() : stamp, &done.back()));
        }
        const auto ended = loop_->run(group.finish());
        ASSERT_TRUE(ended.ok()) << ended.error().text();
        // What failed may be there in parts: the values stay possible, but nothing is promised.
        for (std::size_t i = done.size(); i-- != 0;) {
            last_[before + i].promised = done[i];
        }
    }
    /// Whole blocks become zeros: the file has something to give up.
    void blank(Node& node, std::mt19937& random) {
        const std::uint64_t unit = node.traits().cluster_size / kSector;
        for (auto i = random() % 3; i != 0; --i) {
            const std::uint64_t first = random() % (sectors_.size() / unit) * unit;
            const std::uint64_t count = std::min<std::uint64_t>(unit, sectors_.size() - first);
            for (std::uint64_t s = first; s < first + count; ++s) {
                sectors_[s].insert(0);
            }
            last_.push_back({first, count, 0});
            const auto done = loop_->run(request(node, first, count, 1, random()));
            ASSERT_TRUE(done.ok()) << done.error().text();
        }
    }
    void flush(Node& node, RecordingNode& file) {
        Result<> flushed = loop_->run(node.flush());
        if (!flushed.ok() && GetParam().can(kFailures)) {
            file.fail_one_in(0);  // there is room again
            flushed = loop_->run(node.flush());
            file.fail_one_in(kFailOneIn);
        }
        ASSERT_TRUE(flushed.ok()) << flushed.error().text();
        // Only the last of the values is left; a discarded sector may be as it was.
        for (const auto& each : last_) {
            for (std::uint64_t s = each.first; s < each.first + each.count; ++s) {
                if (each.stamp == ~0ULL || !each.promised) {
                    sectors_[s].insert(each.stamp == ~0ULL ? 0 : each.stamp);
                } else {
                    sectors_[s] = {each.stamp};
                }
            }
        }
        last_.clear();
        flushed_[file.now()] = sectors_;
    }
    /// What may be there after a crash at `moment`: what was flushed before, or anything written
    /// since.
    [[nodiscard]] bool possible(std::size_t moment, std::uint64_t sector,
                                std::uint64_t value) const {
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
    void check_bytes(std::size_t moment, const std::vector<std::byte>& bytes) const {
        ASSERT_EQ(bytes.size(), sectors_.size() * kSector);
        for (std::uint64_t s = 0; s < sectors_.size(); ++s) {
            std::uint64_t value = 0;
            std::memcpy(&value, bytes.data() + s * kSector, sizeof value);
            ASSERT_TRUE(possible(moment, s, value)) << "sector " << s << " shows " << value;
        }
    }
    void crash(const RecordingNode& file, const Parts& parts, std::size_t moment, unsigned seed) {
        std::mt19937 random(seed);
        const auto left =
            std::make_shared<RecordingNode>(*loop_, path_, file.after_crash(moment, random), seed);
        left->discard_as(discarded());
        Parts left_parts;
        for (const auto& [name, part] : parts) {
            left_parts[name] = std::make_shared<RecordingNode>(
                *loop_, part->name(), part->after_crash(moment, random), seed);
            left_parts[name]->discard_as(discarded());
        }
        {
            // A snapshot that was being made or deleted left the dirty bit: opening mends that.
            auto node = open(left, left_parts);
            ASSERT_TRUE(node.ok()) << node.error().text();
            ASSERT_EQ((*node)->size(), GetParam().size);
            if (GetParam().can(kCheck)) {
                const auto report = loop_->run((*node)->check(Repair::Nothing));
                ASSERT_TRUE(report.ok()) << report.error().text();
                ASSERT_EQ(report->corruptions + report->check_errors, 0U)
                    << (report->messages.empty() ? "" : report->messages[0]);
            }
            std::vector<std::byte> bytes(GetParam().size);
            const auto done = loop_->run((*node)->read(0, Buffers(std::span(bytes))));
            ASSERT_TRUE(done.ok()) << done.error().text();
            check_bytes(moment, bytes);
            if (GetParam().can(kRawData)) {
                check_bytes(moment, left_parts.begin()->second->content());
            }
            if (GetParam().can(kCompacts) && seed % 3 == 0) {
                go_on_compacting(**node, bytes);
            }
            if (GetParam().can(kPeer) && seed % kJudgeOneIn == 0) {
                if (GetParam().can(kMend) && GetParam().can(kCompacts)) {
                    go_on_compacting(**node, bytes);
                } else if (GetParam().can(kMend)) {
                    ASSERT_TRUE(loop_->run((*node)->check(Repair::All)).ok());
                }
                ASSERT_TRUE(loop_->run((*node)->close()).ok());
                for (const auto& [name, part] : left_parts) {
                    write_file(part->name(), part->content());
                }
                judge(left->content(), bytes);
            }
        }
    }
    /// Packs the file; now and then whoever watches stops it.
    void compact(Node& node, std::mt19937& random) {
        auto* packs = dynamic_cast<Compactable*>(&node);
        ASSERT_NE(packs, nullptr);
        CompactWatch watch;
        auto left = random() % 3 == 0 ? random() % 20 : ~0U;
        watch.advance = [&left](std::uint64_t) -> Result<> {
            return left-- == 0 ? Result<>(Error(ErrorKind::Failed, "stopped")) : ok();
        };
        const auto done = loop_->run(packs->pack_file(std::move(watch)));
        ASSERT_TRUE(done.ok() || done.error().text().ends_with("stopped")) << done.error().text();
    }
    /// What a crash left is packed: it reads as before, and nothing leaks.
    void go_on_compacting(Node& node, const std::vector<std::byte>& bytes) {
        const auto done = loop_->run(dynamic_cast<Compactable&>(node).pack_file({}));
        ASSERT_TRUE(done.ok()) << done.error().text();
        const auto report = loop_->run(node.check(Repair::Nothing));
        ASSERT_TRUE(report.ok() && report->clean())
            << (report.ok() && !report->messages.empty() ? report->messages[0] : "");
        std::vector<std::byte> after(bytes.size());
        ASSERT_TRUE(loop_->run(node.read(0, Buffers(std::span(after)))).ok());
        ASSERT_TRUE(after == bytes);
    }
    /// Another refcount width, or the other version: the image's tables are made anew under it.
    void amend(Node& node, std::mt19937& random) {
        static constexpr std::array kWidths = {"8", "16", "32", "64"};
        AmendRequest request;
        if ((!GetParam().can(kSnapshots) || GetParam().can(kVersion2)) && random() % 2 == 0) {
            request.options = {{"compat", "v2"}, {"refcount_bits", "16"}};
        } else {
            request.options = {{"compat", "v3"},
                               {"refcount_bits", kWidths.at(random() % kWidths.size())}};
        }
        const auto done = loop_->run(amend_image(node.shared_from_this(), std::move(request)));
        ASSERT_TRUE(done.ok()) << done.error().text();
    }
    /// Other names of the same file below, of many lengths.
    void rebase(Node& node, std::mt19937& random) {
        std::string name = testing::TempDir();
        for (auto i = random() % 200; i != 0; --i) {
            name += "./";
        }
        name += std::filesystem::path(path_).filename().string() + ".base";
        OpenOptions options;
        options.path = path_ + ".base";
        options.format = "raw";
        options.read_only = true;
        auto below = loop_->run(open_node(*loop_, std::move(options)));
        ASSERT_TRUE(below.ok()) << below.error().text();
        const auto done =
            loop_->run(node.change_backing(std::move(below).value(), std::move(name), "raw"));
        ASSERT_TRUE(done.ok()) << done.error().text();
    }
    /// One bitmap records writes; others come and go.
    void change_bitmaps(Node& node, std::mt19937& random) {
        const std::string name = std::to_string(random() % 3);
        const auto known = loop_->run(node.bitmaps());
        ASSERT_TRUE(known.ok());
        const bool there = std::any_of(known->begin(), known->end(),
                                       [&](const BitmapInfo& each) { return each.name == name; });
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
    static void write_file(const std::string& path, const std::vector<std::byte>& content) {
        std::ofstream out(path, std::ios::binary);
        out.write(reinterpret_cast<const char*>(content.data()),
                  static_cast<std::streamsize>(content.size()));
    }
    /// qemu-img finds the image sound, and reads `bytes`.
    void judge(const std::vector<std::byte>& image, const std::vector<std::byte>& bytes) {
        static const bool kInstalled = std::system("command -v qemu-img >/dev/null") ==
                                       0;  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
        if (!kInstalled) {
            return;
        }
        write_file(path_, image);
        write_file(path_ + ".raw", bytes);
        const std::string& format = GetParam().format;
        // 3: leaks, which a crash may leave. Not every format has a check there (63).
        const std::string line = "{ qemu-img check -U -f " + format + " " + path_ +
                                 "; s=$?; [ $s = 0 ] || [ $s = 3 ] || [ $s = 63 ]; } >" + path_ +
                                 ".log 2>&1 && qemu-img compare -U -f " + format + " -F raw " +
                                 path_ + " " + path_ + ".raw >>" + path_ + ".log 2>&1 || { cat " +
                                 path_ + ".log; false; }";
        ASSERT_EQ(std::system(line.c_str()),
                  0);  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
    }
    [[nodiscard]] std::byte discarded() const {
        return GetParam().can(kPassThrough) || GetParam().can(kRawData) ? std::byte{0}
                                                                        : std::byte{0xDD};
    }
    static constexpr unsigned kPackedWrite = 100, kFailOneIn = 40, kJudgeOneIn = 23;
    struct Range {
        std::uint64_t first, count, stamp;
        bool promised = true;
    };
    std::unique_ptr<Loop> loop_;
    std::string path_;
    std::vector<std::byte> start_;
    Sectors sectors_;
    std::vector<Range> last_;
    std::map<std::size_t, Sectors> flushed_;  ///< by the moment a flush of the guest's had ended
    std::map<std::size_t, Sectors> between_;  ///< all values possible until then
    std::uint64_t stamp_ = 0;
    unsigned seed_ = 0;
};

TEST_P(CrashTest, NothingFlushedIsLostAndNothingIsTorn) {
    const Case& c = GetParam();
    const unsigned rounds = c.rounds * from_environment("STRATA_CRASH_ROUNDS", 1);
    std::mt19937 random(c.rounds + seed_);
    const auto clock = std::make_shared<std::size_t>(0);
    const auto file = std::make_shared<RecordingNode>(*loop_, path_, start_, 1 + seed_, clock);
    file->discard_as(discarded());
    const Parts parts = make_parts(clock);
    auto node = open(file, parts);
    ASSERT_TRUE(node.ok()) << node.error().text();
    if (c.can(kFilled)) {
        ASSERT_TRUE(loop_->run((*node)->write_zeroes(0, c.size, {})).ok());
        ASSERT_TRUE(loop_->run((*node)->flush()).ok());
    }
    const std::size_t begin = c.can(kFilled) ? file->now() : 0;
    flushed_[begin] = sectors_;
    file->fail_one_in(c.can(kFailures) ? kFailOneIn : 0);
    unsigned snapshots = 0;
    for (unsigned round = 0; round < rounds; ++round) {
        for (auto i = random() % 4 + 1; i != 0; --i) {
            burst(**node, random);
        }
        if (c.can(kCompacts) && c.can(kPassThrough)) {
            blank(**node, random);
        }
        const Sectors all = sectors_;
        if (c.can(kSnapshots) && random() % 6 == 0) {
            if (snapshots < 3) {
                ASSERT_TRUE(loop_->run((*node)->create_snapshot(SnapshotInfo{})).ok());
                ++snapshots;
            } else {
                const auto list = loop_->run((*node)->snapshots());
                ASSERT_TRUE(list.ok());
                ASSERT_TRUE(
                    loop_->run((*node)->delete_snapshot((*list)[random() % list->size()].id)).ok());
                --snapshots;
            }
        }
        if (c.can(kBitmaps) && random() % 3 == 0) {
            change_bitmaps(**node, random);
        }
        if (c.can(kCompacts) && random() % 3 == 0) {
            compact(**node, random);
        }
        if (c.can(kAmends) && random() % 3 == 0) {
            amend(**node, random);
        }
        if (c.can(kRebases) && random() % 3 == 0) {
            rebase(**node, random);
        }
        flush(**node, *file);
        between_[file->now()] = all;
    }
    file->fail_one_in(0);
    ASSERT_TRUE(loop_->run((*node)->close()).ok());
    const std::size_t end = (--flushed_.end())->first;
    for (unsigned i = 0; i < rounds * 12; ++i) {
        crash(*file, parts, begin + random() % (end + 1 - begin), i + seed_);
        if (HasFatalFailure()) {
            FAIL() << "crash " << i;
        }
    }
    for (const auto& each : flushed_) {
        crash(*file, parts, each.first, static_cast<unsigned>(each.first) + seed_);
        ASSERT_FALSE(HasFatalFailure()) << "after the flush at " << each.first;
    }
}

INSTANTIATE_TEST_SUITE_P(Formats, CrashTest, testing::ValuesIn(crash_cases()),
                         [](const testing::TestParamInfo<Case>& each) { return each.param.name; });

}  // namespace
}  // namespace strata::block
