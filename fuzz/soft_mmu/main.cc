// fuzz_soft_mmu: the software MMU under arbitrary page tables, control bits and addresses.
//
// The input is a list of operations: write a table entry, change control registers or rights,
// flush, access. As long as every change was followed by the flush that the architecture asks for,
// each access must have the outcome of the reference walk on a copy of memory: address, fault and
// error code, data, and the accessed and dirty bits, to the bit. When a flush was left out, stale
// answers are right too; then, and always, nothing may leave guest memory. Everything happens in
// the first 64 KiB; the rest of RAM stays zero.
#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include <fmt/format.h>

#include "../input.h"
#include "arch/x86/registers.h"
#include "base/check.h"
#include "engine/soft/mmu/mmu_state.h"
#include "engine/soft/runtime/soft_vm_fake.h"
#include "reference_walk.h"

namespace {

using namespace strata;                // NOLINT(google-build-using-namespace): a program of its own
using namespace strata::engine::soft;  // NOLINT(google-build-using-namespace)
namespace x86 = arch::x86;

constexpr std::uint64_t kRamSize = 1U << 20;
constexpr std::uint64_t kArena = 64U << 10;
constexpr std::uint64_t kArenaPages = kArena >> 12;
constexpr unsigned kMaxOperations = 400;

class Session {
  public:
    Session(FakeSoftVm& vm, std::vector<std::byte>& memory)
        : vm_(vm), cpu_(*vm.cpus()[0]), memory_(memory) {}

