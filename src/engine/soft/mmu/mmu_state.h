// MmuState: the TLB banks of one vCPU, and the page walk beneath them.
//
// A bank holds translations made under one set of rights (Rights) in one address space (AsidSlot).
// Without CR4.PCIDE there is one address space, flushed by CR3 loads; with it, eight slots are
// handed out to PCIDs, least recently used first. An entry always maps 4 KiB; fragments of large
// pages are flagged, so that INVLPG finds their siblings. The bitmap `valid` is the fill log: a
// flush visits only entries that were filled. Instruction fetch has a small table of its own.
//
// Owned by the vCPU's thread. Other threads touch it only inside SoftVm::run_exclusive().
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "engine/soft/mmu/mmu.h"
#include "engine/soft/runtime/cpu_state.h"

namespace strata::engine::soft {

/// Under whose rights a bank's translations were checked.
enum class Rights : std::uint8_t {
    User,
    SupervisorOpen,    ///< SMAP off, or RFLAGS.AC set
    SupervisorStrict,  ///< SMAP: user pages are out of reach for data
};

inline constexpr std::uint32_t kRights = 3;
inline constexpr std::uint32_t kAsidSlots = 8;
inline constexpr std::uint32_t kFetchEntries = 512;
inline constexpr std::uint64_t kPageMask = 0xfff;

/// Flag bits in the low 12 bits of TlbEntry::tag_execute_and_page.
struct TlbFlags {
    static constexpr std::uint64_t kGlobal = 1;
    static constexpr std::uint64_t kWritable =
        2;                                        ///< the walk allowed writing and the D bit is set
    static constexpr std::uint64_t kLarge2M = 4;  ///< fragment of a 2 or 4 MiB page
    static constexpr std::uint64_t kLarge1G = 8;
    static constexpr std::uint32_t kKeyShift = 4;  ///< four bits: the protection key
};

struct FetchEntry {
    std::uint64_t linear_page;
    std::uint64_t physical_page;
    std::uint64_t generation;  ///< valid if equal to its slot's generation or global_generation
};

struct TlbBank {
    TlbEntry entries[kTlbEntries];
    FetchEntry fetch[kFetchEntries];
    std::uint64_t valid[kTlbEntries / 64];
};

/// Bloom filter of 4 MiB and 1 GiB regions.
struct RegionFilter {
    std::uint64_t words[16];
};

/// Bloom filter of pages.
struct PageFilter {
    std::uint64_t words[256];
};

struct AsidSlot {
    TlbBank banks[kRights];
    std::uint64_t generation;         ///< of fetch translations; never used twice
    std::uint64_t global_generation;  ///< of those of global pages
    std::uint64_t epoch;   ///< changes with anything that may concern a fetch translation: see
                           ///< CpuState::fetch_epoch
    RegionFilter fetched;  ///< large pages that were fetched from since `global_generation` began
    PageFilter fetched_pages;  ///< pages fetched from since the slot was flushed, but those of
                               ///< MmuState::fetched_pages
    RegionFilter large_low, large_high;  ///< large pages with fragments here, in the lower, upper
                                         ///< half of the address space
    bool global_low;                     ///< a global page of the lower half may be here
    std::uint64_t user_code[TranslatorState::kCodePages];  ///< TranslatorState::code_pages[1] while
                                                           ///< the slot is not current,
    std::uint64_t user_groups;  ///< and code_groups[1]: entries of other groups mean nothing
    std::uint64_t user_homes[TranslatorState::kCodeHomes];  ///< TranslatorState::homes[1]
    std::uint64_t last_use;
    std::uint16_t pcid;
};

struct MmuState {
    AsidSlot slots[kAsidSlots];
    std::uint32_t current;
    std::uint64_t uses;         ///< clock of last_use
    std::uint64_t generations;  ///< the newest generation
    std::uint64_t config;      ///< CR0, CR4, EFER bits that the cached translations were made under
    PageFilter fetched_pages;  ///< of the upper half and global ones: fetched from since everything
                               ///< was flushed
    std::uint64_t apic_page;   ///< guest physical page of the xAPIC registers, or ~0
    std::uint32_t physical_bits;
    bool gigabyte_pages;
    bool global_low;  ///< a slot's global_low may be set
    std::uint64_t supervisor_homes[TranslatorState::kCodeHomes];  ///< TranslatorState::homes[0]
    std::uint64_t device_accesses;                                ///< counted
    std::uint32_t keys;  ///< protection keys that cached translations depend on (some may be gone):
                         ///< bit N for key N
    /// A pointer into translated code was handed out for writing: [offset, +length) of RAM is
    /// invalidated once more.
    bool rewrite_pending;
    std::uint64_t rewrite_offset, rewrite_length;
};

struct MmuStateDeleter {
    void operator()(MmuState* state) const noexcept;
};
using MmuStatePtr = std::unique_ptr<MmuState, MmuStateDeleter>;

/// An empty MMU; aborts when the host has no memory. Set cpu.mmu to it, then call flush_tlb_all().
[[nodiscard]] MmuStatePtr make_mmu_state(std::uint32_t physical_bits, bool gigabyte_pages);

/// The tag of an empty entry in slot `index`: its index bits are another slot's, so no address can
/// hit it.
constexpr std::uint64_t empty_tag(std::uint32_t index) {
    return index == 0 ? 0x1000 : 0;
}
constexpr std::uint32_t tlb_index(std::uint64_t linear) {
    return static_cast<std::uint32_t>(linear >> 12) & (kTlbEntries - 1);
}

/// What a walk found.
struct PageWalk {
    std::uint64_t physical = 0;  ///< of the byte asked for
    std::uint64_t flags = 0;     ///< TlbFlags
    bool keyed = false;          ///< PKRU had a say: a user page under CR4.PKE
    static constexpr std::uint64_t kNoEntry = ~0ULL;
    std::uint64_t entry_offset =
        kNoEntry;  ///< where in RAM the leaf entry stands, in long mode, if it maps 4 KiB
    std::uint64_t entry = 0;  ///< and what it holds now
};

/// The rights that an access under `privilege` has now.
[[nodiscard]] Rights access_rights(const CpuState& cpu, Privilege privilege) noexcept;
/// Whether `linear` is canonical (long mode), else cpu.exception is #GP(0).
[[nodiscard]] bool check_canonical(CpuState& cpu, std::uint64_t linear) noexcept;
/// Walks the page tables (identity when paging is off) and sets A and D bits; false: cpu.exception
/// is #PF.
[[nodiscard]] bool walk_page_tables(CpuState& cpu, std::uint64_t linear, MemAccess access,
                                    Rights rights, PageWalk& out) noexcept;
/// Bytes of RAM were written not through a TLB tag: dirty log and translated code.
void note_ram_write(CpuState& cpu, std::uint64_t ram_offset, std::uint64_t length) noexcept;

/// Enters a translation of RAM at host address `host_page`; tag_write is granted apart.
TlbEntry& fill_tlb(CpuState& cpu, TlbBank& bank, std::uint64_t linear, const PageWalk& walk,
                   std::byte* host_page) noexcept;
/// Enters pages beside that of `linear`, which `walk` translated for `access`, as far as the page
/// table entries beside its own say the same of them: only where a page next to it is known
/// already, because memory is gone through in order then. Sets no A or D bit.
void fill_neighbours(CpuState& cpu, TlbBank& bank, std::uint64_t linear, const PageWalk& walk,
                     MemAccess access) noexcept;
[[nodiscard]] AsidSlot& current_slot(CpuState& cpu) noexcept;

/// Withdraws tag_write of one RAM page (host address of its start) or of all, everywhere in this
/// vCPU. With `mark`, pages whose tag is withdrawn are marked dirty. Within run_exclusive() or on
/// the vCPU's own thread.
void cut_write_tags_of_page(CpuState& cpu, const std::byte* host_page) noexcept;
void cut_write_tags(CpuState& cpu, bool mark) noexcept;
/// The second invalidation that host_pointer() of a code page left to do. From the run loop.
void finish_pending_rewrite(CpuState& cpu) noexcept;

}  // namespace strata::engine::soft
