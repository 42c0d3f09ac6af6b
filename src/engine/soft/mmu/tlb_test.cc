// Tests of the TLB: flushes, PCIDs, global pages, code pages and dirty logging.
#include "engine/soft/mmu/mmu_fixture.h"
#include "engine/soft/mmu/tlb_filters.h"

namespace strata::engine::soft {
namespace {

TEST_F(MmuTest, InvlpgOfLargePageDropsAllItsFragments) {
    long_mode();
    map(0);
    poke(kLevel2 + ((kLinear >> 21) & 511) * 8, 0x200000 | kP | kW | kU | kPs);
    ASSERT_TRUE(read(kLinear + 0x3000));
    poke(kLevel2 + ((kLinear >> 21) & 511) * 8, 0);
    EXPECT_TRUE(read(kLinear + 0x3000)) << "still cached";
    flush_tlb_page(cpu_, kLinear + 0x9000);
    EXPECT_FALSE(read(kLinear + 0x3000));
}

TEST_F(MmuTest, InvlpgDropsFetchTranslation) {
    long_mode();
    map(kP | kU);
    ASSERT_TRUE(fetch());
    map(0);
    EXPECT_TRUE(fetch()) << "still cached";
    const std::uint64_t before = cpu_.fetch_epoch;
    flush_tlb_page(cpu_, kLinear);
    EXPECT_NE(cpu_.fetch_epoch, before);
    EXPECT_FALSE(fetch());
}

// Kernels have thousands of pages of code: what looks like one of them by chance is a page of data
// all the same.
TEST_F(MmuTest, InvlpgOfDataIsQuickWhateverTheUpperHalfHas) {
    long_mode();
    map(kP | kW | kU);
    ASSERT_TRUE(read());
    pages_add(cpu_.mmu->fetched_pages, kLinear);
    const std::uint64_t epoch = cpu_.fetch_epoch;
    flush_tlb_page(cpu_, kLinear);
    EXPECT_EQ(cpu_.fetch_epoch, epoch);
    ASSERT_TRUE(read());
    map(0);
    EXPECT_TRUE(flush_data_page(cpu_, kLinear));
    EXPECT_FALSE(read());
}

// A global page of the lower half is in that filter.
TEST_F(MmuTest, InvlpgOfGlobalCodeOfTheLowerHalfIsNotQuick) {
    long_mode(x86::cr4::kPge);
    map(kP | kU | kG);
    ASSERT_TRUE(fetch());
    EXPECT_FALSE(flush_data_page(cpu_, kLinear));
    map(0);
    flush_tlb_page(cpu_, kLinear);
    EXPECT_FALSE(fetch());
}

TEST_F(MmuTest, InvlpgForgetsThatCodePageAlone) {
    long_mode();
    const auto slot = [this](std::uint64_t linear) -> std::uint64_t& {
        return cpu_.translator.code_pages[1][(linear >> 12) & (TranslatorState::kCodePages - 1)];
    };
    map(kP | kW | kU);
    std::uint64_t physical = 0;
    ASSERT_TRUE(translate_linear(cpu_, kLinear, MemAccess::Execute, Privilege::User, physical));
    const std::uint64_t epoch = cpu_.fetch_epoch;
    flush_tlb_page(cpu_, kLinear + 0x1000);
    EXPECT_EQ(cpu_.fetch_epoch, epoch);  // nothing was fetched from there
    slot(kLinear) = (kLinear >> 12) << 28 | 5;
    slot(kLinear + 0x1000) = ((kLinear >> 12) + 1) << 28 | 6;
    flush_tlb_page(cpu_, kLinear);
    EXPECT_EQ(slot(kLinear), 0U);
    EXPECT_NE(slot(kLinear + 0x1000), 0U);
    EXPECT_NE(cpu_.fetch_epoch, epoch);
}

TEST_F(MmuTest, UserCodePagesComeBackWithTheirPcid) {
    long_mode();
    cpu_.cr4 |= x86::cr4::kPcide;
    flush_tlb_all(cpu_);
    cpu_.translator.note_code_page(1, 7 << 12, 77);
    cpu_.cr3 |= 1;
    address_space_changed(cpu_, true);
    EXPECT_EQ(cpu_.translator.code_pages[1][7], 0U);
    cpu_.cr3 &= ~1ULL;
    address_space_changed(cpu_, true);
    EXPECT_EQ(cpu_.translator.code_pages[1][7], 77U);
    cpu_.cr3 |= 1;
    address_space_changed(cpu_, true);
    flush_tlb_pcid(cpu_, 0, true);
    cpu_.cr3 &= ~1ULL;
    address_space_changed(cpu_, true);
    EXPECT_EQ(cpu_.translator.code_pages[1][7], 0U);
}

TEST_F(MmuTest, GlobalPageSurvivesCr3LoadButNotFullFlush) {
    long_mode(x86::cr4::kPge);
    map(kP | kW | kU | kG);
    ASSERT_TRUE(read());
    map(0);
    address_space_changed(cpu_, false);
    EXPECT_TRUE(read());
    flush_tlb_all(cpu_);
    EXPECT_FALSE(read());
}

TEST_F(MmuTest, PcidKeepsTranslationsApartAndAlive) {
    long_mode();
    map(kP | kW | kU);
    cpu_.cr4 |= x86::cr4::kPcide;
    flush_tlb_all(cpu_);
    cpu_.cr3 = kRoot | 1;
    address_space_changed(cpu_, false);
    ASSERT_TRUE(read());
    map(0);
    cpu_.cr3 = kRoot | 2;
    address_space_changed(cpu_, false);
    EXPECT_FALSE(read());
    cpu_.cr3 = kRoot | 1;
    address_space_changed(cpu_, true);
    EXPECT_TRUE(read());
    flush_tlb_pcid(cpu_, 1, true);
    EXPECT_FALSE(read());
}

TEST_F(MmuTest, MorePcidsThanSlotsNeverMixUp) {
    long_mode();
    cpu_.cr4 |= x86::cr4::kPcide;
    flush_tlb_all(cpu_);
    map(kP | kW | kU);
    cpu_.cr3 = kRoot | 1;
    address_space_changed(cpu_, false);
    ASSERT_TRUE(read());
    map(0);
    for (std::uint64_t pcid = 2; pcid < 2 + kAsidSlots; ++pcid) {
        cpu_.cr3 = kRoot | pcid;
        address_space_changed(cpu_, true);
        EXPECT_FALSE(read());
    }
}

TEST_F(MmuTest, CodePageNeverGetsAWriteTag) {
    vm_->ram->page_flags(0x5).store(memory::PageFlags::kCode);
    EXPECT_TRUE(write(0x5008));
    EXPECT_EQ(cpu_.tlb[5].tag_read, 0x5000U);
    EXPECT_NE(cpu_.tlb[5].tag_write, 0x5000U);
    ASSERT_EQ(vm_->invalidated.size(), 1U);
    EXPECT_EQ(vm_->invalidated[0], 0x5008U);
}

TEST_F(MmuTest, WritePointerIntoCodeInvalidatesOnceMoreAtThePoll) {
    vm_->ram->page_flags(0x5).store(memory::PageFlags::kCode);
    ASSERT_NE(host_pointer(cpu_, 0x5010, 8, MemAccess::Write), nullptr);
    EXPECT_EQ(vm_->invalidated.size(), 1U);
    EXPECT_NE(cpu_.request.load() & Request::kFlushTlb, 0U);
    finish_pending_rewrite(cpu_);
    EXPECT_EQ(vm_->invalidated.size(), 2U);
}

TEST_F(MmuTest, ProtectedPageLosesItsWriteTag) {
    ASSERT_TRUE(write(0x5000));
    EXPECT_EQ(cpu_.tlb[5].tag_write, 0x5000U);
    cut_write_tags_of_page(cpu_, vm_->ram->base() + 0x5000);
    EXPECT_NE(cpu_.tlb[5].tag_write, 0x5000U);
    EXPECT_EQ(cpu_.tlb[5].tag_read, 0x5000U);
}

TEST_F(MmuTest, DirtyLogMarksAtGrantAndAtCut) {
    vm_->ram->set_dirty_logging(true);
    ASSERT_TRUE(write(0x5000));
    EXPECT_TRUE(vm_->ram->dirty().test(5));
    vm_->ram->dirty().clear();
    ASSERT_TRUE(write(0x5000));
    cut_write_tags(cpu_, true);
    EXPECT_TRUE(vm_->ram->dirty().test(5))
        << "a write through the tag after the collection is not lost";
}

TEST_F(MmuTest, EmptyEntryNeverHits) {
    for (std::uint32_t index = 0; index < kTlbEntries; ++index) {
        ASSERT_NE(tlb_index(cpu_.tlb[index].tag_read), index);
        ASSERT_NE(tlb_index(cpu_.tlb[index].tag_write), index);
    }
}

}  // namespace
}  // namespace strata::engine::soft
