// Mmu: guest linear addresses to host memory: page walks, the software TLB, and guest memory access
// for interpreter and helpers.
//
// A linear address is translated under (privilege, access). The outcome is a host pointer into RAM
// (good to the end of the page), a guest physical address of a device, or a page fault. Walks set
// accessed and dirty bits with atomic compare-exchange in guest RAM and follow CR0.WP,
// CR4.{PSE,PAE,PGE,PCIDE,SMEP,SMAP,PKE}, EFER.{NXE,LMA}, RFLAGS.AC, PKRU. SDM 3A, chapter 4.
//
// All functions run on the vCPU's own thread, are noexcept and compiled for general registers only.
// On a fault they fill cpu.exception (vector, error code, CR2 candidate) and answer false/null; the
// caller unwinds to the run loop.
//
// A non-canonical address is #GP(0), the only #GP raised here: a caller that went through SS turns
// the vector into #SS.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/soft/runtime/cpu_state.h"

namespace strata::engine::soft {

enum class MemAccess : std::uint8_t { Read, Write, Execute };
/// Whose rights count: the CPL's own, or the supervisor's (descriptor tables, TSS, IDT, page walks
/// are "implicit").
enum class Privilege : std::uint8_t { Current, ImplicitSupervisor, User };

/// Reads, writes `size` bytes at a linear address, whatever it is (RAM, device, across pages).
/// Writes are all-or-nothing with respect to faults: both pages are probed first. Naturally aligned
/// accesses to RAM of 1, 2, 4, 8 (and 16) bytes are atomic.
[[nodiscard]] bool read_linear(CpuState& cpu, std::uint64_t linear, void* out, std::uint32_t size,
                               Privilege privilege = Privilege::Current) noexcept;
[[nodiscard]] bool write_linear(CpuState& cpu, std::uint64_t linear, const void* data,
                                std::uint32_t size,
                                Privilege privilege = Privilege::Current) noexcept;

/// The host address of `linear` for accesses that stay within its page: fills the TLB. nullptr with
/// cpu.exception.pending set on a fault; nullptr without it if a device is there (use
/// read_linear/write_linear). A Write pointer to a page with translated code: the page's code is
/// invalidated first, for the bytes [linear, linear+size).
[[nodiscard]] std::byte* host_pointer(CpuState& cpu, std::uint64_t linear, std::uint32_t size,
                                      MemAccess access,
                                      Privilege privilege = Privilege::Current) noexcept;

/// The guest physical address of the byte at `linear`; false on a fault. For code fetch (Execute)
/// and for tools.
[[nodiscard]] bool translate_linear(CpuState& cpu, std::uint64_t linear, MemAccess access,
                                    Privilege privilege, std::uint64_t& physical) noexcept;

/// Fetches up to 15 code bytes at CS-linear `linear` for the decoder: how many could be read (stops
/// at a page that faults). 0 with cpu.exception set if not even the first.
[[nodiscard]] std::uint32_t fetch_code(CpuState& cpu, std::uint64_t linear, std::uint8_t* out,
                                       std::uint32_t wanted) noexcept;

/// PAE paging: whether the four PDPTEs at `cr3` have no reserved bit set (MOV CR3/CR0/CR4 raise
/// #GP(0) otherwise). Walks read the PDPTEs from memory.
[[nodiscard]] bool pdptes_valid(const CpuState& cpu, std::uint64_t cr3) noexcept;

/// TLB maintenance, as the instructions ask for it. CR3/CR4/CR0/EFER were written before the call.
void flush_tlb_all(CpuState& cpu) noexcept;         ///< with global pages, all PCIDs
void flush_tlb_non_global(CpuState& cpu) noexcept;  ///< the current PCID, without global pages
void flush_tlb_page(CpuState& cpu, std::uint64_t linear) noexcept;  ///< INVLPG
/// As flush_tlb_page(), if that is quick: a small page of the lower half that nothing was fetched
/// from, no large or global one beside. False: nothing was done.
[[nodiscard]] bool flush_data_page(CpuState& cpu, std::uint64_t linear) noexcept;
void flush_tlb_pcid(CpuState& cpu, std::uint16_t pcid,
                    bool keep_global) noexcept;  ///< INVPCID types 1
void flush_tlb_pcid_page(CpuState& cpu, std::uint16_t pcid,
                         std::uint64_t linear) noexcept;  ///< INVPCID type 0
/// CR3 was loaded; `keep` is bit 63 of the operand under CR4.PCIDE. Chooses the bank.
void address_space_changed(CpuState& cpu, bool keep) noexcept;
/// CPL, CR0.WP, CR4.SMAP/SMEP or RFLAGS.AC changed: chooses the bank of the new rights.
void privilege_changed(CpuState& cpu) noexcept;
/// Gives PKRU a value, and drops the translations that it allowed and the new one may not.
void write_pkru(CpuState& cpu, std::uint32_t value) noexcept;

}  // namespace strata::engine::soft
