// Host encoding: a guest data-processing instruction rewritten so that the host can run it in
// 64-bit mode.
//
// The memory operand becomes [base] with a free register as base, guest rsp is renamed to another
// free register (the host's own stack pointer stays), and what 16/32-bit modes encode differently
// (operand-size prefix, INC/DEC, moffs, REX space) is re-encoded.
#pragma once

#include <cstdint>

#include "engine/soft/decode/instruction.h"

namespace strata::engine::soft {

inline constexpr std::uint8_t kNoHostRegister = 0xff;

struct HostEncoding {
    std::uint8_t bytes[24] = {};
    std::uint8_t length = 0;
    std::uint8_t base = kNoHostRegister;       ///< holds the operand's host address
    std::uint8_t rsp_alias = kNoHostRegister;  ///< holds guest rsp
};

/// Rewrites an instruction of class Copy, CopyVector or (masked forms without vsib) Special. False:
/// there is no such rewriting.
[[nodiscard]] bool encode_for_host(const Instruction& insn, HostEncoding& out) noexcept;

}  // namespace strata::engine::soft
