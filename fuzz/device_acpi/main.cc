// fuzz_device_acpi: the ACPI fixed hardware and the reset register.
#include "../device_harness.h"
#include "devices/acpi/pm_block.h"
#include "devices/acpi/reset_register.h"

using namespace strata;  // NOLINT(google-build-using-namespace): a program of one function

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    devices::FakeTime time;
    devices::FakeLine sci;
    devices::PmTimer timer(time.clock);
    devices::PmBlock pm(*time.loop, timer, time.clock, sci, [] {});
    devices::ResetRegister reset([] {});
    bus::BusDevice& overlay = reset.overlay(pm.event_block());
    fuzz::Subject subject;
    subject.windows = {&pm.event_block(), &pm.control_block(), &pm.gpe0_block(), &timer, &reset,
                       &overlay};
    subject.offset_mask = 0x1f;
    subject.state = &pm;
    subject.advance = [&] { pm.advance(); };
    subject.poke = [&](std::uint8_t value) {
        pm.raise_gpe(value % devices::PmBlock::kGpes);
        pm.press_power_button();
    };
    fuzz::run(fuzz::Input(data, size), time, subject);
    return 0;
}
