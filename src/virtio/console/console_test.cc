// ConsoleDevice: output with a slow backend, input with and without buffers, resizing, state.
#include "virtio/console/console.h"

#include <string>

#include <gtest/gtest.h>

#include "virtio/core/mock_queue.h"

namespace strata::virtio {
namespace {

constexpr std::uint64_t kData = 0x40000;

struct Backend final : ConsoleBackend {
    std::size_t write(std::span<const std::byte> data) override {
        const std::size_t taken = std::min(data.size(), room);
        room -= taken;
        for (const std::byte each : data.first(taken)) {
            text.push_back(static_cast<char>(each));
        }
        return taken;
    }
    void input_ready() override { ++ready; }
    std::string text;
    std::size_t room = 1000;
    int ready = 0;
};

class ConsoleTest : public testing::Test {
  protected:
    void SetUp() override {
        loop_ = io::EventLoop::create().value();
        device_ = make();
    }
    std::unique_ptr<ConsoleDevice> make() {
        auto made = std::make_unique<ConsoleDevice>(ConsoleConfig{}, backend_, *loop_);
        made->attach(host_);
        return made;
    }
    void activate(ConsoleDevice& device) {
        ASSERT_TRUE(device.activate({0, {receive_.setup(), transmit_.setup()}}).ok());
        run_posted(*loop_);
    }
    void output(std::string_view text) {
        ASSERT_TRUE(
            host_.memory().write(memory::GuestAddress(kData), std::as_bytes(std::span(text))).ok());
        transmit_.add({{kData, static_cast<std::uint32_t>(text.size()), false}});
        device_->notify(1);
        run_posted(*loop_);
    }
    MockHost host_;
    MockQueue receive_{host_.memory(), 0x10000, 16};
    MockQueue transmit_{host_.memory(), 0x20000, 16};
    Backend backend_;
    std::unique_ptr<io::EventLoop> loop_;
    std::unique_ptr<ConsoleDevice> device_;
};

TEST_F(ConsoleTest, OutputReachesTheBackend) {
    activate(*device_);
    output("hello");
    EXPECT_EQ(backend_.text, "hello");
    EXPECT_TRUE(transmit_.take_used());
}

TEST_F(ConsoleTest, OutputWaitsForASlowBackend) {
    activate(*device_);
    backend_.room = 2;
    output("hello");
    EXPECT_EQ(backend_.text, "he");
    EXPECT_FALSE(transmit_.take_used());
    backend_.room = 100;
    device_->output_ready();
    run_posted(*loop_);
    EXPECT_EQ(backend_.text, "hello");
    EXPECT_TRUE(transmit_.take_used());
}

TEST_F(ConsoleTest, InputWithoutBuffersIsTakenLater) {
    activate(*device_);
    EXPECT_EQ(device_->receive(std::as_bytes(std::span("abc", 3))), 0U);
    receive_.add({{kData, 64, true}});
    device_->notify(0);
    run_posted(*loop_);
    EXPECT_GE(backend_.ready, 1);
    EXPECT_EQ(device_->receive(std::as_bytes(std::span("abc", 3))), 3U);
    EXPECT_EQ(receive_.take_used()->length, 3U);
}

TEST_F(ConsoleTest, ResizeChangesTheConfigurationAndInterrupts) {
    activate(*device_);
    const auto before = device_->config_generation();
    device_->resize(132, 43);
    std::uint16_t columns = 0;
    device_->read_config(0, std::as_writable_bytes(std::span(&columns, 1)));
    EXPECT_EQ(columns, 132);
    EXPECT_NE(device_->config_generation(), before);
    EXPECT_EQ(host_.config_interrupts, 1U);
}

TEST_F(ConsoleTest, ChainTakenInPartSurvivesSaveAndLoad) {
    activate(*device_);
    backend_.room = 2;
    output("hello");
    ASSERT_TRUE(device_->pause().ok());
    state::StateWriter writer;
    ASSERT_TRUE(device_->save(writer).ok());
    auto fresh = make();
    ASSERT_TRUE(fresh->pause().ok());
    activate(*fresh);
    state::StateReader reader(writer.bytes());
    ASSERT_TRUE(fresh->load(reader).ok());
    backend_.room = 100;
    ASSERT_TRUE(fresh->resume().ok());
    run_posted(*loop_);
    EXPECT_EQ(backend_.text, "hello");
}

TEST_F(ConsoleTest, ResetWithPendingOutputIsClean) {
    activate(*device_);
    backend_.room = 0;
    output("hello");
    device_->reset();
    EXPECT_TRUE(device_->idle());
}

}  // namespace
}  // namespace strata::virtio
