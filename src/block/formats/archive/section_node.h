// SectionNode: a member of an archive as a file that is read: past its end there are zeros, as past
// a file's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "block/read_only_node.h"

namespace strata::block::archive {

class SectionNode final : public ReadOnlyNode {
  public:
    SectionNode(NodePtr file, std::uint64_t start, std::uint64_t size)
        : ReadOnlyNode(file->loop(), file->name()),
          file_(std::move(file)),
          start_(start),
          size_(size) {}
    [[nodiscard]] std::string_view format() const override { return "section"; }
    [[nodiscard]] std::uint64_t size() const override { return size_; }
    [[nodiscard]] Node* file() const override { return file_.get(); }
    Task<> read(std::uint64_t offset, Buffers into) override {
        const std::uint64_t inside =
            offset >= size_ ? 0 : std::min<std::uint64_t>(into.size(), size_ - offset);
        into.from(inside).fill(std::byte{0});
        if (inside == 0) {
            co_return ok();
        }
        co_return co_await file_->read(start_ + offset, into.slice(0, inside));
    }
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override {
        STRATA_CO_TRY_VOID(check_range(offset, length, false));
        co_return co_await file_->status(start_ + offset, length);
    }
    Task<> close() override { return file_->close(); }

  private:
    const NodePtr file_;
    const std::uint64_t start_, size_;
};

}  // namespace strata::block::archive
