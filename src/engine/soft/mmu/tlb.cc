// TLB: filling, flushing and choosing the banks of one vCPU.
#include <cstdlib>

#include "arch/x86/registers.h"
#include "base/check.h"
#include "engine/soft/direct/direct_events.h"
#include "engine/soft/mmu/mmu_state.h"
#include "engine/soft/mmu/slot_code.h"
#include "engine/soft/mmu/tlb_filters.h"
#include "engine/soft/runtime/soft_vm.h"

namespace strata::engine::soft {
namespace {

namespace x86 = arch::x86;

// What all cached translations depend on beside CR3, CPL and AC. A change without a flush by the
// caller flushes here.
std::uint64_t config_of(const CpuState& cpu) {
    return (cpu.cr0 & (x86::cr0::kPg | x86::cr0::kWp)) |
           ((cpu.cr4 & (x86::cr4::kPse | x86::cr4::kPae | x86::cr4::kPge | x86::cr4::kSmep |
                        x86::cr4::kPcide | x86::cr4::kSmap | x86::cr4::kPke))
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
            const std::uint32_t index =
                word * 64 + static_cast<std::uint32_t>(__builtin_ctzll(left));
            left &= left - 1;
            visit(index, bank.entries[index]);
        }
    }
}

// User and supervisor have different rights to fetch.
std::uint64_t epoch_of(const CpuState& cpu, const AsidSlot& slot) {
    return slot.epoch * 2 + (cpu.cpl == 3 ? 1 : 0);
}

void note_global(MmuState& mmu, AsidSlot& slot, std::uint64_t linear, const PageWalk& walk) {
    if (!upper_half(linear) && (walk.flags & TlbFlags::kGlobal) != 0) {
        slot.global_low = mmu.global_low = true;
    }
}
void new_epoch(CpuState& cpu, AsidSlot& slot) {
    slot.epoch = ++cpu.mmu->generations;
    if (is_current(cpu, slot)) {
        cpu.fetch_epoch = epoch_of(cpu, slot);
    }
}

void new_generation(CpuState& cpu, AsidSlot& slot) {
    slot.generation = ++cpu.mmu->generations;
    new_epoch(cpu, slot);
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
        slot.fetched = slot.large_high = {};
        slot.global_low = false;
        slot.global_generation = ++cpu.mmu->generations;
    }
    if (!slot.global_low) {
        slot.large_low = {};
    }
    slot.fetched_pages = {};
    new_generation(cpu, slot);
    forget_code(cpu, slot, keep_global);
}

// Drops the entry of `linear` and the fragments of a large page that holds it. `keep` says which
// entries may stay.
template <typename Keep>
void drop_page(AsidSlot& slot, std::uint64_t linear, bool large, Keep keep) {
    const std::uint32_t index = tlb_index(linear);
    for (TlbBank& bank : slot.banks) {
        const TlbEntry& entry = bank.entries[index];
        if (entry.tag_read == (linear & ~kPageMask) && !keep(entry)) {
            drop_entry(bank, index);
        }
        if (!large) {
            continue;
        }
        for_each_filled(bank, [&](std::uint32_t at, const TlbEntry& fragment) {
            const std::uint64_t flags = fragment.tag_execute_and_page;
            const std::uint64_t differ = fragment.tag_read ^ linear;
            if (((flags & TlbFlags::kLarge2M) != 0 && (differ >> 22) == 0) ||
                ((flags & TlbFlags::kLarge1G) != 0 && (differ >> 30) == 0)) {
                drop_entry(bank, at);
            }
        });
    }
}

// Whether a small page may have been fetched from. The filter of all slots has thousands of pages
// of the upper half, so that many of the lower half seem to be in it; of these only global ones can
// be.
bool was_fetched(const MmuState& mmu, const AsidSlot& slot, std::uint64_t linear) {
    return pages_have(slot.fetched_pages, linear) ||
           ((upper_half(linear) || mmu.global_low) && pages_have(mmu.fetched_pages, linear));
}

void drop_fetches(CpuState& cpu, AsidSlot& slot, std::uint64_t linear) {
    if (filter_has(slot.fetched, linear)) {
        // A large page, perhaps: its parts may be anywhere.
        slot.fetched = {};
        slot.global_generation = ++cpu.mmu->generations;
        new_generation(cpu, slot);
        forget_code(cpu, slot, false);
        return;
    }
    // Whatever knows a fetch translation of this page was told by translate_linear(). Most pages
    // hold data: the epoch then stays, and with it the return stack.
    if (!was_fetched(*cpu.mmu, slot, linear)) {
        return;
    }
    for (TlbBank& bank : slot.banks) {
        FetchEntry& entry = bank.fetch[(linear >> 12) % kFetchEntries];
        if (entry.linear_page == (linear & ~kPageMask)) {
            entry.generation = 0;
        }
    }
    forget_code_page(cpu, slot, linear);
    new_epoch(cpu, slot);
}

enum class Flushed : std::uint8_t { All, Local, Global };

