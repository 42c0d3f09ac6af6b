// VectorState: which vector components the software CPU moves, and what an XSAVE image must look
// like to be loaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "arch/x86/arch_state.h"
#include "arch/x86/cpuid.h"

namespace strata::engine::soft {

/// XCR0's bit for PKRU, which the engine keeps itself: no part of the vector state.
inline constexpr std::uint64_t kXcr0Pkru = 1U << 9U;

/// The host's XCR0 components among x87, SSE, AVX and AVX-512. All of them are saved and loaded
/// whatever the guest's XCR0 is: a guest without OSXSAVE uses SSE too.
[[nodiscard]] std::uint64_t host_vector_mask() noexcept;

/// Makes any image one that XRSTOR accepts: unknown components and reserved bits are cleared.
void sanitize_xsave(std::span<std::byte, arch::x86::kXsaveBytes> image) noexcept;

/// The image after power-on (`fcw` 0x40) or after FNINIT (0x37f).
void reset_xsave(std::span<std::byte, arch::x86::kXsaveBytes> image, std::uint16_t fcw) noexcept;

/// Where PKRU lies in the XSAVE image of a guest with this CPUID table, 0 if it has none; taking it
/// from an image and putting it there.
[[nodiscard]] std::uint32_t pkru_offset(const arch::x86::CpuidTable& cpuid);
[[nodiscard]] std::uint32_t pkru_in(std::span<const std::byte, arch::x86::kXsaveBytes> image,
                                    std::uint32_t offset) noexcept;
void put_pkru(std::span<std::byte, arch::x86::kXsaveBytes> image, std::uint32_t offset,
              std::uint32_t value) noexcept;

}  // namespace strata::engine::soft
