// Jobs on a disk in use: what the copies hold while somebody writes.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "block/bitmap.h"
#include "block/filters/fault/fault.h"
#include "block/filters/filter_node.h"
#include "block/live/backup.h"
#include "block/live/live_disk.h"
#include "block/live/mirror.h"
#include "block/live/stream.h"
#include "block/registry.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = 8U << 20;
using Finish = LiveJob::Finish;

/// Remembers the largest read, and loses a bitmap that it cannot store when told to.
class Spy final : public FilterNode {
  public:
    using FilterNode::FilterNode;
    [[nodiscard]] std::string_view format() const override { return child().format(); }
    Task<> read(std::uint64_t offset, Buffers into) override {
        largest = std::max(largest, into.size());
        return FilterNode::read(offset, into);
    }
    Task<> store_bitmap(Bitmap bitmap) override {
        if (std::exchange(full, false)) {
            STRATA_CO_TRY_VOID(co_await child().remove_bitmap(bitmap.info.name));
            STRATA_CO_TRY_VOID(co_await child().store_bitmap(std::move(bitmap)));
            co_return Error{ErrorKind::Failed, "no space", ENOSPC};
        }
        co_return co_await child().store_bitmap(std::move(bitmap));
    }
    std::uint64_t largest = 0;
    bool full = false;
};

class LiveTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string folder =
            (std::filesystem::temp_directory_path() / "strata-live-XXXXXX").string();
        ASSERT_NE(::mkdtemp(folder.data()), nullptr);
        folder_ = folder;
        loop_ = Loop::create({.engine = IoEngine::Threads}).value();
    }
    void TearDown() override {
        if (live_ != nullptr) {
            EXPECT_TRUE(loop_->run(live_->disk().close()).ok());
        }
        live_.reset();
        loop_.reset();
        std::filesystem::remove_all(folder_);
    }
    std::string path(const std::string& name) { return (folder_ / name).string(); }
    NodePtr make(const std::string& name, const std::string& format, OptionList options = {}) {
        CreateRequest request;
        request.path = path(name);
        request.size = kSize;
        request.options = std::move(options);
        EXPECT_TRUE(loop_->run(create_image(*loop_, format, std::move(request))).ok());
        return open(name, format, false);
    }
    NodePtr open(const std::string& name, const std::string& format, bool read_only,
                 bool backing = true, bool lock = true) {
        OpenOptions options;
        options.path = path(name);
        options.format = format;
        options.read_only = read_only;
        options.references = follow_references();
        options.open_backing = backing;
        options.lock = lock;
        auto node = loop_->run(open_node(*loop_, std::move(options)));
        EXPECT_TRUE(node.ok()) << node.error().text();
        return node.value();
    }
    void use(NodePtr disk) { live_ = std::make_unique<LiveDisk>(std::move(disk), nullptr); }
    /// Fills some of the disk, and remembers it.
    void fill(Node& disk, std::uint64_t seed) {
        std::mt19937_64 random(seed);
        for (int i = 0; i < 40; ++i) {
            write_at(disk, random, expected_);
        }
    }
    void write_at(Node& disk, std::mt19937_64& random, std::vector<std::byte>& model) {
        const std::uint64_t offset = random() % (kSize / 512) * 512;
        const std::uint64_t length = std::min((random() % 200 + 1) * 512, kSize - offset);
        const std::vector<std::byte> bytes(length, static_cast<std::byte>(random()));
        EXPECT_TRUE(loop_->run(disk.write(offset, Buffers::of(bytes))).ok());
        std::ranges::copy(bytes, model.begin() + static_cast<std::ptrdiff_t>(offset));
    }
    std::vector<std::byte> content(Node& node) {
        std::vector<std::byte> bytes(kSize);
        EXPECT_TRUE(loop_->run(node.read(0, Buffers(std::span(bytes)))).ok());
        return bytes;
    }
    /// One request of the guest's, as its queue makes it.
    Task<> guest(std::uint64_t kind, std::uint64_t offset, const std::vector<std::byte>& bytes) {
        STRATA_CO_TRY(const auto pass, co_await live_->gate().shared());
        Node& top = live_->top();
        if (kind == 0) {
            STRATA_CO_TRY_VOID(
                co_await top.write_zeroes(offset, bytes.size(), {.may_unmap = true}));
        } else {
            STRATA_CO_TRY_VOID(co_await top.write(offset, Buffers::of(bytes)));
        }
        co_return ok();
    }
    /// Requests of a lane of its own part of the disk, one after another, until told to end.
    Task<> keep_writing(unsigned lane, bool& over) {
        std::mt19937_64 random(lane);
        constexpr std::uint64_t kLane = kSize / 4;
        while (!over) {
            const std::uint64_t offset = lane * kLane + random() % (kLane / 512) * 512;
            const std::uint64_t room = (lane + 1) * kLane - offset;
            const std::uint64_t length = std::min((random() % 300 + 1) * 512, room);
            const std::uint64_t kind = random() % 8;
            const std::vector<std::byte> bytes(
                length, kind == 0 ? std::byte{0} : static_cast<std::byte>(random()));
            STRATA_CO_TRY_VOID(co_await guest(kind, offset, bytes));
            std::ranges::copy(bytes, expected_.begin() + static_cast<std::ptrdiff_t>(offset));
            ++writes_;
            co_await loop_->yield();
        }
        co_return ok();
    }
    /// Runs `job` while four lanes write; `during` is awaited beside it. Nothing is written between
    /// the call and the job's beginning.
    Result<> run_under_load(std::shared_ptr<LiveJob> job,
                            std::function<Task<>(LiveJob&)> during = {}) {
        bool over = false, ended = false;
        Result<> done = ok(), written = ok();
        loop_->spawn(live_->run(job), [&](Result<> result) {
            done = std::move(result);
            ended = true;
        });
        for (unsigned lane = 0; lane < 4; ++lane) {
            loop_->spawn(keep_writing(lane, over), [&](Result<> result) {
                if (!result.ok()) {
                    written = std::move(result);
                }
            });
        }
        if (during) {
            loop_->spawn(during(*job));
        }
        while (!ended) {
            EXPECT_TRUE(loop_->run(pause(1)).ok());
        }
        EXPECT_TRUE(loop_->run(pause(20)).ok());
        over = true;
        while (loop_->spawned() != 0) {
            EXPECT_TRUE(loop_->run(pause(1)).ok());
        }
        EXPECT_TRUE(written.ok()) << written.error().text();
        return done;
    }
    Task<> pause(int milliseconds) {
        co_await loop_->sleep(std::chrono::milliseconds(milliseconds));
        co_return ok();
    }
    bool clean(Node& node) {
        auto report = loop_->run(node.check(Repair::Nothing));
        return report.ok() && report->clean();
    }

    std::filesystem::path folder_;
    std::unique_ptr<Loop> loop_;
    std::unique_ptr<LiveDisk> live_;
    std::vector<std::byte> expected_ = std::vector<std::byte>(kSize);
    std::uint64_t writes_ = 0;
};

TEST_F(LiveTest, MirrorUnderLoadPivotsToTheSameContent) {
    use(make("disk", "qcow2"));
    fill(live_->disk(), 1);
    const auto job = std::make_shared<Mirror>(
        *loop_,
        MirrorOptions{.target = make("copy", "raw"), .target_zero = true, .finish = Finish::Pivot});
    const Result<> done = run_under_load(job);
    ASSERT_TRUE(done.ok()) << done.error().text();
    EXPECT_EQ(live_->disk().name(), path("copy"));
    EXPECT_EQ(live_->job(), nullptr);
    EXPECT_TRUE(content(live_->disk()) == expected_);
    EXPECT_GT(writes_, 4U);
}

