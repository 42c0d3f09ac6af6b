// fuzz_device_pic: the 8259 pair's registers, lines and INTA.
#include "../device_harness.h"
#include "devices/irqchip/pic.h"

using namespace strata;  // NOLINT(google-build-using-namespace): a program of one function

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    devices::FakeTime time;
    bus::Bus ports;
    bool level = false;
    devices::Pic pic([&](bool now) { level = now; });
    if (!pic.attach(ports).ok()) {
        std::abort();
    }
    fuzz::PortWindow window(ports, {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1});
    fuzz::Subject subject;
    subject.windows = {&window};
    subject.state = &pic;
    subject.poke = [&](std::uint8_t value) {
        (void)pic.resume();  // tells the level again: a state may have been loaded
        if ((value & 0x40) != 0) {
            (void)pic.acknowledge();
        } else {
            pic.line(value & 15).set((value & 0x80) != 0);
        }
        if (level != pic.output()) {
            std::abort();  // the listener missed a change
        }
    };
    fuzz::run(fuzz::Input(data, size), time, subject);
    return 0;
}
