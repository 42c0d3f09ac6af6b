// Tests of the runtime's parts: MSRs, kvmclock, timers, safe points.
#include <array>
#include <cstring>
#include <thread>

#include <gtest/gtest.h>

#include "arch/x86/cpu_model.h"
#include "arch/x86/registers.h"
#include "engine/soft/runtime/msr.h"
#include "engine/soft/runtime/pv_clock.h"
#include "engine/soft/runtime/safe_points.h"
#include "engine/soft/runtime/soft_vm_fake.h"
#include "engine/soft/runtime/steal_clock.h"
#include "engine/soft/runtime/timer_service.h"
#include "engine/soft/runtime/tsc_clock.h"

namespace strata::engine::soft {
namespace {

namespace x86 = arch::x86;
namespace m = arch::x86::msr;

class NoEffects final : public MsrEffects {
  public:
    std::uint64_t apic_base() noexcept override { return 0xfee00900; }
    bool write_apic_base(std::uint64_t) noexcept override { return false; }
    bool read_x2apic(std::uint32_t, std::uint64_t&) noexcept override { return false; }
    bool write_x2apic(std::uint32_t, std::uint64_t) noexcept override { return false; }
    std::uint64_t tsc_deadline() noexcept override { return deadline; }
    void write_tsc_deadline(std::uint64_t value) noexcept override { deadline = value; }
    void tsc_moved() noexcept override { ++moved; }
    bool read_paravirtual(std::uint32_t, std::uint64_t& value) noexcept override {
        value = 0;
        return true;
    }
    bool write_paravirtual(std::uint32_t index, std::uint64_t) noexcept override {
        last_paravirtual = index;
        return true;
    }
    std::uint64_t deadline = 0;
    int moved = 0;
    std::uint32_t last_paravirtual = 0;
};

class MsrTest : public testing::Test {
  protected:
    MsrTest()
        : vm_(FakeSoftVm::create(1U << 20)),
          cpu_(*vm_->cpus()[0]),
          msrs_(cpu_, effects_, x86::software_cpuid(x86::host_cpuid())) {}
    std::uint64_t get(std::uint32_t index) {
        std::uint64_t value = 0;
        EXPECT_TRUE(msrs_.read(index, value)) << index;
        return value;
    }
    std::unique_ptr<FakeSoftVm> vm_;
    CpuState& cpu_;
    NoEffects effects_;
    MsrFile msrs_;
};

TEST_F(MsrTest, UnknownIsRefused) {
    std::uint64_t value = 0;
    EXPECT_FALSE(msrs_.read(0x12345678, value));
    EXPECT_FALSE(msrs_.write(0x12345678, 0));
}

TEST_F(MsrTest, MitigationCommandsAreThereOnlyIfOffered) {
    std::uint64_t value = 0;
    for (const std::uint32_t index : {m::kSpecCtrl, m::kPredCmd, m::kFlushCmd}) {
        EXPECT_FALSE(msrs_.read(index, value)) << index;
        EXPECT_FALSE(msrs_.write(index, 0)) << index;
        EXPECT_TRUE(msrs_.load(std::vector<x86::Msr>{{index, 0}}).ok()) << index;
    }
    EXPECT_EQ(msrs_.load(std::vector<x86::Msr>{{m::kSpecCtrl, 1}}).error().kind(),
              ErrorKind::NotSupported);
}

TEST_F(MsrTest, PowerOnValues) {
    EXPECT_EQ(get(m::kPat), 0x0007040600070406U);
    EXPECT_EQ(get(m::kEfer), 0U);
    EXPECT_EQ(get(m::kArchCapabilities) & 1, 1U);
}

TEST_F(MsrTest, AddressesMustBeCanonical) {
    EXPECT_TRUE(msrs_.write(m::kLstar, 0xffff800000000000));
    EXPECT_FALSE(msrs_.write(m::kLstar, 0x0000800000000000));
    EXPECT_FALSE(msrs_.write(m::kFsBase, 0x0000800000000000));
    EXPECT_TRUE(msrs_.write(m::kGsBase, 0x1000));
    EXPECT_EQ(cpu_.segments[x86::Gs].base, 0x1000U);
    EXPECT_EQ(cpu_.lstar, 0xffff800000000000U);
}

TEST_F(MsrTest, EferKeepsItsRules) {
    EXPECT_FALSE(msrs_.write(m::kEfer, 1ULL << 40));
    EXPECT_TRUE(msrs_.write(m::kEfer, x86::efer::kLme | x86::efer::kNxe | x86::efer::kLma));
    EXPECT_EQ(cpu_.efer, x86::efer::kLme | x86::efer::kNxe) << "LMA is not written";
    cpu_.cr0 |= x86::cr0::kPg | x86::cr0::kPe;
    EXPECT_FALSE(msrs_.write(m::kEfer, x86::efer::kNxe)) << "LME with paging on";
}

TEST_F(MsrTest, PatAndMtrrRefuseReservedTypes) {
    EXPECT_FALSE(msrs_.write(m::kPat, 2));
    EXPECT_TRUE(msrs_.write(m::kPat, 7));
    EXPECT_FALSE(msrs_.write(m::kMtrrFix64k, 0x0700));
    EXPECT_TRUE(msrs_.write(m::kMtrrFix64k, 0x0606060606060606));
    EXPECT_FALSE(msrs_.write(m::kMtrrDefType, 0x2));
    EXPECT_TRUE(msrs_.write(m::kMtrrDefType, 0xc06));
    EXPECT_TRUE(msrs_.write(m::kMtrrPhysBase0, 0x80000006));
    EXPECT_FALSE(msrs_.write(m::kMtrrPhysBase0, 0x80000106));
    EXPECT_FALSE(msrs_.write(m::kMtrrPhysBase0 + 1, 0x1));
    EXPECT_EQ(get(m::kMtrrPhysBase0), 0x80000006U);
}

TEST_F(MsrTest, TscAndAdjustMoveTogether) {
    ASSERT_TRUE(msrs_.write(m::kTsc, 1000));
    EXPECT_LT(get(m::kTsc), 10'000'000'000U);
    const std::uint64_t adjust = get(m::kTscAdjust);
    EXPECT_EQ(adjust, cpu_.tsc_offset);
    ASSERT_TRUE(msrs_.write(m::kTscAdjust, adjust + 5));
    EXPECT_EQ(cpu_.tsc_offset, adjust + 5);
    EXPECT_EQ(effects_.moved, 2);
}

TEST_F(MsrTest, CommandsAreWriteOnly) {
    x86::CpuidTable table = x86::software_cpuid(x86::host_cpuid());
    ASSERT_NE(table.entry(7, 0), nullptr);
    table.entry(7, 0)->registers.edx |= 1U << 26;  // IBRS and IBPB
    MsrFile msrs(cpu_, effects_, table);
    std::uint64_t value = 0;
    EXPECT_TRUE(msrs.write(m::kPredCmd, 1));
    EXPECT_FALSE(msrs.write(m::kPredCmd, 2));
    EXPECT_FALSE(msrs.read(m::kPredCmd, value));
    EXPECT_TRUE(msrs.write(m::kSpecCtrl, 1));
    EXPECT_TRUE(msrs.read(m::kSpecCtrl, value));
}

TEST_F(MsrTest, MachineCheckStatusIsOnlyCleared) {
    EXPECT_TRUE(msrs_.write(m::kMc0Ctl, ~0ULL));
    EXPECT_FALSE(msrs_.write(m::kMc0Ctl, 5));
    EXPECT_FALSE(msrs_.write(m::kMc0Ctl + 1, 5));
    EXPECT_TRUE(msrs_.write(m::kMc0Ctl + 1, 0));
}

TEST_F(MsrTest, LegacyClockNumbersAreTheNewOnes) {
    EXPECT_TRUE(msrs_.write(0x12, 1));
    EXPECT_EQ(effects_.last_paravirtual, m::kKvmSystemTime);
}

TEST_F(MsrTest, EveryIndexIsHarmless) {
    std::uint64_t value = 0;
    for (const MsrRow& row : msr_table()) {
        for (std::uint32_t i = 0; i < row.count; ++i) {
            (void)msrs_.read(row.first + i, value);
            (void)msrs_.write(row.first + i, ~0ULL);
            (void)msrs_.write(row.first + i, 0);
        }
    }
}

TEST_F(MsrTest, SavedRegistersComeBack) {
    ASSERT_TRUE(msrs_.write(m::kStar, 0x0023001000000000));
    ASSERT_TRUE(msrs_.write(m::kMtrrDefType, 0xc06));
    ASSERT_TRUE(msrs_.write(m::kTscAux, 3));
    const auto saved = msrs_.save();
    msrs_.reset();
    EXPECT_EQ(cpu_.star, 0U);
    ASSERT_TRUE(msrs_.load(saved).ok());
    EXPECT_EQ(msrs_.save(), saved);
    EXPECT_EQ(cpu_.star, 0x0023001000000000U);
}

TEST_F(MsrTest, UnknownSavedRegisterIsRefused) {
    const std::array<x86::Msr, 1> alien{{{0x12345678, 1}}};
    EXPECT_FALSE(msrs_.load(alien).ok());
}

TEST(PvClockTest, ScaleTurnsCyclesIntoNanoseconds) {
    const PvScale slow = pv_scale(800'000);
    EXPECT_NEAR(static_cast<double>(pv_scale_cycles(slow, 800'000'000)), 1e9, 2);
    const PvScale fast = pv_scale(5'200'123);
    EXPECT_NEAR(static_cast<double>(pv_scale_cycles(fast, 5'200'123'000)), 1e9, 2);
}

TEST(PvClockTest, PageGivesTheClockBack) {
    auto ram = memory::GuestRam::create(1U << 20, 3ULL << 30).value();
    PvClock clock(host_tsc_khz());
    constexpr std::uint64_t kOffset = 12345;
    clock.set(1'000'000);
    clock.write_page(*ram, 0x1000, kOffset);
    std::uint32_t version = 0, multiplier = 0;
    std::uint64_t tsc = 0, system = 0;
    std::memcpy(&version, ram->base() + 0x1000, 4);
    std::memcpy(&tsc, ram->base() + 0x1008, 8);
    std::memcpy(&system, ram->base() + 0x1010, 8);
    std::memcpy(&multiplier, ram->base() + 0x1018, 4);
    PvScale scale{multiplier, static_cast<std::int8_t>(ram->base()[0x101c])};
    EXPECT_EQ(version % 2, 0U);
    EXPECT_EQ(ram->base()[0x101d], std::byte{1});
    const std::uint64_t before = clock.now();
    const std::uint64_t guest = system + pv_scale_cycles(scale, host_tsc() + kOffset - tsc);
    EXPECT_GE(guest, before);
    EXPECT_LE(guest, clock.now());
}

TEST(PvClockTest, AddressOutsideRamIsIgnored) {
    auto ram = memory::GuestRam::create(1U << 20, 3ULL << 30).value();
    const PvClock clock(host_tsc_khz());
    clock.write_page(*ram, 0xfffff0, 0);
    clock.write_wall_clock(*ram, ~0ULL - 3);
}

TEST(StealClockTest, NoMoreIsStolenThanTimePassed) {
    StealClock clock;
    EXPECT_EQ(clock.take(), 0U) << "not opened";
    const auto begin = std::chrono::steady_clock::now();
    clock.open_for_this_thread();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const std::uint64_t stolen = clock.take();
    EXPECT_LE(stolen,
              static_cast<std::uint64_t>((std::chrono::steady_clock::now() - begin).count()));
}

TEST(StealClockTest, PageIsPublishedWithAnEvenVersion) {
    auto ram = memory::GuestRam::create(1U << 20, 3ULL << 30).value();
    add_steal(*ram, 0x1040, 5);
    add_steal(*ram, 0x1040, 7);
    std::uint64_t steal = 0;
    std::uint32_t version = 0;
    std::memcpy(&steal, ram->base() + 0x1040, 8);
    std::memcpy(&version, ram->base() + 0x1048, 4);
    EXPECT_EQ(steal, 12U);
    EXPECT_EQ(version, 4U);
}

TEST(TimerServiceTest, FiresInTimeAndReplaces) {
    std::array<std::atomic<int>, 4> fired{};
    TimerService timers([&](std::uint32_t slot) { ++fired[slot]; });
    timers.start();
    timers.arm(1, monotonic_ns() + 3'600'000'000'000);
    timers.arm(1, monotonic_ns() + 1'000'000);
    timers.arm(2, monotonic_ns() + 2'000'000);
    timers.arm(3, monotonic_ns() + 3'600'000'000'000);
    timers.disarm(3);
    while (fired[1] == 0 || fired[2] == 0) {
        std::this_thread::yield();
    }
    EXPECT_EQ(fired[1], 1);
    EXPECT_EQ(fired[3], 0);
}

TEST(SafePointsTest, ExclusiveSectionsNeverOverlapRunners) {
    constexpr int kRunners = 3, kRounds = 2000;
    std::atomic<int> running{0}, sections{0};
    std::atomic<bool> wrong{false};
    std::array<SafePoint, kRunners> points;
    SafePoints safe([] {});
    for (SafePoint& point : points) {
        safe.add(point);
    }
    const auto work = [&] {
        if (running.load() != 0) {
            wrong = true;
        }
        ++sections;
    };
    std::vector<std::thread> threads;
    for (int i = 0; i < kRunners; ++i) {
        threads.emplace_back([&, i] {
            SafePoint& mine = points[i];
            for (int round = 0; round < kRounds; ++round) {
                safe.enter(mine);
                ++running;
                --running;
                safe.poll(mine);
                if (round % 16 == i) {
                    safe.run_exclusive(&mine, work);
                }
                safe.leave(mine);
            }
        });
    }
    for (int round = 0; round < 100; ++round) {
        safe.run_exclusive(nullptr, work);
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_FALSE(wrong);
    EXPECT_EQ(sections, 100 + kRunners * kRounds / 16);
}

}  // namespace
}  // namespace strata::engine::soft
