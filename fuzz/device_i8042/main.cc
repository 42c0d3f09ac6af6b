// fuzz_device_i8042: the keyboard controller with keyboard and mouse.
#include "../device_harness.h"
#include "devices/input/i8042.h"

using namespace strata;  // NOLINT(google-build-using-namespace): a program of one function

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    devices::FakeTime time;
    bus::Bus ports;
    devices::FakeLine keyboard;
    devices::FakeLine mouse;
    devices::I8042 chip(keyboard, mouse, [] {});
    if (!chip.attach(ports).ok()) {
        std::abort();
    }
    fuzz::PortWindow window(ports, {0x60, 0x64, 0x92});
    fuzz::Subject subject;
    subject.windows = {&window};
    subject.state = &chip;
    subject.poke = [&](std::uint8_t value) {
        chip.send_keys(std::span(&value, 1));
        chip.move_mouse(value, -value, value);
    };
    fuzz::run(fuzz::Input(data, size), time, subject);
    return 0;
}
