// fuzz_device_rtc: the real-time clock's registers.
#include "../device_harness.h"
#include "devices/rtc/rtc.h"

using namespace strata;  // NOLINT(google-build-using-namespace): a program of one function

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    devices::FakeTime time;
    bus::Bus ports;
    devices::FakeLine line;
    devices::Rtc rtc(*time.loop, time.clock, line,
                     [] { return std::uint64_t{951'827'696} * 1'000'000'000; });
    if (!rtc.attach(ports).ok()) {
        std::abort();
    }
    fuzz::PortWindow window(ports, {0x70, 0x71});
    fuzz::Subject subject;
    subject.windows = {&window};
    subject.state = &rtc;
    subject.advance = [&] { rtc.advance(); };
    fuzz::run(fuzz::Input(data, size), time, subject);
    return 0;
}
