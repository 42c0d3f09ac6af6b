// virtio-net: registers and queues under hostile input, with a backend that sends every frame back.
#include <deque>

#include "../virtio_common/hostile_driver.h"
#include "virtio/net/net.h"

namespace {

class EchoBackend final : public strata::net::NetBackend {
  public:
    explicit EchoBackend(strata::io::EventLoop& loop) : loop_(loop) {}
    void attach(std::function<void()> readable) override { *readable_ = std::move(readable); }
    void send(std::span<const std::byte> frame) override {
        if (frames_.size() < 32) {
            frames_.emplace_back(frame.begin(), frame.end());
            loop_.post([readable = readable_] {
                if (*readable) {
                    (*readable)();
                }
            });
        }
    }
    [[nodiscard]] std::optional<std::span<const std::byte>> peek() const override {
        return frames_.empty() ? std::nullopt
                               : std::optional(std::span<const std::byte>(frames_.front()));
    }
    void pop() override { frames_.pop_front(); }
    [[nodiscard]] bool checksums_good() const override { return true; }
    [[nodiscard]] strata::net::NetCounters counters() const override { return {}; }

  private:
    strata::io::EventLoop& loop_;
    std::shared_ptr<std::function<void()>> readable_ = std::make_shared<std::function<void()>>();
    std::deque<std::vector<std::byte>> frames_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace strata;
    const auto loop = io::EventLoop::create().value();
    auto device = std::make_unique<virtio::NetDevice>(virtio::NetDeviceConfig{},
                                                      std::make_unique<EchoBackend>(*loop), *loop);
    fuzz::HostileDriver(std::move(device), *loop).play(fuzz::Input(data, size));
    return 0;
}
