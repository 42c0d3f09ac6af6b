// SystemOps: the decoded forms of system instructions that translated code hands to the
// interpreter's handlers.
//
// One per encoding, wherever it stands in guest memory: handlers take the address from cpu.rip.
// Pointers hold until clear(), which happens with the code that contains them. The translator's
// lock guards it.
#pragma once

#include <array>
#include <map>
#include <memory>

#include "engine/soft/interp/context.h"

namespace strata::engine::soft {

class SystemOps {
  public:
    /// Of an instruction with has_plain_handler().
    Op* find(const Instruction& insn) {
        std::array<std::uint8_t, 16> key{};
        for (std::uint32_t i = 0; i < insn.length; ++i) {
            key[i] = insn.bytes[i];
        }
        key.back() = insn.length;
        std::unique_ptr<Op>& op = ops_[key];
        if (op == nullptr) {
            op = std::make_unique<Op>();
            prepare_decoded(insn, *op);
        }
        return op.get();
    }
    [[nodiscard]] std::size_t size() const { return ops_.size(); }
    void clear() { ops_.clear(); }

  private:
    std::map<std::array<std::uint8_t, 16>, std::unique_ptr<Op>> ops_;
};

}  // namespace strata::engine::soft
