// LogicalUnit, DiskUnit, CdUnit: commands and what they answer.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "scsi/absent_unit.h"
#include "scsi/cd_unit.h"
#include "scsi/disk_unit.h"

namespace strata::scsi {
namespace {

constexpr std::size_t kSize = 1 << 20;

std::unique_ptr<block::DiskImage> image(bool read_only, int fd) {
    block::DiskOptions options;
    options.path = "test";
    options.fd = UniqueFd(::dup(fd));
    options.read_only = read_only;
    options.lock = false;
    return block::open_disk(std::move(options)).value();
}

/// One unit, and commands run to their end.
class UnitTest : public testing::Test {
  protected:
    void SetUp() override {
        file_.reset(::memfd_create("disk", MFD_CLOEXEC));
        ASSERT_EQ(::ftruncate(file_.get(), kSize), 0);
    }
    void disk(bool read_only = false) {
        unit_ = DiskUnit::create({.serial = "strata-disk7"}, image(read_only, file_.get())).value();
        (void)run({0});
    }
    void cd() {
        unit_ = CdUnit::create({.serial = "strata-cd"}, image(true, file_.get())).value();
        (void)run({0});
    }
    /// Key, code and qualifier; all 0 for good status.
    Sense run(const std::vector<std::uint8_t>& cdb, std::size_t wanted = 0) {
        in_.assign(wanted, 0xee);
        Task task{.token = 9};
        std::copy(cdb.begin(), cdb.end(), task.cdb.begin());
        if (wanted != 0) {
            task.in.push_back({in_.data(), wanted});
        }
        if (!out_.empty()) {
            task.out.push_back({out_.data(), out_.size()});
        }
        unit_->submit(std::move(task));
        std::vector<Completion> done;
        unit_->kick();
        unit_->reap(done);
        while (done.empty()) {
            unit_->wait();
            unit_->reap(done);
        }
        last_ = done.front();
        EXPECT_EQ(last_.token, 9U);
        EXPECT_EQ(unit_->in_flight(), 0U);
        return last_.status == Status::Good
                   ? sense::kNone
                   : Sense{static_cast<SenseKey>(last_.sense[2]), last_.sense[12], last_.sense[13]};
    }
    void fill(std::size_t bytes, std::uint8_t value) { out_.assign(bytes, value); }
    [[nodiscard]] int byte_at(off_t offset) const {
        std::uint8_t value = 0;
        return ::pread(file_.get(), &value, 1, offset) == 1 ? value : -1;
    }

