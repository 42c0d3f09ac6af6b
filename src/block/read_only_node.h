// ReadOnlyNode: what nodes that are never written have in common: every change is refused.
#pragma once

#include <string>
#include <utility>

#include "block/node.h"

namespace strata::block {

class ReadOnlyNode : public Node {
  public:
    [[nodiscard]] const NodeTraits& traits() const override { return traits_; }
    Task<> write(std::uint64_t offset, Buffers from) override {
        co_return check_range(offset, from.size(), true);
    }
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length,
                        ZeroOptions /*options*/) override {
        co_return check_range(offset, length, true);
    }
    Task<> discard(std::uint64_t offset, std::uint64_t length) override {
        co_return check_range(offset, length, true);
    }
    Task<> flush() override { co_return ok(); }

  protected:
    /// `traits` but for writing, which there is none of.
    ReadOnlyNode(Loop& loop, std::string name, NodeTraits traits = {})
        : Node(loop, std::move(name)), traits_(traits) {
        traits_.read_only = true;
    }

    NodeTraits traits_;
};

}  // namespace strata::block
