// fuzz_device_pit: the 8254's counters and the speaker port.
#include "../device_harness.h"
#include "devices/timer/pit.h"

using namespace strata;  // NOLINT(google-build-using-namespace): a program of one function

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    devices::FakeTime time;
    bus::Bus ports;
    devices::FakeLine line;
    devices::Pit pit(*time.loop, time.clock, line);
    if (!pit.attach(ports).ok()) {
        std::abort();
    }
    fuzz::PortWindow window(ports, {0x40, 0x41, 0x42, 0x43, 0x61});
    fuzz::Subject subject;
    subject.windows = {&window};
    subject.state = &pit;
    subject.advance = [&] { pit.advance(); };
    fuzz::run(fuzz::Input(data, size), time, subject);
    return 0;
}
