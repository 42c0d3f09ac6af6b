// PageScan: whether a page of guest code may run on the host's processor as it is.
//
// Most instructions that user code must not see the host through trap by themselves (RDTSC in a
// stub, IN, HLT, CLI, SYSCALL …). A few do not: CPUID, XGETBV, RDPID, LSL and their like read the
// host's identity, and the XSAVE family works by the host's XCR0 instead of the guest's, which the
// dynamic linker's use of it, for vector values alone, does not notice. A page that holds another
// such instruction does not become executable in a stub; the translator runs its code.
//
// The opcode bytes may also be part of other instructions (an immediate 0F 00 00 00 is common), so
// around each candidate the code is decoded from several starting points, which fall into step with
// the real instructions within a few of them. A program built to deceive that can learn what the
// host's processor is called, no more: these instructions reach no memory but the program's own
// (docs/threat-model.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace strata::engine::soft {

inline constexpr std::size_t kPageBytes = 4096;
inline constexpr std::size_t kScanReach = 15;    ///< bytes of the next page that matter
inline constexpr std::size_t kScanBefore = 120;  ///< bytes of the page before that help

/// `code`: `before` bytes in front of a page (none if they are not known), its bytes, and as many
/// behind it as are known. `foreign`: state components that a stub has not as the guest has them;
/// XSAVE and XRSTOR do what they must where a constant in EAX leaves these out.
[[nodiscard]] bool page_runs_natively(std::span<const std::uint8_t> code, std::size_t before,
                                      std::uint64_t foreign) noexcept;

/// The state components that are not in a stub as they are in a guest with this XCR0. A stub's PKRU
/// is its own.
[[nodiscard]] std::uint64_t foreign_components(std::uint64_t guest_xcr0,
                                               std::uint64_t host_xcr0) noexcept;

}  // namespace strata::engine::soft
