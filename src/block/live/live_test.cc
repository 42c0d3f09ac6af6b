// Jobs on a disk in use: what the copies hold while somebody writes.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "block/live/live_fixture.h"

namespace strata::block {
namespace {

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

TEST_F(LiveTest, StreamThatWasKilledGoesOnWhereItWas) {
    {
        NodePtr base = make("base", "raw");
        fill(*base, 21);
        ASSERT_TRUE(loop_->run(base->close()).ok());
    }
    use(make("over", "qcow2", {{"backing_file", "base"}, {"backing_fmt", "raw"}}));
    const auto killed = std::make_shared<Stream>(*loop_, 8 << 20, std::chrono::milliseconds(0));
    // What the file has in the midst of it is what a kill leaves.
    loop_->spawn([](Loop& loop, LiveJob& one, std::string from, std::string to) -> Task<> {
        while (one.done() < kSize / 2) {
            co_await loop.sleep(std::chrono::milliseconds(1));
        }
        std::filesystem::copy_file(from, to);
        one.cancel();
        co_return ok();
    }(*loop_, *killed, path("over"), path("left")));
    EXPECT_FALSE(loop_->run(live_->run(killed)).ok());
    ASSERT_TRUE(loop_->run(live_->disk().close()).ok());
    use(open("left", "qcow2", false));
    EXPECT_TRUE(content(live_->disk()) == expected_);
    std::uint64_t there = 0;
    for (std::uint64_t at = 0; at < kSize;) {
        const auto extent = loop_->run(live_->disk().status(at, kSize - at));
        ASSERT_TRUE(extent.ok());
        there += extent->kind == Extent::Kind::Data ? extent->length : 0;
        at += extent->length;
    }
    EXPECT_GT(there, kSize / 8);
    ASSERT_TRUE(loop_->run(live_->run(std::make_shared<Stream>(*loop_, 0))).ok());
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

TEST_F(LiveTest, BackupThatCannotRenewItsBitmapTakesNothingFromIt) {
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

// Else a loss of power takes what the next incremental backup does not copy again.
TEST_F(LiveTest, ABackupIsDurableBeforeItsBitmapStartsAnew) {
    const auto disk = std::make_shared<Spy>(make("disk", "qcow2"));
    disk->log = std::make_shared<std::string>();
    use(disk);
    for (const char* format : {"raw", "qcow2"}) {
        for (const bool broken : {true, false}) {
            SCOPED_TRACE(fmt::format("{}{}", format, broken ? ", which cannot flush" : ""));
            ASSERT_TRUE(loop_->run(disk->store_bitmap(empty_bitmap("b", kSize, 65536, true))).ok());
            fill(*disk, 19);
            const auto before = loop_->run(disk->read_bitmap("b"));
            ASSERT_TRUE(before.ok());
            ASSERT_TRUE(loop_->run(make("copy", format)->close()).ok());
            const auto below = std::make_shared<Spy>(open("copy", "file", false));
            OpenOptions options;
            options.path = path("copy");
            options.format = format;
            auto target = loop_->run(open_format(below, std::move(options)));
            ASSERT_TRUE(target.ok()) << target.error().text();
            disk->log->clear();
            below->log = disk->log;
            below->broken = broken;
            const Result<> done = loop_->run(live_->run(
                std::make_shared<Backup>(*loop_, BackupOptions{.target = std::move(*target),
                                                               .target_zero = true,
                                                               .bitmap = "b",
                                                               .incremental = true})));
            EXPECT_EQ(done.ok(), !broken);
            const auto after = loop_->run(disk->read_bitmap("b"));
            ASSERT_TRUE(after.ok());
            EXPECT_EQ(after->bits == before->bits, broken);
            const auto renewed = disk->log->find('b');
            EXPECT_EQ(renewed == std::string::npos, broken) << *disk->log;
            if (!broken) {
                ASSERT_GT(renewed, 1U);
                EXPECT_EQ((*disk->log)[renewed - 1], 'f') << *disk->log;
            }
        }
    }
}

TEST_F(LiveTest, CrashDuringABackupTakesNothingFromTheBitmap) {
    {
        NodePtr disk = make("disk", "qcow2");
        ASSERT_TRUE(loop_->run(disk->store_bitmap(empty_bitmap("b", kSize, 65536, true))).ok());
        fill(*disk, 18);
        ASSERT_TRUE(loop_->run(disk->close()).ok());
    }
    const auto before = loop_->run(open("disk", "qcow2", true)->read_bitmap("b"));
    ASSERT_TRUE(before.ok() && dirty_bytes(*before) != 0);
    use(open("disk", "qcow2", false));
    const auto job = std::make_shared<Backup>(*loop_, BackupOptions{.target = make("copy", "raw"),
                                                                    .target_zero = true,
                                                                    .bitmap = "b",
                                                                    .incremental = true,
                                                                    .speed = 1 << 18});
    // What the file has in the midst of it is what a crash leaves.
    std::filesystem::path left = folder_ / "left";
    loop_->spawn([](Loop& loop, LiveJob& one, std::string from, std::string to) -> Task<> {
        while (one.done() == 0) {
            co_await loop.sleep(std::chrono::milliseconds(1));
        }
        std::filesystem::copy_file(from, to);
        one.cancel();
        co_return ok();
    }(*loop_, *job, path("disk"), left.string()));
    EXPECT_FALSE(loop_->run(live_->run(job)).ok());
    const auto after = loop_->run(open("left", "qcow2", true)->read_bitmap("b"));
    ASSERT_TRUE(after.ok()) << after.error().text();
    EXPECT_EQ(after->bits, before->bits);
}

TEST_F(LiveTest, FullBackupMakesABrokenBitmapAnew) {
    {
        NodePtr disk = make("disk", "qcow2");
        ASSERT_TRUE(loop_->run(disk->store_bitmap(empty_bitmap("b", kSize, 65536, true))).ok());
        fill(*disk, 19);
        ASSERT_TRUE(loop_->run(disk->flush()).ok());
    }  // not closed: the bitmap is lost
    use(open("disk", "qcow2", false));
    ASSERT_TRUE(loop_->run(live_->disk().bitmaps())->front().in_use);
    ASSERT_TRUE(
        loop_
            ->run(live_->run(std::make_shared<Backup>(
                *loop_,
                BackupOptions{.target = make("full", "raw"), .target_zero = true, .bitmap = "b"})))
            .ok());
    EXPECT_TRUE(content(*open("full", "raw", true)) == expected_);
    const auto after = loop_->run(live_->disk().read_bitmap("b"));
    ASSERT_TRUE(after.ok()) << after.error().text();
    EXPECT_EQ(dirty_bytes(*after), 0U);
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
