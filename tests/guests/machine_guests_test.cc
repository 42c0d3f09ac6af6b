// MachineGuests tests: the tiny guests on a whole PC, on every engine. Each guest's head says what
// it does and expects.
//
// The processors' stress tests take STRATA_GUEST_ROUNDS=N from the environment: so many rounds, and
// ten minutes for each, instead of their own short budget.
#include <chrono>
#include <cstdlib>
#include <thread>

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
    GuestResult run(const std::string& guest, std::uint32_t vcpus = 1,
                    const std::string& press_at = "") {
        GuestRun options;
        options.kernel = std::string(STRATA_GUESTS) + "/" + guest + ".bin";
        options.vcpus = vcpus;
        options.press_at = press_at;
        const auto result = run_guest(options, *engine_);
        EXPECT_TRUE(result.ok()) << result.error().text();
        return result.ok() ? *result : GuestResult{};
    }
    void expect_pass(const std::string& guest, std::uint32_t vcpus = 1) {
        check_pass(run(guest, vcpus));
    }
    static void check_pass(const GuestResult& result) {
        EXPECT_EQ(result.ending, Ending::DebugExit) << result.detail;
        EXPECT_EQ(result.value, kPass) << std::hex << result.value << ' ' << result.serial;
    }
    /// A guest that knows more of the manual than a KVM that emulates its guests.
    void expect_conformance(const std::string& guest) {
        if (const std::string reason = lacks_service(); !reason.empty()) {
            GTEST_SKIP() << "the host's KVM emulates its guests, and not all of the architecture: "
                         << reason;
        }
        expect_pass(guest);
    }
    /// A guest of user.inc: with the engine "direct" its user code must have run in stubs.
    void expect_user(const std::string& guest, std::uint32_t vcpus = 1) {
        if (const std::string reason = lacks_service(); !reason.empty()) {
            GTEST_SKIP() << "the host's KVM emulates its guests: " << reason;
        }
        const GuestResult result = run(guest, vcpus);
        check_pass(result);
        if (GetParam() == "direct") {
            EXPECT_GT(result.direct_runs, 10U * vcpus);
        } else {
            EXPECT_EQ(result.direct_runs, 0U);
        }
    }
    /// A guest that repeats itself on four processors.
    void stress(const std::string& guest) {
        if (const std::string reason = lacks_service(); !reason.empty()) {
            GTEST_SKIP() << "a KVM that emulates its guests is too slow: " << reason;
        }
        GuestRun options;
        options.kernel = std::string(STRATA_GUESTS) + "/" + guest + ".bin";
        options.vcpus = 4;
        options.limit = std::chrono::seconds(50);
        if (const char* rounds = std::getenv("STRATA_GUEST_ROUNDS"); rounds != nullptr) {
            options.append = std::string("rounds=") + rounds;
            options.limit = std::chrono::seconds(600);
        }
        const auto result = run_guest(options, *engine_);
        ASSERT_TRUE(result.ok()) << result.error().text();
        check_pass(*result);
    }
    /// For guests that look at an interrupt in service; empty where the engine's local APIC is
    /// whole.
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

TEST_P(MachineGuests, TripleFault) {
    EXPECT_EQ(run("triple_fault").ending, Ending::TripleFault);
}
TEST_P(MachineGuests, PowerOff) {
    EXPECT_EQ(run("poweroff").ending, Ending::PowerOff);
}

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

TEST_P(MachineGuests, MultibootInfo) {
    expect_pass("multiboot_info");
}
TEST_P(MachineGuests, Exceptions32) {
    expect_pass("exceptions32");
}
TEST_P(MachineGuests, LongMode) {
    expect_pass("long_mode");
}
TEST_P(MachineGuests, PitThroughPic) {
    expect_pass("pit_pic");
}
TEST_P(MachineGuests, IoApic) {
    if (const std::string reason = lacks_service(); !reason.empty()) {
        GTEST_SKIP() << reason;
    }
    expect_pass("ioapic");
}
TEST_P(MachineGuests, LapicTimer) {
    expect_pass("lapic_timer");
}
TEST_P(MachineGuests, InitAndSipi) {
    expect_pass("smp_sipi", 4);
}
TEST_P(MachineGuests, PciConfig) {
    expect_pass("pci_config");
}
TEST_P(MachineGuests, Clocks) {
    expect_pass("clocks");
}
TEST_P(MachineGuests, WhatCpuidPromises) {
    expect_pass("promised");
}
TEST_P(MachineGuests, UserModeReadsADeviceByAvx) {
    expect_pass("user_avx");
}
TEST_P(MachineGuests, UserModeCallsTheKernel) {
    expect_pass("user_calls");
}

