// Page walk: from a linear to a guest physical address through the guest's page tables. SDM 3A,
// chapter 4.
//
// A walk reads each entry once and decides on those copies. Only when all levels allow the access
// are the A bits (and D of the leaf) set, by compare-exchange against the copies; if an entry
// changed meanwhile, the walk starts over.
#include "arch/x86/registers.h"
#include "engine/soft/mmu/mmu_state.h"
#include "engine/soft/runtime/soft_vm.h"

namespace strata::engine::soft {
namespace {

namespace x86 = arch::x86;

constexpr std::uint64_t kPresent = 1, kWrite = 2, kUser = 4, kAccessed = 0x20, kDirty = 0x40,
                        kLarge = 0x80, kGlobalBit = 0x100;
constexpr std::uint64_t kNoExecute = 1ULL << 63;
constexpr std::uint64_t kNotRam = PageWalk::kNoEntry;

enum class Outcome : std::uint8_t { Translated, NotPresent, Reserved, Denied, Changed };

struct Step {
    std::uint64_t offset = kNotRam;  // of the entry in RAM
    std::uint64_t entry = 0;
};

// One walk. `wide`: 8-byte entries.
struct Walker {
    CpuState& cpu;
    std::uint64_t linear = 0;
    MemAccess access{};
    Rights rights{};
    bool wide = false;
    Step steps[4];
    std::uint32_t count = 0;
    std::uint64_t allowed = kWrite | kUser;
    bool no_execute = false;
    bool keyed = false;       // PKRU has a say about the leaf
    bool key_denies = false;  // and forbids the access