TEST_F(LiveTest, MirrorWaitsUntilItIsToldHowToEnd) {
    use(make("disk", "raw"));
    fill(live_->disk(), 2);
    std::vector<std::byte> then;
    const auto job = std::make_shared<Mirror>(
        *loop_, MirrorOptions{.target = make("copy", "qcow2"), .target_zero = true});
    bool ready = false;
    job->on_ready([&] { ready = true; });
    const Result<> done = run_under_load(job, [this](LiveJob& mirror) -> Task<> {
        while (!mirror.ready()) {
            co_await loop_->sleep(std::chrono::milliseconds(1));
        }
        co_await loop_->sleep(std::chrono::milliseconds(30));
        co_return mirror.complete(Finish::Keep);
    });
    ASSERT_TRUE(done.ok()) << done.error().text();
    EXPECT_TRUE(ready);
    EXPECT_EQ(live_->disk().name(), path("disk"));
    EXPECT_TRUE(content(live_->disk()) == expected_);
    NodePtr copy = open("copy", "qcow2", true);
    EXPECT_TRUE(clean(*copy));
}

TEST_F(LiveTest, MirrorIntoWhatIsNoEmptyDisk) {
    use(make("disk", "qcow2"));
    fill(live_->disk(), 3);
    NodePtr target = make("copy", "qcow2");
    std::vector<std::byte> other(kSize, std::byte{0x55});
    ASSERT_TRUE(loop_->run(target->write(0, Buffers::of(other))).ok());
    ASSERT_TRUE(loop_
                    ->run(live_->run(std::make_shared<Mirror>(
                        *loop_, MirrorOptions{.target = target, .finish = Finish::Pivot})))
                    .ok());
    EXPECT_TRUE(content(live_->disk()) == expected_);
}

TEST_F(LiveTest, CancelledMirrorLeavesTheDiskInPlace) {
    use(make("disk", "raw"));
    fill(live_->disk(), 4);
    const auto job = std::make_shared<Mirror>(
        *loop_,
        MirrorOptions{.target = make("copy", "raw"), .target_zero = true, .speed = 64 << 10});
    const Result<> done = run_under_load(job, [this](LiveJob& mirror) -> Task<> {
        co_await loop_->sleep(std::chrono::milliseconds(20));
        mirror.cancel();
        co_return ok();
    });
    EXPECT_FALSE(done.ok());
    EXPECT_EQ(live_->disk().name(), path("disk"));
    EXPECT_TRUE(content(live_->disk()) == expected_);
    EXPECT_EQ(&live_->top(), &live_->disk());
}

TEST_F(LiveTest, BackupUnderLoadIsOfTheMomentOfItsBeginning) {
    use(make("disk", "qcow2"));
    fill(live_->disk(), 5);
    const std::vector<std::byte> then = expected_;
    const auto job = std::make_shared<Backup>(
        *loop_, BackupOptions{.target = make("copy", "qcow2"), .target_zero = true});
    const Result<> done = run_under_load(job);
    ASSERT_TRUE(done.ok()) << done.error().text();
    EXPECT_TRUE(content(live_->disk()) == expected_);
    NodePtr copy = open("copy", "qcow2", true);
    EXPECT_TRUE(content(*copy) == then);
    EXPECT_TRUE(clean(*copy));
}

