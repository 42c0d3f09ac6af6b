// XsaveImage: where vector registers lie in CpuState::xsave (the host's standard XSAVE format), and
// access to them.
//
// Callers have called save_vector_state(). A component whose XSTATE_BV bit is clear holds its
// initial value whatever its bytes say: materialize() writes that value out before the component is
// read or changed in place.
#pragma once

#include <cstdint>

#include "engine/soft/runtime/cpu_state.h"

namespace strata::engine::soft {

inline constexpr std::uint32_t kXsaveLegacyBytes = 512, kXsaveHeaderEnd = 576;
inline constexpr std::uint32_t kMxcsrReserved = 0xffff0000U;
inline constexpr std::uint32_t kMxcsrInitial = 0x1f80;

/// Component `number` (2 AVX, 5 opmask, 6 ZMM_Hi256, 7 Hi16_ZMM) in the standard format; size 0:
/// the host has none.
struct XsaveComponent {
    std::uint32_t offset = 0, size = 0;
    bool aligned = false;  ///< in the compacted format
};
[[nodiscard]] const XsaveComponent& xsave_component(unsigned number) noexcept;

[[nodiscard]] std::uint64_t xstate_bv(const CpuState& cpu) noexcept;
void set_xstate_bv(CpuState& cpu, std::uint64_t value) noexcept;

/// Gives components in `bits` explicit bytes and sets their XSTATE_BV bits.
void materialize(CpuState& cpu, std::uint64_t bits) noexcept;

/// Bytes [0, size) of vector register `number` (0..31), `size` up to 64. Components must be
/// materialized.
void read_vector(const CpuState& cpu, unsigned number, void* out, std::uint32_t size) noexcept;
/// Writes `size` bytes and zeroes the register's rest up to `total` bytes (16, 32 or 64).
void write_vector(CpuState& cpu, unsigned number, const void* data, std::uint32_t size,
                  std::uint32_t total) noexcept;
[[nodiscard]] std::uint64_t read_opmask(const CpuState& cpu, unsigned number) noexcept;
void write_opmask(CpuState& cpu, unsigned number, std::uint64_t value) noexcept;

}  // namespace strata::engine::soft
