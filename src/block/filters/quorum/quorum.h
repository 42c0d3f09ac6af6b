// QuorumNode: several copies of one disk: writes go to all, reads are answered by the majority.
//
// "vote-threshold" copies must agree: on the content of a read, on the success of a write. Fewer:
// an error (EIO). With read-pattern=fifo reads ask one copy after the other until one answers.
// There is no folder that all copies share, so names relative to such a disk lead nowhere: its own
// name is empty.
#pragma once

#include <vector>

#include "block/node.h"
#include "block/registry.h"

namespace strata::block::quorum {

class QuorumNode final : public Node {
  public:
    QuorumNode(std::vector<NodePtr> copies, std::size_t threshold, bool first_answer);
    [[nodiscard]] std::string_view format() const override { return "quorum"; }
    [[nodiscard]] std::uint64_t size() const override { return copies_.front()->size(); }
    [[nodiscard]] const NodeTraits& traits() const override { return traits_; }
    [[nodiscard]] std::vector<Node*> children() const override;
    Task<> read(std::uint64_t offset, Buffers into) override;
    Task<> write(std::uint64_t offset, Buffers from) override;
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override;
    Task<> discard(std::uint64_t offset, std::uint64_t length) override;
    Task<> flush() override;
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override;
    Task<> close() override;

  private:
    Task<> read_first(std::uint64_t offset, Buffers into);
    [[nodiscard]] Result<> voted(std::size_t good, const Result<>& last,
                                 std::string_view what) const;

    const std::vector<NodePtr> copies_;
    const std::size_t threshold_;
    const bool first_answer_;
    NodeTraits traits_;
};

/// "quorum": children "children.N", "vote-threshold", "read-pattern" (quorum, fifo).
const NodeDriver& driver();

}  // namespace strata::block::quorum
