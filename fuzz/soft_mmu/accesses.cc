// Session: accesses, and their comparison with the reference.
#include <algorithm>
#include <array>
#include <cstring>

#include <fmt/format.h>

#include "arch/x86/registers.h"
#include "base/check.h"
#include "session.h"

namespace strata::fuzz {

namespace x86 = arch::x86;

PagingState Session::paging() const {
    PagingState state;
    state.paging = (cpu_.cr0 & x86::cr0::kPg) != 0;
    state.pae = (cpu_.cr4 & x86::cr4::kPae) != 0;
    state.long_mode = (cpu_.efer & x86::efer::kLma) != 0;
    state.page_size_extension = (cpu_.cr4 & x86::cr4::kPse) != 0;
    state.write_protect = (cpu_.cr0 & x86::cr0::kWp) != 0;
    state.smep = (cpu_.cr4 & x86::cr4::kSmep) != 0;
    state.smap = (cpu_.cr4 & x86::cr4::kSmap) != 0;
    state.protection_keys = (cpu_.cr4 & x86::cr4::kPke) != 0;
    state.no_execute = (cpu_.efer & x86::efer::kNxe) != 0;
    state.cr3 = cpu_.cr3;
    state.ram_size = kRamSize;
    state.pkru = cpu_.pkru;
    state.physical_bits = cpu_.mmu->physical_bits;
    state.gigabyte_pages = cpu_.mmu->gigabyte_pages;
    return state;
}

void Session::access(Input& input, unsigned kind) {
    const std::uint64_t linear = address(input);
    const std::uint64_t shape = input.take(1);
    constexpr std::array<std::uint32_t, 8> kSizes = {1, 2, 4, 8, 16, 32, 64, 10};
    const std::uint32_t size = kSizes[shape & 7];
    const Privilege privilege = (shape & 0x18) == 0x18 ? Privilege::User
                                : (shape & 0x10) != 0  ? Privilege::ImplicitSupervisor
                                                       : Privilege::Current;
    std::memcpy(memory_.data(), vm_.ram->base(), kArena);
    cpu_.exception = {};
    switch (kind) {
        case 0:
        case 1:
            return read(linear, size, privilege);
        case 2:
        case 3:
            return write(linear, size, privilege, input.take(1));
        case 4:
            return point(linear, (shape & 0x20) != 0 ? MemAccess::Write : MemAccess::Read,
                         privilege);
        case 5:
            return ask(linear, (shape & 0x20) != 0 ? MemAccess::Write : MemAccess::Execute,
                       privilege);
        case 6:
            return point(linear, MemAccess::Execute, privilege);
        default:
            return fetch(linear, std::min(size, 15U));
    }
}

Access Session::wanted(std::uint64_t linear, MemAccess access, Privilege privilege) const {
    Access out;
    out.linear = linear;
    out.write = access == MemAccess::Write;
    out.fetch = access == MemAccess::Execute;
    out.supervisor = privilege == Privilege::ImplicitSupervisor ||
                     (privilege == Privilege::Current && cpu_.cpl != 3);
    out.open = privilege == Privilege::Current && (cpu_.rflags & x86::rflags::kAc) != 0;
    return out;
}

Translation Session::expect(std::uint64_t linear, std::uint32_t size, MemAccess access,
                            Privilege privilege) {
    const PagingState state = paging();
    parts_.clear();
    fault_at_ = 0;
    const std::uint64_t mask = state.long_mode ? ~0ULL : 0xffffffffULL;
    std::vector<std::pair<std::uint64_t, std::uint32_t>> pages;
    for (std::uint32_t done = 0; done < size;) {
        const std::uint64_t at = (linear + done) & mask;
        const auto part =
            static_cast<std::uint32_t>(std::min<std::uint64_t>(size - done, 0x1000 - (at & 0xfff)));
        pages.emplace_back(at, part);
        done += part;
    }
    if (state.long_mode) {
        for (const auto& [at, part] : pages) {
            const auto upper = static_cast<std::int64_t>(at) >> 47;
            if (upper != 0 && upper != -1) {
                return {Verdict::GeneralProtection, 0, 0};
            }
        }
    }
    Translation first;
    const std::uint64_t pointers_before = pointers(state);
    for (const auto& [at, part] : pages) {
        last_ = wanted(at, access, privilege);
        const auto found = translate(state, last_, memory_, tables_);
        if (found.verdict != Verdict::Translated) {
            fault_at_ = at;
            return found;
        }
        if (parts_.empty()) {
            first = found;
        }
        parts_.push_back({found.physical, part});
    }
    // A processor reads the four PAE pointers at MOV CR3, the MMU at each walk: they differ if
    // a walk's own bits land in the pointers.
    fresh_ = fresh_ && pointers(state) == pointers_before;
    return first;
}

std::uint64_t Session::pointers(const PagingState& state) const {
    std::uint64_t sum = 0;
    if (state.paging && state.pae && !state.long_mode && (state.cr3 & ~0x1fULL) + 32 <= kArena) {
        for (unsigned i = 0; i < 4; ++i) {
            std::uint64_t pointer = 0;
            std::memcpy(&pointer, memory_.data() + (state.cr3 & ~0x1fULL) + 8 * i, 8);
            sum = sum * 31 + pointer;
        }
    }
    return sum;
}

std::string Session::describe() const {
    return fmt::format(
        "parts {} fault {:#x}/{:#x}, linear {:#x} {} by {}, cpl {} cr0 {:#x} cr3 {:#x} cr4 "
        "{:#x} efer {:#x} rflags {:#x} pkru {:#x}",
        parts_.size(), cpu_.exception.fault_address, cpu_.exception.error, last_.linear,
        last_.write   ? "write"
        : last_.fetch ? "fetch"
                      : "read",
        last_.supervisor ? "supervisor" : "user", cpu_.cpl, cpu_.cr0, cpu_.cr3, cpu_.cr4, cpu_.efer,
        cpu_.rflags, cpu_.pkru);
}

void Session::compare(const Translation& expected, bool translated) {
    STRATA_CHECK(translated != cpu_.exception.pending, "an access either works or faults");
    if (!fresh_) {
        return;
    }
    STRATA_CHECK(translated == (expected.verdict == Verdict::Translated),
                 fmt::format("worked: {} (vector {}), reference: error {:#x}; {}", translated,
                             cpu_.exception.vector, expected.error, describe()));
    if (!translated) {
        const bool general = expected.verdict == Verdict::GeneralProtection;
        STRATA_CHECK(cpu_.exception.vector == (general ? x86::vector::kGp : x86::vector::kPf),
                     fmt::format("vector {}", cpu_.exception.vector));
        STRATA_CHECK(
            cpu_.exception.error == expected.error,
            fmt::format("error code {:#x}, reference {:#x}", cpu_.exception.error, expected.error));
        STRATA_CHECK(
            general || cpu_.exception.fault_address == fault_at_,
            fmt::format("CR2 {:#x}, reference {:#x}", cpu_.exception.fault_address, fault_at_));
    }
    compare_memory();
}

bool Session::same(const Part& part, std::span<const std::byte> data) const {
    return part.physical < kArena
               ? std::memcmp(data.data(), memory_.data() + part.physical, part.size) == 0
               : all_zero(data);
}

void Session::compare_memory() {
    if (fresh_) {
        STRATA_CHECK(std::memcmp(vm_.ram->base(), memory_.data(), kArena) == 0,
                     "memory, with accessed and dirty bits");
    }
}

void Session::read(std::uint64_t linear, std::uint32_t size, Privilege privilege) {
    const auto expected = expect(linear, size, MemAccess::Read, privilege);
    std::array<std::byte, 64> data{};
    const bool done = read_linear(cpu_, linear, data.data(), size, privilege);
    compare(expected, done);
    if (!done || !fresh_) {
        return;
    }
    std::uint32_t place = 0;
    for (const Part& part : parts_) {
        if (part.physical + part.size <= kRamSize) {
            STRATA_CHECK(same(part, std::as_bytes(std::span(data)).subspan(place, part.size)),
                         "the data read");
        } else if (part.size <= 8) {
            STRATA_CHECK(parts_.size() > 1 || vm_.dispatcher.last_read_address == part.physical,
                         "the device read");
        }
        place += part.size;
    }
}

void Session::write(std::uint64_t linear, std::uint32_t size, Privilege privilege,
                    std::uint64_t filler) {
    const auto expected = expect(linear, size, MemAccess::Write, privilege);
    std::array<std::byte, 64> data{};
    std::uint32_t place = 0;
    bool table = false;
    for (const Part& part : parts_) {
        if (part.physical + part.size <= kArena && ((tables_ >> (part.physical >> 12)) & 1) == 0) {
            std::memset(data.data() + place, static_cast<int>(filler), part.size);
        } else if (part.physical + part.size <= kArena) {
            std::memcpy(data.data() + place, memory_.data() + part.physical, part.size);
            table = true;
        }
        place += part.size;
    }
    if (!fresh_) {
        data = {};  // nobody knows where it goes
    }
    const bool done = write_linear(cpu_, linear, data.data(), size, privilege);
    if (done && expected.verdict == Verdict::Translated) {
        place = 0;
        for (const Part& part : parts_) {
            if (part.physical + part.size <= kArena) {
                std::memcpy(memory_.data() + part.physical, data.data() + place, part.size);
            }
            place += part.size;
        }
    }
    compare(expected, done);
    check_logged(done);
    fresh_ = fresh_ && !table;
}

void Session::check_logged(bool done) {
    if (!done || !fresh_ || !vm_.ram->dirty_logging()) {
        return;
    }
    for (const Part& part : parts_) {
        STRATA_CHECK(
            part.physical + part.size > kRamSize || vm_.ram->dirty().test(part.physical >> 12),
            "a write is logged");
    }
}

void Session::point(std::uint64_t linear, MemAccess access, Privilege privilege) {
    const auto expected = expect(linear, 1, access, privilege);
    const std::byte* host = host_pointer(cpu_, linear, 1, access, privilege);
    if (host != nullptr) {
        STRATA_CHECK(host >= vm_.ram->base() && host < vm_.ram->base() + kRamSize,
                     "a pointer outside of RAM");
        STRATA_CHECK(!cpu_.exception.pending, "a pointer and a fault");
    }
    finish_pending_rewrite(cpu_);
    const bool device = host == nullptr && !cpu_.exception.pending;
    compare(expected, host != nullptr || device);
    if (fresh_ && host != nullptr) {
        STRATA_CHECK(host == vm_.ram->base() + expected.physical,
                     fmt::format("the pointer: {:#x}, reference {:#x}", host - vm_.ram->base(),
                                 expected.physical));
    }
    STRATA_CHECK(!fresh_ || !device || expected.physical >= kRamSize, "RAM taken for a device");
}

void Session::ask(std::uint64_t linear, MemAccess access, Privilege privilege) {
    if (!paging().long_mode) {
        linear &= 0xffffffffU;  // callers do
    }
    const auto expected = expect(linear, 1, access, privilege);
    std::uint64_t physical = 0;
    const bool done = translate_linear(cpu_, linear, access, privilege, physical);
    compare(expected, done);
    STRATA_CHECK(!done || !fresh_ || physical == expected.physical,
                 fmt::format("the address: {:#x}, reference {:#x}", physical, expected.physical));
}

void Session::fetch(std::uint64_t linear, std::uint32_t size) {
    std::array<std::uint8_t, 15> code{};
    std::uint32_t reachable = 0;
    Translation first;
    std::vector<Part> parts;
    while (reachable < size) {
        const std::uint64_t at = linear + reachable;
        const auto found = expect(at, 1, MemAccess::Execute, Privilege::Current);
        if (reachable == 0) {
            first = found;
        }
        if (found.verdict != Verdict::Translated) {
            break;
        }
        const auto part = static_cast<std::uint32_t>(
            std::min<std::uint64_t>(size - reachable, 0x1000 - (at & 0xfff)));
        parts.push_back({found.physical, part});
        reachable += part;
    }
    if (reachable == 0) {
        fault_at_ = paging().long_mode ? linear : linear & 0xffffffffU;
    }
    const std::uint32_t got = fetch_code(cpu_, linear, code.data(), size);
    STRATA_CHECK(got <= size, "more than asked for");
    if (!fresh_) {
        return;
    }
    STRATA_CHECK(got == reachable,
                 fmt::format("how far the fetch goes: {}, reference {}", got, reachable));
    compare(first, got > 0);
    std::uint32_t place = 0;
    for (const Part& part : parts) {
        STRATA_CHECK(part.physical + part.size > kRamSize ||
                         same(part, std::as_bytes(std::span(code)).subspan(place, part.size)),
                     "the bytes fetched");
        place += part.size;
    }
}

}  // namespace strata::fuzz
