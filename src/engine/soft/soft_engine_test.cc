// SoftEngine: a machine is made whether or not the host lets user code run natively.
#include "engine/soft/soft_engine.h"

#include <cstring>

#include <gtest/gtest.h>

#include "memory/guest_ram.h"

namespace strata::engine::soft {
namespace {

class NoDevices final : public IoDispatcher {
  public:
    void mmio_read(std::uint64_t, std::span<std::byte> data) override {
        std::memset(data.data(), 0xff, data.size());
    }
    void mmio_write(std::uint64_t, std::span<const std::byte>) override {}
    void port_read(std::uint16_t, std::span<std::byte> data) override {
        std::memset(data.data(), 0xff, data.size());
    }
    void port_write(std::uint16_t, std::span<const std::byte>) override {}
    std::uint8_t acknowledge_external_interrupt() override { return 0; }
    void end_of_interrupt(std::uint8_t) override {}
};

TEST(SoftEngineTest, MachinesDoWithoutTheMakerOfStubs) {
    SoftOptions options;
    options.direct = true;
    options.lock_up_helper = []() -> Result<> { return Error(ErrorKind::Failed, "refused"); };
    SoftEngine engine(options);
    auto ram = memory::GuestRam::create(1U << 20U, 3ULL << 30U);
    ASSERT_TRUE(ram.ok());
    NoDevices devices;
    const auto vm = engine.create_vm(**ram, devices);
    EXPECT_TRUE(vm.ok());
}

}  // namespace
}  // namespace strata::engine::soft
