// Uart: registers, interrupts, back-pressure both ways, loopback, state.
#include "devices/serial/uart.h"

#include <functional>
#include <string>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

#include "devices/core/fakes.h"

namespace strata::devices {
namespace {

/// Takes up to `room` bytes.
class FakeBackend final : public SerialBackend {
  public:
    void connect(SerialPeer* /*peer*/) override {}
    std::size_t write(std::span<const std::byte> data) override {
        if (const auto meanwhile = std::exchange(on_write, {})) {
            meanwhile();
        }
        const std::size_t count = std::min(room, data.size());
        for (const std::byte byte : data.first(count)) {
            text.push_back(static_cast<char>(byte));
        }
        room -= count;
        return count;
    }
    void input_ready() override { ++asked; }
    void flush(std::chrono::milliseconds /*limit*/) override {}
    std::string text;
    std::size_t room = 1'000'000;
    unsigned asked = 0;
    std::function<void()> on_write;  ///< once, before bytes are taken
};

class UartTest : public ::testing::Test {
  protected:
    static constexpr unsigned kIer = 1, kIir = 2, kFcr = 2, kLcr = 3, kMcr = 4, kLsr = 5, kMsr = 6;
    static constexpr std::uint8_t kOut2 = 0x08, kLoop = 0x10;
    std::size_t offer(std::string_view text) {
        return uart.receive(std::as_bytes(std::span(text)));
    }