// The manual, chapter by chapter: docs/conformance.md has the list.
TEST_P(MachineGuests, TaskSwitches) {
    expect_pass("task_switch");
}
TEST_P(MachineGuests, SegmentsAndPrivileges) {
    expect_conformance("protection");
}
TEST_P(MachineGuests, Virtual8086Mode) {
    expect_conformance("vm86");
}
TEST_P(MachineGuests, ModeSwitches) {
    expect_conformance("mode_switch");
}
TEST_P(MachineGuests, SystemInstructionsOf64BitMode) {
    expect_conformance("system64");
}
TEST_P(MachineGuests, DataProcessingByClass) {
    expect_pass("data_classes");
}
TEST_P(MachineGuests, StateImages) {
    expect_conformance("state_images");
}

// Ring 3 as Linux has it, which the engine "direct" runs on the host's processor.
TEST_P(MachineGuests, UserSeesItsMemory) {
    expect_user("user_memory");
}
TEST_P(MachineGuests, UserSeesItsRegisters) {
    expect_user("user_state");
}
TEST_P(MachineGuests, UserIsInterrupted) {
    expect_user("user_time");
}
TEST_P(MachineGuests, UserSharesAnAddressSpace) {
    expect_user("user_smp", 2);
}

TEST_P(MachineGuests, UserTriesEveryWayOut) {
    expect_user("user_attack");
}
TEST_P(MachineGuests, UserIsAtOddPlaces) {
    expect_user("user_places");
}
TEST_P(MachineGuests, UserHasWideStateAndKeys) {
    expect_user("user_wide");
}
TEST_P(MachineGuests, UserCodeIsSwappedAsItRuns) {
    expect_user("user_swap", 2);
}

TEST_P(MachineGuests, UserWritesAreInTheDirtyLog) {
    if (const std::string reason = lacks_service(); !reason.empty()) {
        GTEST_SKIP() << reason;
    }
    constexpr std::size_t kFirst = 0x404, kPages = 16;
    constexpr int kTurns = 10;
    GuestRun options;
    options.kernel = std::string(STRATA_GUESTS) + "/user_dirty.bin";
    options.act_at = "ready";
    int good = 0;
    options.act = [&good](machine::pc::PcMachine& pc) {
        for (int turn = 0; turn < kTurns; ++turn) {
            ASSERT_TRUE(pc.vm().set_dirty_logging(true).ok());
            bool all = false;
            for (int wait = 0; wait < 500 && !all; ++wait) {
                std::this_thread::sleep_for(std::chrono::milliseconds(2));
                pc.vcpus()[0]->request_exit();  // it is resumed at once
                ASSERT_TRUE(pc.vm().sync_dirty_log().ok());
                all = true;
                for (std::size_t i = 0; i < kPages; ++i) {
                    all = all && pc.ram().dirty().test(kFirst + i);
                }
            }
            good += all && !pc.ram().dirty().test(kFirst + kPages) ? 1 : 0;
            ASSERT_TRUE(pc.vm().set_dirty_logging(false).ok());
            pc.ram().dirty().clear();
            std::this_thread::sleep_for(std::chrono::milliseconds(5));  // without a log
        }
        pc.ram().base()[(kFirst + kPages) * 4096] = std::byte{1};
    };
    const auto result = run_guest(options, *engine_);
    ASSERT_TRUE(result.ok()) << result.error().text();
    check_pass(*result);
    EXPECT_EQ(good, kTurns);
    if (GetParam() == "direct") {
        EXPECT_GT(result->direct_runs, 5U);
    }
}

TEST_P(MachineGuests, MemoryOrderOfProcessors) {
    stress("litmus");
}
TEST_P(MachineGuests, TranslationsShotDown) {
    stress("shootdown");
}
TEST_P(MachineGuests, CodePatchedUnderOthers) {
    stress("code_patch");
}
TEST_P(MachineGuests, AddressSpacesSwitched) {
    stress("pcid_switch");
}

INSTANTIATE_TEST_SUITE_P(Engines, MachineGuests, ::testing::ValuesIn(engine_names()),
                         [](const auto& each) { return std::string(each.param); });

}  // namespace
}  // namespace strata::tests
