// fuzz_device_ioapic: the I/O APIC's registers, lines and ends of interrupt.
#include "../device_harness.h"
#include "devices/irqchip/io_apic.h"

using namespace strata;  // NOLINT(google-build-using-namespace): a program of one function

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    devices::FakeTime time;
    devices::FakeMsiSink sink;
    devices::IoApic chip(sink, [](const std::vector<bus::IrqRoute>&) {});
    fuzz::Subject subject;
    subject.windows = {&chip};
    subject.offset_mask = 0x50;
    subject.state = &chip;
    subject.poke = [&](std::uint8_t value) {
        if (value < 64) {
            chip.line(value % devices::IoApic::kPins).set((value & 0x20) != 0);
        } else {
            chip.end_of_interrupt(value);
        }
    };
    fuzz::run(fuzz::Input(data, size), time, subject);
    return 0;
}