TEST_F(LiveTest, IncrementalBackupsOverOneAnotherAreTheDisk) {
    use(make("disk", "qcow2"));
    fill(live_->disk(), 6);
    ASSERT_TRUE(loop_
                    ->run(live_->run(std::make_shared<Backup>(
                        *loop_, BackupOptions{.target = make("full", "raw"),
                                              .target_zero = true,
                                              .bitmap = "daily"})))
                    .ok());
    std::mt19937_64 random(7);
    for (int i = 0; i < 5; ++i) {
        write_at(live_->disk(), random, expected_);
    }
    ASSERT_TRUE(loop_->run(live_->disk().write_zeroes(1 << 20, 1 << 20, {})).ok());
    std::fill_n(expected_.begin() + (1 << 20), 1 << 20, std::byte{0});
    const std::vector<std::byte> then = expected_;
    (void)make("more", "qcow2", {{"backing_file", "full"}, {"backing_fmt", "raw"}});
    const auto job = std::make_shared<Backup>(
        *loop_,
        BackupOptions{
            .target = open("more", "qcow2", false, false), .bitmap = "daily", .incremental = true});
    const Result<> done = run_under_load(job);
    ASSERT_TRUE(done.ok()) << done.error().text();
    NodePtr more = open("more", "qcow2", true);
    EXPECT_TRUE(content(*more) == then);
    EXPECT_LT(job->total(), kSize);
}

TEST_F(LiveTest, FailedBackupGivesTheBitmapBackWhatItHad) {
    use(make("disk", "qcow2"));
    ASSERT_TRUE(loop_->run(live_->disk().store_bitmap(empty_bitmap("b", kSize, 65536, true))).ok());
    fill(live_->disk(), 8);
    const auto before = loop_->run(live_->disk().read_bitmap("b"));
    ASSERT_TRUE(before.ok());
    const auto job = std::make_shared<Backup>(*loop_, BackupOptions{.target = make("copy", "raw"),
                                                                    .target_zero = true,
                                                                    .bitmap = "b",
                                                                    .incremental = true,
                                                                    .speed = 1 << 16});
    loop_->spawn([](Loop& loop, LiveJob& one) -> Task<> {
        co_await loop.sleep(std::chrono::milliseconds(10));
        one.cancel();
        co_return ok();
    }(*loop_, *job));
    EXPECT_FALSE(loop_->run(live_->run(job)).ok());
    const auto after = loop_->run(live_->disk().read_bitmap("b"));
    ASSERT_TRUE(after.ok());
    EXPECT_EQ(after->bits, before->bits);
}

TEST_F(LiveTest, StreamUnderLoadCutsTheChain) {
    {
        NodePtr base = make("base", "raw");
        fill(*base, 9);
        ASSERT_TRUE(loop_->run(base->close()).ok());
    }
    use(make("over", "qcow2", {{"backing_file", "base"}, {"backing_fmt", "raw"}}));
    const Result<> done = run_under_load(std::make_shared<Stream>(*loop_, 0));
    ASSERT_TRUE(done.ok()) << done.error().text();
    EXPECT_EQ(live_->disk().backing(), nullptr);
    EXPECT_TRUE(content(live_->disk()) == expected_);
    EXPECT_TRUE(clean(live_->disk()));
}

TEST_F(LiveTest, CommitUnderLoadGoesOnWithTheLayerBelow) {
    {
        NodePtr base = make("base", "raw");
        fill(*base, 10);
        ASSERT_TRUE(loop_->run(base->close()).ok());
        base.reset();
        NodePtr middle =
            make("middle", "qcow2", {{"backing_file", "base"}, {"backing_fmt", "raw"}});
        fill(*middle, 11);
        ASSERT_TRUE(loop_->run(middle->close()).ok());
    }
    use(make("over", "qcow2", {{"backing_file", "middle"}, {"backing_fmt", "qcow2"}}));
    fill(live_->disk(), 12);
    const auto job = std::make_shared<ActiveCommit>(
        *loop_,
        MirrorOptions{.target = open("middle", "qcow2", false, false, false),
                      .finish = Finish::Pivot},
        UniqueFd());
    const Result<> done = run_under_load(job);
    ASSERT_TRUE(done.ok()) << done.error().text();
    EXPECT_EQ(live_->disk().name(), path("middle"));
    ASSERT_NE(live_->disk().backing(), nullptr);
    EXPECT_TRUE(content(live_->disk()) == expected_);
    EXPECT_TRUE(clean(live_->disk()));
}