void flush_page_in_slot(CpuState& cpu, AsidSlot& slot, std::uint64_t linear, Flushed which) {
    const bool large = filter_has(upper_half(linear) ? slot.large_high : slot.large_low, linear);
    drop_page(slot, linear, large, [which](const TlbEntry& entry) {
        const bool global = (entry.tag_execute_and_page & TlbFlags::kGlobal) != 0;
        return which != Flushed::All && global != (which == Flushed::Global);
    });
    if (large || cpu.translator.stack_tag == (linear & ~kPageMask)) {
        forget_stack_page(cpu);
    }
    drop_fetches(cpu, slot, linear);
}

std::uint16_t current_pcid(const CpuState& cpu) {
    return (cpu.cr4 & x86::cr4::kPcide) != 0 ? static_cast<std::uint16_t>(cpu.cr3 & 0xfff)
                                             : std::uint16_t{0};
}

AsidSlot* find_slot(MmuState& mmu, std::uint16_t pcid) {
    for (AsidSlot& slot : mmu.slots) {
        if (slot.last_use != 0 && slot.pcid == pcid) {
            return &slot;
        }
    }
    return nullptr;
}

// The slot of a PCID that has none: the least recently used one. Its global translations hold for
// every PCID.
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

void MmuStateDeleter::operator()(MmuState* state) const noexcept {
    std::free(state);
}

MmuStatePtr make_mmu_state(std::uint32_t physical_bits, bool gigabyte_pages) {
    // calloc: the banks are 3.4 MiB of mostly untouched zero pages, and zero is an empty entry
    // everywhere but in slot 0.
    auto* state = static_cast<MmuState*>(std::calloc(1, sizeof(MmuState)));
    STRATA_CHECK(state != nullptr, "out of memory");
    for (AsidSlot& slot : state->slots) {
        for (TlbBank& bank : slot.banks) {
            bank.entries[0].tag_read = bank.entries[0].tag_write = empty_tag(0);
        }
        slot.generation = ++state->generations;
        slot.global_generation = ++state->generations;
        slot.epoch = ++state->generations;
    }
    state->slots[0].last_use = state->uses = 1;
    state->apic_page = ~0ULL;
    state->physical_bits = physical_bits < 36 ? 36 : (physical_bits > 52 ? 52 : physical_bits);
    state->gigabyte_pages = gigabyte_pages;
    return MmuStatePtr(state);
}

AsidSlot& current_slot(CpuState& cpu) noexcept {
    return cpu.mmu->slots[cpu.mmu->current];
}

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

TlbEntry& fill_tlb(CpuState& cpu, TlbBank& bank, std::uint64_t linear, const PageWalk& walk,
                   std::byte* host_page) noexcept {
    const std::uint64_t page = linear & ~kPageMask;
    const std::uint32_t index = tlb_index(linear);
    TlbEntry& entry = bank.entries[index];
    entry.tag_read = page;
    entry.tag_write = empty_tag(index);
    entry.host_page = reinterpret_cast<std::uint64_t>(host_page);
    entry.tag_execute_and_page = (walk.physical & ~kPageMask) | walk.flags;
    bank.valid[index / 64] |= 1ULL << (index % 64);
    cpu.mmu->keys |= walk.keyed ? 1U << ((walk.flags >> TlbFlags::kKeyShift) & 15U) : 0U;
    AsidSlot& slot = current_slot(cpu);
    if ((walk.flags & (TlbFlags::kLarge2M | TlbFlags::kLarge1G)) != 0) {
        filter_add(upper_half(linear) ? slot.large_high : slot.large_low, linear, walk.flags);
    }
    note_global(*cpu.mmu, slot, linear, walk);
    return entry;
}

bool translate_linear(CpuState& cpu, std::uint64_t linear, MemAccess access, Privilege privilege,
                      std::uint64_t& physical) noexcept {
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
    const bool current =
        entry.generation == slot.generation || entry.generation == slot.global_generation;
    if (!current || entry.linear_page != (linear & ~kPageMask)) {
        if (!walk_page_tables(cpu, linear, access, rights, walk)) {
            return false;
        }
        entry.linear_page = linear & ~kPageMask;
        entry.physical_page = walk.physical & ~kPageMask;
        entry.generation =
            (walk.flags & TlbFlags::kGlobal) != 0 ? slot.global_generation : slot.generation;
        if ((walk.flags & (TlbFlags::kLarge2M | TlbFlags::kLarge1G)) != 0) {
            filter_add(slot.fetched, linear, walk.flags);
        }
        note_global(*cpu.mmu, slot, linear, walk);
    }
    const bool global = entry.generation == slot.global_generation;
    pages_add(global || upper_half(linear) ? cpu.mmu->fetched_pages : slot.fetched_pages, linear);
    if (rights != Rights::User && !global) {
        cpu.translator.local_code = true;
    }
    physical = entry.physical_page | (linear & kPageMask);
    return true;
}