    FakeTime time;
    FakeLine line;
    FakeBackend backend;
    Uart uart{"serial0", *time.loop, time.clock, line, backend};
};

TEST_F(UartTest, WrittenBytesReachTheBackend) {
    poke(uart, 0, 'h');
    poke(uart, 0, 'i');
    EXPECT_EQ(backend.text, "hi");
    EXPECT_EQ(peek(uart, kLsr), 0x60U);
}

TEST_F(UartTest, FullBackendHoldsTransmitEmptyBack) {
    backend.room = 0;
    poke(uart, kMcr, kOut2);
    poke(uart, kFcr, 0x01);
    poke(uart, kIer, 0x02);
    (void)peek(uart, kIir);  // takes the interrupt that enabling raised
    poke(uart, 0, 'x');
    EXPECT_EQ(peek(uart, kLsr) & 0x60, 0U);
    EXPECT_FALSE(line.level);
    backend.room = 10;
    uart.output_ready();
    EXPECT_EQ(backend.text, "x");
    EXPECT_EQ(peek(uart, kLsr) & 0x60, 0x60U);
    EXPECT_TRUE(line.level);
}

TEST_F(UartTest, ByteWrittenAfterTheFifoWasClearedIsNotTakenForAnOldOne) {
    poke(uart, kFcr, 0x01);
    std::thread other;
    backend.on_write = [&] {  // while "A" is offered
        poke(uart, kFcr, 0x05);
        other = std::thread([this] { poke(uart, 0, 'B'); });
        while ((peek(uart, kLsr) & 0x20) != 0) {
            std::this_thread::yield();
        }
    };
    poke(uart, 0, 'A');
    other.join();
    EXPECT_EQ(backend.text, "AB");
    EXPECT_EQ(peek(uart, kLsr) & 0x60, 0x60U);
}

TEST_F(UartTest, TransmitInterruptIsResetByReadingIir) {
    poke(uart, kMcr, kOut2);
    poke(uart, kIer, 0x02);
    EXPECT_TRUE(line.level);
    EXPECT_EQ(peek(uart, kIir), 0x02U);
    EXPECT_FALSE(line.level);
    EXPECT_EQ(peek(uart, kIir), 0x01U);
}

TEST_F(UartTest, InterruptNeedsOut2) {
    poke(uart, kIer, 0x02);
    EXPECT_FALSE(line.level);
    poke(uart, kMcr, kOut2);
    EXPECT_TRUE(line.level);
}

TEST_F(UartTest, WithoutFifoOneByteIsTakenAtATime) {
    EXPECT_EQ(offer("ab"), 1U);
    EXPECT_EQ(peek(uart, kLsr) & 1, 1U);
    EXPECT_EQ(peek(uart, 0), 'a');
    EXPECT_EQ(backend.asked, 1U);
    EXPECT_EQ(peek(uart, kLsr) & 1, 0U);
}

TEST_F(UartTest, FifoTakesSixteenAndAsksAgainWhenHalfEmpty) {
    poke(uart, kFcr, 0x01);
    EXPECT_EQ(offer("0123456789abcdefXYZ"), 16U);
    for (int count = 0; count < 7; ++count) {
        (void)peek(uart, 0);
    }
    EXPECT_EQ(backend.asked, 0U);
    EXPECT_EQ(peek(uart, 0), '7');
    EXPECT_EQ(backend.asked, 1U);
}

TEST_F(UartTest, ReceiveInterruptAtTriggerLevel) {
    poke(uart, kMcr, kOut2);
    poke(uart, kFcr, 0x41);  // four bytes
    poke(uart, kIer, 0x01);
    offer("abc");
    EXPECT_FALSE(line.level);
    offer("d");
    EXPECT_TRUE(line.level);
    EXPECT_EQ(peek(uart, kIir), 0x04U | 0xc0U);
    (void)peek(uart, 0);
    EXPECT_FALSE(line.level);
}

TEST_F(UartTest, CharacterTimeoutAfterFourCharacters) {
    poke(uart, kMcr, kOut2);
    poke(uart, kLcr, 0x83);
    poke(uart, 0, 1);
    poke(uart, 1, 0);
    poke(uart, kLcr, 0x03);
    poke(uart, kFcr, 0xc1);
    poke(uart, kIer, 0x01);
    offer("a");
    time.pass(4 * 86'805 - 100);
    uart.advance();
    EXPECT_FALSE(line.level);
    time.pass(200);
    uart.advance();
    EXPECT_TRUE(line.level);
    EXPECT_EQ(peek(uart, kIir), 0xccU);
    EXPECT_EQ(peek(uart, 0), 'a');
    EXPECT_FALSE(line.level);
}

TEST_F(UartTest, LoopbackReturnsBytesAndModemLines) {
    poke(uart, kMcr, kLoop | 0x0f);
    EXPECT_EQ(peek(uart, kMsr) & 0xf0, 0xf0U);
    poke(uart, kMcr, kLoop | 0x0a);
    EXPECT_EQ(peek(uart, kMsr), 0x96U);  // CTS and DCD; DSR fell, the ring ended
    poke(uart, 0, 0x5a);
    EXPECT_EQ(backend.text, "");
    EXPECT_EQ(peek(uart, 0), 0x5aU);
    EXPECT_EQ(offer("q"), 0U);
}

TEST_F(UartTest, LoopbackOverrunIsReportedOnce) {
    poke(uart, kMcr, kLoop | kOut2);
    poke(uart, kIer, 0x04);
    poke(uart, 0, 1);
    poke(uart, 0, 2);
    EXPECT_TRUE(line.level);
    EXPECT_EQ(peek(uart, kIir), 0x06U);
    EXPECT_EQ(peek(uart, kLsr) & 0x02, 0x02U);
    EXPECT_EQ(peek(uart, kLsr) & 0x02, 0U);
    EXPECT_EQ(uart.counters().overruns, 1U);
}

TEST_F(UartTest, DivisorLatchHidesDataAndInterruptEnable) {
    poke(uart, kIer, 0xff);
    poke(uart, kLcr, 0x80);
    poke(uart, 0, 0x34);
    poke(uart, 1, 0x12);
    EXPECT_EQ(peek(uart, 0, 2), 0x1234U);
    poke(uart, kLcr, 0x03);
    EXPECT_EQ(peek(uart, kIer), 0x0fU);
    EXPECT_EQ(backend.text, "");
}

TEST_F(UartTest, FifoControlNeedsItsEnableBit) {
    poke(uart, kFcr, 0x01);
    offer("abc");
    poke(uart, kFcr, 0x03);
    EXPECT_EQ(peek(uart, kLsr) & 1, 0U);
    EXPECT_EQ(peek(uart, kIir) & 0xc0, 0xc0U);
    poke(uart, kFcr, 0xc0);
    EXPECT_EQ(peek(uart, kIir) & 0xc0, 0U);
}

TEST_F(UartTest, AccessBeyondTheRegistersIsHarmless) {
    EXPECT_EQ(peek(uart, 7, 4), 0xffffff00U);
    poke(uart, 1000, 1, 8);
}

TEST_F(UartTest, PausedTakesAndGivesNothing) {
    ASSERT_TRUE(uart.pause().ok());
    poke(uart, 0, 'x');
    EXPECT_EQ(offer("y"), 0U);
    EXPECT_EQ(backend.text, "");
    ASSERT_TRUE(uart.resume().ok());
    EXPECT_EQ(backend.text, "x");
    EXPECT_EQ(backend.asked, 1U);
}

TEST_F(UartTest, SavedStateContinuesInAFreshOne) {
    FakeLine other_line;
    FakeBackend other_backend;
    Uart other{"serial0", *time.loop, time.clock, other_line, other_backend};
    backend.room = 1;
    poke(uart, kMcr, kOut2);
    poke(uart, kFcr, 0xc1);
    poke(uart, kIer, 0x01);
    offer("in");
    poke(uart, 0, 'o');
    poke(uart, 0, 'u');
    ASSERT_TRUE(uart.pause().ok());
    ASSERT_TRUE(other.pause().ok());
    const auto stream = transplant(uart, other);
    ASSERT_FALSE(stream.empty());
    ASSERT_TRUE(other.resume().ok());
    EXPECT_EQ(other_backend.text, "u");
    time.pass(100'000'000);
    other.advance();
    EXPECT_TRUE(other_line.level);
    EXPECT_EQ(peek(other, 0), 'i');
    EXPECT_EQ(peek(other, 0), 'n');
    EXPECT_TRUE(refuses_truncation(other, stream));
}

}  // namespace
}  // namespace strata::devices