TEST_F(LiveTest, CommitGoesOnlyIntoTheLayerBelow) {
    const auto backed_by = [](const std::string& name, const std::string& format) {
        return OptionList{{"backing_file", name}, {"backing_fmt", format}};
    };
    ASSERT_TRUE(loop_->run(make("base", "raw")->close()).ok());
    use(make("over", "qcow2", backed_by("base", "raw")));
    fill(live_->disk(), 13);
    const auto commit = [&](const std::string& name) {
        return loop_->run(live_->run(std::make_shared<ActiveCommit>(
            *loop_,
            MirrorOptions{.target = open(name, "raw", false, false, false),
                          .finish = Finish::Pivot},
            UniqueFd())));
    };
    ASSERT_TRUE(loop_->run(make("other", "raw")->close()).ok());
    EXPECT_EQ(commit("other").error().kind(), ErrorKind::WrongState);
    // A layer that came over the disk after somebody looked which one is below.
    ASSERT_TRUE(
        loop_
            ->run(create_image(*loop_, "qcow2", {path("newer"), kSize, backed_by("over", "qcow2")}))
            .ok());
    NodePtr newer = open("newer", "qcow2", false, false);
    ASSERT_TRUE(loop_->run(newer->change_backing(live_->disk_ptr(), path("over"), "qcow2")).ok());
    live_->replace(newer);
    EXPECT_EQ(commit("base").error().kind(), ErrorKind::WrongState);
    ASSERT_NE(live_->disk().backing(), nullptr);
    EXPECT_EQ(live_->disk().backing()->name(), path("over"));
    EXPECT_TRUE(content(live_->disk()) == expected_);
}

TEST_F(LiveTest, JobsSeeTheDiskAsItIsWhenTheyBegin) {
    use(make("disk", "raw"));
    fill(live_->disk(), 14);
    Result<> done = ok();
    {
        const auto pass = loop_->run(live_->gate().exclusive());
        const auto job =
            std::make_shared<Mirror>(*loop_, MirrorOptions{.target = make("copy", "raw"),
                                                           .target_zero = true,
                                                           .finish = Finish::Keep});
        loop_->spawn(live_->run(job), [&](Result<> result) { done = std::move(result); });
        ASSERT_TRUE(loop_->run(pause(1)).ok());
        ASSERT_TRUE(loop_->run(live_->disk().resize(kSize * 2, Preallocation::Off)).ok());
    }
    while (live_->job() != nullptr) {
        ASSERT_TRUE(loop_->run(pause(1)).ok());
    }
    EXPECT_EQ(done.error().kind(), ErrorKind::InvalidArgument);
}

TEST_F(LiveTest, MirrorForgetsTheLayerBelowItsTarget) {
    NodePtr base = make("base", "raw");
    const std::vector<std::byte> other(kSize, std::byte{0x55});
    ASSERT_TRUE(loop_->run(base->write(0, Buffers::of(other))).ok());
    ASSERT_TRUE(loop_->run(base->close()).ok());
    base.reset();
    use(make("disk", "raw"));
    fill(live_->disk(), 15);
    (void)make("copy", "qcow2", {{"backing_file", "base"}, {"backing_fmt", "raw"}});
    ASSERT_TRUE(loop_
                    ->run(live_->run(std::make_shared<Mirror>(
                        *loop_, MirrorOptions{.target = open("copy", "qcow2", false, false),
                                              .finish = Finish::Keep})))
                    .ok());
    NodePtr copy = open("copy", "qcow2", true);
    EXPECT_EQ(copy->backing(), nullptr);
    EXPECT_TRUE(content(*copy) == expected_);
}