void flush_tlb_all(CpuState& cpu) noexcept {
    note_flush_all(cpu);
    for (AsidSlot& slot : cpu.mmu->slots) {
        flush_slot(cpu, slot, false);
    }
    cpu.mmu->keys = 0;
    cpu.mmu->global_low = false;
    cpu.mmu->fetched_pages = {};
    address_space_changed(cpu, true);
}

void flush_tlb_non_global(CpuState& cpu) noexcept {
    note_flush_pcid(cpu, current_pcid(cpu));
    flush_slot(cpu, current_slot(cpu), true);
}

void flush_tlb_page(CpuState& cpu, std::uint64_t linear) noexcept {
    note_page_event(cpu, (linear & ~kPageMask) | DirectEvents::kLinearPage);
    // INVLPG drops global translations of the page whatever their PCID, and the current PCID's own.
    AsidSlot& current = current_slot(cpu);
    for (AsidSlot& slot : cpu.mmu->slots) {
        if (&slot == &current) {
            flush_page_in_slot(cpu, slot, linear, Flushed::All);
        } else if (slot.last_use != 0 && (upper_half(linear) || slot.global_low)) {
            flush_page_in_slot(cpu, slot, linear, Flushed::Global);
        }
    }
}

bool flush_data_page(CpuState& cpu, std::uint64_t linear) noexcept {
    MmuState& mmu = *cpu.mmu;
    AsidSlot& slot = current_slot(cpu);
    if (upper_half(linear) || mmu.global_low || filter_has(slot.large_low, linear) ||
        filter_has(slot.fetched, linear) || was_fetched(mmu, slot, linear)) {
        return false;
    }
    note_page_event(cpu, (linear & ~kPageMask) | DirectEvents::kLinearPage);
    drop_page(slot, linear, false, [](const TlbEntry&) { return false; });
    if (cpu.translator.stack_tag == (linear & ~kPageMask)) {
        forget_stack_page(cpu);
    }
    return true;
}

void flush_tlb_pcid(CpuState& cpu, std::uint16_t pcid, bool keep_global) noexcept {
    note_flush_pcid(cpu, pcid);
    if (AsidSlot* slot = find_slot(*cpu.mmu, pcid); slot != nullptr) {
        flush_slot(cpu, *slot, keep_global);
    }
}

void flush_tlb_pcid_page(CpuState& cpu, std::uint16_t pcid, std::uint64_t linear) noexcept {
    note_page_event(cpu, (linear & ~kPageMask) | DirectEvents::kLinearPage);
    if (AsidSlot* slot = find_slot(*cpu.mmu, pcid); slot != nullptr) {
        flush_page_in_slot(cpu, *slot, linear, Flushed::Local);
    }
}

void address_space_changed(CpuState& cpu, bool keep) noexcept {
    MmuState& mmu = *cpu.mmu;
    const std::uint16_t pcid = current_pcid(cpu);
    if (!keep) {
        note_flush_pcid(cpu, pcid);
    }
    AsidSlot* slot = find_slot(mmu, pcid);
    if (slot == nullptr) {
        slot = &claim_slot(cpu, pcid);
    } else if (!keep) {
        flush_slot(cpu, *slot, true);
    }
    slot->last_use = ++mmu.uses;
    if (!is_current(cpu, *slot)) {
        exchange_user_code(cpu, current_slot(cpu), *slot);
        mmu.current = static_cast<std::uint32_t>(slot - mmu.slots);
        if (cpu.translator.local_code) {
            forget_supervisor_code(cpu);
        }
    }
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
    cpu.translator.homes[0] = cpu.mmu->supervisor_homes;
    cpu.translator.homes[1] = current_slot(cpu).user_homes;
    TlbBank* banks = current_slot(cpu).banks;
    cpu.tlb = banks[static_cast<std::uint32_t>(access_rights(cpu, Privilege::Current))].entries;
    cpu.tlb_open = banks[static_cast<std::uint32_t>(Rights::SupervisorOpen)].entries;
    cpu.tlb_strict =
        banks[static_cast<std::uint32_t>(access_rights(cpu, Privilege::ImplicitSupervisor))]
            .entries;
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
        return;  // the usual case: kernels give the keys that nobody uses a value at each process
                 // switch
    }
    cpu.mmu->keys &= ~changed;
    forget_stack_page(cpu);
    for (AsidSlot& slot : cpu.mmu->slots) {
        for (TlbBank& bank : slot.banks) {
            for_each_filled(bank, [&](std::uint32_t index, const TlbEntry& entry) {
                if (((changed >> ((entry.tag_execute_and_page >> TlbFlags::kKeyShift) & 15U)) &
                     1U) != 0) {
                    drop_entry(bank, index);
                }
            });
        }
    }
}

void cut_write_tags_of_page(CpuState& cpu, const std::byte* host_page) noexcept {
    const auto host = reinterpret_cast<std::uint64_t>(host_page);
    note_page_event(cpu, (host - reinterpret_cast<std::uint64_t>(cpu.vm->ram->base())) |
                             DirectEvents::kRamPage);
    ++cpu.translator.cuts;
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
    ++cpu.translator.cuts;
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
