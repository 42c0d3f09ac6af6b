// AhciController: a driver's commands to a disk and a drive.
#include "devices/storage/ahci.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/live_image.h"
#include "devices/storage/ahci_wire.h"
#include "devices/storage/ata_disk.h"
#include "devices/storage/atapi_drive.h"
#include "memory/guest_ram.h"

namespace strata::devices {
namespace {

using namespace ahci;
using memory::GuestAddress;

constexpr std::uint64_t kList = 0x1000, kReceived = 0x2000, kTables = 0x10000, kData = 0x40000;
constexpr std::uint64_t kTableStride = 0x1000;
constexpr std::uint64_t kDiskSize = 1 << 20;

struct NoMessages final : bus::MsiSink {
    void send(const bus::MsiMessage& /*message*/) override {}
};
struct Line final : bus::IrqLine {
    void set(bool asserted) override { level = asserted; }
    bool level = false;
};

class AhciTest : public testing::Test {
  protected:
    void SetUp() override {
        ram_ = memory::GuestRam::create(1 << 20, 1 << 20).value();
        file_.reset(::memfd_create("disk", MFD_CLOEXEC));
        ASSERT_EQ(::ftruncate(file_.get(), kDiskSize), 0);
        loop_ = io::EventLoop::create().value();
        make();
        start(0);
        start(1);
    }
    void make() {
        const auto image = [this](bool read_only) {
            block::DiskOptions options;
            options.path = "test";
            options.fd = UniqueFd(::dup(file_.get()));
            options.read_only = read_only;
            options.lock = false;
            return block::open_disk(std::move(options)).value();
        };
        std::vector<std::unique_ptr<AtaDevice>> devices;
        devices.push_back(AtaDisk::create({.serial = "S1"}, image(false)).value());
        devices.push_back(std::make_unique<AtapiDrive>(
            scsi::CdUnit::create({.serial = "S2"}, image(true)).value(), "S2"));
        ahci_ = AhciController::create(std::move(devices), *ram_, *loop_).value();
        ahci_->connect(messages_, line_);
    }
    void write(std::uint64_t offset, std::uint32_t value) {
        const Le32 wire(value);
        ahci_->bar_write(5, offset, std::as_bytes(std::span(&wire, 1)));
    }
    std::uint32_t read(std::uint64_t offset) {
        Le32 wire(0xffffffffU);
        ahci_->bar_read(5, offset, std::as_writable_bytes(std::span(&wire, 1)));
        return wire;
    }
    static std::uint64_t at(unsigned port, std::uint64_t offset) {
        return Global::kFirstPort + port * Global::kPortStride + offset;
    }
    void start(unsigned port) {
        write(Global::kControl, Global::kAhciEnable | Global::kInterruptEnable);
        write(at(port, PortRegister::kListLow), kList + port * 0x400);
        write(at(port, PortRegister::kFisLow), kReceived + port * 0x100);
        write(at(port, PortRegister::kEnable), 0xffffffff);
        write(at(port, PortRegister::kCommand), 0x10);
        write(at(port, PortRegister::kCommand), 0x11);
    }
    /// Lays a command out in `slot`; its data of `bytes` is at kData.
    void lay(unsigned port, unsigned slot, std::array<std::uint8_t, 20> fis, std::uint32_t bytes,
             std::uint16_t flags = 0, std::uint64_t data = kData) {
        const std::uint64_t table = kTables + slot * kTableStride;
        CommandHeader header{};
        header.flags = static_cast<std::uint16_t>(5 | flags);
        header.entries = static_cast<std::uint16_t>(bytes != 0 ? 1 : 0);
        header.table = table;
        put(kList + port * 0x400 + slot * 32, header);
        fis[0] = 0x27;
        fis[1] |= 0x80;
        put(table, fis);
        if (bytes != 0) {
            put(table + kEntriesPlace, MemoryEntry{data, 0U, bytes - 1});
        }
    }
    bool run(unsigned port, std::uint32_t slots) {
        write(at(port, PortRegister::kIssue), slots);
        const auto open = [&] {
            return (read(at(port, PortRegister::kIssue)) & slots) != 0 ||
                   (read(at(port, PortRegister::kActive)) & slots) != 0;
        };
        for (int round = 0;
             round < 200 && open() && (read(at(port, PortRegister::kStatus)) & 0x7c000000) == 0;
             ++round) {
            loop_->run_once(std::chrono::milliseconds(10));
        }
        return !open();
    }
    bool command(std::uint8_t code, std::uint64_t lba, std::uint16_t count, std::uint32_t bytes,
                 std::uint16_t flags = 0, std::uint8_t features = 0) {
        lay(0, 0,
            {0, 0, code, features, static_cast<std::uint8_t>(lba),
             static_cast<std::uint8_t>(lba >> 8), static_cast<std::uint8_t>(lba >> 16), 0x40, 0, 0,
             0, 0, static_cast<std::uint8_t>(count), static_cast<std::uint8_t>(count >> 8)},
            bytes, flags);
        return run(0, 1);
    }
    /// True with good status.
    bool packet(std::initializer_list<std::uint8_t> cdb, std::uint32_t bytes) {
        lay(1, 0, {0, 0, 0xa0, 1}, bytes, kHeaderAtapi);
        std::array<std::uint8_t, 16> whole{};
        std::copy(cdb.begin(), cdb.end(), whole.begin());
        put(kTables + kPacketPlace, whole);
        const bool done = run(1, 1);
        if (!done) {  // the driver's way out of an error
            write(at(1, PortRegister::kCommand), 0x10);
            write(at(1, PortRegister::kStatus), 0xffffffff);
            write(at(1, PortRegister::kCommand), 0x11);
        }
        return done;
    }
    template <typename T>
    void put(std::uint64_t address, const T& value) {
        ASSERT_TRUE(ram_->store(GuestAddress(address), value).ok());
    }
    template <typename T>
    T get(std::uint64_t address) {
        return *ram_->load<T>(GuestAddress(address));
    }

