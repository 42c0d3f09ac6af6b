// CopyOnReadNode: a filter over an overlay: what is read from a layer below is written into the
// overlay, whole clusters at a time.
//
// A copy and a write of the same clusters exclude each other, so that no copy puts old data over
// new. What all layers below lack is not copied. A copy that cannot be written (the host is full)
// is told once in the log; the read itself has succeeded.
#pragma once

#include <list>

#include "block/filters/filter_node.h"
#include "block/registry.h"
#include "block/sync.h"

namespace strata::block::copy_on_read {

class CopyOnReadNode final : public FilterNode {
  public:
    explicit CopyOnReadNode(NodePtr child);
    [[nodiscard]] std::string_view format() const override { return "copy-on-read"; }
    Task<> read(std::uint64_t offset, Buffers into) override;
    Task<> write(std::uint64_t offset, Buffers from) override;
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override;
    Task<> discard(std::uint64_t offset, std::uint64_t length) override;
    Task<> write_compressed(std::uint64_t offset, Buffers from) override;

  private:
    struct Stretch {
        std::uint64_t first = 0, end = 0;
    };
    class Hold;
    Task<> acquire(Stretch clusters, std::list<Stretch>::iterator& place);
    [[nodiscard]] Stretch clusters_of(std::uint64_t offset, std::uint64_t length) const;
    /// Whether the layers below have anything there; `length` becomes that of the stretch the
    /// answer holds for.
    Task<bool> only_below(std::uint64_t offset, std::uint64_t& length);
    Task<> copy_up(std::uint64_t offset, std::uint64_t length);

    std::uint64_t cluster_;
    std::list<Stretch> held_;
    WaitQueue released_;
    bool told_ = false;
};

/// "copy-on-read": child "file".
const NodeDriver& driver();

}  // namespace strata::block::copy_on_read
