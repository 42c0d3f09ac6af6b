// ArchState: the whole architectural state of one x86-64 vCPU, in neither engine's own form.
//
// What get_state()/set_state() of a Vcpu speak, what snapshots and migrations carry between
// engines, and what the interpreter works on when it helps KVM out. Field names are the manual's
// (SDM 3A, chapter 2 and 3).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "state/snapshottable.h"

namespace strata::arch::x86 {

/// Register numbers as in ModRM/REX.
enum Gpr : std::uint8_t {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15
};
/// Segment register numbers as in ModRM.reg of MOV Sreg.
enum SegmentIndex : std::uint8_t { Es, Cs, Ss, Ds, Fs, Gs };

/// A segment register with its hidden part. SDM 3A, 3.4.3.
struct Segment {
    std::uint16_t selector = 0;
    /// Access rights as in descriptor bits 55:40 (type, S, DPL, P in 7:0; AVL, L, D/B, G in 15:12).
    /// Bits 11:8 are zero.
    std::uint16_t attributes = 0;
    std::uint32_t limit = 0;  ///< in bytes, scaled by G already
    std::uint64_t base = 0;
    bool unusable = false;  ///< a null selector was loaded
    bool operator==(const Segment&) const = default;
};

struct DescriptorTable {
    std::uint64_t base = 0;
    std::uint16_t limit = 0;
    bool operator==(const DescriptorTable&) const = default;
};

struct Msr {
    std::uint32_t index = 0;
    std::uint64_t value = 0;
    bool operator==(const Msr&) const = default;
};

/// What a vCPU is doing. The numbers are those of the state stream.
enum class RunState : std::uint8_t { Running = 0, WaitForSipi = 1, Halted = 2, WaitForInit = 3 };

/// An event that was recognised but not delivered yet.
struct PendingEvents {
    bool exception_pending = false;
    std::uint8_t exception_vector = 0;
    bool exception_has_error = false;
    std::uint32_t exception_error = 0;
    std::uint8_t nmis_pending =
        0;  ///< at most two: one goes to its handler at once, one more stays latched meanwhile
    bool nmi_masked = false;
    bool interrupt_shadow =
        false;  ///< after STI or MOV SS: no interrupt before the next instruction ends
    /// An external interrupt that its controller has seen acknowledged, but the vCPU not delivered
    /// (KVM: injection was cut short).
    bool interrupt_pending = false;
    std::uint8_t interrupt_vector = 0;
    bool operator==(const PendingEvents&) const = default;
};

inline constexpr std::size_t kXsaveBytes = 4096;
inline constexpr std::size_t kLapicBytes = 1024;

struct ArchState {
    std::array<std::uint64_t, 16> gpr{};
    std::uint64_t rip = 0;
    std::uint64_t rflags = 2;
    std::array<Segment, 6> segments{};
    Segment ldtr, tr;
    DescriptorTable gdtr, idtr;
    std::uint64_t cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0, cr8 = 0;
    std::uint64_t efer = 0;
    std::uint64_t xcr0 = 1;
    std::uint64_t apic_base = 0;
    std::array<std::uint64_t, 4> dr{};
    std::uint64_t dr6 = 0xffff0ff0, dr7 = 0x400;
    std::uint64_t tsc = 0;  ///< the guest's TSC at the moment of saving
    /// x87, SSE, AVX … in the XSAVE standard format (SDM 1, 13.4), header included, offsets as
    /// CPUID leaf 0Dh of the guest says.
    alignas(64) std::array<std::byte, kXsaveBytes> xsave{};
    /// The local APIC's registers as a 1 KiB page (register N at byte N*16): KVM_GET_LAPIC's form.
    std::array<std::byte, kLapicBytes> lapic{};
    /// All other MSRs that are not zero: ascending index.
    std::vector<Msr> msrs;
    PendingEvents events;
    RunState run_state = RunState::Running;

    bool operator==(const ArchState&) const = default;

    /// Writes, reads the section "vcpu".
    void save(state::StateWriter& writer) const;
    Result<> load(state::StateReader& reader);

    /// The state after power-on: real mode at FFFF:FFF0. `bootstrap`: this is the BSP; others wait
    /// for INIT/SIPI. SDM 3A, 9.1.1.
    static ArchState power_on(std::uint32_t apic_id, bool bootstrap);
};

}  // namespace strata::arch::x86
