// BlockingImage: an image with a loop of its own, for code that does one thing after the other:
// each call returns when it is done.
//
// Not for several threads at a time. An image that goes without close() is as after a crash.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "block/registry.h"

namespace strata::block {

class BlockingImage {
  public:
    static Result<std::unique_ptr<BlockingImage>> open(OpenOptions options,
                                                       IoEngine engine = IoEngine::Auto);
    /// Makes an image.
    static Result<> create(std::string format, CreateRequest request);

    [[nodiscard]] Node& node() const { return *node_; }
    [[nodiscard]] Loop& loop() const { return *loop_; }
    [[nodiscard]] std::uint64_t size() const { return node_->size(); }
    Result<> read(std::uint64_t offset, std::span<std::byte> into) {
        return loop_->run(node_->read(offset, Buffers(into)));
    }
    Result<> write(std::uint64_t offset, std::span<const std::byte> from) {
        return loop_->run(node_->write(offset, Buffers::of(from)));
    }
    Result<> write_zeroes(std::uint64_t offset, std::uint64_t length, bool unmap) {
        return loop_->run(node_->write_zeroes(offset, length, {.may_unmap = unmap}));
    }
    Result<> discard(std::uint64_t offset, std::uint64_t length) {
        return loop_->run(node_->discard(offset, length));
    }
    Result<> flush() { return loop_->run(node_->flush()); }
    /// Of the whole chain.
    Result<Extent> status(std::uint64_t offset, std::uint64_t length) {
        return loop_->run(status_of_chain(*node_, nullptr, offset, length));
    }
    Result<> close() { return loop_->run(node_->close()); }

  private:
    BlockingImage(std::unique_ptr<Loop> loop, NodePtr node)
        : loop_(std::move(loop)), node_(std::move(node)) {}
    const std::unique_ptr<Loop> loop_;
    const NodePtr node_;
};

}  // namespace strata::block
