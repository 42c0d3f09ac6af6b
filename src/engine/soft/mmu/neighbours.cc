// Neighbours: what one walk tells about the pages beside the one that was asked for.
//
// Processors may cache a translation whose A bit is set whenever they like. The eight entries of
// one line of a page table are at hand after a walk; who goes through memory in order needs one
// walk for eight pages.
#include "engine/soft/mmu/mmu_state.h"
#include "engine/soft/runtime/soft_vm.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kPageBytes = 4096, kEntries = 8;
constexpr std::uint64_t kDirty = 0x40;
// Present, writable, user, accessed, large (PAT), global, protection key and no-execute must be as
// in the entry that was walked.
constexpr std::uint64_t kSame = 0x1a7 | (0xfULL << 59) | (1ULL << 63);
constexpr std::uint64_t kAddress = 0x000ffffffffff000ULL;

bool known(const TlbBank& bank, std::uint64_t page) {
    return bank.entries[tlb_index(page)].tag_read == page;
}

bool has_code(const memory::GuestRam& ram, std::uint64_t offset) {
    // acquire pairs with the translator's setting of the flag; it then waits for us at a safe point
    // anyway.
    return (ram.page_flags(offset >> 12).load(std::memory_order_acquire) &
            memory::PageFlags::kCode) != 0;
}

}  // namespace

void fill_neighbours(CpuState& cpu, TlbBank& bank, std::uint64_t linear, const PageWalk& walk,
                     MemAccess access) noexcept {
    const std::uint64_t own = linear & ~kPageMask;
    if (walk.entry_offset == PageWalk::kNoEntry ||
        (!known(bank, own - kPageBytes) && !known(bank, own + kPageBytes))) {
        return;
    }
    const memory::GuestRam& ram = *cpu.vm->ram;
    // SAFETY: the walk read an aligned entry of RAM there; the line around it is in the same page.
    const auto* entries = reinterpret_cast<const std::uint64_t*>(
        ram.base() + (walk.entry_offset & ~std::uint64_t{63}));
    const std::uint64_t first = own & ~(kEntries * kPageBytes - 1);
    for (std::uint64_t i = 0; i < kEntries; ++i) {
        const std::uint64_t page = first + i * kPageBytes;
        const std::uint64_t entry = __atomic_load_n(entries + i, __ATOMIC_RELAXED);
        const std::uint64_t physical = entry & kAddress;
        const bool same =
            ((entry ^ walk.entry) & kSame) == 0 && physical >> cpu.mmu->physical_bits == 0;
        if (page == own || !same || known(bank, page) || (physical >> 12) == cpu.mmu->apic_page) {
            continue;
        }
        const auto offset = ram.ram_offset(memory::GuestAddress(physical));
        if (!offset) {
            continue;
        }
        PageWalk beside = walk;
        beside.physical = physical;
        beside.flags = (entry & kDirty) != 0 ? walk.flags : walk.flags & ~TlbFlags::kWritable;
        TlbEntry& filled = fill_tlb(cpu, bank, page, beside, ram.base() + *offset);
        const bool writable =
            access == MemAccess::Write && (beside.flags & TlbFlags::kWritable) != 0;
        if (writable && !ram.dirty_logging() && !has_code(ram, *offset)) {
            filled.tag_write = page;
        }
    }
}

}  // namespace strata::engine::soft
