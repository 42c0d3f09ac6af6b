// EngineContract: what both CPU engines promise, shown with tiny guests. Skips an engine that this
// host does not have, with the reason.
#include <algorithm>
#include <cstring>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "arch/x86/registers.h"
#include "engines.h"
#include "tiny_machine.h"

namespace strata::tests {
namespace {

using engine::ExitReason;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsSupersetOf;

TINY_GUEST(real_ports)
TINY_GUEST(real_spin)
TINY_GUEST(real_halt)
TINY_GUEST(real_ap)
TINY_GUEST(triple_fault)
TINY_GUEST(mmio)
TINY_GUEST(halt)
TINY_GUEST(external)
TINY_GUEST(spin_external)
TINY_GUEST(deadline)
TINY_GUEST(start_ap)
TINY_GUEST(dirty)
TINY_GUEST(registers)
TINY_GUEST(divide)
TINY_GUEST(breakpoint)
TINY_GUEST(xrstor)
TINY_GUEST(wide_mmio)

constexpr std::uint64_t kMsiBase = 0xfee00000;

class EngineContract : public ::testing::TestWithParam<std::string_view> {
  protected:
    void SetUp() override {
        auto engine = make_engine(GetParam());
        if (!engine.ok()) {
            GTEST_SKIP() << engine.error().text();
        }
        engine_ = std::move(engine).value();
        machine_ = make(1);
    }
    std::unique_ptr<TinyMachine> make(std::uint32_t vcpus) {
        auto machine = TinyMachine::create(*engine_, vcpus);
        EXPECT_TRUE(machine.ok()) << (machine.ok() ? "" : machine.error().text());
        return machine.ok() ? std::move(machine).value() : nullptr;
    }
    void expect_end(TinyMachine& machine) {
        const auto exit = machine.run();
        EXPECT_EQ(exit.reason, ExitReason::Interrupted);
        EXPECT_EQ(exit.detail, "");
    }

