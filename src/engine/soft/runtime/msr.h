// MsrFile: the model-specific registers of one vCPU.
//
// A table (msr_table.cc) has one row per register or run of registers: what reads and writes do.
// Values live in CpuState where the engine itself needs them, else in a slot per register.
// Registers with effects are handled by name in msr.cc. SDM 4; AMD APM 2. On the vCPU's own thread,
// or while it does not run.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "arch/x86/arch_state.h"
#include "arch/x86/cpuid.h"
#include "engine/soft/runtime/cpu_state.h"

namespace strata::engine::soft {

enum class MsrKind : std::uint8_t {
    Field,      ///< a 64-bit field of CpuState; writable bits `mask`, others must be zero
    Canonical,  ///< a field of CpuState that holds a canonical address
    Stored,     ///< a slot; writable bits `mask`, others must be zero
    Constant,   ///< reads as `value`; writing is #GP
    Ignored,    ///< reads as `value`; writes change nothing
    Command,    ///< write-only, bits `mask`; nothing to do
    Special,    ///< msr.cc
};

struct MsrRow {
    std::uint32_t first;
    std::uint32_t count;
    MsrKind kind;
    std::uint64_t value;  ///< after power-on
    std::uint64_t mask;
    std::uint64_t CpuState::*field;
    bool saved;  ///< part of ArchState::msrs
};

/// Ascending by index.
[[nodiscard]] std::span<const MsrRow> msr_table() noexcept;
[[nodiscard]] const MsrRow* find_msr(std::uint32_t index) noexcept;

/// What registers with effects act on: the vCPU.
class MsrEffects {
  public:
    virtual ~MsrEffects() = default;
    [[nodiscard]] virtual std::uint64_t apic_base() noexcept = 0;
    virtual bool write_apic_base(std::uint64_t value) noexcept = 0;
    virtual bool read_x2apic(std::uint32_t index, std::uint64_t& value) noexcept = 0;
    virtual bool write_x2apic(std::uint32_t index, std::uint64_t value) noexcept = 0;
    [[nodiscard]] virtual std::uint64_t tsc_deadline() noexcept = 0;
    virtual void write_tsc_deadline(std::uint64_t value) noexcept = 0;
    /// The TSC was moved by the guest: timers that depend on it start again.
    virtual void tsc_moved() noexcept = 0;
    /// 4B564Dxxh and the legacy 11h, 12h (passed as the new numbers).
    virtual bool read_paravirtual(std::uint32_t index, std::uint64_t& value) noexcept = 0;
    virtual bool write_paravirtual(std::uint32_t index, std::uint64_t value) noexcept = 0;
};

class MsrFile {
  public:
    MsrFile(CpuState& cpu, MsrEffects& effects, const arch::x86::CpuidTable& cpuid);

    /// False: #GP(0).
    [[nodiscard]] bool read(std::uint32_t index, std::uint64_t& value) noexcept;
    [[nodiscard]] bool write(std::uint32_t index, std::uint64_t value) noexcept;

    /// Power-on values of everything in the table.
    void reset() noexcept;
    /// ArchState::msrs: all saved registers that are, or start out, not zero.
    [[nodiscard]] std::vector<arch::x86::Msr> save();
    /// The converse: others get their power-on value. Registers that this engine does not have are
    /// refused.
    [[nodiscard]] Result<> load(std::span<const arch::x86::Msr> msrs);

  private:
    [[nodiscard]] bool read_special(std::uint32_t index, std::uint64_t& value) noexcept;
    [[nodiscard]] bool write_special(const MsrRow& row, std::uint32_t index,
                                     std::uint64_t value) noexcept;
    [[nodiscard]] bool write_single(const MsrRow& row, std::uint32_t index,
                                    std::uint64_t value) noexcept;
    [[nodiscard]] bool write_efer(std::uint64_t value) noexcept;
    [[nodiscard]] bool write_mtrr(std::uint32_t index, std::uint64_t value) noexcept;
    /// The register's row, or null if this processor does not have it.
    [[nodiscard]] const MsrRow* find(std::uint32_t index) const noexcept;
    [[nodiscard]] std::uint64_t& slot(const MsrRow& row, std::uint32_t index) noexcept;

    CpuState& cpu_;
    MsrEffects& effects_;
    std::vector<std::uint64_t> slots_;
    std::uint64_t efer_bits_;
    bool has_spec_ctrl_;
    bool has_pred_cmd_;
    bool has_flush_cmd_;
    std::uint64_t physical_mask_;  // address bits that the guest's processor has
    std::uint64_t tsc_adjust_ = 0;
};

}  // namespace strata::engine::soft
