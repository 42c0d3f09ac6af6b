// Slot code: forgetting pages, and exchanging them at a change of address space.
#include "engine/soft/mmu/slot_code.h"

namespace strata::engine::soft {
namespace {

void clear_words(std::uint64_t* words, std::uint64_t count) {
    __asm__ volatile("rep stosq" : "+D"(words), "+c"(count) : "a"(0) : "memory");
}

void copy_words(std::uint64_t* to, const std::uint64_t* from, std::uint64_t count) {
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

std::uint64_t* user_code(CpuState& cpu, AsidSlot& slot) {
    return is_current(cpu, slot) ? cpu.translator.code_pages[1] : slot.user_code;
}

// Calls visit(first entry) for each group of `groups`.
template <typename Visit>
void for_each_group(std::uint64_t groups, Visit visit) {
    for (; groups != 0; groups &= groups - 1) {
        visit(static_cast<std::uint64_t>(__builtin_ctzll(groups)) * TranslatorState::kCodeGroup);
    }
}

void clear_groups(std::uint64_t* entries, std::uint64_t& groups, std::uint64_t* homes) {
    for_each_group(groups, [entries, homes](std::uint64_t at) {
        for (std::uint32_t i = 0; i < TranslatorState::kCodeGroup; ++i) {
            if (entries[at + i] != 0) {
                TranslatorState::forget_home(homes, entries[at + i]);
            }
        }
        clear_words(entries + at, TranslatorState::kCodeGroup);
    });
    groups = 0;
}

}  // namespace

void exchange_user_code(CpuState& cpu, AsidSlot& from, AsidSlot& to) {
    std::uint64_t* entries = cpu.translator.code_pages[1];
    std::uint64_t& groups = cpu.translator.code_groups[1];
    from.user_groups = groups;
    for_each_group(groups, [&](std::uint64_t at) {
        copy_words(from.user_code + at, entries + at, TranslatorState::kCodeGroup);
    });
    for_each_group(groups & ~to.user_groups, [&](std::uint64_t at) {
        clear_words(entries + at, TranslatorState::kCodeGroup);
    });
    for_each_group(to.user_groups, [&](std::uint64_t at) {
        copy_words(entries + at, to.user_code + at, TranslatorState::kCodeGroup);
    });
    groups = to.user_groups;
}

void forget_supervisor_code(CpuState& cpu) {
    clear_groups(cpu.translator.code_pages[0], cpu.translator.code_groups[0],
                 cpu.mmu->supervisor_homes);
    cpu.translator.local_code = false;
}

void forget_code(CpuState& cpu, AsidSlot& slot, bool keep_global) {
    clear_groups(user_code(cpu, slot),
                 is_current(cpu, slot) ? cpu.translator.code_groups[1] : slot.user_groups,
                 slot.user_homes);
    if (!keep_global || (is_current(cpu, slot) && cpu.translator.local_code)) {
        forget_supervisor_code(cpu);
    }
    forget_stack_page(cpu);
}

void forget_code_page(CpuState& cpu, AsidSlot& slot, std::uint64_t linear) {
    const std::uint64_t key = (linear >> 12) & ((1ULL << 36) - 1);
    const std::uint64_t index = (linear >> 12) & (TranslatorState::kCodePages - 1);
    const auto forget = [key](std::uint64_t& entry, std::uint64_t* homes) {
        if ((entry >> 28) == key) {
            TranslatorState::forget_home(homes, entry);
            entry = 0;
        }
    };
    forget(cpu.translator.code_pages[0][index], cpu.mmu->supervisor_homes);
    forget(user_code(cpu, slot)[index], slot.user_homes);
}

}  // namespace strata::engine::soft
