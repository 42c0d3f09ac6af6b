// PCI: both configuration mechanisms and moving BARs under hostile input, and hostile saved states.
#include "../virtio_common/hostile_driver.h"
#include "pci/pci_root.h"
#include "virtio/rng/rng.h"

namespace {

using namespace strata;

void access(bus::Bus& bus, fuzz::Input& input, std::uint64_t address) {
    const auto bits = input.take<std::uint8_t>();
    const std::size_t size = std::size_t{1} << (bits & 3);
    auto value = input.take<std::uint64_t>();
    if ((bits & 4) != 0) {
        (void)bus.read(address, std::as_writable_bytes(std::span(&value, 1)).first(size));
    } else {
        (void)bus.write(address, std::as_bytes(std::span(&value, 1)).first(size));
    }
}

void load_hostile(pci::PciRoot& root, fuzz::Input& input) {
    state::StateWriter writer;
    (void)root.save(writer);
    auto bytes = writer.bytes();
    for (int changes = 0; changes < 4; ++changes) {
        bytes[input.take<std::uint16_t>() % bytes.size()] =
            static_cast<std::byte>(input.take<std::uint8_t>());
    }
    state::StateReader reader(bytes);
    (void)root.load(reader);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    constexpr std::uint64_t kEcam = 0xb0000000;
    constexpr std::uint64_t kWindow = 0xc0000000;
    bus::Bus mmio;
    bus::Bus ports;
    fuzz::NullSink sink;
    fuzz::NullLine line;
    const auto loop = io::EventLoop::create().value();
    auto root = pci::PciRoot::create({.ecam_base = kEcam,
                                      .mmio32 = {kWindow, 0x100000},
                                      .mmio64 = {1ULL << 40, 0x100000},
                                      .io = {0xc000, 0x1000},
                                      .intx = {&line, &line, &line, &line},
                                      .intx_gsi = {16, 17, 18, 19}},
                                     mmio, ports, sink)
                    .value();
    for (const unsigned slot : {1U, 2U, 31U}) {
        auto device = std::make_unique<virtio::RngDevice>(
            virtio::RngConfig{.label = "rng" + std::to_string(slot)}, *loop);
        STRATA_CHECK(root->add(slot, std::make_unique<virtio::VirtioPciTransport>(std::move(device),
                                                                                  fuzz::ram()))
                         .ok(),
                     "slot");
    }
    STRATA_CHECK(root->assign_resources().ok(), "windows");
    fuzz::Input input(data, size);
    for (int steps = 0; !input.empty() && steps < 4096; ++steps) {
        switch (input.take<std::uint8_t>() % 6) {
            case 0:
                access(mmio, input, kEcam + (input.take<std::uint32_t>() & 0xfffff));
                break;
            case 1:
                access(mmio, input, kEcam + (1U << 15) + (input.take<std::uint8_t>()));
                break;
            case 2:
                access(mmio, input, kWindow + (input.take<std::uint32_t>() & 0xfffff));
                break;
            case 3:
                access(ports, input, 0xcf8 + (input.take<std::uint8_t>() & 7));
                break;
            case 4:
                load_hostile(*root, input);
                break;
            default:
                if ((input.take<std::uint8_t>() & 7) == 0) {
                    root->reset();
                }
                loop->run_once(std::chrono::milliseconds(0));
                break;
        }
    }
    return 0;
}
