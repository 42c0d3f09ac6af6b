// Saved states of a whole PC, damaged at will: loading may refuse them, and what it takes must be a
// machine that goes on, can be saved, and loads again.
//
// Input: records of 8 bytes: where, how many bytes of it (0: the stream ends there), and they
// themselves; then accesses to ports and device memory as the loaded machine's guest makes them.
#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "../input.h"
#include "base/check.h"
#include "machine/pc/fake_engine.h"
#include "machine/pc/pc_machine.h"

namespace {

using namespace strata;  // NOLINT(google-build-using-namespace): a fuzz target

class NoEvents final : public machine::MachineEvents {
  public:
    void power_off() override {}
    void reset() override {}
    void guest_crash(devices::GuestCrash /*crash*/) override {}
    void debug_exit(std::uint32_t /*value*/) override {}
};

struct Bench {
    std::unique_ptr<io::EventLoop> loop = io::EventLoop::create().value();
    machine::pc::FakeEngine engine;
    devices::NullSerialBackend serial;
    NoEvents events;

    std::unique_ptr<machine::pc::PcMachine> machine() {
        machine::pc::PcConfig config;
        config.memory_bytes = 4 << 20;
        config.vcpus.push_back({});
        config.test_devices = true;
        return machine::pc::PcMachine::create(std::move(config), engine, *loop, serial, events)
            .value();
    }
};

std::vector<std::byte> saved(machine::pc::PcMachine& machine) {
    state::StateWriter writer;
    STRATA_CHECK(machine.pause().ok() && machine.save(writer).ok(),
                 "a machine can always be saved");
    return writer.bytes();
}

std::vector<std::byte> damaged(std::vector<std::byte> bytes, fuzz::Input& input) {
    for (int count = 0; count < 16 && !input.empty() && !bytes.empty(); ++count) {
        const std::size_t where = input.take(2) % bytes.size();
        const std::uint64_t many = input.take(1) % 6;
        const std::uint64_t value = input.take(5);
        if (many == 0) {
            bytes.resize(where);
        }
        for (std::size_t i = 0; i < many && where + i < bytes.size(); ++i) {
            bytes[where + i] = static_cast<std::byte>(value >> (8 * i));
        }
    }
    return bytes;
}

void use(machine::pc::PcIo& io, fuzz::Input& input) {
    constexpr std::array<std::uint64_t, 5> kBases = {0xfec00000, 0xfed00000, 0xe0000000, 0xc0000000,
                                                     0};
    for (int count = 0; count < 64 && !input.empty(); ++count) {
        const std::uint64_t what = input.take(1);
        const std::uint64_t address = input.take(2);
        const std::uint64_t value = input.take(4);
        std::array<std::byte, 4> data{};
        std::memcpy(data.data(), &value, data.size());
        const auto part = std::span(data).first(std::size_t{1} << (what % 3));
        switch (what >> 6) {
            case 0:
                io.port_write(static_cast<std::uint16_t>(address), part);
                break;
            case 1:
                io.port_read(static_cast<std::uint16_t>(address), part);
                break;
            case 2:
                io.mmio_write(kBases[(what >> 2) % kBases.size()] + address, part);
                break;
            default:
                io.mmio_read(kBases[(what >> 2) % kBases.size()] + address, part);
                break;
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Bench bench;
    static const std::vector<std::byte> kSound = [&bench] {
        const auto machine = bench.machine();
        STRATA_CHECK(machine->power_on().ok(), "the bench's machine starts");
        return saved(*machine);
    }();
    fuzz::Input input(data, size);
    auto machine = bench.machine();
    const std::vector<std::byte> bytes = damaged(kSound, input);
    state::StateReader reader(bytes);
    STRATA_CHECK(machine->pause().ok(), "a machine that is off can be paused");
    if (!machine->load(reader).ok()) {
        return 0;
    }
    STRATA_CHECK(machine->resume().ok(), "a loaded machine resumes");
    bench.loop->run_once(std::chrono::milliseconds(0));
    use(machine->io(), input);
    const std::vector<std::byte> after = saved(*machine);
    machine.reset();
    machine = bench.machine();
    state::StateReader again(after);
    STRATA_CHECK(machine->pause().ok() && machine->load(again).ok(),
                 "what was saved can be loaded");
    return 0;
}
