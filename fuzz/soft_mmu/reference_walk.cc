// ReferenceWalk: the walks of the three paging modes, and the rights.
#include "reference_walk.h"

#include <cstring>
#include <vector>

namespace strata::fuzz {
namespace {

constexpr std::uint64_t bits(unsigned high, unsigned low) {
    return (~0ULL >> (63 - high)) & (~0ULL << low);
}
bool has(std::uint64_t value, unsigned bit) {
    return ((value >> bit) & 1) != 0;
}

struct Level {
    std::uint64_t address = 0;
    std::uint64_t entry = 0;
    unsigned size = 8;
    bool in_memory = false;
};

struct Walk {
    const PagingState& state;
    const Access& access;
    std::span<std::byte> memory;
    std::uint64_t& tables;
    std::vector<Level> levels = {};  // those that carry rights

    Level read(std::uint64_t address, unsigned size) {
        const std::uint64_t nobody = size == 8 ? ~0ULL : 0xffffffffULL;
        Level level{address, address < state.ram_size ? 0 : nobody, size, false};
        if (address + size <= memory.size()) {
            level.entry = 0;
            std::memcpy(&level.entry, memory.data() + address, size);
            level.in_memory = true;
            tables |= address / 4096 < 64 ? 1ULL << (address / 4096) : 0;
        }
        return level;
    }

    [[nodiscard]] Translation fault(bool present, bool reserved, bool key) const {
        std::uint32_t error = present ? 1 : 0;
        error |= access.write ? 2U : 0U;
        error |= access.supervisor ? 0U : 4U;
        error |= reserved ? 8U : 0U;
        error |= access.fetch && ((state.no_execute && state.pae) || state.smep) ? 16U : 0U;
        error |= key ? 32U : 0U;
        return {Verdict::PageFault, error, 0};
    }

    // SDM 3A, 4.6.1 and 4.6.2.
    [[nodiscard]] Translation decide(std::uint64_t page, std::uint64_t offset) {
        bool user_page = true, writable = true, executable = true;
        for (const Level& level : levels) {
            user_page = user_page && has(level.entry, 2);
            writable = writable && has(level.entry, 1);
            executable =
                executable && !(level.size == 8 && state.no_execute && has(level.entry, 63));
        }
        bool allowed = true;
        if (access.supervisor) {
            if (access.fetch) {
                allowed = executable && !(user_page && state.smep);
            } else {
                allowed = !(user_page && state.smap && !access.open);
                if (access.write && !writable && state.write_protect) {
                    allowed = false;
                }
            }
        } else {
            allowed = user_page && (!access.write || writable) && (!access.fetch || executable);
        }
        bool key_violation = false;
        if (state.long_mode && state.protection_keys && user_page && !access.fetch) {
            const auto key = static_cast<unsigned>((levels.back().entry & bits(62, 59)) >> 59);
            const bool access_disabled = has(state.pkru, 2 * key);
            const bool write_disabled = has(state.pkru, 2 * key + 1);
            key_violation = access_disabled || (access.write && write_disabled &&
                                                (!access.supervisor || state.write_protect));
        }
        if (!allowed || key_violation) {
            return fault(true, false, key_violation);
        }
        for (std::size_t i = 0; i < levels.size(); ++i) {
            const bool dirty = access.write && i + 1 == levels.size();
            if (levels[i].in_memory) {
                memory[levels[i].address] |= std::byte{0x20};
                if (dirty) {
                    memory[levels[i].address] |= std::byte{0x40};
                }
            }
        }
        return {Verdict::Translated, 0, page + offset};
    }

