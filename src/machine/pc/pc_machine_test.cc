// PcMachine tests on an engine that never runs: wiring, firmware's work, reset, save and load, bad
// configurations.
#include "machine/pc/pc_machine.h"

#include <array>
#include <deque>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include "arch/x86/registers.h"
#include "base/endian.h"
#include "machine/boot/test_kernels.h"
#include "machine/pc/fake_engine.h"

namespace strata::machine::pc {
namespace {

constexpr std::uint64_t kMib = 1ULL << 20;

class RecordedEvents final : public MachineEvents {
  public:
    void power_off() override { seen.emplace_back("power off"); }
    void reset() override { seen.emplace_back("reset"); }
    void guest_crash(devices::GuestCrash crash) override {
        seen.emplace_back(crash == devices::GuestCrash::Panicked ? "panic" : "crash kernel");
    }
    void debug_exit(std::uint32_t value) override {
        seen.push_back("exit " + std::to_string(value));
    }
    std::vector<std::string> seen;
};

class PcMachineTest : public ::testing::Test {
  protected:
    void SetUp() override {
        const UniqueFd fd(::mkstemp(path_.data()));
        auto kernel = boot::testing::multiboot_plain();
        boot::testing::put<std::uint32_t>(kernel, 0x40, 0x600d600d);
        ASSERT_EQ(::write(fd.get(), kernel.data(), kernel.size()),
                  static_cast<ssize_t>(kernel.size()));
        loop_ = io::EventLoop::create().value();
    }
    void TearDown() override { ::unlink(path_.c_str()); }

    PcConfig config(std::uint32_t vcpus = 2) {
        PcConfig result;
        result.memory_bytes = 16 * kMib;
        for (std::uint32_t i = 0; i < vcpus; ++i) {
            result.vcpus.push_back({i, {}});
        }
        result.boot_files = boot::BootFiles::open(path_, "").value();
        result.debug_exit = true;
        return result;
    }
    std::unique_ptr<PcMachine> machine() {
        return PcMachine::create(config(), engine_, *loop_, serial_, events_).value();
    }
    static void out(PcMachine& machine, std::uint16_t port, std::uint32_t value,
                    std::size_t size = 1) {
        const Le32 wire(value);
        machine.io().port_write(port, std::as_bytes(std::span(&wire, 1)).first(size));
    }
    static std::uint32_t in(PcMachine& machine, std::uint16_t port, std::size_t size = 1) {
        Le32 wire(0U);
        machine.io().port_read(port, std::as_writable_bytes(std::span(&wire, 1)).first(size));
        return wire;
    }
    static std::uint32_t word(PcMachine& machine, std::uint64_t address) {
        return machine.ram().load<Le32>(memory::GuestAddress(address)).value();
    }

