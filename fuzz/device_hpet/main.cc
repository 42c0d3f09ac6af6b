// fuzz_device_hpet: the HPET's registers.
#include "../device_harness.h"
#include "devices/timer/hpet.h"

using namespace strata;  // NOLINT(google-build-using-namespace): a program of one function

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    devices::FakeTime time;
    devices::FakeLine irq0;
    devices::FakeLine irq8;
    devices::FakeLine any;
    devices::FakeMsiSink msi;
    devices::Hpet hpet(*time.loop, time.clock,
                       devices::Hpet::Wiring{[&](std::uint32_t) -> bus::IrqLine& { return any; },
                                             0x00f00000, &irq0, &irq8, &msi});
    fuzz::Subject subject;
    subject.windows = {&hpet};
    subject.offset_mask = 0x1ff;
    subject.state = &hpet;
    subject.advance = [&] { hpet.advance(); };
    subject.poke = [&](std::uint8_t value) {
        hpet.pit_input().set((value & 1) != 0);
        hpet.rtc_input().set((value & 2) != 0);
    };
    fuzz::run(fuzz::Input(data, size), time, subject);
    return 0;
}
