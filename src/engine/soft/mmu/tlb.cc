// TLB: filling, flushing and choosing the banks of one vCPU.
#include <cstdlib>

#include "arch/x86/registers.h"
#include "base/check.h"
#include "engine/soft/mmu/mmu_state.h"
#include "engine/soft/runtime/soft_vm.h"

namespace strata::engine::soft {
namespace {

namespace x86 = arch::x86;

// What all cached translations depend on beside CR3, CPL and AC. A change without a flush by the caller flushes here.
std::uint64_t config_of(const CpuState& cpu) {
    return (cpu.cr0 & (x86::cr0::kPg | x86::cr0::kWp)) |
           ((cpu.cr4 & (x86::cr4::kPse | x86::cr4::kPae | x86::cr4::kPge | x86::cr4::kSmep | x86::cr4::kPcide | x86::cr4::kSmap |
                        x86::cr4::kPke))
            << 32) |
           ((cpu.efer & (x86::efer::kLma | x86::efer::kNxe)) << 1);
}

void drop_entry(TlbBank& bank, std::uint32_t index) {
    TlbEntry& entry = bank.entries[index];
    entry.tag_read = empty_tag(index);
    entry.tag_write = empty_tag(index);
    entry.tag_execute_and_page = 0;
    bank.valid[index / 64] &= ~(1ULL << (index % 64));
}

// Calls visit(index, entry) for every filled entry of a bank; it may drop that entry.
template <typename Visit>
void for_each_filled(TlbBank& bank, Visit visit) {
    for (std::uint32_t word = 0; word < kTlbEntries / 64; ++word) {
        std::uint64_t left = bank.valid[word];
        while (left != 0) {
            const std::uint32_t index = word * 64 + static_cast<std::uint32_t>(__builtin_ctzll(left));
            left &= left - 1;
            visit(index, bank.entries[index]);
        }
    }
}

// User and supervisor have different rights to fetch.
std::uint64_t epoch_of(const CpuState& cpu, const AsidSlot& slot) { return slot.generation * 2 + (cpu.cpl == 3 ? 1 : 0); }

void new_generation(CpuState& cpu, AsidSlot& slot) {
    slot.generation = ++cpu.mmu->generations;
    for (std::uint64_t& word : slot.fetched) {
        word = 0;
    }
    if (&slot == &cpu.mmu->slots[cpu.mmu->current]) {
        cpu.fetch_epoch = epoch_of(cpu, slot);
    }
}

void flush_slot(CpuState& cpu, AsidSlot& slot, bool keep_global) {
    for (TlbBank& bank : slot.banks) {
        for_each_filled(bank, [&](std::uint32_t index, const TlbEntry& entry) {
            if (!keep_global || (entry.tag_execute_and_page & TlbFlags::kGlobal) == 0) {
                drop_entry(bank, index);
            }
        });
    }
    if (!keep_global) {
        slot.large_low = slot.large_high = false;
        slot.global_generation = ++cpu.mmu->generations;
    }
    new_generation(cpu, slot);
    forget_code_pages(cpu);
}

std::uint64_t filter_bit(std::uint64_t region) { return (region * 0x9e3779b97f4a7c15ULL) >> 54; }

bool filter_has(const AsidSlot& slot, std::uint64_t region) {
    const std::uint64_t bit = filter_bit(region);
    return ((slot.fetched[bit / 64] >> (bit % 64)) & 1) != 0;
}

// Regions of different page sizes must not be the same number for the same address by chance: the size is mixed in.
std::uint64_t region_4k(std::uint64_t linear) { return linear >> 12; }
std::uint64_t region_4m(std::uint64_t linear) { return (linear >> 22) | (1ULL << 60); }
std::uint64_t region_1g(std::uint64_t linear) { return (linear >> 30) | (1ULL << 61); }

void flush_page_in_slot(CpuState& cpu, AsidSlot& slot, std::uint64_t linear, bool keep_global) {
    const std::uint64_t page = linear & ~kPageMask;
    const std::uint32_t index = tlb_index(linear);
    for (TlbBank& bank : slot.banks) {
        const TlbEntry& entry = bank.entries[index];
        if (entry.tag_read == page && (!keep_global || (entry.tag_execute_and_page & TlbFlags::kGlobal) == 0)) {
            drop_entry(bank, index);
        }
    }
    const bool high = (linear >> 47) != 0;
    if (high ? slot.large_high : slot.large_low) {
        for (TlbBank& bank : slot.banks) {
            for_each_filled(bank, [&](std::uint32_t at, const TlbEntry& entry) {
                const std::uint64_t flags = entry.tag_execute_and_page;
                const std::uint64_t differ = entry.tag_read ^ linear;
                if (((flags & TlbFlags::kLarge2M) != 0 && (differ >> 22) == 0) ||
                    ((flags & TlbFlags::kLarge1G) != 0 && (differ >> 30) == 0)) {
                    drop_entry(bank, at);
                }
            });
        }
    }
    if (filter_has(slot, region_4k(linear)) || filter_has(slot, region_4m(linear)) || filter_has(slot, region_1g(linear))) {
        slot.global_generation = ++cpu.mmu->generations;
        new_generation(cpu, slot);
        forget_code_pages(cpu);  // the page may have been fetched as a part of a large one
    }
    forget_code_page(cpu, linear);
}

std::uint16_t current_pcid(const CpuState& cpu) {
    return (cpu.cr4 & x86::cr4::kPcide) != 0 ? static_cast<std::uint16_t>(cpu.cr3 & 0xfff) : std::uint16_t{0};
}

AsidSlot* find_slot(MmuState& mmu, std::uint16_t pcid) {
    for (AsidSlot& slot : mmu.slots) {
        if (slot.last_use != 0 && slot.pcid == pcid) {
            return &slot;
        }
    }
    return nullptr;
}

// The slot of a PCID that has none: the least recently used one. Its global translations hold for every PCID.
AsidSlot& claim_slot(CpuState& cpu, std::uint16_t pcid) {
    MmuState& mmu = *cpu.mmu;
    AsidSlot* oldest = &mmu.slots[0];
    for (AsidSlot& slot : mmu.slots) {
        if (slot.last_use < oldest->last_use) {
            oldest = &slot;
        }
    }
    flush_slot(cpu, *oldest, true);
    oldest->pcid = pcid;
    return *oldest;
}

}  // namespace

void MmuStateDeleter::operator()(MmuState* state) const noexcept { std::free(state); }

MmuStatePtr make_mmu_state(std::uint32_t physical_bits, bool gigabyte_pages) {
    // calloc: the banks are 0.9 MiB of mostly untouched zero pages, and zero is an empty entry everywhere but in slot 0.
    auto* state = static_cast<MmuState*>(std::calloc(1, sizeof(MmuState)));
    STRATA_CHECK(state != nullptr, "out of memory");
    for (AsidSlot& slot : state->slots) {
        for (TlbBank& bank : slot.banks) {
            bank.entries[0].tag_read = bank.entries[0].tag_write = empty_tag(0);
        }
        slot.generation = ++state->generations;
        slot.global_generation = ++state->generations;
    }
    state->slots[0].last_use = state->uses = 1;
    state->apic_page = ~0ULL;
    state->physical_bits = physical_bits < 36 ? 36 : (physical_bits > 52 ? 52 : physical_bits);
    state->gigabyte_pages = gigabyte_pages;
    return MmuStatePtr(state);
}

AsidSlot& current_slot(CpuState& cpu) noexcept { return cpu.mmu->slots[cpu.mmu->current]; }

Rights access_rights(const CpuState& cpu, Privilege privilege) noexcept {
    if (privilege == Privilege::User || (privilege == Privilege::Current && cpu.cpl == 3)) {
        return Rights::User;
    }
    if ((cpu.cr4 & x86::cr4::kSmap) == 0 || (cpu.cr0 & x86::cr0::kPg) == 0) {
        return Rights::SupervisorOpen;
    }
    const bool open = privilege == Privilege::Current && (cpu.rflags & x86::rflags::kAc) != 0;
    return open ? Rights::SupervisorOpen : Rights::SupervisorStrict;
}

TlbEntry& fill_tlb(CpuState& cpu, TlbBank& bank, std::uint64_t linear, const PageWalk& walk, std::byte* host_page) noexcept {
    const std::uint64_t page = linear & ~kPageMask;
    const std::uint32_t index = tlb_index(linear);
    TlbEntry& entry = bank.entries[index];
    entry.tag_read = page;
    entry.tag_write = empty_tag(index);
    entry.host_page = reinterpret_cast<std::uint64_t>(host_page);
    entry.tag_execute_and_page = (walk.physical & ~kPageMask) | walk.flags;
    bank.valid[index / 64] |= 1ULL << (index % 64);
    cpu.mmu->keys |= walk.keyed ? 1U << ((walk.flags >> TlbFlags::kKeyShift) & 15U) : 0U;
    if ((walk.flags & (TlbFlags::kLarge2M | TlbFlags::kLarge1G)) != 0) {
        ((linear >> 47) != 0 ? current_slot(cpu).large_high : current_slot(cpu).large_low) = true;
    }
    return entry;
}

bool translate_linear(CpuState& cpu, std::uint64_t linear, MemAccess access, Privilege privilege, std::uint64_t& physical) noexcept {
    if (!check_canonical(cpu, linear)) {
        return false;
    }
    const Rights rights = access_rights(cpu, privilege);
    PageWalk walk;
    if (access != MemAccess::Execute) {
        if (!walk_page_tables(cpu, linear, access, rights, walk)) {
            return false;
        }
        physical = walk.physical;
        return true;
    }
    AsidSlot& slot = current_slot(cpu);
    TlbBank& bank = slot.banks[static_cast<std::uint32_t>(rights)];
    FetchEntry& entry = bank.fetch[(linear >> 12) % kFetchEntries];
    const bool current = entry.generation == slot.generation || entry.generation == slot.global_generation;
    if (!current || entry.linear_page != (linear & ~kPageMask)) {
        if (!walk_page_tables(cpu, linear, access, rights, walk)) {
            return false;
        }
        entry.linear_page = linear & ~kPageMask;
        entry.physical_page = walk.physical & ~kPageMask;
        entry.generation = (walk.flags & TlbFlags::kGlobal) != 0 ? slot.global_generation : slot.generation;
        const std::uint64_t region = (walk.flags & TlbFlags::kLarge1G) != 0   ? region_1g(linear)
                                     : (walk.flags & TlbFlags::kLarge2M) != 0 ? region_4m(linear)
                                                                              : region_4k(linear);
        const std::uint64_t bit = filter_bit(region);
        slot.fetched[bit / 64] |= 1ULL << (bit % 64);
    }
    physical = entry.physical_page | (linear & kPageMask);
    return true;
}

void flush_tlb_all(CpuState& cpu) noexcept {
    for (AsidSlot& slot : cpu.mmu->slots) {
        flush_slot(cpu, slot, false);
    }
    cpu.mmu->keys = 0;
    address_space_changed(cpu, true);
}

void flush_tlb_non_global(CpuState& cpu) noexcept { flush_slot(cpu, current_slot(cpu), true); }

void flush_tlb_page(CpuState& cpu, std::uint64_t linear) noexcept {
    // INVLPG drops global translations of the page whatever their PCID; those of other PCIDs may go too.
    for (AsidSlot& slot : cpu.mmu->slots) {
        if (slot.last_use != 0) {
            flush_page_in_slot(cpu, slot, linear, false);
        }
    }
}

void flush_tlb_pcid(CpuState& cpu, std::uint16_t pcid, bool keep_global) noexcept {
    if (AsidSlot* slot = find_slot(*cpu.mmu, pcid); slot != nullptr) {
        flush_slot(cpu, *slot, keep_global);
    }
}

void flush_tlb_pcid_page(CpuState& cpu, std::uint16_t pcid, std::uint64_t linear) noexcept {
    if (AsidSlot* slot = find_slot(*cpu.mmu, pcid); slot != nullptr) {
        flush_page_in_slot(cpu, *slot, linear, true);
    }
}

void address_space_changed(CpuState& cpu, bool keep) noexcept {
    MmuState& mmu = *cpu.mmu;
    const std::uint16_t pcid = current_pcid(cpu);
    AsidSlot* slot = find_slot(mmu, pcid);
    if (slot == nullptr) {
        slot = &claim_slot(cpu, pcid);
    } else if (!keep) {
        flush_slot(cpu, *slot, true);
    }
    slot->last_use = ++mmu.uses;
    mmu.current = static_cast<std::uint32_t>(slot - mmu.slots);
    forget_code_pages(cpu);
    privilege_changed(cpu);
}

void privilege_changed(CpuState& cpu) noexcept {
    const std::uint64_t config = config_of(cpu);
    if (config != cpu.mmu->config) [[unlikely]] {
        cpu.mmu->config = config;
        flush_tlb_all(cpu);  // comes back here with the new configuration
        return;
    }
    forget_stack_page(cpu);
    cpu.fetch_epoch = epoch_of(cpu, current_slot(cpu));
    cpu.tlb = current_slot(cpu).banks[static_cast<std::uint32_t>(access_rights(cpu, Privilege::Current))].entries;
}

void write_pkru(CpuState& cpu, std::uint32_t value) noexcept {
    const std::uint32_t differ = cpu.pkru ^ value;
    cpu.pkru = value;
    std::uint32_t changed = 0;
    for (std::uint32_t key = 0; key < 16; ++key) {
        changed |= ((differ >> (2 * key)) & 3U) != 0 ? 1U << key : 0U;
    }
    changed &= cpu.mmu->keys;
    if (changed == 0) {
        return;  // the usual case: kernels give the keys that nobody uses a value at each process switch
    }
    cpu.mmu->keys &= ~changed;
    forget_stack_page(cpu);
    for (AsidSlot& slot : cpu.mmu->slots) {
        for (TlbBank& bank : slot.banks) {
            for_each_filled(bank, [&](std::uint32_t index, const TlbEntry& entry) {
                if (((changed >> ((entry.tag_execute_and_page >> TlbFlags::kKeyShift) & 15U)) & 1U) != 0) {
                    drop_entry(bank, index);
                }
            });
        }
    }
}

void cut_write_tags_of_page(CpuState& cpu, const std::byte* host_page) noexcept {
    const auto host = reinterpret_cast<std::uint64_t>(host_page);
    forget_stack_page(cpu);
    for (AsidSlot& slot : cpu.mmu->slots) {
        for (TlbBank& bank : slot.banks) {
            for_each_filled(bank, [&](std::uint32_t index, TlbEntry& entry) {
                if (entry.host_page == host) {
                    entry.tag_write = empty_tag(index);
                }
            });
        }
    }
}

void cut_write_tags(CpuState& cpu, bool mark) noexcept {
    const auto base = reinterpret_cast<std::uint64_t>(cpu.vm->ram->base());
    forget_stack_page(cpu);
    for (AsidSlot& slot : cpu.mmu->slots) {
        for (TlbBank& bank : slot.banks) {
            for_each_filled(bank, [&](std::uint32_t index, TlbEntry& entry) {
                if (mark && entry.tag_write == entry.tag_read) {
                    cpu.vm->ram->dirty().mark((entry.host_page - base) >> 12);
                }
                entry.tag_write = empty_tag(index);
            });
        }
    }
}

}  // namespace strata::engine::soft
