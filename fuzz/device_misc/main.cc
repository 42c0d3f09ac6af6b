// fuzz_device_misc: the small ports: panic events, debug ports, kvm-unit-tests' device.
#include "../device_harness.h"
#include "devices/misc/debug_ports.h"
#include "devices/misc/kvm_test_device.h"
#include "devices/misc/pvpanic.h"

using namespace strata;  // NOLINT(google-build-using-namespace): a program of one function

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    devices::FakeTime time;
    devices::FakeLine line;
    devices::Pvpanic pvpanic([](devices::GuestCrash) {});
    devices::DebugExit exit([](std::uint32_t) {});
    devices::DebugConsole console([](std::span<const std::byte>) {});
    devices::PostPort post;
    devices::KvmTestDevice test([&](std::uint32_t) -> bus::IrqLine& { return line; });
    fuzz::Subject subject;
    subject.windows = {
        &pvpanic,      &exit, &console, &post, &test.line_ports(), &test.register_port(),
        &test.memory()};
    subject.offset_mask = 0xffff;
    fuzz::run(fuzz::Input(data, size), time, subject);
    return 0;
}