    void reset(fuzz::Input& input) {
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

    void step(fuzz::Input& input) {
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

    void check_rest_is_untouched() {
        STRATA_CHECK(fuzz::all_zero({vm_.ram->base() + kArena, kRamSize - kArena}),
                     "a stray write");
    }

  private:
    // A table entry that mostly leads to another page of the arena; now and then any 64 bits.
    void entry(fuzz::Input& input, bool flushed) {
        const std::uint64_t page = input.take(1) % kArenaPages;
        const std::uint64_t slot = input.take(1);
        const std::uint64_t shape = input.take(1);
        const std::uint64_t size = paging().pae || paging().long_mode ? 8 : 4;
        std::uint64_t value = (shape & 0x80) != 0 ? input.take(8)
                                                  : ((input.take(1) % (kArenaPages + 2)) << 12) |
                                                        (input.take(2) & 0xfff);
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

    void control(fuzz::Input& input) {
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

    // What needs no flush: privilege, AC, PKRU, and the bits that say how rights are read.
    void rights(fuzz::Input& input) {
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

    // Partial flushes and address spaces; only the full one makes answers binding again.
    void flush(fuzz::Input& input) {
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

    void code_and_log(fuzz::Input& input) {
        const std::uint64_t chosen = input.take(1);
        if ((chosen & 0x80) != 0) {
            cut_write_tags(cpu_, vm_.ram->dirty_logging());
            vm_.ram->set_dirty_logging((chosen & 1) != 0);
            vm_.ram->dirty().clear();
        } else {
            vm_.protect_code_page(cpu_, chosen % (kRamSize >> 12));
        }
    }

    void flush_all() {
        flush_tlb_all(cpu_);
        tables_ = 0;
        fresh_ = true;
    }

    [[nodiscard]] fuzz::PagingState paging() const {
        fuzz::PagingState state;
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

    // Mostly addresses whose indexes are those that entry() fills.
    std::uint64_t address(fuzz::Input& input) {
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

    void access(fuzz::Input& input, unsigned kind) {
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

    [[nodiscard]] fuzz::Access wanted(std::uint64_t linear, MemAccess access,
                                      Privilege privilege) const {
        fuzz::Access out;
        out.linear = linear;
        out.write = access == MemAccess::Write;
        out.fetch = access == MemAccess::Execute;
        out.supervisor = privilege == Privilege::ImplicitSupervisor ||
                         (privilege == Privilege::Current && cpu_.cpl != 3);
        out.open = privilege == Privilege::Current && (cpu_.rflags & x86::rflags::kAc) != 0;
        return out;
    }

    struct Part {
        std::uint64_t physical;
        std::uint32_t size;
    };

    // The reference's outcome of an access of `size` bytes; the parts are by page. Sets bits in
    // memory_.
    fuzz::Translation expect(std::uint64_t linear, std::uint32_t size, MemAccess access,
                             Privilege privilege) {
        const fuzz::PagingState state = paging();
        parts_.clear();
        fault_at_ = 0;
        const std::uint64_t mask = state.long_mode ? ~0ULL : 0xffffffffULL;
        std::vector<std::pair<std::uint64_t, std::uint32_t>> pages;
        for (std::uint32_t done = 0; done < size;) {
            const std::uint64_t at = (linear + done) & mask;
            const auto part = static_cast<std::uint32_t>(
                std::min<std::uint64_t>(size - done, 0x1000 - (at & 0xfff)));
            pages.emplace_back(at, part);
            done += part;
        }
        if (state.long_mode) {
            for (const auto& [at, part] : pages) {
                const auto upper = static_cast<std::int64_t>(at) >> 47;
                if (upper != 0 && upper != -1) {
                    return {fuzz::Verdict::GeneralProtection, 0, 0};
                }
            }
        }
        fuzz::Translation first;
        const std::uint64_t pointers_before = pointers(state);
        for (const auto& [at, part] : pages) {
            last_ = wanted(at, access, privilege);
            const auto found = translate(state, last_, memory_, tables_);
            if (found.verdict != fuzz::Verdict::Translated) {
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

    [[nodiscard]] std::uint64_t pointers(const fuzz::PagingState& state) const {
        std::uint64_t sum = 0;
        if (state.paging && state.pae && !state.long_mode &&
            (state.cr3 & ~0x1fULL) + 32 <= kArena) {
            for (unsigned i = 0; i < 4; ++i) {
                std::uint64_t pointer = 0;
                std::memcpy(&pointer, memory_.data() + (state.cr3 & ~0x1fULL) + 8 * i, 8);
                sum = sum * 31 + pointer;
            }
        }
        return sum;
    }

    [[nodiscard]] std::string describe() const {
        return fmt::format(
            "parts {} fault {:#x}/{:#x}, linear {:#x} {} by {}, cpl {} cr0 {:#x} cr3 {:#x} cr4 "
            "{:#x} efer {:#x} rflags {:#x} pkru {:#x}",
            parts_.size(), cpu_.exception.fault_address, cpu_.exception.error, last_.linear,
            last_.write   ? "write"
            : last_.fetch ? "fetch"
                          : "read",
            last_.supervisor ? "supervisor" : "user", cpu_.cpl, cpu_.cr0, cpu_.cr3, cpu_.cr4,
            cpu_.efer, cpu_.rflags, cpu_.pkru);
    }

    // What happened agrees with the reference: `translated` or the pending fault; and memory is as
    // the reference left it.
    void compare(const fuzz::Translation& expected, bool translated) {
        STRATA_CHECK(translated != cpu_.exception.pending, "an access either works or faults");
        if (!fresh_) {
            return;
        }
        STRATA_CHECK(translated == (expected.verdict == fuzz::Verdict::Translated),
                     fmt::format("worked: {} (vector {}), reference: error {:#x}; {}", translated,
                                 cpu_.exception.vector, expected.error, describe()));
        if (!translated) {
            const bool general = expected.verdict == fuzz::Verdict::GeneralProtection;
            STRATA_CHECK(cpu_.exception.vector == (general ? x86::vector::kGp : x86::vector::kPf),
                         fmt::format("vector {}", cpu_.exception.vector));
            STRATA_CHECK(cpu_.exception.error == expected.error,
                         fmt::format("error code {:#x}, reference {:#x}", cpu_.exception.error,
                                     expected.error));
            STRATA_CHECK(
                general || cpu_.exception.fault_address == fault_at_,
                fmt::format("CR2 {:#x}, reference {:#x}", cpu_.exception.fault_address, fault_at_));
        }
        compare_memory();
    }

    [[nodiscard]] bool same(const Part& part, std::span<const std::byte> data) const {
        return part.physical < kArena
                   ? std::memcmp(data.data(), memory_.data() + part.physical, part.size) == 0
                   : fuzz::all_zero(data);
    }

    void compare_memory() {
        if (fresh_) {
            STRATA_CHECK(std::memcmp(vm_.ram->base(), memory_.data(), kArena) == 0,
                         "memory, with accessed and dirty bits");
        }
    }

    void read(std::uint64_t linear, std::uint32_t size, Privilege privilege) {
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

    // Data that may be a table in use stays as it is: changing it would need a flush first.
    void write(std::uint64_t linear, std::uint32_t size, Privilege privilege,
               std::uint64_t filler) {
        const auto expected = expect(linear, size, MemAccess::Write, privilege);
        std::array<std::byte, 64> data{};
        std::uint32_t place = 0;
        bool table = false;
        for (const Part& part : parts_) {
            if (part.physical + part.size <= kArena &&
                ((tables_ >> (part.physical >> 12)) & 1) == 0) {
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
        if (done && expected.verdict == fuzz::Verdict::Translated) {
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

    void check_logged(bool done) {
        if (!done || !fresh_ || !vm_.ram->dirty_logging()) {
            return;
        }
        for (const Part& part : parts_) {
            STRATA_CHECK(
                part.physical + part.size > kRamSize || vm_.ram->dirty().test(part.physical >> 12),
                "a write is logged");
        }
    }

    void point(std::uint64_t linear, MemAccess access, Privilege privilege) {
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

    void ask(std::uint64_t linear, MemAccess access, Privilege privilege) {
        if (!paging().long_mode) {
            linear &= 0xffffffffU;  // callers do
        }
        const auto expected = expect(linear, 1, access, privilege);
        std::uint64_t physical = 0;
        const bool done = translate_linear(cpu_, linear, access, privilege, physical);
        compare(expected, done);
        STRATA_CHECK(
            !done || !fresh_ || physical == expected.physical,
            fmt::format("the address: {:#x}, reference {:#x}", physical, expected.physical));
    }

    // Stops at the first byte that faults; only if it is the very first the fault is reported.
    void fetch(std::uint64_t linear, std::uint32_t size) {
        std::array<std::uint8_t, 15> code{};
        std::uint32_t reachable = 0;
        fuzz::Translation first;
        std::vector<Part> parts;
        while (reachable < size) {
            const std::uint64_t at = linear + reachable;
            const auto found = expect(at, 1, MemAccess::Execute, Privilege::Current);
            if (reachable == 0) {
                first = found;
            }
            if (found.verdict != fuzz::Verdict::Translated) {
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

    FakeSoftVm& vm_;
    CpuState& cpu_;
    std::vector<std::byte>& memory_;  ///< the arena as the reference sees it
    std::vector<Part> parts_;
    std::uint64_t fault_at_ = 0;
    fuzz::Access last_;
    std::uint64_t tables_ = 0;  ///< arena pages that were walked since the last full flush
    bool fresh_ = true;         ///< no change since the last flush could make a stale answer right
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // One for all inputs: making RAM and TLB banks takes longer than an input.
    static std::vector<std::byte> memory(kArena);
    static const std::unique_ptr<FakeSoftVm> vm = FakeSoftVm::create(kRamSize);
    fuzz::Input input(data, size);
    Session session(*vm, memory);
    session.reset(input);
    for (unsigned count = 0; count < kMaxOperations && !input.empty(); ++count) {
        session.step(input);
    }
    session.check_rest_is_untouched();
    return 0;
}
