// FlagFlow: which RFLAGS bits of a case mean nothing at each of its instructions, by the
// architecture's own rules.
//
// Undefined bits are followed forwards along the case's branches; bits that are replaced before
// anything reads them, backwards. Independent of the translator's own analysis, which it checks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/soft/decode/instruction.h"

namespace strata::differential {

/// RFLAGS bits that are not compared if the run ends before an instruction.
struct LooseFlags {
    std::uint64_t undefined = 0;  ///< some instruction on a way here left them undefined
    std::uint64_t dead =
        0;  ///< what comes replaces them before it reads them; up to the next branch
};

struct FlowStep {
    std::uint64_t read = 0, written = 0, undefined = 0;
    bool may_keep = false;  ///< may leave the flags as they were (a count of zero)
    bool branch = false;    ///< ends what is known about the instructions that follow
    bool falls_through = true;
    static constexpr std::size_t kNoTarget = ~std::size_t{0};
    std::size_t target = kNoTarget;  ///< index of the instruction it may go to: always a later one
};

[[nodiscard]] FlowStep flow_step(const engine::soft::Instruction& insn);

/// One entry per instruction and one for the end behind them.
[[nodiscard]] std::vector<LooseFlags> follow_flags(const std::vector<FlowStep>& steps);

}  // namespace strata::differential