    std::string path_ = "/tmp/strata-machine-XXXXXX";
    FakeEngine engine_;
    std::unique_ptr<io::EventLoop> loop_;
    devices::NullSerialBackend serial_;
    RecordedEvents events_;
};

TEST_F(PcMachineTest, PowerOnPlacesKernelTablesAndStates) {
    const auto pc = machine();
    ASSERT_TRUE(pc->power_on().ok());
    EXPECT_EQ(word(*pc, 0x100040), 0x600d600dU);
    EXPECT_EQ(word(*pc, 0xe0000), 0x20445352U);  // "RSD "
    EXPECT_EQ(word(*pc, 0xf0000), 0x334d535fU);  // "_SM3"
    EXPECT_EQ(engine_.vm->states[0]->rip, 0x100040U);
    EXPECT_EQ(engine_.vm->states[1]->run_state, arch::x86::RunState::WaitForInit);
    EXPECT_EQ(pc->kernel_kind(), "multiboot");
    EXPECT_EQ(in(*pc, 0x4d1) & 2U, 2U);  // the SCI is a level
}

TEST_F(PcMachineTest, PortsReachTheirDevices) {
    const auto pc = machine();
    ASSERT_TRUE(pc->power_on().ok());
    EXPECT_EQ(in(*pc, 0x3fd) & 0x60U, 0x60U);  // transmitter empty
    EXPECT_EQ(in(*pc, 0x604, 2) & 1U, 1U);     // SCI_EN
    EXPECT_EQ(in(*pc, 0x505) & 1U, 1U);        // pvpanic offers "panicked"
    EXPECT_EQ(in(*pc, 0x1234), 0xffU);
    Le32 version(0U);
    const Le32 version_register(1U);
    pc->io().mmio_write(0xfec00000, std::as_bytes(std::span(&version_register, 1)));
    pc->io().mmio_read(0xfec00010, std::as_writable_bytes(std::span(&version, 1)));
    EXPECT_EQ(version >> 16, 23U);
    pc->io().mmio_read(0xd0000000, std::as_writable_bytes(std::span(&version, 1)));
    EXPECT_EQ(version, 0xffffffffU);
}

TEST_F(PcMachineTest, GuestActionsBecomeEvents) {
    const auto pc = machine();
    ASSERT_TRUE(pc->power_on().ok());
    out(*pc, 0xcf9, 6);
    out(*pc, 0x64, 0xfe);
    out(*pc, 0x505, 1);
    out(*pc, 0xf4, 21);
    out(*pc, 0x604, 5U << 10 | 0x2000, 2);
    EXPECT_THAT(events_.seen,
                ::testing::ElementsAre("reset", "reset", "panic", "exit 21", "power off"));
}

TEST_F(PcMachineTest, IsaInterruptReachesPicAndIoApic) {
    const auto pc = machine();
    ASSERT_TRUE(pc->power_on().ok());
    for (const auto& [port, value] : std::vector<std::pair<std::uint16_t, std::uint32_t>>{
             {0x20, 0x11}, {0x21, 0x20}, {0x21, 4}, {0x21, 1}, {0x21, 0xef}}) {
        out(*pc, port, value);
    }
    const auto io_apic = [&](std::uint32_t index, std::uint32_t value) {
        const std::array<Le32, 1> select = {Le32(index)};
        const std::array<Le32, 1> data = {Le32(value)};
        pc->io().mmio_write(0xfec00000, std::as_bytes(std::span(select)));
        pc->io().mmio_write(0xfec00010, std::as_bytes(std::span(data)));
    };
    io_apic(0x10 + 2 * 4, 0x44);
    // The UART: OUT2, then "transmitter empty" interrupts on.
    out(*pc, 0x3fc, 8);
    out(*pc, 0x3f9, 2);
    EXPECT_TRUE(engine_.vm->external);
    EXPECT_EQ(pc->io().acknowledge_external_interrupt(), 0x24);
    ASSERT_EQ(engine_.vm->messages.size(), 1U);
    EXPECT_EQ(engine_.vm->messages[0].data & 0xffU, 0x44U);
    EXPECT_EQ(engine_.vm->routes.size(), 24U);
}

TEST_F(PcMachineTest, ResetIsAColdStartAndRepeats) {
    const auto pc = machine();
    ASSERT_TRUE(pc->power_on().ok());
    for (int round = 0; round < 3; ++round) {
        const Le32 dirt(0xdeadbeefU);
        ASSERT_TRUE(pc->ram().store(memory::GuestAddress(0x400000), dirt).ok());
        ASSERT_TRUE(pc->ram().store(memory::GuestAddress(0x100040), dirt).ok());
        out(*pc, 0x3ff, 0x5a);  // the UART's scratch register
        out(*pc, 0x70, 0x40);
        out(*pc, 0x71, 0x77);  // CMOS memory survives
        engine_.vm->states[0]->rip = 1;
        engine_.vm->states[1]->run_state = arch::x86::RunState::Running;
        ASSERT_TRUE(pc->reset().ok());
        EXPECT_EQ(word(*pc, 0x400000), 0U);
        EXPECT_EQ(word(*pc, 0x100040), 0x600d600dU);
        EXPECT_EQ(in(*pc, 0x3ff), 0U);
        out(*pc, 0x70, 0x40);
        EXPECT_EQ(in(*pc, 0x71), 0x77U);
        EXPECT_EQ(engine_.vm->states[0]->rip, 0x100040U);
        EXPECT_EQ(engine_.vm->states[1]->run_state, arch::x86::RunState::WaitForInit);
    }
}

TEST_F(PcMachineTest, SavedStateLoadsIntoAFreshMachine) {
    const auto first = machine();
    ASSERT_TRUE(first->power_on().ok());
    out(*first, 0x3ff, 0x5a);
    engine_.vm->states[0]->gpr[3] = 42;
    ASSERT_TRUE(first->pause().ok());
    const std::uint64_t time = first->clock().now();
    state::StateWriter writer;
    ASSERT_TRUE(first->save(writer).ok());
    const auto second = machine();
    ASSERT_TRUE(second->pause().ok());
    state::StateReader reader(writer.bytes());
    const auto loaded = second->load(reader);
    ASSERT_TRUE(loaded.ok()) << loaded.error().text();
    EXPECT_TRUE(reader.at_end());
    EXPECT_EQ(second->clock().now(), time);
    ASSERT_TRUE(second->resume().ok());
    EXPECT_EQ(in(*second, 0x3ff), 0x5aU);
    EXPECT_EQ(engine_.vm->states[0]->gpr[3], 42U);
}

TEST_F(PcMachineTest, StateOfAnotherMachineIsRefused) {
    const auto first = machine();
    ASSERT_TRUE(first->power_on().ok());
    ASSERT_TRUE(first->pause().ok());
    state::StateWriter writer;
    ASSERT_TRUE(first->save(writer).ok());
    auto other = config(1);
    const auto second =
        PcMachine::create(std::move(other), engine_, *loop_, serial_, events_).value();
    state::StateReader reader(writer.bytes());
    EXPECT_THAT(second->load(reader).error().text(), ::testing::HasSubstr("another machine"));
}

TEST_F(PcMachineTest, ImpossibleMachinesAreRefused) {
    const auto refusal = [&](PcConfig bad) {
        const auto made = PcMachine::create(std::move(bad), engine_, *loop_, serial_, events_);
        return made.ok() ? "made" : made.error().text();
    };
    EXPECT_THAT(refusal(config(0)), ::testing::HasSubstr("0 vCPUs"));
    EXPECT_THAT(refusal(config(9)), ::testing::HasSubstr("offers 1 to 8"));
    auto tiny = config();
    tiny.memory_bytes = 1;
    EXPECT_THAT(refusal(std::move(tiny)), ::testing::HasSubstr("too small"));
    auto huge = config();
    huge.memory_bytes = 1ULL << 60;
    EXPECT_THAT(refusal(std::move(huge)), ::testing::HasSubstr("address bits"));
    auto unknown = config();
    unknown.machine_type = "pc-77";
    EXPECT_THAT(refusal(std::move(unknown)), ::testing::HasSubstr("unknown machine type"));
    auto no_kernel = config();
    no_kernel.boot_files = boot::BootFiles::open("/proc/self/exe", "").value();
    EXPECT_THAT(refusal(std::move(no_kernel)),
                ::testing::HasSubstr("cannot boot '/proc/self/exe'"));
}

}  // namespace
}  // namespace strata::machine::pc
