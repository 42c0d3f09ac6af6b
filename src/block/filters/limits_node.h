// LimitsNode: a filter that gives its child only requests of certain sizes and alignments, as an
// awkward device would want them.
//
// Reads and writes are rounded to `align` (writes by reading around them first) and cut at
// `max_transfer`; zeroing and discarding pass only in whole units of their own, the rest is written
// out as zeros, or is not discarded. What lies above is tested with it.
#pragma once

#include "block/filters/filter_node.h"
#include "block/node_tree.h"
#include "block/sync.h"

namespace strata::block {

/// Bytes each; 0: none.
struct Limits {
    std::uint64_t align = 0, max_transfer = 0, zero_unit = 0, max_zero = 0, discard_unit = 0,
                  max_discard = 0;
    [[nodiscard]] bool any() const {
        return (align | max_transfer | zero_unit | max_zero | discard_unit | max_discard) != 0;
    }
    /// "align", "max-transfer", "opt-write-zero", "max-write-zero", "opt-discard", "max-discard";
    /// each must fit the ones before.
    static Result<Limits> take(NodeTree& options);
};

class LimitsNode final : public FilterNode {
  public:
    LimitsNode(NodePtr child, std::string_view driver, const Limits& limits);
    [[nodiscard]] std::string_view format() const override { return driver_; }
    [[nodiscard]] const NodeTraits& traits() const override { return traits_; }

    Task<> read(std::uint64_t offset, Buffers into) override;
    Task<> write(std::uint64_t offset, Buffers from) override;
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override;
    Task<> discard(std::uint64_t offset, std::uint64_t length) override;
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override;

  private:
    [[nodiscard]] bool aligned(std::uint64_t offset, std::uint64_t length) const;
    /// The end of `end`'s block, but not behind the disk's.
    [[nodiscard]] std::uint64_t block_end(std::uint64_t end) const;
    Task<> read_cut(std::uint64_t offset, Buffers into);
    Task<> write_cut(std::uint64_t offset, Buffers from);
    Task<> write_around(std::uint64_t offset, Buffers from);
    Task<> write_out_zeroes(std::uint64_t offset, std::uint64_t length);

    const std::string_view driver_;
    const Limits limits_;
    NodeTraits traits_;
    Gate gate_;  ///< who writes around a part is alone
};

}  // namespace strata::block