    [[nodiscard]] bool long_mode() const { return (cpu.efer & x86::efer::kLma) != 0; }
    [[nodiscard]] std::uint64_t address_bits() const {
        return ((1ULL << cpu.mmu->physical_bits) - 1) & ~kPageMask;
    }
    [[nodiscard]] std::uint64_t always_reserved() const;
    void read_entry(std::uint64_t physical);
    Outcome run(PageWalk& out);
    Outcome run_wide(PageWalk& out);
    Outcome run_narrow(PageWalk& out);
    Outcome finish(std::uint64_t base, std::uint64_t size, PageWalk& out);
    void check_key();
    [[nodiscard]] bool permitted() const;
    [[nodiscard]] bool set_bits();
};

// Bits that are reserved in every entry with 8 bytes.
std::uint64_t Walker::always_reserved() const {
    const std::uint64_t above = ~((1ULL << cpu.mmu->physical_bits) - 1);
    std::uint64_t reserved = above & (long_mode() ? 0x000fffffffffffffULL : 0x7fffffffffffffffULL);
    if ((cpu.efer & x86::efer::kNxe) == 0) {
        reserved |= kNoExecute;
    }
    return reserved;
}

// Page tables outside of RAM read as all ones, like any address nobody answers.
void Walker::read_entry(std::uint64_t physical) {
    Step& step = steps[count++];
    const auto offset = cpu.vm->ram->ram_offset(memory::GuestAddress(physical));
    if (!offset) {
        step = {kNotRam, wide ? ~0ULL : 0xffffffffULL};
        return;
    }
    // SAFETY: ram_offset() vouches for the page; entries are naturally aligned and do not cross it.
    const std::byte* at = cpu.vm->ram->base() + *offset;
    step.offset = *offset;
    step.entry =
        wide ? __atomic_load_n(reinterpret_cast<const std::uint64_t*>(at), __ATOMIC_RELAXED)
             : __atomic_load_n(reinterpret_cast<const std::uint32_t*>(at), __ATOMIC_RELAXED);
}

std::uint32_t key_of(std::uint64_t leaf) {
    return static_cast<std::uint32_t>(leaf >> 59U) & 15U;
}

// Protection keys: data accesses to user pages in long mode. SDM 3A, 4.6.2.
void Walker::check_key() {
    keyed = (cpu.cr4 & x86::cr4::kPke) != 0 && long_mode() && (allowed & kUser) != 0;
    if (!keyed || access == MemAccess::Execute) {
        return;
    }
    const std::uint32_t rule = cpu.pkru >> (2 * key_of(steps[count - 1].entry));
    const bool write_counts =
        access == MemAccess::Write && (rights == Rights::User || (cpu.cr0 & x86::cr0::kWp) != 0);
    key_denies = (rule & 1U) != 0 || ((rule & 2U) != 0 && write_counts);
}

bool Walker::permitted() const {
    if (key_denies) {
        return false;
    }
    const bool user_page = (allowed & kUser) != 0;
    const bool writable = (allowed & kWrite) != 0;
    if (access == MemAccess::Execute && no_execute) {
        return false;
    }
    if (rights == Rights::User) {
        return user_page && (access != MemAccess::Write || writable);
    }
    if (access == MemAccess::Execute) {
        return !user_page || (cpu.cr4 & x86::cr4::kSmep) == 0;
    }
    if (user_page && rights == Rights::SupervisorStrict) {
        return false;
    }
    return access != MemAccess::Write || writable || (cpu.cr0 & x86::cr0::kWp) == 0;
}

// Sets A on every level and D on the leaf of a write. False: an entry changed since it was read.
bool Walker::set_bits() {
    for (std::uint32_t i = 0; i < count; ++i) {
        Step& step = steps[i];
        std::uint64_t wanted = step.entry | kAccessed;
        if (i + 1 == count && access == MemAccess::Write) {
            wanted |= kDirty;
        }
        if (wanted == step.entry || step.offset == kNotRam) {
            continue;
        }
        std::byte* at = cpu.vm->ram->base() + step.offset;
        bool swapped = false;
        if (wide) {
            std::uint64_t expected = step.entry;
            swapped =
                __atomic_compare_exchange_n(reinterpret_cast<std::uint64_t*>(at), &expected, wanted,
                                            false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        } else {
            auto expected = static_cast<std::uint32_t>(step.entry);
            swapped = __atomic_compare_exchange_n(reinterpret_cast<std::uint32_t*>(at), &expected,
                                                  static_cast<std::uint32_t>(wanted), false,
                                                  __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        }
        if (!swapped) {
            return false;
        }
        step.entry = wanted;
        note_ram_write(cpu, step.offset, wide ? 8 : 4);
    }
    return true;
}

Outcome Walker::finish(std::uint64_t base, std::uint64_t size, PageWalk& out) {
    check_key();
    if (!permitted()) {
        return Outcome::Denied;
    }
    if (!set_bits()) {
        return Outcome::Changed;
    }
    const std::uint64_t leaf = steps[count - 1].entry;
    const bool unbound = rights != Rights::User && (cpu.cr0 & x86::cr0::kWp) == 0;
    const bool key_allows = !keyed || (cpu.pkru & (2U << (2 * key_of(leaf)))) == 0;
    const bool may_write = ((allowed & kWrite) != 0 && key_allows) || unbound;
    out.physical = base + (linear & (size - 1));
    out.flags = keyed ? static_cast<std::uint64_t>(key_of(leaf)) << TlbFlags::kKeyShift : 0;
    out.keyed = keyed;
    if (may_write && (leaf & kDirty) != 0) {
        out.flags |= TlbFlags::kWritable;
    }
    if ((leaf & kGlobalBit) != 0 && (cpu.cr4 & x86::cr4::kPge) != 0) {
        out.flags |= TlbFlags::kGlobal;
    }
    out.entry_offset = long_mode() && size == 0x1000 ? steps[count - 1].offset : PageWalk::kNoEntry;
    out.entry = leaf;
    if (size > 0x1000) {
        out.flags |= size > 0x400000 ? TlbFlags::kLarge1G : TlbFlags::kLarge2M;
    }
    return Outcome::Translated;
}

Outcome Walker::run_wide(PageWalk& out) {
    const std::uint64_t addresses = address_bits();
    const std::uint64_t reserved = always_reserved();
    std::uint64_t table = cpu.cr3 & addresses;
    std::uint32_t shift = 39;
    if (!long_mode()) {
        // The four PDPTEs: no rights, no A bit; bits 2:1 and 8:5 reserved. They are read from
        // memory on each walk.
        table = cpu.cr3 & 0xffffffe0U;
        read_entry(table + ((linear >> 30) & 3) * 8);
        const std::uint64_t pdpte = steps[0].entry;
        count = 0;
        if ((pdpte & kPresent) == 0) {
            return Outcome::NotPresent;
        }
        if ((pdpte & (reserved | kNoExecute | 0x1e6)) != 0) {
            return Outcome::Reserved;
        }
        table = pdpte & addresses;
        shift = 21;
    }
    for (;; shift -= 9) {
        read_entry(table + ((linear >> shift) & 0x1ff) * 8);
        const std::uint64_t entry = steps[count - 1].entry;
        if ((entry & kPresent) == 0) {
            return Outcome::NotPresent;
        }
        const bool leaf = shift == 12 || ((entry & kLarge) != 0 && shift <= 30);
        std::uint64_t bad = reserved;
        if (shift == 39 || (shift == 30 && !cpu.mmu->gigabyte_pages)) {
            bad |= kLarge;
        } else if (leaf && shift > 12) {
            bad |= ((1ULL << shift) - 1) & ~0x1fffULL;  // bit 12 is PAT
        }
        if ((entry & bad) != 0) {
            return Outcome::Reserved;
        }
        allowed &= entry;
        no_execute |= (entry & kNoExecute) != 0;
        if (leaf) {
            return finish(entry & addresses & ~((1ULL << shift) - 1), 1ULL << shift, out);
        }
        table = entry & addresses;
    }
}

Outcome Walker::run_narrow(PageWalk& out) {
    read_entry((cpu.cr3 & 0xfffff000U) + ((linear >> 22) & 0x3ff) * 4);
    const std::uint64_t pde = steps[0].entry;
    if ((pde & kPresent) == 0) {
        return Outcome::NotPresent;
    }
    allowed &= pde;
    if ((pde & kLarge) != 0 && (cpu.cr4 & x86::cr4::kPse) != 0) {
        // PSE-36: bits 20:13 are address bits 39:32, as far as the processor has them; bit 21 is
        // reserved.
        const std::uint64_t high = (pde >> 13) & 0xff;
        const std::uint32_t bits = cpu.mmu->physical_bits;
        if ((pde & (1U << 21)) != 0 || (bits < 40 && (high >> (bits - 32)) != 0)) {
            return Outcome::Reserved;
        }
        return finish((pde & 0xffc00000U) | (high << 32), 1U << 22, out);
    }
    read_entry((pde & 0xfffff000U) + ((linear >> 12) & 0x3ff) * 4);
    const std::uint64_t pte = steps[1].entry;
    if ((pte & kPresent) == 0) {
        return Outcome::NotPresent;
    }
    allowed &= pte;
    return finish(pte & 0xfffff000U, 0x1000, out);
}

Outcome Walker::run(PageWalk& out) {
    return wide ? run_wide(out) : run_narrow(out);
}

void raise_page_fault(CpuState& cpu, std::uint64_t linear, MemAccess access, Rights rights,
                      Outcome outcome, bool key_denies) {
    std::uint32_t error = outcome == Outcome::NotPresent ? 0U : 1U;
    error |= key_denies ? 0x20U : 0U;
    error |= access == MemAccess::Write ? 2U : 0U;
    error |= rights == Rights::User ? 4U : 0U;
    error |= outcome == Outcome::Reserved ? 8U : 0U;
    const bool nx_on = (cpu.cr4 & x86::cr4::kPae) != 0 && (cpu.efer & x86::efer::kNxe) != 0;
    if (access == MemAccess::Execute && (nx_on || (cpu.cr4 & x86::cr4::kSmep) != 0)) {
        error |= 0x10U;
    }
    cpu.exception = {};
    cpu.exception.vector = x86::vector::kPf;
    cpu.exception.has_error = true;
    cpu.exception.pending = true;
    cpu.exception.error = error;
    cpu.exception.fault_address = linear;
}

}  // namespace

bool walk_page_tables(CpuState& cpu, std::uint64_t linear, MemAccess access, Rights rights,
                      PageWalk& out) noexcept {
    if ((cpu.cr0 & x86::cr0::kPg) == 0) {
        out.physical = linear;
        out.flags = TlbFlags::kWritable;
        out.keyed = false;
        out.entry_offset = PageWalk::kNoEntry;
        return true;
    }
    for (;;) {
        Walker walker{cpu, linear, access,         rights, (cpu.cr4 & x86::cr4::kPae) != 0,
                      {},  0,      kWrite | kUser, false};
        const Outcome outcome = walker.run(out);
        if (outcome == Outcome::Translated) {
            return true;
        }
        if (outcome != Outcome::Changed) {
            raise_page_fault(cpu, linear, access, rights, outcome, walker.key_denies);
            return false;
        }
    }
}

bool pdptes_valid(const CpuState& cpu, std::uint64_t cr3) noexcept {
    // SAFETY: only reading through the walker, which keeps no pointer; it wants a mutable CpuState
    // for faults it never raises here.
    Walker walker{const_cast<CpuState&>(cpu),
                  0,
                  MemAccess::Read,
                  Rights::SupervisorOpen,
                  true,
                  {},
                  0,
                  0,
                  false};
    const std::uint64_t reserved = walker.always_reserved() | kNoExecute | 0x1e6;
    for (std::uint64_t i = 0; i < 4; ++i) {
        walker.count = 0;
        walker.read_entry((cr3 & 0xffffffe0U) + i * 8);
        const std::uint64_t pdpte = walker.steps[0].entry;
        if ((pdpte & kPresent) != 0 && (pdpte & reserved) != 0) {
            return false;
        }
    }
    return true;
}

}  // namespace strata::engine::soft
