// Session: what an input changes: tables, control bits, rights, flushes.
#include "session.h"

#include <array>
#include <cstring>

#include "arch/x86/registers.h"
#include "base/check.h"

namespace strata::fuzz {

namespace x86 = arch::x86;

void Session::reset(Input& input) {
    std::memset(vm_.ram->base(), 0, kArena);
    for (std::uint64_t page = 0; page < kRamSize >> 12; ++page) {
        vm_.ram->page_flags(page) = 0;
    }
    vm_.invalidated.clear();
    write_pkru(cpu_, 0);
    cpu_.rflags = 2;
    cpu_.exception = {};
    cpu_.mmu->rewrite_pending = false;
    constexpr std::array<std::uint32_t, 4> kWidths = {46, 36, 39, 52};
    cpu_.mmu->physical_bits = kWidths[input.take(1) & 3];
    cpu_.mmu->gigabyte_pages = (input.take(1) & 1) == 0;
    control(input);
    vm_.ram->set_dirty_logging(false);
}

void Session::step(Input& input) {
    switch (const std::uint64_t what = input.take(1); what & 15) {
        case 0:
        case 1:
        case 2:
        case 3:
            return entry(input, (what & 0x30) != 0x30);
        case 4:
            return control(input);
        case 5:
            return rights(input);
        case 6:
            return flush(input);
        case 7:
            return code_and_log(input);
        default:
            return access(input, (what >> 4) & 7);
    }
}

void Session::check_rest_is_untouched() {
    STRATA_CHECK(all_zero({vm_.ram->base() + kArena, kRamSize - kArena}), "a stray write");
}

void Session::entry(Input& input, bool flushed) {
    const std::uint64_t page = input.take(1) % kArenaPages;
    const std::uint64_t slot = input.take(1);
    const std::uint64_t shape = input.take(1);
    const std::uint64_t size = paging().pae || paging().long_mode ? 8 : 4;
    std::uint64_t value =
        (shape & 0x80) != 0 ? input.take(8)
                            : ((input.take(1) % (kArenaPages + 2)) << 12) | (input.take(2) & 0xfff);
    if ((shape & 0xc0) == 0x40) {
        value |= input.take(1) << 56;  // no-execute, keys
    }
    // Few indexes are used, so that walks meet entries: low ones, and the last.
    constexpr std::array<std::uint64_t, 8> kSlots = {0, 1, 2, 3, 256, 511, 0x1ff, 4};
    const std::uint64_t at =
        (page << 12) +
        ((slot & 0x80) != 0 ? (slot & 0x7f) * 8 : kSlots[slot & 7] * 8) % (4096 - size + 1);
    if (((tables_ >> page) & 1) != 0) {
        fresh_ = false;
    }
    std::memcpy(vm_.ram->base() + at, &value, size);
    if (flushed) {
        flush_all();
    }
}

void Session::control(Input& input) {
    const std::uint64_t chosen = input.take(2);
    const auto bit = [chosen](unsigned number) { return ((chosen >> number) & 1) != 0; };
    const bool paging = (chosen & 3) != 3;
    const bool long_mode = paging && bit(2);
    const bool pae = long_mode || bit(3);
    cpu_.cr0 = x86::cr0::kPe | (paging ? x86::cr0::kPg : 0) | (bit(4) ? x86::cr0::kWp : 0);
    cpu_.cr4 = (pae ? x86::cr4::kPae : 0) | (bit(5) ? x86::cr4::kPse : 0) |
               (bit(6) ? x86::cr4::kPge : 0) | (bit(7) ? x86::cr4::kSmep : 0) |
               (bit(8) ? x86::cr4::kSmap : 0) | (bit(9) ? x86::cr4::kPke : 0) |
               (long_mode && bit(10) ? x86::cr4::kPcide : 0);
    cpu_.efer =
        (long_mode ? x86::efer::kLme | x86::efer::kLma : 0) | (bit(11) ? x86::efer::kNxe : 0);
    const std::uint64_t root = input.take(2);
    cpu_.cr3 = ((root & 15) << 12) | ((root & 0x10) != 0 ? (root >> 5) & 0xfff : 0);
    flush_all();
}

void Session::rights(Input& input) {
    const std::uint64_t chosen = input.take(1);
    const auto toggle = [&](std::uint64_t& field, std::uint64_t mask, unsigned number) {
        field = ((chosen >> number) & 1) != 0 ? field ^ mask : field;
    };
    cpu_.cpl = (chosen & 1) != 0 ? 3 : 0;
    toggle(cpu_.rflags, x86::rflags::kAc, 1);
    toggle(cpu_.cr0, x86::cr0::kWp, 2);
    toggle(cpu_.cr4, x86::cr4::kSmap, 3);
    toggle(cpu_.cr4, x86::cr4::kSmep, 4);
    privilege_changed(cpu_);
    if ((chosen & 0x20) != 0) {
        write_pkru(cpu_, static_cast<std::uint32_t>(input.take(4)));
    }
}

void Session::flush(Input& input) {
    const std::uint64_t chosen = input.take(1);
    const std::uint64_t value = input.take(2);
    switch (chosen & 7) {
        case 0:
            return flush_tlb_non_global(cpu_);
        case 1:
            return flush_tlb_page(cpu_, address(input));
        case 2:
            return flush_tlb_pcid(cpu_, value & 0xfff, (chosen & 8) != 0);
        case 3:
            return flush_tlb_pcid_page(cpu_, value & 0xfff, address(input));
        case 4:
        case 5: {
            const bool same_tables = (cpu_.cr3 >> 12) == (value & 15);
            cpu_.cr3 = ((value & 15) << 12) |
                       ((cpu_.cr4 & x86::cr4::kPcide) != 0 ? (value >> 4) & 0xfff : 0);
            // Other tables: global translations, and kept ones of this PCID, may be those of
            // before.
            fresh_ = fresh_ && same_tables;
            return address_space_changed(cpu_, (chosen & 8) != 0);
        }
        default:
            return flush_all();
    }
}

void Session::code_and_log(Input& input) {
    const std::uint64_t chosen = input.take(1);
    if ((chosen & 0x80) != 0) {
        cut_write_tags(cpu_, vm_.ram->dirty_logging());
        vm_.ram->set_dirty_logging((chosen & 1) != 0);
        vm_.ram->dirty().clear();
    } else {
        vm_.protect_code_page(cpu_, chosen % (kRamSize >> 12));
    }
}

void Session::flush_all() {
    flush_tlb_all(cpu_);
    tables_ = 0;
    fresh_ = true;
}

std::uint64_t Session::address(Input& input) {
    const std::uint64_t shape = input.take(1);
    if ((shape & 0xc0) == 0xc0) {
        return input.take(8);
    }
    constexpr std::array<std::uint64_t, 8> kIndexes = {0, 1, 2, 3, 256, 511, 0x1ff, 4};
    const std::uint64_t chosen = input.take(2);
    std::uint64_t linear = 0;
    for (unsigned level = 0; level < 4; ++level) {
        linear |= kIndexes[(chosen >> (3 * level)) & 7] << (12 + 9 * level);
    }
    if (paging().long_mode) {
        linear = static_cast<std::uint64_t>(static_cast<std::int64_t>(linear << 16) >> 16);
    } else if (!paging().pae) {
        linear = (kIndexes[chosen & 7] * 2) << 22 | (kIndexes[(chosen >> 3) & 7] * 2) << 12;
    }
    const std::uint64_t offset = input.take(1);
    return linear + ((offset & 0x80) != 0 ? 0xff0 + (offset & 0x1f) : offset);
}

}  // namespace strata::fuzz
