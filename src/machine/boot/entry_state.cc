// Entry states: flat segments, GDT, identity page tables.
#include "machine/boot/entry_state.h"

#include <array>
#include <span>
#include <vector>

#include "arch/x86/registers.h"
#include "base/endian.h"
#include "memory/guest_address.h"

namespace strata::machine::boot {
namespace {

using arch::x86::ArchState;
using arch::x86::Segment;

// Access rights, SDM 3A, 3.4.5: G, D or L, P, S, type.
constexpr std::uint16_t kCode32 = 0xc09b;
constexpr std::uint16_t kCode64 = 0xa09b;
constexpr std::uint16_t kData32 = 0xc093;

Segment flat(std::uint16_t selector, std::uint16_t attributes) {
    Segment segment;
    segment.selector = selector;
    segment.attributes = attributes;
    segment.limit = 0xffffffff;
    return segment;
}

// A flat descriptor with these access rights: limit 0xfffff pages, base 0. SDM 3A, figure 3-8.
constexpr std::uint64_t descriptor(std::uint16_t attributes) {
    const std::uint64_t rights = attributes;
    return 0xffff | (rights & 0xff) << 40 | 0xfULL << 48 | (rights >> 12) << 52;
}

void add_gdt(PlanBuilder& plan, ArchState& state, std::uint16_t code) {
    const std::array<Le64, 4> gdt = {Le64(0), Le64(0), Le64(descriptor(code)),
                                     Le64(descriptor(kData32))};
    plan.loader_bytes(kGdtAddress, std::as_bytes(std::span(gdt)));
    state.gdtr = {kGdtAddress, sizeof(gdt) - 1};
    state.segments.fill(flat(kDataSelector, kData32));
    state.segments[arch::x86::Cs] = flat(kCodeSelector, code);
    state.idtr = {0, 0};
    state.tr.limit = 0x67;
}

void add_identity_map(PlanBuilder& plan) {
    constexpr std::uint64_t kPresentWritable = 3;
    constexpr std::uint64_t kLargePage = 0x80;
    constexpr std::size_t kEntries = 512;
    constexpr std::size_t kDirectories = 4;  // 1 GiB each
    std::vector<Le64> tables(kEntries * (2 + kDirectories));
    tables[0] = (kPageTableAddress + memory::kPageSize) | kPresentWritable;
    for (std::size_t i = 0; i < kDirectories; ++i) {
        tables[kEntries + i] = (kPageTableAddress + (2 + i) * memory::kPageSize) | kPresentWritable;
    }
    for (std::size_t i = 0; i < kEntries * kDirectories; ++i) {
        tables[2 * kEntries + i] = (std::uint64_t{i} << 21) | kPresentWritable | kLargePage;
    }
    plan.loader_bytes(kPageTableAddress, std::as_bytes(std::span(tables)));
}

}  // namespace

ArchState protected_mode_entry(PlanBuilder& plan, std::uint32_t entry) {
    ArchState state = ArchState::power_on(0, true);
    add_gdt(plan, state, kCode32);
    state.gpr.fill(0);
    state.rip = entry;
    state.cr0 = arch::x86::cr0::kPe | arch::x86::cr0::kEt;
    return state;
}

ArchState long_mode_entry(PlanBuilder& plan, std::uint64_t entry) {
    ArchState state = ArchState::power_on(0, true);
    add_gdt(plan, state, kCode64);
    add_identity_map(plan);
    state.gpr.fill(0);
    state.gpr[arch::x86::Rsp] = kStackTop;
    state.rip = entry;
    state.cr0 =
        arch::x86::cr0::kPe | arch::x86::cr0::kEt | arch::x86::cr0::kNe | arch::x86::cr0::kPg;
    state.cr3 = kPageTableAddress;
    state.cr4 = arch::x86::cr4::kPae;
    state.efer = arch::x86::efer::kLme | arch::x86::efer::kLma;
    return state;
}

}  // namespace strata::machine::boot
