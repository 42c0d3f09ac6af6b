// Fuzz target: a guest that reads and writes ports and device memory of a whole PC at will, resets
// and save/load in between.
//
// Input: records of 12 bytes: operation, size, address (6 bytes), value (4 bytes). The engine is a
// fake, so nothing but devices runs.
#include <array>
#include <cstring>

#include "base/check.h"
#include "machine/pc/fake_engine.h"
#include "machine/pc/pc_machine.h"

namespace {

using namespace strata;

class NoEvents final : public machine::MachineEvents {
  public:
    void power_off() override {}
    void reset() override {}
    void guest_crash(devices::GuestCrash /*crash*/) override {}
    void debug_exit(std::uint32_t /*value*/) override {}
};

struct Record {
    std::uint8_t operation;
    std::uint8_t size;
    std::array<std::uint8_t, 6> address;
    std::array<std::byte, 4> value;
};
static_assert(sizeof(Record) == 12);

struct Bench {
    std::unique_ptr<io::EventLoop> loop = io::EventLoop::create().value();
    machine::pc::FakeEngine engine;
    devices::NullSerialBackend serial;
    NoEvents events;
    std::unique_ptr<machine::pc::PcMachine> machine;
};

std::unique_ptr<machine::pc::PcMachine> make_machine(Bench& bench) {
    machine::pc::PcConfig config;
    config.memory_bytes = 4 << 20;
    config.vcpus.push_back({});
    config.debug_exit = true;
    config.test_devices = true;
    return machine::pc::PcMachine::create(std::move(config), bench.engine, *bench.loop,
                                          bench.serial, bench.events)
        .value();
}

void save_and_load(Bench& bench) {
    state::StateWriter writer;
    STRATA_CHECK(bench.machine->pause().ok() && bench.machine->save(writer).ok(),
                 "a machine can always be saved");
    bench.machine.reset();
    bench.machine = make_machine(bench);
    state::StateReader reader(writer.bytes());
    STRATA_CHECK(bench.machine->pause().ok() && bench.machine->load(reader).ok(),
                 "what was saved can be loaded");
    STRATA_CHECK(bench.machine->resume().ok(), "a loaded machine resumes");
}

/// Addresses near devices are far likelier than the rest.
std::uint64_t mmio_address(const Record& record) {
    constexpr std::array<std::uint64_t, 6> kBases = {0xfec00000, 0xfed00000, 0xe0000000,
                                                     0xc0000000, 0xff000000, 0};
    std::uint64_t low = 0;
    std::memcpy(&low, record.address.data(), 3);
    return kBases[record.address[5] % kBases.size()] + low;
}

void perform(Bench& bench, const Record& record) {
    constexpr std::array<std::size_t, 4> kSizes = {1, 2, 4, 4};
    std::array<std::byte, 4> data = record.value;
    const auto part = std::span(data).first(kSizes[record.size % kSizes.size()]);
    std::uint16_t port = 0;
    std::memcpy(&port, record.address.data(), sizeof(port));
    auto& io = bench.machine->io();
    switch (record.operation % 32) {
        case 0:
            STRATA_CHECK(bench.machine->reset().ok(), "a machine can always be reset");
            break;
        case 1:
            save_and_load(bench);
            break;
        case 2:
            (void)io.acknowledge_external_interrupt();  // the vector is of no interest
            break;
        case 3:
            io.end_of_interrupt(record.size);
            break;
        case 4:
            bench.loop->run_once(std::chrono::milliseconds(0));
            break;
        default:
            if (record.operation < 96) {
                io.port_write(port, part);
            } else if (record.operation < 144) {
                io.port_read(port, part);
            } else if (record.operation < 208) {
                io.mmio_write(mmio_address(record), part);
            } else {
                io.mmio_read(mmio_address(record), part);
            }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    constexpr std::size_t kMaxRecords = 256;
    Bench bench;
    bench.machine = make_machine(bench);
    STRATA_CHECK(bench.machine->power_on().ok(), "the bench's machine starts");
    for (std::size_t i = 0; i < kMaxRecords && (i + 1) * sizeof(Record) <= size; ++i) {
        Record record{};
        std::memcpy(&record, data + i * sizeof(Record), sizeof(Record));
        perform(bench, record);
    }
    return 0;
}
