// virtio-console: registers and queues under hostile input, with a backend that takes little and
// answers.
#include "../virtio_common/hostile_driver.h"
#include "virtio/console/console.h"

namespace {

class SlowBackend final : public strata::virtio::ConsoleBackend {
  public:
    explicit SlowBackend(strata::io::EventLoop& loop) : loop_(loop) {}
    std::size_t write(std::span<const std::byte> data) override {
        ++calls_;
        if (calls_ % 3 == 0) {
            poke();
            return data.size() / 2;
        }
        return data.size();
    }
    void input_ready() override { poke(); }
    void connect(strata::virtio::ConsoleDevice* device) { *device_ = device; }

  private:
    void poke() {
        loop_.post([device = device_] {
            if (*device != nullptr) {
                const std::byte text[3]{};
                (void)(*device)->receive(text);
                (*device)->output_ready();
            }
        });
    }
    strata::io::EventLoop& loop_;
    unsigned calls_ = 0;
    std::shared_ptr<strata::virtio::ConsoleDevice*> device_ =
        std::make_shared<strata::virtio::ConsoleDevice*>(nullptr);
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace strata;
    const auto loop = io::EventLoop::create().value();
    SlowBackend backend(*loop);
    auto device = std::make_unique<virtio::ConsoleDevice>(virtio::ConsoleConfig{}, backend, *loop);
    backend.connect(device.get());
    fuzz::HostileDriver driver(std::move(device), *loop);
    driver.play(fuzz::Input(data, size));
    backend.connect(nullptr);
    return 0;
}
