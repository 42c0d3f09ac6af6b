// Classify: which class each instruction belongs to, and which CPUID feature it needs: the
// allowlist of the software CPU.
//
// Two tables in classify.cc: one row per instruction of the mixed base sets (each mnemonic stated),
// and one row per ISA extension whose members are all alike (vector arithmetic), with the
// exceptions among them stated by mnemonic.
#pragma once

#include <bitset>
#include <cstdint>

#include "arch/x86/cpuid.h"
#include "engine/soft/decode/instruction.h"

namespace strata::engine::soft {

/// Which ISA extensions a guest has, made once from its CPUID table.
class IsaSupport {
  public:
    IsaSupport() = default;
    explicit IsaSupport(const arch::x86::CpuidTable& cpuid);

    /// Everything the table knows: for tests and tools.
    static IsaSupport everything();

    [[nodiscard]] bool has(std::uint16_t isa_set) const {
        return isa_set < sets_.size() && sets_[isa_set];
    }
    bool operator==(const IsaSupport&) const = default;

  private:
    std::bitset<256> sets_;
};

struct Classification {
    InsnClass cls = InsnClass::Undefined;
    VectorKind vector = VectorKind::None;
};

/// Class by mnemonic and ISA set (ZydisMnemonic, ZydisISASet); refine_class() looks at the operands
/// afterwards.
[[nodiscard]] Classification classify(std::uint16_t mnemonic, std::uint16_t isa_set) noexcept;

}  // namespace strata::engine::soft
