// fuzz_device_serial: the UART's registers with a backend that is sometimes full.
#include "../device_harness.h"
#include "devices/serial/uart.h"

namespace {

/// Takes as many bytes as it was last told to.
class FickleBackend final : public strata::devices::SerialBackend {
  public:
    void connect(strata::devices::SerialPeer* /*peer*/) override {}
    std::size_t write(std::span<const std::byte> data) override {
        return std::min(room, data.size());
    }
    void input_ready() override {}
    void flush(std::chrono::milliseconds /*limit*/) override {}
    std::size_t room = 16;
};

}  // namespace

using namespace strata;  // NOLINT(google-build-using-namespace): a program of one function

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    devices::FakeTime time;
    devices::FakeLine line;
    FickleBackend backend;
    devices::Uart uart("fuzz", *time.loop, time.clock, line, backend);
    fuzz::Subject subject;
    subject.windows = {&uart};
    subject.offset_mask = 0xf;
    subject.state = &uart;
    subject.advance = [&] { uart.advance(); };
    subject.poke = [&](std::uint8_t value) {
        backend.room = value & 15;
        uart.output_ready();
        const std::vector<std::byte> bytes(value >> 4, std::byte{value});
        (void)uart.receive(bytes);
    };
    fuzz::run(fuzz::Input(data, size), time, subject);
    return 0;
}
