// Tests of the local APICs: destinations, priorities, ends, errors, timer, paravirtual EOI, state.
#include "engine/soft/apic/local_apic.h"

#include <cstring>
#include <memory>

#include <gtest/gtest.h>

#include "arch/x86/registers.h"
#include "engine/soft/apic/apic_registers.h"
#include "engine/soft/runtime/tsc_clock.h"

namespace strata::engine::soft {
namespace {

namespace m = arch::x86::msr;

class FakeApicHost final : public ApicHost {
  public:
    void kick(CpuState& cpu, std::uint32_t bits) noexcept override { cpu.request.fetch_or(bits); }
    void end_of_interrupt(std::uint8_t vector) noexcept override { ended = vector; }
    void arm_timer(CpuState&, std::uint64_t deadline) noexcept override { armed = deadline; }
    std::uint64_t tsc_khz() const noexcept override { return host_tsc_khz(); }
    int ended = -1;
    std::uint64_t armed = kNoDeadline;
};

class LocalApicTest : public testing::Test {
  protected:
    static constexpr std::uint32_t kCount = 3;

    LocalApicTest() {
        ram_ = memory::GuestRam::create(1U << 20, 3ULL << 30).value();
        for (std::uint32_t id = 0; id < kCount; ++id) {
            cpus_[id] = std::make_unique<CpuState>();
            apics_[id] = std::make_unique<LocalApic>(bus_, host_, *cpus_[id], *ram_, id, id == 0);
            bus_.add(*apics_[id]);
            write(id, 0xf0, 0x1ff);
            write(id, 0xd0, (1U << id) << 24);
            cpus_[id]->request.store(0);
        }
    }
    void write(std::uint32_t cpu, std::uint32_t offset, std::uint32_t value) {
        apics_[cpu]->mmio_write(offset, std::as_bytes(std::span(&value, 1)));
    }
    std::uint32_t read(std::uint32_t cpu, std::uint32_t offset) {
        std::uint32_t value = 0;
        apics_[cpu]->mmio_read(offset, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }
    void ipi(std::uint32_t from, std::uint32_t destination, std::uint32_t low) {
        write(from, 0x310, destination << 24);
        write(from, 0x300, low);
    }
    void enter_x2apic(std::uint32_t cpu) {
        ASSERT_TRUE(apics_[cpu]->set_base(apics_[cpu]->base() | 0xc00, true, 46));
    }
    bool pending(std::uint32_t cpu, std::uint8_t vector) {
        return apics_[cpu]->pending_vector() == vector;
    }

    std::unique_ptr<memory::GuestRam> ram_;
    FakeApicHost host_;
    ApicBus bus_;
    std::unique_ptr<CpuState> cpus_[kCount];
    std::unique_ptr<LocalApic> apics_[kCount];
};

TEST_F(LocalApicTest, VersionAndId) {
    EXPECT_EQ(read(2, 0x20), 2U << 24);
    EXPECT_EQ(read(2, 0x30), apic::kVersionValue);
}

TEST_F(LocalApicTest, PhysicalIpiReachesOnlyItsDestination) {
    ipi(0, 1, 0x40);
    EXPECT_TRUE(pending(1, 0x40));
    EXPECT_FALSE(apics_[0]->pending_vector());
    EXPECT_FALSE(apics_[2]->pending_vector());
    EXPECT_NE(cpus_[1]->request.load() & Request::kInterrupt, 0U);
}

TEST_F(LocalApicTest, XapicIdIsWritableUntilReset) {
    write(1, 0x20, 7U << 24);
    write(2, 0x20, 7U << 24);
    ipi(0, 7, 0x45);
    EXPECT_TRUE(pending(1, 0x45));
    EXPECT_TRUE(pending(2, 0x45));
    ipi(0, 1, 0x55);
    EXPECT_FALSE(pending(1, 0x55));
    EXPECT_EQ(apics_[1]->id(), 1U);
    const std::uint64_t base = apics_[1]->base();
    ASSERT_TRUE(apics_[1]->set_base(base & ~0x800ULL, true, 46));
    ASSERT_TRUE(apics_[1]->set_base(base, true, 46));
    EXPECT_EQ(read(1, 0x20) >> 24, 1U);
}

TEST_F(LocalApicTest, FlatLogicalIpiReachesAllNamed) {
    ipi(0, 0x6, 0x40 | (1U << 11));
    EXPECT_FALSE(apics_[0]->pending_vector());
    EXPECT_TRUE(pending(1, 0x40));
    EXPECT_TRUE(pending(2, 0x40));
}

TEST_F(LocalApicTest, ClusterLogicalIpiMatchesClusterAndMember) {
    for (std::uint32_t cpu = 0; cpu < kCount; ++cpu) {
        write(cpu, 0xe0, 0x0fffffff);
        write(cpu, 0xd0, (0x10U | (1U << cpu)) << 24);
    }
    ipi(0, 0x12, 0x40 | (1U << 11));
    ipi(0, 0x24, 0x41 | (1U << 11));
    EXPECT_TRUE(pending(1, 0x40));
    EXPECT_FALSE(apics_[2]->pending_vector());
}

TEST_F(LocalApicTest, ShorthandsReachSelfAllAndOthers) {
    ipi(1, 0, 0x41 | (1U << 18));
    EXPECT_TRUE(pending(1, 0x41));
    EXPECT_FALSE(apics_[0]->pending_vector());
    ipi(1, 0, 0x42 | (2U << 18));
    EXPECT_TRUE(pending(0, 0x42));
    EXPECT_TRUE(pending(1, 0x42));
    ipi(1, 0, 0x43 | (3U << 18));
    EXPECT_TRUE(pending(2, 0x43));
    EXPECT_TRUE(pending(1, 0x42));
}

TEST_F(LocalApicTest, BroadcastDestinationReachesAll) {
    ipi(0, 0xff, 0x44);
    EXPECT_TRUE(pending(0, 0x44));
    EXPECT_TRUE(pending(2, 0x44));
}

TEST_F(LocalApicTest, X2apicPhysicalAndClusterDestinations) {
    for (std::uint32_t cpu = 0; cpu < kCount; ++cpu) {
        enter_x2apic(cpu);
    }
    ASSERT_TRUE(apics_[0]->write_msr(0x830, (2ULL << 32) | 0x50));
    EXPECT_TRUE(pending(2, 0x50));
    ASSERT_TRUE(apics_[0]->write_msr(0x830, (0x2ULL << 32) | (1U << 11) | 0x51));
    EXPECT_TRUE(pending(1, 0x51));
    ASSERT_TRUE(apics_[0]->write_msr(0x830, (0xffULL << 32) | 0x52))
        << "FFh is no broadcast in x2APIC mode";
    EXPECT_FALSE(apics_[0]->pending_vector());
    ASSERT_TRUE(apics_[0]->write_msr(0x83f, 0x53));
    EXPECT_TRUE(pending(0, 0x53));
}

TEST_F(LocalApicTest, X2apicRefusesWhatItReserves) {
    enter_x2apic(0);
    std::uint64_t value = 0;
    EXPECT_FALSE(apics_[0]->write_msr(0x80b, 1));
    EXPECT_TRUE(apics_[0]->write_msr(0x80b, 0));
    EXPECT_FALSE(apics_[0]->write_msr(0x802, 0));
    EXPECT_FALSE(apics_[0]->write_msr(0x808, 0x100));
    EXPECT_FALSE(apics_[0]->write_msr(0x80f, 1ULL << 32));
    EXPECT_FALSE(apics_[0]->read_msr(0x80e, value));
    EXPECT_FALSE(apics_[0]->read_msr(0x831, value));
    EXPECT_FALSE(apics_[0]->read_msr(0x80b, value));
    EXPECT_FALSE(apics_[0]->read_msr(0x8ff, value));
    EXPECT_FALSE(apics_[1]->read_msr(0x802, value)) << "in xAPIC mode there are no such MSRs";
}

TEST_F(LocalApicTest, BaseTransitionsFollowTheManual) {
    LocalApic& apic = *apics_[0];
    const std::uint64_t base = apic.base();
    EXPECT_FALSE(apic.set_base((base & ~0x800ULL) | 0x400, true, 46)) << "x2APIC without enable";
    EXPECT_FALSE(apic.set_base(base | 0x400, false, 46)) << "not offered";
    EXPECT_FALSE(apic.set_base(base | 1, true, 46));
    EXPECT_TRUE(apic.set_base(base | 0x400, true, 46));
    EXPECT_FALSE(apic.set_base(base, true, 46)) << "x2APIC to xAPIC";
    EXPECT_TRUE(apic.set_base(base & ~0x800ULL, true, 46));
    EXPECT_FALSE(apic.set_base(base | 0xc00, true, 46)) << "disabled to x2APIC";
    EXPECT_TRUE(apic.set_base(base, true, 46));
}

TEST_F(LocalApicTest, LowestPriorityGoesToTheLeastBusy) {
    write(0, 0x80, 0x80);
    write(2, 0x80, 0x40);
    bus_.deliver_msi({0xfee00000 | (0x7U << 12) | 4, 0x60 | (1U << 8)});
    EXPECT_TRUE(pending(1, 0x60));
    EXPECT_FALSE(apics_[2]->pending_vector());
}

TEST_F(LocalApicTest, MsiOutsideTheWindowIsDropped) {
    bus_.deliver_msi({0xfed00000, 0x60});
    EXPECT_FALSE(apics_[0]->pending_vector());
}

TEST_F(LocalApicTest, TaskPriorityHoldsBackItsClassAndBelow) {
    ipi(0, 1, 0x45);
    write(1, 0x80, 0x40);
    EXPECT_FALSE(apics_[1]->pending_vector());
    EXPECT_TRUE(apics_[1]->blocked_by_priority());
    EXPECT_EQ(read(1, 0xa0), 0x40U);
    cpus_[1]->cr8 = 3;
    EXPECT_TRUE(pending(1, 0x45));
    EXPECT_EQ(read(1, 0x80), 0x30U) << "CR8 is the upper half of TPR";
}

TEST_F(LocalApicTest, InServiceHoldsBackUntilEoi) {
    ipi(0, 1, 0x45);
    apics_[1]->acknowledge(0x45);
    ipi(0, 1, 0x48);
    EXPECT_FALSE(apics_[1]->pending_vector());
    ipi(0, 1, 0x55);
    EXPECT_TRUE(pending(1, 0x55));
    apics_[1]->acknowledge(0x55);
    EXPECT_EQ(read(1, 0xa0), 0x50U);
    write(1, 0xb0, 0);
    EXPECT_FALSE(apics_[1]->pending_vector());
    write(1, 0xb0, 0);
    EXPECT_TRUE(pending(1, 0x48));
}

TEST_F(LocalApicTest, LevelTriggeredEoiIsTold) {
    bus_.deliver_msi({0xfee01000, 0x45 | (1U << 15)});
    ASSERT_TRUE(pending(1, 0x45));
    apics_[1]->acknowledge(0x45);
    EXPECT_EQ(host_.ended, -1);
    write(1, 0xb0, 0);
    EXPECT_EQ(host_.ended, 0x45);
}

TEST_F(LocalApicTest, EdgeTriggeredEoiIsNotTold) {
    ipi(0, 1, 0x45);
    apics_[1]->acknowledge(0x45);
    write(1, 0xb0, 0);
    EXPECT_EQ(host_.ended, -1);
}

TEST_F(LocalApicTest, DisabledApicTakesNoFixedInterrupts) {
    write(1, 0xf0, 0xff);
    ipi(0, 1, 0x45);
    write(1, 0xf0, 0x1ff);
    EXPECT_FALSE(apics_[1]->pending_vector());
    ipi(0, 1, 4U << 8);
    EXPECT_NE(cpus_[1]->request.load() & Request::kNmi, 0U);
}

TEST_F(LocalApicTest, InitAndSipiBecomeRequests) {
    ipi(0, 1, 0x4500);
    EXPECT_NE(cpus_[1]->request.load() & Request::kInit, 0U);
    cpus_[1]->request.store(0);
    ipi(0, 1, 0x8500);
    EXPECT_EQ(cpus_[1]->request.load() & Request::kInit, 0U) << "level de-assert does nothing";
    ipi(0, 1, 0x4600 | 0x9a);
    EXPECT_NE(cpus_[1]->request.load() & Request::kSipi, 0U);
    EXPECT_EQ(apics_[1]->sipi_vector(), 0x9a);
}

TEST_F(LocalApicTest, IllegalVectorSetsEsrAfterItsWrite) {
    write(0, 0x370, 0x33);
    ipi(0, 1, 0x0f);
    EXPECT_FALSE(apics_[1]->pending_vector());
    EXPECT_TRUE(pending(0, 0x33));
    EXPECT_EQ(read(0, 0x280), 0U);
    write(0, 0x280, 0);
    EXPECT_EQ(read(0, 0x280), apic::kErrorSendIllegal);
}

TEST_F(LocalApicTest, ErrorEntryWithIllegalVectorDoesNotRecurse) {
    write(0, 0x370, 0x05);
    ipi(0, 1, 0x0f);
    write(0, 0x280, 0);
    EXPECT_EQ(read(0, 0x280), apic::kErrorSendIllegal | apic::kErrorReceiveIllegal);
}

TEST_F(LocalApicTest, ExternalInterruptsPassThroughLint0) {
    EXPECT_TRUE(apics_[0]->accepts_external());
    EXPECT_FALSE(apics_[1]->accepts_external());
    write(0, 0x350, 0x10700);
    EXPECT_FALSE(apics_[0]->accepts_external());
    write(0, 0x350, 0x00700);
    EXPECT_TRUE(apics_[0]->accepts_external());
}

TEST_F(LocalApicTest, OneShotTimerFiresOnce) {
    write(0, 0x320, 0x70);
    write(0, 0x3e0, 0xb);
    write(0, 0x380, 1);
    ASSERT_NE(host_.armed, kNoDeadline);
    while (monotonic_ns() < host_.armed) {
    }
    apics_[0]->timer_expired();
    EXPECT_TRUE(pending(0, 0x70));
    EXPECT_EQ(host_.armed, kNoDeadline);
    EXPECT_EQ(read(0, 0x390), 0U);
}

TEST_F(LocalApicTest, EndedOneShotCountDoesNotGoOnAsPeriodic) {
    write(0, 0x320, 0x70);
    write(0, 0x3e0, 0xb);
    write(0, 0x380, 1000);
    while (monotonic_ns() < host_.armed) {
    }
    write(0, 0x320, 0x70 | (1U << 17));  // before the host has told of the end
    EXPECT_TRUE(pending(0, 0x70));
    EXPECT_EQ(host_.armed, kNoDeadline);
    EXPECT_EQ(read(0, 0x390), 0U);
}

TEST_F(LocalApicTest, EarlyWakeOfTheTimerRearmsIt) {
    write(0, 0x320, 0x70);
    write(0, 0x3e0, 0xb);
    write(0, 0x380, 0xffffffff);
    const std::uint64_t deadline = host_.armed;
    host_.armed = kNoDeadline;
    apics_[0]->timer_expired();
    EXPECT_FALSE(apics_[0]->pending_vector());
    EXPECT_EQ(host_.armed, deadline);
    EXPECT_GT(read(0, 0x390), 0U);
}

TEST_F(LocalApicTest, PeriodicTimerRearms) {
    write(0, 0x320, 0x70 | (1U << 17));
    write(0, 0x3e0, 0xb);
    write(0, 0x380, 1000);
    const std::uint64_t first = host_.armed;
    while (monotonic_ns() < first) {
    }
    apics_[0]->timer_expired();
    EXPECT_TRUE(pending(0, 0x70));
    EXPECT_GT(host_.armed, first);
}

TEST_F(LocalApicTest, CountGoesOnBetweenOneShotAndPeriodicOnly) {
    write(0, 0x320, 0x20 | (1U << 17));
    write(0, 0x380, 1'000'000'000);
    EXPECT_NE(read(0, 0x390), 0U);
    write(0, 0x320, 0x20);
    EXPECT_NE(read(0, 0x390), 0U);
    EXPECT_EQ(read(0, 0x380), 1'000'000'000U);
    write(0, 0x320, 0x20 | (2U << 17));
    EXPECT_EQ(read(0, 0x390), 0U);
    write(0, 0x320, 0x20);
    EXPECT_EQ(read(0, 0x390), 0U);
    EXPECT_EQ(read(0, 0x380), 0U);
}

TEST_F(LocalApicTest, MaskedTimerStaysSilent) {
    write(0, 0x320, 0x70 | (1U << 16));
    write(0, 0x3e0, 0xb);
    write(0, 0x380, 1);
    while (monotonic_ns() < host_.armed) {
    }
    apics_[0]->timer_expired();
    EXPECT_FALSE(apics_[0]->pending_vector());
}

TEST_F(LocalApicTest, TscDeadlineInThePastFiresAtOnce) {
    write(0, 0x320, 0x71 | (2U << 17));
    apics_[0]->set_tsc_deadline(1);
    EXPECT_TRUE(pending(0, 0x71));
    EXPECT_EQ(apics_[0]->tsc_deadline(), 0U);
}

TEST_F(LocalApicTest, TscDeadlineIsIgnoredInOtherModes) {
    apics_[0]->set_tsc_deadline(1);
    EXPECT_FALSE(apics_[0]->pending_vector());
    write(0, 0x320, 0x71 | (2U << 17));
    apics_[0]->set_tsc_deadline(~0ULL >> 1);
    EXPECT_NE(apics_[0]->tsc_deadline(), 0U);
    write(0, 0x320, 0x71);
    EXPECT_EQ(host_.armed, kNoDeadline) << "changing the mode disarms";
}

TEST_F(LocalApicTest, ParavirtualEoiEndsWithoutAWrite) {
    constexpr std::uint64_t kFlag = 0x8000;
    ASSERT_TRUE(apics_[0]->set_pv_eoi(kFlag | 1));
    ipi(0, 0, 0x45);
    apics_[0]->acknowledge(0x45);
    EXPECT_EQ(ram_->base()[kFlag], std::byte{1});
    ram_->base()[kFlag] = std::byte{0};
    ipi(0, 0, 0x46);
    EXPECT_TRUE(pending(0, 0x46));
}

TEST_F(LocalApicTest, ParavirtualEoiIsTakenBackWhenSomethingWaits) {
    constexpr std::uint64_t kFlag = 0x8000;
    ASSERT_TRUE(apics_[0]->set_pv_eoi(kFlag | 1));
    ipi(0, 0, 0x45);
    apics_[0]->acknowledge(0x45);
    ipi(0, 0, 0x46);
    EXPECT_FALSE(apics_[0]->pending_vector());
    EXPECT_EQ(ram_->base()[kFlag], std::byte{0});
    write(0, 0xb0, 0);
    EXPECT_TRUE(pending(0, 0x46));
}

TEST_F(LocalApicTest, ParavirtualEoiOutsideRamIsRefusedAndChangesNothing) {
    constexpr std::uint64_t kFlag = 0x8000;
    ASSERT_TRUE(apics_[0]->set_pv_eoi(kFlag | 1));
    EXPECT_FALSE(apics_[0]->set_pv_eoi(0xffffffff00000001));
    EXPECT_EQ(apics_[0]->pv_eoi(), kFlag | 1);
    ipi(0, 0, 0x45);
    apics_[0]->acknowledge(0x45);
    EXPECT_EQ(ram_->base()[kFlag], std::byte{1}) << "the flag of before is still in use";
}

TEST_F(LocalApicTest, SavedStateBehavesTheSame) {
    ipi(0, 1, 0x45);
    ipi(0, 1, 0x65);
    apics_[1]->acknowledge(0x65);
    std::array<std::byte, arch::x86::kLapicBytes> page{};
    apics_[1]->save(page);
    LocalApic fresh(bus_, host_, *cpus_[1], *ram_, 1, false);
    fresh.load(page, apics_[1]->base());
    std::array<std::byte, arch::x86::kLapicBytes> again{};
    fresh.save(again);
    EXPECT_EQ(page, again);
    EXPECT_FALSE(fresh.pending_vector());
    const std::uint32_t zero = 0;
    fresh.mmio_write(0xb0, std::as_bytes(std::span(&zero, 1)));
    EXPECT_EQ(fresh.pending_vector(), 0x45);
}

TEST_F(LocalApicTest, OddAccessesAreHarmless) {
    std::array<std::byte, 8> wide{};
    apics_[0]->mmio_read(0xfff, std::span(wide).first(1));
    apics_[0]->mmio_read(0x3fc, wide);
    apics_[0]->mmio_write(0x301, std::span(wide).first(1));
    apics_[0]->mmio_write(0xff0, wide);
    EXPECT_EQ(wide[0], std::byte{0});
}

}  // namespace
}  // namespace strata::engine::soft
