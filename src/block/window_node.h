// WindowNode: a part of a disk with all its layers, as a disk that is read.
#pragma once

#include <cstdint>
#include <utility>

#include "block/read_only_node.h"

namespace strata::block {

class WindowNode final : public ReadOnlyNode {
  public:
    /// [start, start + size) of `disk` lies inside it.
    WindowNode(NodePtr disk, std::uint64_t start, std::uint64_t size)
        : ReadOnlyNode(disk->loop(), disk->name(), disk->traits()),
          disk_(std::move(disk)),
          start_(start),
          size_(size) {}
    [[nodiscard]] std::string_view format() const override { return "window"; }
    [[nodiscard]] std::uint64_t size() const override { return size_; }
    [[nodiscard]] std::vector<Node*> children() const override { return {disk_.get()}; }
    Task<> read(std::uint64_t offset, Buffers into) override {
        STRATA_CO_TRY_VOID(check_range(offset, into.size(), false));
        co_return co_await disk_->read(start_ + offset, into);
    }
    /// Of all layers: what no layer has is zeros.
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override {
        STRATA_CO_TRY_VOID(check_range(offset, length, false));
        STRATA_CO_TRY(Extent extent,
                      co_await status_of_chain(*disk_, nullptr, start_ + offset, length));
        if (extent.kind == Extent::Kind::Unallocated) {
            extent.kind = Extent::Kind::Zero;
        }
        extent.owner = this;
        co_return extent;
    }
    Task<> close() override { return disk_->close(); }

  private:
    const NodePtr disk_;
    const std::uint64_t start_, size_;
};

}  // namespace strata::block
