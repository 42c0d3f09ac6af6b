// AHCI: registers, command lists and tables under hostile input, against a disk and a drive in
// memory.
//
// The first byte of each operation chooses: a register access, bytes into guest memory, a command
// laid out well, a save and load. Both ports begin started.
#include <array>
#include <cstdlib>

#include "../virtio_common/hostile_driver.h"
#include "../virtio_common/memory_disk.h"
#include "devices/storage/ahci.h"
#include "devices/storage/ahci_wire.h"
#include "devices/storage/ata_disk.h"
#include "devices/storage/atapi_drive.h"

namespace {

using namespace strata;
using namespace strata::devices;

constexpr std::uint64_t kList = 0x1000, kReceived = 0x2000, kTables = 0x4000;

class Player {
  public:
    explicit Player(bool read_only) : loop_(io::EventLoop::create().value()) {
        std::memset(fuzz::ram().base(), 0, 64 * 1024);
        std::vector<std::unique_ptr<AtaDevice>> devices;
        devices.push_back(
            AtaDisk::create({.serial = "fuzz"}, fuzz::memory_disk(read_only)).value());
        devices.push_back(std::make_unique<AtapiDrive>(
            scsi::CdUnit::create({.serial = "fuzz"}, fuzz::memory_disk(true)).value(), "fuzz"));
        ahci_ = AhciController::create(std::move(devices), fuzz::ram(), *loop_).value();
        ahci_->connect(sink_, line_);
        for (const std::uint64_t port : {0x100U, 0x180U}) {
            set(port, static_cast<std::uint32_t>(kList + (port & 0x80) * 8));
            set(port + 8, static_cast<std::uint32_t>(kReceived + (port & 0x80) * 2));
            set(port + 0x18, 0x11);
        }
    }
    void play(fuzz::Input& input) {
        for (int steps = 0; !input.empty() && steps < 2048; ++steps) {
            step(input);
        }
        run();
        (void)ahci_->pause();
        ahci_.reset();
        run();
    }

  private:
    void set(std::uint64_t offset, std::uint32_t value) {
        ahci_->bar_write(5, offset, std::as_bytes(std::span(&value, 1)));
    }
    void run() {
        for (int round = 0; round < 3; ++round) {
            loop_->run_once(std::chrono::milliseconds(0));
        }
    }
    void lay_command(fuzz::Input& input) {
        const unsigned port = input.take<std::uint8_t>() & 1,
                       slot = input.take<std::uint8_t>() & 31;
        const std::uint64_t table = kTables + slot * 0x100;
        ahci::CommandHeader header{};
        header.flags = input.take<std::uint16_t>();
        header.entries = static_cast<std::uint16_t>(input.take<std::uint8_t>() & 15);
        header.table = table;
        (void)fuzz::ram().store(memory::GuestAddress(kList + port * 0x400 + slot * 32), header);
        auto fis = input.take<std::array<std::uint8_t, 20>>();
        fis[0] = ahci::FisType::kHostToDevice;
        (void)fuzz::ram().store(memory::GuestAddress(table), fis);
        (void)fuzz::ram().store(memory::GuestAddress(table + 0x40),
                                input.take<std::array<std::uint8_t, 16>>());
        (void)fuzz::ram().store(memory::GuestAddress(table + 0x80),
                                ahci::MemoryEntry{std::uint64_t{input.take<std::uint16_t>()}, 0U,
                                                  std::uint32_t{input.take<std::uint16_t>()}});
        set(0x134 + port * 0x80, input.take<std::uint32_t>());
        set(0x138 + port * 0x80, 1U << slot);
        run();
    }
    /// A save and a load, of a damaged state if the input says so.
    void reload(fuzz::Input& input) {
        (void)ahci_->pause();
        state::StateWriter writer;
        if (ahci_->save(writer).ok()) {
            std::vector<std::byte> bytes = writer.bytes();
            const unsigned damage = input.take<std::uint8_t>() & 3U;
            for (unsigned i = 0; i < damage; ++i) {
                bytes[input.take<std::uint16_t>() % bytes.size()] = input.take<std::byte>();
            }
            state::StateReader reader(bytes);
            const auto loaded = ahci_->load(reader);
            STRATA_CHECK(loaded.ok() || damage != 0, "what was saved can be loaded");
        }
        (void)ahci_->resume();
    }
    void step(fuzz::Input& input) {
        switch (input.take<std::uint8_t>() % 6) {
            case 0: {
                const std::uint64_t offset = input.take<std::uint16_t>() & 0x1ff;
                set(offset & ~3ULL, input.take<std::uint32_t>());
                break;
            }
            case 1: {
                std::uint64_t value = 0;
                const std::uint64_t offset = input.take<std::uint16_t>() & 0xfff;
                ahci_->bar_read(
                    5, offset,
                    std::as_writable_bytes(std::span(&value, 1)).first(1 + (offset & 7)));
                break;
            }
            case 2: {
                const auto address = input.take<std::uint16_t>();
                (void)fuzz::ram().store(memory::GuestAddress(address),
                                        input.take<std::array<std::uint8_t, 16>>());
                break;
            }
            case 3:
                run();
                break;
            case 4:
                lay_command(input);
                break;
            default:
                reload(input);
                break;
        }
    }

    std::unique_ptr<io::EventLoop> loop_;
    fuzz::NullSink sink_;
    fuzz::NullLine line_;
    std::unique_ptr<AhciController> ahci_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    Player((input.take<std::uint8_t>() & 1) != 0).play(input);
    return 0;
}
