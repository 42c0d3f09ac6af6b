// MachineGuests tests: the tiny guests on a whole PC, on every engine. Each guest's head says what it does and expects.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engines.h"
#include "machine_runner.h"

namespace strata::tests {
namespace {

constexpr std::uint32_t kPass = 0x10;

class MachineGuests : public ::testing::TestWithParam<std::string_view> {
  protected:
    void SetUp() override {
        auto engine = make_engine(GetParam());
        if (!engine.ok()) {
            GTEST_SKIP() << "engine " << GetParam() << ": " << engine.error().text();
        }
        engine_ = std::move(engine).value();
    }
    GuestResult run(const std::string& guest, std::uint32_t vcpus = 1, const std::string& press_at = "") {
        GuestRun options;
        options.kernel = std::string(STRATA_GUESTS) + "/" + guest + ".bin";
        options.vcpus = vcpus;
        options.press_at = press_at;
        const auto result = run_guest(options, *engine_);
        EXPECT_TRUE(result.ok()) << result.error().text();
        return result.ok() ? *result : GuestResult{};
    }
    void expect_pass(const std::string& guest, std::uint32_t vcpus = 1) {
        const GuestResult result = run(guest, vcpus);
        EXPECT_EQ(result.ending, Ending::DebugExit) << result.detail;
        EXPECT_EQ(result.value, kPass);
    }
    /// For guests that look at an interrupt in service; empty where the engine's local APIC is whole.
    [[nodiscard]] std::string lacks_service() const {
        const auto& limitations = engine_->capabilities().limitations;
        return limitations.empty() ? std::string() : limitations.front();
    }
    std::unique_ptr<engine::CpuEngine> engine_;
};

TEST_P(MachineGuests, SerialHello) {
    const GuestResult result = run("serial_hello");
    EXPECT_EQ(result.ending, Ending::DebugExit) << result.detail;
    EXPECT_EQ(result.serial, "hello from the guest\n");
}

TEST_P(MachineGuests, DebugExitValue) {
    const GuestResult result = run("debug_exit");
    EXPECT_EQ(result.ending, Ending::DebugExit) << result.detail;
    EXPECT_EQ(result.value, 0x2aU);
}

TEST_P(MachineGuests, TripleFault) { EXPECT_EQ(run("triple_fault").ending, Ending::TripleFault); }
TEST_P(MachineGuests, PowerOff) { EXPECT_EQ(run("poweroff").ending, Ending::PowerOff); }

TEST_P(MachineGuests, PowerButton) {
    if (const std::string reason = lacks_service(); !reason.empty()) {
        GTEST_SKIP() << reason;
    }
    const GuestResult result = run("power_button", 1, "ready");
    EXPECT_EQ(result.ending, Ending::DebugExit) << result.detail;
    EXPECT_EQ(result.value, kPass);
}

TEST_P(MachineGuests, RebootStartsAnew) {
    const GuestResult result = run("reboot");
    EXPECT_EQ(result.ending, Ending::DebugExit) << result.detail;
    EXPECT_EQ(result.value, kPass);
    EXPECT_EQ(result.resets, 2U);
}

TEST_P(MachineGuests, RealMode) {
    const GuestResult result = run("real_mode");
    EXPECT_EQ(result.ending, Ending::DebugExit) << result.detail;
    EXPECT_EQ(result.value, kPass);
    EXPECT_EQ(result.serial, "R");
}

TEST_P(MachineGuests, MultibootInfo) { expect_pass("multiboot_info"); }
TEST_P(MachineGuests, Exceptions32) { expect_pass("exceptions32"); }
TEST_P(MachineGuests, LongMode) { expect_pass("long_mode"); }
TEST_P(MachineGuests, PitThroughPic) { expect_pass("pit_pic"); }
TEST_P(MachineGuests, IoApic) {
    if (const std::string reason = lacks_service(); !reason.empty()) {
        GTEST_SKIP() << reason;
    }
    expect_pass("ioapic");
}
TEST_P(MachineGuests, LapicTimer) { expect_pass("lapic_timer"); }
TEST_P(MachineGuests, InitAndSipi) { expect_pass("smp_sipi", 4); }
TEST_P(MachineGuests, PciConfig) { expect_pass("pci_config"); }
TEST_P(MachineGuests, Clocks) { expect_pass("clocks"); }

INSTANTIATE_TEST_SUITE_P(Engines, MachineGuests, ::testing::ValuesIn(engine_names()),
                         [](const auto& each) { return std::string(each.param); });

}  // namespace
}  // namespace strata::tests
