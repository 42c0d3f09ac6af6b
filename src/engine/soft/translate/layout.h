// Layout: where generated code finds the fields of CpuState: offsets from the gs base.
#pragma once

#include <cstddef>

#include "engine/soft/emit/assembler.h"
#include "engine/soft/runtime/cpu_state.h"

namespace strata::engine::soft::layout {

// SAFETY: CpuState is only ever laid out by this compiler; offsetof of its plain members is what
// generated code uses.
inline constexpr std::size_t kGpr = offsetof(CpuState, gpr);
inline constexpr std::size_t kRip = offsetof(CpuState, rip);
inline constexpr std::size_t kRflags = offsetof(CpuState, rflags);
inline constexpr std::size_t kMode = offsetof(CpuState, mode);
inline constexpr std::size_t kRequest = offsetof(CpuState, request);
inline constexpr std::size_t kVectorLive = offsetof(CpuState, vector_live);
inline constexpr std::size_t kTlb = offsetof(CpuState, tlb);
inline constexpr std::size_t kTlbOpen = offsetof(CpuState, tlb_open);
inline constexpr std::size_t kTlbStrict = offsetof(CpuState, tlb_strict);
inline constexpr std::size_t kInterruptWindow = offsetof(CpuState, interrupt_window);
inline constexpr std::size_t kKernelGsBase = offsetof(CpuState, kernel_gs_base);
inline constexpr std::size_t kTscAux = offsetof(CpuState, tsc_aux);
inline constexpr std::size_t kCr0 = offsetof(CpuState, cr0), kCr2 = offsetof(CpuState, cr2),
                             kCr3 = offsetof(CpuState, cr3);
inline constexpr std::size_t kCr4 = offsetof(CpuState, cr4), kCr8 = offsetof(CpuState, cr8);
inline constexpr std::size_t kTscOffset = offsetof(CpuState, tsc_offset);
inline constexpr std::size_t kSegments = offsetof(CpuState, segments);
inline constexpr std::size_t kTranslator = offsetof(CpuState, translator);
inline constexpr std::size_t kFlags = kTranslator + offsetof(TranslatorState, flags);
inline constexpr std::size_t kSpill = kTranslator + offsetof(TranslatorState, spill);
inline constexpr std::size_t kHostRsp = kTranslator + offsetof(TranslatorState, host_rsp);
inline constexpr std::size_t kFetchEpoch = offsetof(CpuState, fetch_epoch);
inline constexpr std::size_t kReturnEpoch = kTranslator + offsetof(TranslatorState, return_epoch);
inline constexpr std::size_t kFlagsInHost = kTranslator + offsetof(TranslatorState, flags_in_host);
inline constexpr std::size_t kReturnBase = kTranslator + offsetof(TranslatorState, return_base);
inline constexpr std::size_t kHomes = kTranslator + offsetof(TranslatorState, homes);
inline constexpr std::size_t kAnchor = kTranslator + offsetof(TranslatorState, anchor);
inline constexpr std::size_t kExitPc = kTranslator + offsetof(TranslatorState, exit_pc);
inline constexpr std::size_t kExitReason = kTranslator + offsetof(TranslatorState, exit_reason);
inline constexpr std::size_t kStackTag = kTranslator + offsetof(TranslatorState, stack_tag);
inline constexpr std::size_t kStackHost = kTranslator + offsetof(TranslatorState, stack_host);
inline constexpr std::size_t kDeltas = kTranslator + offsetof(TranslatorState, deltas);
inline constexpr std::size_t kCodePages = kTranslator + offsetof(TranslatorState, code_pages);
inline constexpr std::size_t kBounce = kTranslator + offsetof(TranslatorState, bounce);
inline constexpr std::size_t kJumps = kTranslator + offsetof(TranslatorState, jumps);

static_assert(kRequest == kMode + 4 && kMode % 8 == 0, "compared as one word");

inline Mem gpr(unsigned number) {
    return Mem::gs_at(kGpr + 8UL * number);
}
inline Mem spill(unsigned number) {
    return Mem::gs_at(kSpill + 8UL * number);
}
inline Mem delta(unsigned slot) {
    return Mem::gs_at(kDeltas + 8UL * slot);
}
inline Mem flags() {
    return Mem::gs_at(kFlags);
}
inline Mem segment_base(unsigned number) {
    return Mem::gs_at(kSegments + number * sizeof(Segment) + offsetof(Segment, base));
}
inline constexpr std::int32_t kTagRead = offsetof(TlbEntry, tag_read);
inline constexpr std::int32_t kTagWrite = offsetof(TlbEntry, tag_write);
inline constexpr std::int32_t kHostPage = offsetof(TlbEntry, host_page);
inline constexpr std::int32_t kTlbMask = (kTlbEntries - 1) * sizeof(TlbEntry);

/// Where the entry for a code page stands, and what it must hold for a block of `rip` made from
/// `ram_offset`.
inline std::size_t code_page_slot(std::uint64_t rip, std::uint32_t cpl) {
    const std::size_t side = cpl == 3 ? 1 : 0;
    return kCodePages + 8 * (side * TranslatorState::kCodePages +
                             ((rip >> 12) & (TranslatorState::kCodePages - 1)));
}
/// RAM of at most 1 TiB has 28-bit page numbers; canonical 48-bit addresses have 36-bit ones. Never
/// 0 for RAM page > 0 or address > 4095: the first page of both is left to the interpreter.
inline std::uint64_t code_page_key(std::uint64_t rip, std::uint64_t ram_offset) {
    return (((rip >> 12) & ((1ULL << 36) - 1)) << 28) | (ram_offset >> 12);
}
/// Whether blocks are made for code of this mode.
constexpr bool mode_translatable(std::uint32_t mode) {
    constexpr std::uint32_t kNeeded = ModeBits::kLong | ModeBits::kCs64 | ModeBits::kPaging;
    constexpr std::uint32_t kRefused = ModeBits::kTrap | ModeBits::kAlignCheck | ModeBits::kV8086;
    return (mode & (kNeeded | kRefused)) == kNeeded;
}
constexpr std::uint32_t jump_slot(std::uint64_t rip) {
    return static_cast<std::uint32_t>(rip ^ (rip >> 12)) & (TranslatorState::kJumpEntries - 1);
}

}  // namespace strata::engine::soft::layout
