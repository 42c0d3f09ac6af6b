// RawNode: a disk that is its file's bytes, or a part of them (offset and size in the extra
// options).
#pragma once

#include <memory>

#include "block/node.h"
#include "block/registry.h"

namespace strata::block::raw {

const FormatDriver& driver();

class RawNode final : public Node {
  public:
    /// `guessed`: nobody said that it is raw: its first sector must not become another format's
    /// start, or the next guess is that format.
    RawNode(NodePtr file, std::uint64_t start, std::uint64_t size, bool guessed = false);
    [[nodiscard]] std::string_view format() const override { return "raw"; }
    [[nodiscard]] std::uint64_t size() const override { return size_; }
    [[nodiscard]] const NodeTraits& traits() const override { return file_->traits(); }
    [[nodiscard]] Node* file() const override { return file_.get(); }
    Task<> read(std::uint64_t offset, Buffers into) override;
    Task<> write(std::uint64_t offset, Buffers from) override;
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override;
    Task<> discard(std::uint64_t offset, std::uint64_t length) override;
    Task<> flush() override { return file_->flush(); }
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override;
    Task<> close() override { return file_->close(); }
    Task<> resize(std::uint64_t size, Preallocation preallocation) override;
    Task<> copy_from(Node& source, std::uint64_t from, std::uint64_t to,
                     std::uint64_t length) override;

    /// Where the disk begins in its file.
    [[nodiscard]] std::uint64_t start() const { return start_; }

  private:
    Task<> check_start(std::uint64_t offset, Buffers from);
    const NodePtr file_;
    const std::uint64_t start_;
    std::uint64_t size_;
    const bool guessed_;
};

}  // namespace strata::block::raw