    std::unique_ptr<engine::CpuEngine> engine_;
    std::unique_ptr<TinyMachine> machine_;
};

TEST_P(EngineContract, PortsReachTheDispatcherAlsoAsStrings) {
    machine_->io.answers[0x10] = 0x41;
    ASSERT_TRUE(machine_->start_real(real_ports_code()).ok());
    expect_end(*machine_);
    EXPECT_THAT(machine_->io.port_writes(),
                ElementsAre(PortWrite{0x11, 0x42}, PortWrite{0x12, 'a'}, PortWrite{0x12, 'b'},
                            PortWrite{0x12, 'c'}, PortWrite{0xf4, 0x42}));
}

TEST_P(EngineContract, DeviceMemoryIsReadAndWrittenInAllSizes) {
    machine_->io.answers = {{0xd0000000, 0x12},
                            {0xd0000002, 0x3456},
                            {0xd0000008, 0x789abcde},
                            {0xd0000010, 0x1122334455667788}};
    ASSERT_TRUE(machine_->start_long(mmio_code()).ok());
    expect_end(*machine_);
    auto bytes = machine_->io.mmio_bytes();
    EXPECT_EQ(bytes[0xd0000001], 0x12);
    EXPECT_EQ(bytes[0xd0000005], 0x34);
    EXPECT_EQ(bytes[0xd000000c], 0xde);
    EXPECT_EQ(bytes[0xd0000018], 0x88);
    EXPECT_EQ(bytes[0xd000001f], 0x11);
}

TEST_P(EngineContract, MsiWakesAHaltedVcpu) {
    ASSERT_TRUE(machine_->start_long(halt_code()).ok());
    std::thread device([&] {
        EXPECT_TRUE(machine_->io.wait_for_port(0x11));
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        machine_->vm->send({kMsiBase, 0x30});
    });
    expect_end(*machine_);
    device.join();
    EXPECT_THAT(machine_->io.port_writes(), Contains(PortWrite{0x12, 0x30}));
}

TEST_P(EngineContract, EndOfLevelInterruptIsReported) {
    machine_->vm->set_irq_routes({{9, {kMsiBase, 0x8031}, true, false}});
    ASSERT_TRUE(machine_->start_long(halt_code()).ok());
    std::thread device([&] {
        EXPECT_TRUE(machine_->io.wait_for_port(0x11));
        machine_->vm->send({kMsiBase, 0x8031});
    });
    expect_end(*machine_);
    device.join();
    EXPECT_THAT(machine_->io.ended(), ElementsAre(0x31));
}

TEST_P(EngineContract, NmiWakesAHaltedVcpu) {
    ASSERT_TRUE(machine_->start_long(halt_code()).ok());
    std::thread device([&] {
        EXPECT_TRUE(machine_->io.wait_for_port(0x11));
        std::this_thread::sleep_for(
            std::chrono::milliseconds(50));  // an NMI before the HLT would not end it
        machine_->vm->inject_nmi(0);
    });
    expect_end(*machine_);
    device.join();
    EXPECT_THAT(machine_->io.port_writes(), Contains(PortWrite{0x12, 2}));
}

TEST_P(EngineContract, ExternalInterruptWakesAHaltedVcpu) {
    machine_->io.on_acknowledge = [&] {
        machine_->vm->set_external_interrupt(false);
        return std::uint8_t{0x28};
    };
    ASSERT_TRUE(machine_->start_long(external_code()).ok());
    std::thread device([&] {
        EXPECT_TRUE(machine_->io.wait_for_port(0x11));
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        machine_->vm->set_external_interrupt(true);
    });
    expect_end(*machine_);
    device.join();
    EXPECT_THAT(machine_->io.port_writes(), Contains(PortWrite{0x12, 0x28}));
}

TEST_P(EngineContract, ExternalInterruptBreaksIntoRunningCode) {
    machine_->io.on_acknowledge = [&] {
        machine_->vm->set_external_interrupt(false);
        return std::uint8_t{0x29};
    };
    ASSERT_TRUE(machine_->start_long(spin_external_code()).ok());
    std::thread device([&] {
        EXPECT_TRUE(machine_->io.wait_for_port(0x11));
        machine_->vm->set_external_interrupt(true);
    });
    expect_end(*machine_);
    device.join();
    EXPECT_THAT(machine_->io.port_writes(), Contains(PortWrite{0x12, 0x29}));
}

TEST_P(EngineContract, TscDeadlineTimerWakesAHaltedVcpu) {
    ASSERT_TRUE(machine_->start_long(deadline_code()).ok());
    expect_end(*machine_);
    EXPECT_THAT(machine_->io.port_writes(), Contains(PortWrite{0x12, 0x31}));
}

TEST_P(EngineContract, FaultArrivesAtItsHandler) {
    ASSERT_TRUE(machine_->start_long(divide_code()).ok());
    expect_end(*machine_);
    EXPECT_THAT(machine_->io.port_writes(), Contains(PortWrite{0x12, 0}));
}

TEST_P(EngineContract, RequestEndsASpinningGuestFromAnotherThread) {
    ASSERT_TRUE(machine_->start_real(real_spin_code()).ok());
    EXPECT_EQ(machine_->run(std::chrono::milliseconds(50)).detail, "timed out");
}

TEST_P(EngineContract, RequestEndsAHaltedGuestFromAnotherThread) {
    ASSERT_TRUE(machine_->start_real(real_halt_code()).ok());
    EXPECT_EQ(machine_->run(std::chrono::milliseconds(50)).detail, "timed out");
}

TEST_P(EngineContract, RequestBeforeRunEndsIt) {
    ASSERT_TRUE(machine_->start_real(real_spin_code()).ok());
    machine_->vcpus[0]->request_exit();
    const auto exit = machine_->run();
    EXPECT_EQ(exit.reason, ExitReason::Interrupted);
    EXPECT_EQ(exit.detail, "");
}

TEST_P(EngineContract, TripleFaultIsReported) {
    ASSERT_TRUE(machine_->start_long(triple_fault_code()).ok());
    EXPECT_EQ(machine_->run().reason, ExitReason::TripleFault);
}

TEST_P(EngineContract, InitAndSipiStartAnotherVcpu) {
    auto two = make(2);
    ASSERT_NE(two, nullptr);
    two->load(TinyMachine::kApAddress, real_ap_code());
    ASSERT_TRUE(two->start_long(start_ap_code()).ok());
    std::thread second([&] { (void)two->vcpus[1]->run(); });
    expect_end(*two);
    two->vcpus[1]->request_exit();
    second.join();
    arch::x86::ArchState state;
    ASSERT_TRUE(two->vcpus[1]->get_state(state).ok());
    EXPECT_EQ(state.run_state, arch::x86::RunState::Halted);
}

TEST_P(EngineContract, VcpuWritesAreInTheDirtyLog) {
    ASSERT_TRUE(machine_->start_long(dirty_code()).ok());
    ASSERT_TRUE(machine_->vm->set_dirty_logging(true).ok());
    expect_end(*machine_);
    ASSERT_TRUE(machine_->vm->sync_dirty_log().ok());
    EXPECT_TRUE(machine_->ram->dirty().test(0x50));
    EXPECT_FALSE(machine_->ram->dirty().test(0x51));
    EXPECT_TRUE(machine_->ram->dirty().test(0x52));
    ASSERT_TRUE(machine_->vm->set_dirty_logging(false).ok());
}

TEST_P(EngineContract, StateSavedInOneMachineContinuesInAnother) {
    ASSERT_TRUE(machine_->start_long(registers_code()).ok());
    machine_->io.on_port_write = [&](std::uint16_t) { machine_->vcpus[0]->request_exit(); };
    expect_end(*machine_);
    arch::x86::ArchState state;
    ASSERT_TRUE(machine_->vcpus[0]->get_state(state).ok());
    state::StateWriter writer;
    state.save(writer);
    auto other = make(1);
    ASSERT_NE(other, nullptr);
    std::memcpy(other->ram->base(), machine_->ram->base(), TinyMachine::kRamBytes);
    state::StateReader reader(writer.bytes());
    arch::x86::ArchState loaded;
    ASSERT_TRUE(loaded.load(reader).ok());
    ASSERT_TRUE(other->vcpus[0]->set_state(loaded).ok());
    expect_end(*other);
    EXPECT_THAT(other->io.port_writes(),
                Contains(PortWrite{0x12, 0x11111111U + 0x22222222U + 0x3333U + 0x301U}));
}

TEST_P(EngineContract, StateReadBackIsWhatWasSet) {
    ASSERT_TRUE(machine_->start_long(registers_code()).ok());
    arch::x86::ArchState state;
    ASSERT_TRUE(machine_->vcpus[0]->get_state(state).ok());
    state.gpr[arch::x86::R12] = 0xfeedface;
    state.dr[1] = 0x1234;
    state.events.nmi_masked = true;
    ASSERT_TRUE(machine_->vcpus[0]->set_state(state).ok());
    arch::x86::ArchState again;
    ASSERT_TRUE(machine_->vcpus[0]->get_state(again).ok());
    EXPECT_EQ(again.gpr, state.gpr);
    EXPECT_EQ(again.segments, state.segments);
    EXPECT_EQ(again.gdtr, state.gdtr);
    EXPECT_EQ(again.cr0, state.cr0);
    EXPECT_EQ(again.cr4, state.cr4);
    EXPECT_EQ(again.efer, state.efer);
    EXPECT_EQ(again.dr, state.dr);
    EXPECT_EQ(again.events, state.events);
    EXPECT_EQ(again.lapic, state.lapic);
}

TEST_P(EngineContract, ClockIsSavedAndLoaded) {
    state::StateWriter writer;
    ASSERT_TRUE(machine_->vm->save_clock(writer).ok());
    state::StateReader reader(writer.bytes());
    auto other = make(1);
    ASSERT_NE(other, nullptr);
    EXPECT_TRUE(other->vm->load_clock(reader).ok());
}

// The next three: KVM's emulator lacks the instruction, on every host (the vector store to a
// device) or where it emulates guests.
TEST_P(EngineContract, BreakpointArrivesAtItsHandler) {
    ASSERT_TRUE(machine_->start_long(breakpoint_code()).ok());
    expect_end(*machine_);
    EXPECT_THAT(machine_->io.port_writes(), Contains(PortWrite{0x12, 3}));
}

TEST_P(EngineContract, XrstorBringsVectorValuesBack) {
    if (!arch::x86::has_feature(engine_->capabilities().supported_cpuid, "xsave")) {
        GTEST_SKIP() << "this engine shows guests no XSAVE on this host";
    }
    ASSERT_TRUE(machine_->start_long(xrstor_code()).ok());
    expect_end(*machine_);
    EXPECT_THAT(machine_->io.port_writes(), Contains(PortWrite{0x12, 0x600d}));
}

TEST_P(EngineContract, VectorStoreReachesDeviceMemory) {
    ASSERT_TRUE(machine_->start_long(wide_mmio_code()).ok());
    expect_end(*machine_);
    auto bytes = machine_->io.mmio_bytes();
    EXPECT_EQ(bytes.size(), 16U);
    EXPECT_EQ(bytes[0xd0000000], 0x88);
    EXPECT_EQ(bytes[0xd000000f], 0x11);
}

std::string engine_name(const ::testing::TestParamInfo<std::string_view>& info) {
    return std::string(info.param);
}

INSTANTIATE_TEST_SUITE_P(Engines, EngineContract, ::testing::ValuesIn(engine_names()), engine_name);

}  // namespace
}  // namespace strata::tests