    Translation narrow() {
        const std::uint64_t linear = access.linear & bits(31, 0);
        Level directory = read((state.cr3 & bits(31, 12)) + (linear >> 22) * 4, 4);
        levels.push_back(directory);
        if (!has(directory.entry, 0)) {
            return fault(false, false, false);
        }
        if (state.page_size_extension && has(directory.entry, 7)) {
            // Bits 39:32 of the address lie in bits 20:13; those past the processor's width, and
            // bit 21, are reserved.
            for (unsigned bit = 32; bit < 40; ++bit) {
                if (bit >= state.physical_bits && has(directory.entry, bit - 32 + 13)) {
                    return fault(true, true, false);
                }
            }
            if (has(directory.entry, 21)) {
                return fault(true, true, false);
            }
            const std::uint64_t page =
                (directory.entry & bits(31, 22)) | ((directory.entry & bits(20, 13)) >> 13 << 32);
            return decide(page, linear & bits(21, 0));
        }
        Level table =
            read((directory.entry & bits(31, 12)) + ((linear & bits(21, 12)) >> 12) * 4, 4);
        levels.push_back(table);
        if (!has(table.entry, 0)) {
            return fault(false, false, false);
        }
        return decide(table.entry & bits(31, 12), linear & bits(11, 0));
    }

    [[nodiscard]] bool reserved_everywhere(std::uint64_t entry) const {
        if (has(entry, 63) && !state.no_execute) {
            return true;
        }
        const unsigned top = state.long_mode ? 51 : 62;
        return state.physical_bits <= top && (entry & bits(top, state.physical_bits)) != 0;
    }

    // From the page directory (or higher) on; `shift` is the first level's.
    Translation wide(std::uint64_t table, unsigned shift) {
        const std::uint64_t linear = state.long_mode ? access.linear : access.linear & bits(31, 0);
        const std::uint64_t address_field = bits(state.physical_bits - 1, 12);
        for (;; shift -= 9) {
            Level level = read(table + ((linear >> shift) & 511) * 8, 8);
            levels.push_back(level);
            if (!has(level.entry, 0)) {
                return fault(false, false, false);
            }
            if (reserved_everywhere(level.entry)) {
                return fault(true, true, false);
            }
            if (shift == 12) {
                return decide(level.entry & address_field, linear & bits(11, 0));
            }
            if (has(level.entry, 7)) {
                if (shift == 39 || (shift == 30 && !state.gigabyte_pages)) {
                    return fault(true, true, false);
                }
                if ((level.entry & bits(shift - 1, 13)) != 0) {
                    return fault(true, true, false);
                }
                return decide(level.entry & address_field & ~bits(shift - 1, 0),
                              linear & bits(shift - 1, 0));
            }
            table = level.entry & address_field;
        }
    }

    Translation pae() {
        const Level pointer = read((state.cr3 & bits(31, 5)) + ((access.linear >> 30) & 3) * 8, 8);
        if (!has(pointer.entry, 0)) {
            return fault(false, false, false);
        }
        // Bit 63 is reserved here even with no-execute on.
        if (reserved_everywhere(pointer.entry) ||
            (pointer.entry & (bits(2, 1) | bits(8, 5) | bits(63, 63))) != 0) {
            return fault(true, true, false);
        }
        return wide(pointer.entry & bits(state.physical_bits - 1, 12), 21);
    }
};

}  // namespace

Translation translate(const PagingState& state, const Access& access, std::span<std::byte> memory,
                      std::uint64_t& tables) {
    if (state.long_mode) {
        const std::uint64_t upper = access.linear & bits(63, 47);
        if (upper != 0 && upper != bits(63, 47)) {
            return {Verdict::GeneralProtection, 0, 0};
        }
    }
    if (!state.paging) {
        return {Verdict::Translated, 0, access.linear & bits(31, 0)};
    }
    Walk walk{state, access, memory, tables};
    if (state.long_mode) {
        return walk.wide(state.cr3 & bits(state.physical_bits - 1, 12), 39);
    }
    return state.pae ? walk.pae() : walk.narrow();
}

bool pointers_acceptable(const PagingState& state, std::uint64_t cr3,
                         std::span<const std::byte> memory) {
    for (unsigned i = 0; i < 4; ++i) {
        const std::uint64_t address = (cr3 & bits(31, 5)) + i * 8;
        std::uint64_t entry = address < state.ram_size ? 0 : ~0ULL;
        if (address + 8 <= memory.size()) {
            std::memcpy(&entry, memory.data() + address, 8);
        }
        const bool reserved = (entry & (bits(2, 1) | bits(8, 5) | bits(63, 63))) != 0 ||
                              (entry & bits(62, state.physical_bits)) != 0;
        if (has(entry, 0) && reserved) {
            return false;
        }
    }
    return true;
}

}  // namespace strata::fuzz