TEST_F(LiveTest, AGuestsLongWriteIsCopiedInPieces) {
    const auto spy = std::make_shared<Spy>(make("disk", "raw"));
    use(spy);
    fill(live_->disk(), 16);
    const auto job = std::make_shared<Mirror>(*loop_, MirrorOptions{.target = make("copy", "raw")});
    Result<> done = ok();
    loop_->spawn(live_->run(job), [&](Result<> result) { done = std::move(result); });
    while (live_->job() != nullptr && !job->ready()) {
        ASSERT_TRUE(loop_->run(pause(1)).ok());
    }
    expected_.assign(kSize, std::byte{7});
    ASSERT_TRUE(loop_->run(guest(1, 0, expected_)).ok());
    ASSERT_TRUE(job->complete(Finish::Keep).ok());
    while (live_->job() != nullptr) {
        ASSERT_TRUE(loop_->run(pause(1)).ok());
    }
    ASSERT_TRUE(done.ok()) << done.error().text();
    EXPECT_LE(spy->largest, 1U << 20);
    EXPECT_TRUE(content(*open("copy", "raw", true)) == expected_);
}

TEST_F(LiveTest, BackupThatCannotBeginGivesTheBitmapBack) {
    const auto spy = std::make_shared<Spy>(make("disk", "qcow2"));
    use(spy);
    ASSERT_TRUE(loop_->run(spy->store_bitmap(empty_bitmap("b", kSize, 65536, true))).ok());
    fill(live_->disk(), 17);
    const auto before = loop_->run(spy->read_bitmap("b"));
    ASSERT_TRUE(before.ok());
    spy->full = true;
    EXPECT_FALSE(loop_
                     ->run(live_->run(std::make_shared<Backup>(
                         *loop_, BackupOptions{.target = make("copy", "raw"),
                                               .target_zero = true,
                                               .bitmap = "b",
                                               .incremental = true})))
                     .ok());
    const auto after = loop_->run(spy->read_bitmap("b"));
    ASSERT_TRUE(after.ok());
    EXPECT_EQ(after->bits, before->bits);
}

TEST_F(LiveTest, StreamWouldSpoilInternalSnapshots) {
    ASSERT_TRUE(loop_->run(make("base", "raw")->close()).ok());
    use(make("over", "qcow2", {{"backing_file", "base"}, {"backing_fmt", "raw"}}));
    SnapshotInfo snapshot;
    snapshot.name = "s";
    snapshot.disk_size = kSize;
    ASSERT_TRUE(loop_->run(live_->disk().create_snapshot(snapshot)).ok());
    const Result<> done = loop_->run(live_->run(std::make_shared<Stream>(*loop_, 0)));
    EXPECT_EQ(done.error().kind(), ErrorKind::WrongState);
    EXPECT_NE(live_->disk().backing(), nullptr);
}

TEST_F(LiveTest, RefusedJobsLetGoOfTheirTargets) {
    use(make("disk", "raw"));
    live_->end_job();
    const auto job = std::make_shared<Mirror>(*loop_, MirrorOptions{.target = make("copy", "raw")});
    const auto backup =
        std::make_shared<Backup>(*loop_, BackupOptions{.target = make("second", "raw")});
    EXPECT_FALSE(loop_->run(live_->run(job)).ok());
    EXPECT_FALSE(loop_->run(live_->run(backup)).ok());
    for (const char* name : {"copy", "second"}) {  // not locked any more
        EXPECT_TRUE(loop_->run(open(name, "raw", false)->close()).ok());
    }
}

TEST_F(LiveTest, OneJobAtATime) {
    use(make("disk", "raw"));
    const auto first = std::make_shared<Mirror>(
        *loop_, MirrorOptions{.target = make("copy", "raw"), .target_zero = true});
    Result<> ended = ok();
    loop_->spawn(live_->run(first), [&](Result<> result) { ended = std::move(result); });
    ASSERT_TRUE(loop_->run(pause(1)).ok());
    EXPECT_FALSE(loop_->run(live_->run(std::make_shared<Stream>(*loop_, 0))).ok());
    live_->end_job();
    while (live_->job() != nullptr) {
        ASSERT_TRUE(loop_->run(pause(1)).ok());
    }
    EXPECT_FALSE(ended.ok());
}

}  // namespace
}  // namespace strata::block