    std::unique_ptr<memory::GuestRam> ram_;
    UniqueFd file_;
    NoMessages messages_;
    Line line_;
    std::unique_ptr<io::EventLoop> loop_;
    std::unique_ptr<AhciController> ahci_;
};

TEST_F(AhciTest, PortsShowTheirDevices) {
    EXPECT_EQ(read(Global::kPorts), 3U);
    EXPECT_EQ(read(at(0, PortRegister::kSignature)), 0x101U);
    EXPECT_EQ(read(at(1, PortRegister::kSignature)), 0xeb140101U);
    EXPECT_EQ(read(at(0, PortRegister::kLinkStatus)) & 0xf, 3U);
    EXPECT_EQ(read(at(0, PortRegister::kTaskFile)) & 0x80, 0U);
}

TEST_F(AhciTest, IdentityHasCapacityAndChecksum) {
    ASSERT_TRUE(command(0xec, 0, 0, 512));
    EXPECT_EQ(get<Le32>(kData + 120), kDiskSize / 512);
    unsigned sum = 0;
    for (std::uint64_t i = 0; i < 512; ++i) {
        sum += get<std::uint8_t>(kData + i);
    }
    EXPECT_EQ(sum & 0xff, 0U);
    EXPECT_EQ(get<std::uint8_t>(kReceived + Received::kPioSetup), 0x5f);
    EXPECT_TRUE(line_.level);
    write(at(0, PortRegister::kStatus), 0xffffffff);
    write(at(1, PortRegister::kStatus), 0xffffffff);
    write(Global::kInterrupts, 3);
    EXPECT_FALSE(line_.level);
}

TEST_F(AhciTest, DmaWritesAreReadBack) {
    put<std::uint64_t>(kData, 0x1122334455667788);
    ASSERT_TRUE(command(0x35, 7, 1, 512, kHeaderWrite));
    put<std::uint64_t>(kData, 0);
    ASSERT_TRUE(command(0x25, 7, 1, 512));
    EXPECT_EQ(get<std::uint64_t>(kData), 0x1122334455667788U);
    EXPECT_EQ(get<Le32>(kList + 4), 512U);
    EXPECT_TRUE(command(0xea, 0, 0, 0));
}

TEST_F(AhciTest, QueuedCommandsEndInActiveBits) {
    for (unsigned slot = 0; slot < 32; ++slot) {
        put<std::uint64_t>(kData + slot * 512, slot + 100);
        lay(0, slot,
            {0, 0, 0x61, 1, static_cast<std::uint8_t>(slot), 0, 0, 0x40, 0, 0, 0, 0,
             static_cast<std::uint8_t>(slot << 3)},
            512, kHeaderWrite, kData + slot * 512);
    }
    write(at(0, PortRegister::kActive), 0xffffffff);
    ASSERT_TRUE(run(0, 0xffffffff));
    std::uint64_t value = 0;
    ASSERT_EQ(::pread(file_.get(), &value, 8, 31 * 512), 8);
    EXPECT_EQ(value, 131U);
    EXPECT_EQ(get<std::uint8_t>(kReceived + Received::kSetBits), 0xa1);
}

// Linux retries what another command's error has ended, after it has read which one that was.
TEST_F(AhciTest, ErrorOfAQueuedCommandEndsTheOthersUntilItsLogIsRead) {
    for (unsigned slot = 0; slot < 8; ++slot) {
        const auto sector = static_cast<std::uint8_t>(slot == 3 ? 0xff : slot);
        const auto high = static_cast<std::uint8_t>(slot == 3 ? 0xff : 0);  // beyond the end
        lay(0, slot,
            {0, 0, 0x60, 1, sector, high, 0, 0x40, 0, 0, 0, 0,
             static_cast<std::uint8_t>(slot << 3)},
            512, 0, kData + slot * 512);
    }
    write(at(0, PortRegister::kActive), 0xff);
    EXPECT_FALSE(run(0, 0xff));
    EXPECT_NE(read(at(0, PortRegister::kStatus)) & PortInterrupt::kTaskFile, 0U);
    for (int round = 0; round < 20; ++round) {
        loop_->run_once(std::chrono::milliseconds(5));
    }
    EXPECT_EQ(read(at(0, PortRegister::kActive)), 0xffU) << "none has succeeded after the error";
    EXPECT_NE(read(at(0, PortRegister::kTaskFile)) & 1, 0U);
    const auto restart = [this] {
        write(at(0, PortRegister::kCommand), 0x10);
        write(at(0, PortRegister::kStatus), 0xffffffff);
        write(at(0, PortRegister::kCommand), 0x11);
    };
    restart();
    EXPECT_FALSE(command(0x25, 0, 1, 512)) << "nothing but the log is answered";
    restart();
    ASSERT_TRUE(command(0x2f, 0x10, 1, 512));
    EXPECT_EQ(get<std::uint8_t>(kData) & 0x9f, 3);
    EXPECT_NE(get<std::uint8_t>(kData + 2) & 1, 0);
    EXPECT_EQ(get<std::uint8_t>(kData + 5), 0xff);
    EXPECT_TRUE(command(0x25, 0, 1, 512));
}

TEST_F(AhciTest, DiskIsExchangedUnderCommands) {
    put<std::uint64_t>(kData, 0x1122334455667788);
    ASSERT_TRUE(command(0x35, 7, 1, 512, kHeaderWrite));
    block::DiskUser* disk = ahci_->disk_user(0);
    ASSERT_NE(disk, nullptr);
    EXPECT_FALSE(disk->tells_size());
    EXPECT_EQ(ahci_->disk_user(1), nullptr) << "a drive";
    auto graph = block::live_image(disk->disk())->as_graph();
    ASSERT_TRUE(graph.ok()) << graph.error().text();
    ASSERT_TRUE(disk->exchange_image(std::move(*graph)).ok());
    put<std::uint64_t>(kData, 0);
    ASSERT_TRUE(command(0x25, 7, 1, 512));
    EXPECT_EQ(get<std::uint64_t>(kData), 0x1122334455667788U);
}

TEST_F(AhciTest, DiscIsChangedUnderPackets) {
    EXPECT_EQ(ahci_->medium_user(0), nullptr) << "a disk";
    EXPECT_EQ(ahci_->medium_user(2), nullptr);
    block::MediumUser* drive = ahci_->medium_user(1);
    ASSERT_NE(drive, nullptr);
    EXPECT_NE(drive->medium().medium, nullptr);
    (void)packet({0}, 0);  // power on
    ASSERT_TRUE(packet({0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, 2048));
    ASSERT_TRUE(packet({0x1e, 0, 0, 0, 1, 0}, 0));
    EXPECT_TRUE(drive->medium().locked);
    EXPECT_FALSE(drive->change_medium(nullptr, false).ok());
    write(at(1, PortRegister::kIssue), 0);
    lay(1, 0, {0, 0, 0xa0, 1}, 2048, kHeaderAtapi);
    put(kTables + kPacketPlace, std::array<std::uint8_t, 16>{0x28, 0, 0, 0, 0, 0, 0, 0, 1});
    write(at(1, PortRegister::kIssue), 1);  // a read is under way
    ASSERT_TRUE(drive->change_medium(nullptr, true).ok());
    EXPECT_TRUE(drive->medium().tray_open);
    EXPECT_EQ(drive->medium().medium, nullptr);
    (void)run(1, 0);
    write(at(1, PortRegister::kCommand), 0x10);
    write(at(1, PortRegister::kStatus), 0xffffffff);
    write(at(1, PortRegister::kCommand), 0x11);
    EXPECT_FALSE(packet({0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, 2048));
    block::DiskOptions options;
    options.path = "other";
    options.fd.reset(::memfd_create("other", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(options.fd.get(), 4096), 0);
    ASSERT_EQ(::pwrite(options.fd.get(), "other", 5, 2048), 5);
    options.read_only = true;
    ASSERT_TRUE(
        drive->change_medium(std::move(block::open_disk(std::move(options))).value(), false).ok());
    EXPECT_FALSE(packet({0}, 0)) << "the disc has changed";
    ASSERT_TRUE(packet({0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0}, 2048));
    EXPECT_EQ(get<std::uint8_t>(kData), 'o');
    EXPECT_FALSE(packet({0x28, 0, 0, 0, 0, 2, 0, 0, 1, 0}, 2048)) << "past its end";
}

TEST_F(AhciTest, TrimTakesRanges) {
    put<std::uint64_t>(kData, 8 | (std::uint64_t{8} << 48));
    put<std::uint64_t>(kData + 8, 0);
    EXPECT_TRUE(command(0x06, 0, 1, 512, kHeaderWrite, 1));
    put<std::uint64_t>(kData, (kDiskSize / 512) | (std::uint64_t{8} << 48));
    EXPECT_FALSE(command(0x06, 0, 1, 512, kHeaderWrite, 1));
}

TEST_F(AhciTest, ErrorsHaltThePortUntilItIsStopped) {
    EXPECT_FALSE(command(0x25, kDiskSize / 512, 1, 512));
    EXPECT_NE(read(at(0, PortRegister::kStatus)) & PortInterrupt::kTaskFile, 0U);
    EXPECT_NE(read(at(0, PortRegister::kTaskFile)) & 1, 0U);
    write(at(0, PortRegister::kCommand), 0x10);
    EXPECT_EQ(read(at(0, PortRegister::kCommand)) & PortCommand::kRunning, 0U);
    write(at(0, PortRegister::kStatus), 0xffffffff);
    write(at(0, PortRegister::kCommand), 0x11);
    EXPECT_TRUE(command(0x25, 0, 1, 512));
}

TEST_F(AhciTest, MemoryThatIsNotThereIsABusError) {
    lay(0, 0, {0, 0, 0x25, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 1}, 512, 0, 1ULL << 40);
    EXPECT_FALSE(run(0, 1));
    EXPECT_NE(read(at(0, PortRegister::kStatus)) & PortInterrupt::kHostBus, 0U);
}

TEST_F(AhciTest, TooLittleMemoryIsAnOverflow) {
    (void)command(0x25, 0, 4, 512);
    EXPECT_NE(read(at(0, PortRegister::kStatus)) & PortInterrupt::kOverflow, 0U);
}

TEST_F(AhciTest, PacketsReachTheDrive) {
    EXPECT_FALSE(packet({0}, 0));                  // unit attention
    EXPECT_TRUE(packet({0x03, 0, 0, 0, 18}, 18));  // and its sense
    EXPECT_EQ(get<std::uint8_t>(kData + 12), 0x29);
    EXPECT_TRUE(packet({0}, 0));
    ASSERT_EQ(::pwrite(file_.get(), "CD001", 5, 16 * 2048), 5);
    EXPECT_TRUE(packet({0x28, 0, 0, 0, 0, 16, 0, 0, 1}, 2048));
    EXPECT_EQ(get<char>(kData), 'C');
    EXPECT_EQ(get<std::uint8_t>(kReceived + 0x100 + Received::kRegisters + 12), 3);
}

TEST_F(AhciTest, ResetInTheMiddleOfCommandsSettles) {
    for (unsigned slot = 0; slot < 8; ++slot) {
        lay(0, slot,
            {0, 0, 0x60, 1, 0, 0, 0, 0x40, 0, 0, 0, 0, static_cast<std::uint8_t>(slot << 3)}, 512);
    }
    write(at(0, PortRegister::kActive), 0xff);
    write(at(0, PortRegister::kIssue), 0xff);
    loop_->run_once(std::chrono::milliseconds(0));
    write(at(0, PortRegister::kLinkControl), 1);
    write(at(0, PortRegister::kCommand), 0x10);
    write(at(0, PortRegister::kLinkControl), 0);
    for (int round = 0; round < 100 && (read(at(0, PortRegister::kTaskFile)) & 0x80) != 0;
         ++round) {
        loop_->run_once(std::chrono::milliseconds(10));
    }
    EXPECT_EQ(read(at(0, PortRegister::kSignature)), 0x101U);
    EXPECT_EQ(read(at(0, PortRegister::kCommand)) & PortCommand::kRunning, 0U);
    write(at(0, PortRegister::kCommand), 0x11);
    write(at(0, PortRegister::kStatus), 0xffffffff);
    EXPECT_TRUE(command(0x25, 0, 1, 512));
}

TEST_F(AhciTest, StateContinues) {
    EXPECT_FALSE(packet({0}, 0));
    ASSERT_TRUE(ahci_->pause().ok());
    state::StateWriter writer;
    ASSERT_TRUE(ahci_->save(writer).ok());
    make();
    ASSERT_TRUE(ahci_->pause().ok());
    state::StateReader reader(writer.bytes());
    ASSERT_TRUE(ahci_->load(reader).ok());
    ASSERT_TRUE(ahci_->resume().ok());
    EXPECT_TRUE(packet({0x03, 0, 0, 0, 18}, 18));
    EXPECT_EQ(get<std::uint8_t>(kData + 12), 0x29);
    EXPECT_TRUE(command(0x25, 0, 1, 512));
}

}  // namespace
}  // namespace strata::devices
