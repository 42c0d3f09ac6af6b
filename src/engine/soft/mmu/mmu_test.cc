// Tests of the MMU: walks in every mode with their error codes, accesses across pages and to
// devices.
#include "engine/soft/mmu/mmu_fixture.h"

namespace strata::engine::soft {
namespace {

TEST_F(MmuTest, PagingOffIsIdentity) {
    poke(0x5000, 42);
    std::uint64_t value = 0;
    ASSERT_TRUE(read_linear(cpu_, 0x5000, &value, 8));
    EXPECT_EQ(value, 42U);
}

TEST_F(MmuTest, FourLevelReadSetsAccessedOnly) {
    long_mode();
    map(kP | kW | kU);
    ASSERT_TRUE(read());
    EXPECT_EQ(leaf(), kData | kP | kW | kU | kA);
    EXPECT_EQ(peek(kRoot + ((kLinear >> 39) & 511) * 8) & (kA | kD), kA);
}

TEST_F(MmuTest, WriteSetsDirtyAlsoAfterReadFilledTheTlb) {
    long_mode();
    map(kP | kW | kU);
    ASSERT_TRUE(read());
    ASSERT_TRUE(write());
    EXPECT_EQ(leaf() & kD, kD);
    EXPECT_EQ(peek(kData), 0x1122334455667788U);
}

TEST_F(MmuTest, APageBesideAKnownOneBringsThoseThatAreTheSame) {
    long_mode();
    constexpr std::uint64_t kAll = kP | kW | kU | kA | kD, kPage = 0x1000;
    map(kAll);
    const std::uint64_t leaves[] = {kAll,       kAll, kAll,       kAll & ~kA,
                                    kAll & ~kW, 0,    kAll | kNx, kAll & ~kD};
    for (std::uint64_t i = 0; i < std::size(leaves); ++i) {
        poke(kLevel1 + i * 8, (kData + i * kPage) | leaves[i]);
    }
    const auto known = [&](std::uint64_t i) {
        const std::uint64_t linear = kLinear + i * kPage;
        return current_slot(cpu_)
                   .banks[static_cast<std::uint32_t>(access_rights(cpu_, Privilege::Current))]
                   .entries[tlb_index(linear)]
                   .tag_read == linear;
    };
    ASSERT_TRUE(read(kLinear));
    EXPECT_FALSE(known(1));  // nothing says that memory is gone through in order
    ASSERT_TRUE(read(kLinear + kPage));
    for (std::uint64_t i = 0; i < std::size(leaves); ++i) {
        EXPECT_EQ(known(i), i <= 2 || i == 7) << i;
    }
    EXPECT_EQ(peek(kLevel1 + 3 * 8) & kA, 0U);
    ASSERT_TRUE(write(kLinear + 7 * kPage));
    EXPECT_EQ(peek(kLevel1 + 7 * 8) & kD, kD);
    EXPECT_EQ(peek(kData + 7 * kPage), 0x1122334455667788U);
    poke(kLevel1 + 2 * 8, 0);
    flush_tlb_page(cpu_, kLinear + 2 * kPage);
    EXPECT_FALSE(read(kLinear + 2 * kPage));
}

TEST_F(MmuTest, NotPresentReportsAccessAndPrivilege) {
    long_mode();
    map(0);
    EXPECT_FALSE(read());
    EXPECT_EQ(fault(), 0U);
    EXPECT_FALSE(write());
    EXPECT_EQ(fault(), 2U);
    EXPECT_FALSE(fetch());
    EXPECT_EQ(fault(), 0x10U);
    user();
    EXPECT_FALSE(write());
    EXPECT_EQ(fault(), 6U);
}

TEST_F(MmuTest, FaultLeavesLeafUntouched) {
    long_mode();
    map(kP);
    user();
    EXPECT_FALSE(read());
    EXPECT_EQ(fault(), 5U);
    EXPECT_EQ(leaf(), kData | kP);
}

TEST_F(MmuTest, FaultAddressIsTheFirstByteNotReachable) {
    long_mode();
    map(kP | kW | kU);
    EXPECT_FALSE(read(kLinear + 0xffc));
    EXPECT_EQ(cpu_.exception.fault_address, kLinear + 0x1000);
}

TEST_F(MmuTest, ReadOnlyPageStopsUserAndSupervisorUnderWp) {
    long_mode();
    map(kP | kU);
    EXPECT_FALSE(write());
    EXPECT_EQ(fault(), 3U);
    user();
    EXPECT_FALSE(write());
    EXPECT_EQ(fault(), 7U);
}

TEST_F(MmuTest, SupervisorWritesReadOnlyPageWithoutWp) {
    long_mode();
    map(kP | kU);
    cpu_.cr0 &= ~x86::cr0::kWp;
    privilege_changed(cpu_);
    EXPECT_TRUE(write());
    cpu_.cr0 |= x86::cr0::kWp;
    privilege_changed(cpu_);
    EXPECT_FALSE(write());
    EXPECT_EQ(fault(), 3U);
}

TEST_F(MmuTest, ReservedBitsReportRsvd) {
    long_mode();
    map(kP | kW | kU | (1ULL << 51));
    EXPECT_FALSE(read());
    EXPECT_EQ(fault(), 9U);
}

TEST_F(MmuTest, NxBitIsReservedWithoutNxe) {
    long_mode();
    cpu_.efer &= ~x86::efer::kNxe;
    privilege_changed(cpu_);
    map(kP | kW | kU | kNx);
    EXPECT_FALSE(read());
    EXPECT_EQ(fault(), 9U);
}

TEST_F(MmuTest, NxStopsFetchOnly) {
    long_mode();
    map(kP | kW | kU | kNx);
    EXPECT_TRUE(read());
    EXPECT_FALSE(fetch());
    EXPECT_EQ(fault(), 0x11U);
}

TEST_F(MmuTest, SmepStopsSupervisorFetchOfUserPage) {
    long_mode(x86::cr4::kSmep);
    map(kP | kU);
    EXPECT_FALSE(fetch());
    EXPECT_EQ(fault(), 0x11U);
    user();
    EXPECT_TRUE(fetch());
}

TEST_F(MmuTest, SmapStopsSupervisorUnlessAcIsSet) {
    long_mode(x86::cr4::kSmap);
    map(kP | kW | kU);
    EXPECT_FALSE(read());
    EXPECT_EQ(fault(), 1U);
    cpu_.rflags |= x86::rflags::kAc;
    privilege_changed(cpu_);
    EXPECT_TRUE(read());
    std::uint64_t value = 0;
    EXPECT_FALSE(read_linear(cpu_, kLinear, &value, 8, Privilege::ImplicitSupervisor));
    EXPECT_EQ(fault(), 1U);
}

std::uint64_t with_key(std::uint64_t key) {
    return kP | kW | kU | (key << 59);
}

TEST_F(MmuTest, KeyDeniesDataAccessAndSaysSo) {
    long_mode(x86::cr4::kPke);
    map(with_key(5));
    user();
    write_pkru(cpu_, 1U << 10);
    EXPECT_FALSE(read());
    EXPECT_EQ(fault(), 0x25U);
    EXPECT_FALSE(write());
    EXPECT_EQ(fault(), 0x27U);
    EXPECT_TRUE(fetch());
    EXPECT_EQ(leaf() & kD, 0U);
}

TEST_F(MmuTest, KeyDeniesWritesOfSupervisorsUnderWpOnly) {
    long_mode(x86::cr4::kPke);
    map(with_key(15));
    write_pkru(cpu_, 2U << 30);
    EXPECT_TRUE(read());
    EXPECT_FALSE(write());
    EXPECT_EQ(fault(), 0x23U);
    cpu_.cr0 &= ~x86::cr0::kWp;
    privilege_changed(cpu_);
    EXPECT_TRUE(write());
    user();
    EXPECT_FALSE(write());
    EXPECT_EQ(fault(), 0x27U);
}

TEST_F(MmuTest, KeyCountsForUserPagesInLongModeWithPkeOnly) {
    long_mode();
    map(with_key(3));
    write_pkru(cpu_, ~0U);
    EXPECT_TRUE(write());
    cpu_.cr4 |= x86::cr4::kPke;
    privilege_changed(cpu_);
    EXPECT_FALSE(read());
    EXPECT_EQ(fault(), 0x21U);
    map(kP | kW | (3ULL << 59));
    EXPECT_TRUE(write());
}

TEST_F(MmuTest, NewKeyRightsReachCachedTranslations) {
    long_mode(x86::cr4::kPke);
    map(with_key(4));
    ASSERT_TRUE(write());
    write_pkru(cpu_, 1U << 2);  // another key: the entry stays
    EXPECT_EQ(current_slot(cpu_).banks[1].entries[tlb_index(kLinear)].tag_write, kLinear);
    write_pkru(cpu_, 2U << 8);
    EXPECT_TRUE(read());
    EXPECT_FALSE(write());
    EXPECT_EQ(fault(), 0x23U);
    write_pkru(cpu_, 1U << 8);
    EXPECT_FALSE(read());
    EXPECT_EQ(fault(), 0x21U);
    write_pkru(cpu_, 0);
    EXPECT_TRUE(write());
}

TEST_F(MmuTest, NonCanonicalIsGeneralProtection) {
    long_mode();
    EXPECT_FALSE(read(0x0000800000000000));
    EXPECT_EQ(cpu_.exception.vector, x86::vector::kGp);
    EXPECT_EQ(cpu_.exception.error, 0U);
}

TEST_F(MmuTest, TwoMegabytePageMapsWhole) {
    long_mode();
    map(0);
    poke(kLevel2 + ((kLinear >> 21) & 511) * 8, 0x200000 | kP | kW | kU | kPs);
    std::uint64_t physical = 0;
    ASSERT_TRUE(
        translate_linear(cpu_, kLinear + 0x12345, MemAccess::Read, Privilege::Current, physical));
    EXPECT_EQ(physical, 0x212345U);
}

TEST_F(MmuTest, TwoMegabytePageHasReservedAddressBits) {
    long_mode();
    map(0);
    poke(kLevel2 + ((kLinear >> 21) & 511) * 8, 0x202000 | kP | kPs);
    EXPECT_FALSE(read());
    EXPECT_EQ(fault(), 9U);
}

TEST_F(MmuTest, GigabytePageMapsWhole) {
    long_mode();
    map(0);
    poke(kLevel3 + ((kLinear >> 30) & 511) * 8, kP | kW | kU | kPs);
    std::uint64_t physical = 0;
    ASSERT_TRUE(translate_linear(cpu_, kLinear + 5, MemAccess::Read, Privilege::Current, physical));
    EXPECT_EQ(physical, (kLinear & 0x3fffffff) + 5);
}

TEST_F(MmuTest, PaePagingWalksFromPdpte) {
    cpu_.cr0 = x86::cr0::kPe | x86::cr0::kPg;
    cpu_.cr4 = x86::cr4::kPae;
    cpu_.efer = x86::efer::kNxe;
    cpu_.cr3 = kRoot + 0x20;
    flush_tlb_all(cpu_);
    poke(kRoot + 0x20 + 8, kLevel2 | kP);
    poke(kLevel2 + 8, kLevel1 | kP | kW);
    poke(kLevel1 + 16, kData | kP | kW | kNx);
    constexpr std::uint64_t kAt = 0x40202000;
    EXPECT_TRUE(write(kAt));
    EXPECT_EQ(peek(kRoot + 0x20 + 8), kLevel2 | kP) << "PDPTEs have no accessed bit";
    EXPECT_FALSE(fetch(kAt));
    EXPECT_EQ(fault(), 0x11U);
    EXPECT_TRUE(pdptes_valid(cpu_, cpu_.cr3));
    poke(kRoot + 0x20 + 8, kLevel2 | kP | kW);
    EXPECT_FALSE(pdptes_valid(cpu_, cpu_.cr3));
}

TEST_F(MmuTest, ThirtyTwoBitPagingWithLargePage) {
    cpu_.cr0 = x86::cr0::kPe | x86::cr0::kPg | x86::cr0::kWp;
    cpu_.cr4 = x86::cr4::kPse;
    cpu_.efer = 0;
    cpu_.cr3 = kRoot;
    flush_tlb_all(cpu_);
    poke32(kRoot + 4, 0x400000 | kP | kW | kPs);
    poke32(kRoot + 8, kLevel1 | kP | kW | kU);
    poke32(kLevel1, kData | kP);
    std::uint64_t physical = 0;
    ASSERT_TRUE(translate_linear(cpu_, 0x400123, MemAccess::Write, Privilege::Current, physical));
    EXPECT_EQ(physical, 0x400123U);
    EXPECT_EQ(peek(kRoot + 4) & (kA | kD), kA | kD);
    ASSERT_TRUE(translate_linear(cpu_, 0x800456, MemAccess::Read, Privilege::Current, physical));
    EXPECT_EQ(physical, kData + 0x456);
    EXPECT_FALSE(write(0x800000));
    EXPECT_EQ(fault(), 3U);
}

TEST_F(MmuTest, PageTablesOutsideRamFaultInsteadOfCrashing) {
    long_mode();
    cpu_.cr3 = 0xfffffffff000;
    address_space_changed(cpu_, false);
    EXPECT_FALSE(read());
    EXPECT_EQ(fault() & 1, 1U);
}

TEST_F(MmuTest, WriteAcrossPagesIsAllOrNothing) {
    long_mode();
    map(kP | kW | kU);
    poke(kData + 0xff8, 0);
    EXPECT_FALSE(write(kLinear + 0xffc));
    EXPECT_EQ(peek(kData + 0xff8), 0U);
}

TEST_F(MmuTest, AccessAcrossTwoMappedPages) {
    long_mode();
    map(kP | kW | kU);
    poke(kLevel1 + (((kLinear >> 12) & 511) + 1) * 8, kOther | kP | kW | kU);
    ASSERT_TRUE(write(kLinear + 0xffc));
    EXPECT_EQ(peek(kData + 0xff8) >> 32, 0x55667788U);
    EXPECT_EQ(peek(kOther) & 0xffffffff, 0x11223344U);
    std::uint64_t value = 0;
    ASSERT_TRUE(read_linear(cpu_, kLinear + 0xffc, &value, 8));
    EXPECT_EQ(value, 0x1122334455667788U);
}

TEST_F(MmuTest, SixteenByteAccessIsWhole) {
    const std::uint64_t in[2] = {1, 2};
    std::uint64_t out[2] = {};
    ASSERT_TRUE(write_linear(cpu_, 0x6000, in, 16));
    ASSERT_TRUE(read_linear(cpu_, 0x6000, out, 16));
    EXPECT_EQ(out[0], 1U);
    EXPECT_EQ(out[1], 2U);
}

TEST_F(MmuTest, DeviceAccessGoesToTheDispatcher) {
    const std::uint32_t value = 0xabcd;
    ASSERT_TRUE(write_linear(cpu_, 0xd0000010, &value, 4));
    EXPECT_EQ(vm_->dispatcher.last_write_address, 0xd0000010U);
    EXPECT_EQ(vm_->dispatcher.last_write_size, 4U);
    EXPECT_EQ(host_pointer(cpu_, 0xd0000010, 4, MemAccess::Read), nullptr);
    EXPECT_FALSE(cpu_.exception.pending);
}

TEST_F(MmuTest, FetchStopsAtAPageThatFaults) {
    long_mode();
    map(kP | kU);
    std::uint8_t code[15];
    EXPECT_EQ(fetch_code(cpu_, kLinear + 0xffa, code, 15), 6U);
    EXPECT_FALSE(cpu_.exception.pending);
    EXPECT_EQ(fetch_code(cpu_, kLinear + 0x1000, code, 15), 0U);
    EXPECT_EQ(fault(), 0x10U);
}

}  // namespace
}  // namespace strata::engine::soft