    UniqueFd file_;
    std::unique_ptr<LogicalUnit> unit_;
    std::vector<std::uint8_t> in_, out_;
    Completion last_;
};

TEST_F(UnitTest, InquiryNamesTheDisk) {
    disk();
    EXPECT_EQ(run({0x12, 0, 0, 0, 96, 0}, 96), sense::kNone);
    EXPECT_EQ(last_.moved, 96U);
    EXPECT_EQ(in_[0], 0);
    EXPECT_EQ(std::string(in_.begin() + 8, in_.begin() + 20), "STRATA  Disk");
    EXPECT_EQ(run({0x12, 0, 0, 0, 5, 0}, 96), sense::kNone);
    EXPECT_EQ(last_.moved, 5U);
}

TEST_F(UnitTest, VitalProductPagesAreListedAndThere) {
    disk();
    EXPECT_EQ(run({0x12, 1, 0, 0, 255, 0}, 255), sense::kNone);
    EXPECT_EQ(std::vector<std::uint8_t>(in_.begin() + 4, in_.begin() + 10),
              (std::vector<std::uint8_t>{0, 0x80, 0x83, 0xb0, 0xb1, 0xb2}));
    EXPECT_EQ(run({0x12, 1, 0x80, 0, 255, 0}, 255), sense::kNone);
    EXPECT_EQ(std::string(in_.begin() + 4, in_.begin() + 16), "strata-disk7");
    EXPECT_EQ(run({0x12, 1, 0xb0, 0, 255, 0}, 255), sense::kNone);
    EXPECT_EQ(last_.moved, 64U);
    EXPECT_EQ(run({0x12, 1, 0x77, 0, 255, 0}, 255), sense::kInvalidField);
}

TEST_F(UnitTest, CapacityIsTheLastBlock) {
    disk();
    EXPECT_EQ(run({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 8), sense::kNone);
    EXPECT_EQ(get_be(in_, 0, 4), kSize / 512 - 1);
    EXPECT_EQ(run({0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0}, 32), sense::kNone);
    EXPECT_EQ(get_be(in_, 0, 8), kSize / 512 - 1);
    EXPECT_EQ(run({0x9e, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0}, 32),
              sense::kInvalidOpcode);
}

TEST_F(UnitTest, EveryFormOfReadAndWriteFindsTheSameBlock) {
    disk();
    fill(512, 0x11);
    EXPECT_EQ(run({0x0a, 0, 0, 4, 1, 0}), sense::kNone);
    fill(512, 0x22);
    EXPECT_EQ(run({0x2a, 0x08, 0, 0, 0, 5, 0, 0, 1, 0}), sense::kNone);
    fill(512, 0x33);
    EXPECT_EQ(run({0xaa, 0, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0}), sense::kNone);
    fill(512, 0x44);
    EXPECT_EQ(run({0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0}), sense::kNone);
    out_.clear();
    EXPECT_EQ(run({0x08, 0, 0, 4, 1, 0}, 512), sense::kNone);
    EXPECT_EQ(in_[511], 0x11);
    EXPECT_EQ(run({0x28, 0, 0, 0, 0, 5, 0, 0, 1, 0}, 512), sense::kNone);
    EXPECT_EQ(in_[0], 0x22);
    EXPECT_EQ(run({0xa8, 0, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0}, 512), sense::kNone);
    EXPECT_EQ(in_[0], 0x33);
    EXPECT_EQ(run({0x88, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0}, 512), sense::kNone);
    EXPECT_EQ(in_[0], 0x44);
}

TEST_F(UnitTest, BlocksPastTheEndAreRefused) {
    disk();
    EXPECT_EQ(run({0x28, 0, 0, 0, 8, 0, 0, 0, 1, 0}, 512), sense::kOutOfRange);
    EXPECT_EQ(run({0x88, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 0}, 512),
              sense::kOutOfRange);
    EXPECT_EQ(run({0x28, 0, 0, 0, 8, 0, 0, 0, 0, 0}), sense::kNone);  // none of them, at the end
}

TEST_F(UnitTest, ReadOnlyDiskRefusesWrites) {
    disk(true);
    fill(512, 1);
    EXPECT_EQ(run({0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0}), sense::kWriteProtected);
    out_.clear();
    EXPECT_EQ(run({0x1a, 0, 0x3f, 0, 255, 0}, 255), sense::kNone);
    EXPECT_EQ(in_[2] & 0x80, 0x80);
}

TEST_F(UnitTest, WriteSameWritesZerosAndPatterns) {
    disk();
    fill(512, 0x5a);
    EXPECT_EQ(run({0x93, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0}), sense::kNone);
    EXPECT_EQ(byte_at(511), 0);
    EXPECT_EQ(byte_at(512), 0x5a);
    EXPECT_EQ(byte_at(512 * 257 - 1), 0x5a);
    EXPECT_EQ(byte_at(512 * 257), 0);
    fill(512, 0);
    EXPECT_EQ(run({0x41, 0x08, 0, 0, 0, 2, 0, 0, 1, 0}), sense::kNone);
    EXPECT_EQ(byte_at(1024), 0);
    EXPECT_EQ(byte_at(1536), 0x5a);
    EXPECT_EQ(run({0x41, 0, 0, 0, 0, 2, 0, 0, 0, 0}), sense::kInvalidField);
}

TEST_F(UnitTest, UnmapTakesAListOfRanges) {
    disk();
    fill(8 + 16, 0);
    put_be(out_, 0, 2, 22);
    put_be(out_, 2, 2, 16);
    put_be(out_, 8, 8, 8);
    put_be(out_, 16, 4, 8);
    EXPECT_EQ(run({0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}), sense::kNone);
    put_be(out_, 8, 8, kSize / 512);
    EXPECT_EQ(run({0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}), sense::kOutOfRange);
    put_be(out_, 2, 2, 32);
    EXPECT_EQ(run({0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}), sense::kParameterListLength);
    EXPECT_EQ(run({0x42, 0, 0, 0, 0, 0, 0, 0, 7, 0}), sense::kParameterListLength);
}

TEST_F(UnitTest, VerifyComparesWhenAsked) {
    disk();
    fill(65536 + 512, 0);
    EXPECT_EQ(run({0x2f, 0x02, 0, 0, 0, 0, 0, 0, 129, 0}), sense::kNone);
    out_[65536 + 3] = 1;
    EXPECT_EQ(run({0x2f, 0x02, 0, 0, 0, 0, 0, 0, 129, 0}), sense::kMiscompare);
    EXPECT_EQ(get_be(last_.sense, 3, 4), 65539U);
    EXPECT_EQ(run({0x2f, 0, 0, 0, 0, 0, 0, 0, 129, 0}), sense::kNone);
}

TEST_F(UnitTest, ModePagesCanBeReadAndOnlyConfirmed) {
    disk();
    EXPECT_EQ(run({0x5a, 0, 0x08, 0, 0, 0, 0, 0, 255, 0}, 255), sense::kNone);
    EXPECT_EQ(last_.moved, 8U + 8 + 20);
    EXPECT_EQ(in_[16], 0x08);
    EXPECT_EQ(in_[18] & 4, 4);
    out_.assign(8, 0);
    out_.insert(out_.end(), in_.begin() + 16, in_.begin() + 36);
    EXPECT_EQ(run({0x55, 0x10, 0, 0, 0, 0, 0, 0, 28, 0}), sense::kNone);
    out_[10] = 0;
    EXPECT_EQ(run({0x55, 0x10, 0, 0, 0, 0, 0, 0, 28, 0}), sense::kInvalidParameter);
    EXPECT_EQ(run({0x55, 0x10, 0, 0, 0, 0, 0, 0, 12, 0}), sense::kInvalidParameter);
    EXPECT_EQ(run({0x55, 0x10, 0, 0, 0, 0, 0, 0, 3, 0}), sense::kParameterListLength);
    EXPECT_EQ(run({0x1a, 0, 0xff, 0, 255, 0}, 255), sense::kSavingNotSupported);
}

TEST_F(UnitTest, SupportedCommandsAreReported) {
    disk();
    EXPECT_EQ(run({0xa3, 0x0c, 3, 0x93, 0, 0, 0, 0, 0, 64, 0, 0}, 64), sense::kNone);
    EXPECT_EQ(in_[1], 3);
    EXPECT_EQ(in_[3], 16);
    EXPECT_EQ(run({0xa3, 0x0c, 3, 0x77, 0, 0, 0, 0, 0, 64, 0, 0}, 64), sense::kNone);
    EXPECT_EQ(in_[1], 1);
    EXPECT_EQ(run({0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0}, 1024), sense::kNone);
    EXPECT_EQ(get_be(in_, 0, 4) + 4, last_.moved);
}

TEST_F(UnitTest, UnknownCommandsAreRefused) {
    disk();
    EXPECT_EQ(run({0xff}), sense::kInvalidOpcode);
    EXPECT_EQ(run({0x43, 0, 0, 0, 0, 0, 0, 0, 20, 0}, 20), sense::kInvalidOpcode);
}

TEST_F(UnitTest, AttentionIsToldOnce) {
    disk();
    unit_->attention(sense::kCapacityChanged);
    EXPECT_EQ(run({0x12, 0, 0, 0, 96, 0}, 96), sense::kNone);
    EXPECT_EQ(run({0}), sense::kCapacityChanged);
    EXPECT_EQ(run({0}), sense::kNone);
    unit_->reset();
    EXPECT_EQ(run({0x03, 0, 0, 0, 18, 0}, 18), sense::kNone);
    EXPECT_EQ(in_[12], 0x29);
    EXPECT_EQ(run({0}), sense::kNone);
}

TEST_F(UnitTest, DriveReadsBlocksOf2048) {
    cd();
    ASSERT_EQ(::pwrite(file_.get(), "CD001", 5, 16 * 2048), 5);
    EXPECT_EQ(run({0x28, 0, 0, 0, 0, 16, 0, 0, 1, 0}, 2048), sense::kNone);
    EXPECT_EQ(std::string(in_.begin(), in_.begin() + 5), "CD001");
    EXPECT_EQ(run({0xbe, 0, 0, 0, 0, 16, 0, 0, 1, 0x10, 0, 0}, 2048), sense::kNone);
    EXPECT_EQ(in_[0], 'C');
    EXPECT_EQ(run({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 8), sense::kNone);
    EXPECT_EQ(get_be(in_, 0, 4), kSize / 2048 - 1);
    EXPECT_EQ(get_be(in_, 4, 4), 2048U);
    EXPECT_EQ(run({0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0}), sense::kInvalidOpcode);
}

TEST_F(UnitTest, TableOfContentsHasOneTrackAndTheEnd) {
    cd();
    EXPECT_EQ(run({0x43, 0, 0, 0, 0, 0, 0, 0, 64, 0}, 64), sense::kNone);
    EXPECT_EQ(last_.moved, 20U);
    EXPECT_EQ(in_[6], 1);
    EXPECT_EQ(in_[14], 0xaa);
    EXPECT_EQ(get_be(in_, 16, 4), kSize / 2048);
    EXPECT_EQ(run({0x43, 2, 0, 0, 0, 0, 0xaa, 0, 12, 0}, 12), sense::kNone);
    EXPECT_EQ(get_be(in_, 8, 4), 0x00083eU);  // 512 + 150 blocks: 0:08:62
    EXPECT_EQ(run({0x43, 0, 2, 0, 0, 0, 0, 0, 12, 0}, 12), sense::kInvalidField);
}

TEST_F(UnitTest, TrayOpensUnlessLocked) {
    cd();
    EXPECT_EQ(run({0x1e, 0, 0, 0, 1, 0}), sense::kNone);
    EXPECT_EQ(run({0x1b, 0, 0, 0, 2, 0}), sense::kRemovalPrevented);
    EXPECT_EQ(run({0x1e, 0, 0, 0, 0, 0}), sense::kNone);
    EXPECT_EQ(run({0x1b, 0, 0, 0, 2, 0}), sense::kNone);
    EXPECT_EQ(run({0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, 2048), sense::kNoMediumTrayOpen);
    EXPECT_EQ(run({0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0}, 8), sense::kNone);
    EXPECT_EQ(in_[4], 3);
    EXPECT_EQ(in_[5], 1);
    EXPECT_EQ(run({0x1b, 0, 0, 0, 3, 0}), sense::kNone);
    EXPECT_EQ(run({0}), sense::kMediumChanged);
    EXPECT_EQ(run({0}), sense::kNone);
}

TEST_F(UnitTest, ConfigurationNamesTheCurrentProfile) {
    cd();
    EXPECT_EQ(run({0x46, 0, 0, 0, 0, 0, 0, 1, 0, 0}, 256), sense::kNone);
    EXPECT_EQ(get_be(in_, 6, 2), 8U);
    EXPECT_EQ(get_be(in_, 0, 4) + 4, last_.moved);
    EXPECT_EQ(run({0x46, 2, 0, 3, 0, 0, 0, 1, 0, 0}, 256), sense::kNone);
    EXPECT_EQ(last_.moved, 16U);
    EXPECT_EQ(run({0x46, 3, 0, 3, 0, 0, 0, 1, 0, 0}, 256), sense::kInvalidField);
}

TEST_F(UnitTest, EmptyDriveSaysSo) {
    unit_ = CdUnit::create({}, nullptr).value();
    (void)run({0});
    EXPECT_EQ(run({0}), sense::kNoMedium);
    EXPECT_EQ(run({0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, 2048), sense::kNoMedium);
    EXPECT_EQ(run({0x12, 0, 0, 0, 36, 0}, 36), sense::kNone);
}

TEST_F(UnitTest, OwnerChangesDiscs) {
    unit_ = CdUnit::create({.serial = "strata-cd"}, nullptr).value();
    auto& drive = static_cast<CdUnit&>(*unit_);
    (void)run({0});
    EXPECT_EQ(run({0}), sense::kNoMedium);
    const auto insert = [&](int file) {
        auto disc = image(true, file);
        auto queue = drive.open_disc(*disc).value();
        drive.change_medium(std::move(disc), std::move(queue));
    };
    insert(file_.get());
    EXPECT_EQ(run({0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0}, 8), sense::kNone);
    EXPECT_EQ(in_[4], 2);  // a new disc
    EXPECT_EQ(in_[5], 2);
    EXPECT_EQ(run({0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, 2048), sense::kMediumChanged);
    EXPECT_EQ(run({0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, 2048), sense::kNone);
    const UniqueFd second(::memfd_create("second", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(second.get(), 4096), 0);
    ASSERT_EQ(::pwrite(second.get(), "second", 6, 0), 6);
    insert(second.get());
    EXPECT_EQ(run({0}), sense::kMediumChanged);
    EXPECT_EQ(run({0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, 2048), sense::kNone);
    EXPECT_EQ(std::string(in_.begin(), in_.begin() + 6), "second");
    EXPECT_EQ(run({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 8), sense::kNone);
    EXPECT_EQ(get_be(in_, 0, 4), 1U);
    drive.change_medium(nullptr, nullptr);
    EXPECT_EQ(run({0}), sense::kNoMediumTrayOpen);
    EXPECT_EQ(run({0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0}, 8), sense::kNone);
    EXPECT_EQ(in_[4], 3);
    EXPECT_EQ(in_[5], 1);
    EXPECT_EQ(run({0x1b, 0, 0, 0, 3, 0}), sense::kNone);  // the guest shuts it
    EXPECT_EQ(run({0}), sense::kNoMedium);
}

TEST_F(UnitTest, LockedTrayIsAskedForOnce) {
    cd();
    auto& drive = static_cast<CdUnit&>(*unit_);
    EXPECT_EQ(run({0x1e, 0, 0, 0, 1, 0}), sense::kNone);
    const auto refused = drive.open_tray_for_owner(false);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().kind(), ErrorKind::WrongState);
    EXPECT_TRUE(drive.open_tray_for_owner(true).ok());
    state::StateWriter writer;  // the question goes along with the state
    writer.begin("unit", 1);
    unit_->save(writer);
    writer.end();
    cd();
    state::StateReader reader(writer.bytes());
    ASSERT_TRUE(reader.begin("unit", 1).ok());
    unit_->load(reader);
    ASSERT_TRUE(reader.end().ok());
    auto& other = static_cast<CdUnit&>(*unit_);
    EXPECT_EQ(run({0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0}, 8), sense::kNone);
    EXPECT_EQ(in_[4], 1);
    EXPECT_EQ(run({0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0}, 8), sense::kNone);
    EXPECT_EQ(in_[4], 0);
    EXPECT_FALSE(other.open_tray_for_owner(false).ok());
    EXPECT_EQ(run({0x1e, 0, 0, 0, 0, 0}), sense::kNone);
    EXPECT_TRUE(other.open_tray_for_owner(false).ok());
    EXPECT_EQ(run({0x1b, 0, 0, 0, 2, 0}), sense::kNone);
    EXPECT_EQ(run({0x1e, 0, 0, 0, 1, 0}), sense::kNone);  // locked, but open
    EXPECT_TRUE(other.open_tray_for_owner(false).ok());
}

TEST_F(UnitTest, AbsentUnitAnswersForItsTarget) {
    unit_ = std::make_unique<AbsentUnit>();
    (void)run({0});
    EXPECT_EQ(run({0}), sense::kNoSuchUnit);
    EXPECT_EQ(run({0x12, 0, 0, 0, 36, 0}, 36), sense::kNone);
    EXPECT_EQ(in_[0], 0x7f);
}

TEST_F(UnitTest, StateOfADriveContinues) {
    cd();
    EXPECT_EQ(run({0x1e, 0, 0, 0, 1, 0}), sense::kNone);
    unit_->attention(sense::kMediumChanged);
    state::StateWriter writer;
    writer.begin("unit", 1);
    unit_->save(writer);
    writer.end();
    cd();
    state::StateReader reader(writer.bytes());
    ASSERT_TRUE(reader.begin("unit", 1).ok());
    unit_->load(reader);
    ASSERT_TRUE(reader.end().ok());
    EXPECT_EQ(run({0}), sense::kMediumChanged);
    EXPECT_EQ(run({0x1b, 0, 0, 0, 2, 0}), sense::kRemovalPrevented);
}

}  // namespace
}  // namespace strata::scsi
