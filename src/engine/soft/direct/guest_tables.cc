// GuestTables: reading entries. SDM 3A, 4.5.
#include "engine/soft/direct/guest_tables.h"

#include "engine/soft/mmu/mmu_state.h"
#include "engine/soft/runtime/soft_vm.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kPresent = 1, kWrite = 2, kUser = 4, kAccessed = 0x20, kDirty = 0x40,
                        kLarge = 0x80, kNoExecute = 1ULL << 63U;
constexpr std::uint64_t kKey = 15ULL << 59U;
constexpr std::uint64_t kFrame = 0x000ffffffffff000ULL;
constexpr std::uint64_t kRegion = 1ULL << 21U;

}  // namespace

bool GuestRegion::read(std::uint64_t physical, std::uint64_t& entry) const noexcept {
    const auto offset = cpu_.vm->ram->ram_offset(memory::GuestAddress(physical));
    if (!offset) {
        return false;
    }
    // SAFETY: ram_offset() vouches for the page; entries are naturally aligned.
    entry = __atomic_load_n(reinterpret_cast<const std::uint64_t*>(cpu_.vm->ram->base() + *offset),
                            __ATOMIC_RELAXED);
    const std::uint64_t reserved = kFrame & ~((1ULL << cpu_.mmu->physical_bits) - 1);
    return (entry & reserved) == 0;
}

GuestRegion::GuestRegion(const CpuState& cpu, std::uint64_t linear) noexcept
    : cpu_(cpu), allowed_(kWrite | kUser) {
    std::uint64_t table = cpu.cr3 & kFrame;
    bool accessed = true;
    for (unsigned shift = 39; shift >= 21; shift -= 9) {
        std::uint64_t entry = 0;
        if (!read(table + ((linear >> shift) & 0x1ff) * 8, entry)) {
            empty_ = false;
            return;
        }
        if ((entry & kPresent) == 0) {
            return;
        }
        allowed_ &= entry;
        no_execute_ = no_execute_ || (entry & kNoExecute) != 0;
        accessed = accessed && (entry & kAccessed) != 0;
        if (shift < 39 && (entry & kLarge) != 0) {
            empty_ = false;
            const std::uint64_t size = 1ULL << shift;
            kind_ = accessed && (entry & kFrame & (size - 1) & ~0x1000ULL) == 0 ? Kind::Large
                                                                                : Kind::Absent;
            huge_ = shift == 30 && large();
            leaf_ = entry;
            physical_ = (entry & kFrame & ~(size - 1)) + (linear & (size - 1) & ~(kRegion - 1));
            return;
        }
        table = entry & kFrame;
    }
    empty_ = false;
    if (const auto offset = cpu.vm->ram->ram_offset(memory::GuestAddress(table)); offset) {
        kind_ = accessed ? Kind::Table : Kind::Absent;
        // SAFETY: ram_offset() vouches for the page.
        entries_ = reinterpret_cast<const std::uint64_t*>(cpu.vm->ram->base() + *offset);
    }
}

GuestPage GuestRegion::from(std::uint64_t leaf, std::uint64_t physical) const noexcept {
    constexpr std::uint64_t kNeeded = kPresent | kUser | kAccessed;
    GuestPage page;
    const auto offset = cpu_.vm->ram->ram_offset(memory::GuestAddress(physical));
    if ((leaf & kNeeded) != kNeeded || (allowed_ & kUser) == 0 || (leaf & kKey) != 0 || !offset ||
        (physical >> 12U) == cpu_.mmu->apic_page) {
        return page;
    }
    page.present = true;
    page.writable = (leaf & allowed_ & kWrite) != 0 && (leaf & kDirty) != 0;
    page.dirty = (leaf & kDirty) != 0;
    page.executable = !no_execute_ && (leaf & kNoExecute) == 0;
    page.ram_page = *offset >> 12U;
    return page;
}

GuestPage GuestRegion::page(std::uint64_t index) const noexcept {
    std::uint64_t leaf = leaf_;
    if (kind_ == Kind::Large) {
        return from(leaf, physical_ + (index << 12U));
    }
    if (kind_ == Kind::Absent) {
        return {};
    }
    leaf = __atomic_load_n(entries_ + index, __ATOMIC_RELAXED);
    const std::uint64_t reserved = kFrame & ~((1ULL << cpu_.mmu->physical_bits) - 1);
    if ((leaf & kPresent) == 0 || (leaf & reserved) != 0) {
        return {};
    }
    return from(leaf, leaf & kFrame);
}

}  // namespace strata::engine::soft
