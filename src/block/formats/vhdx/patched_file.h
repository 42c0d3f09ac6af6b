// PatchedFile: a file as it would be after the replay of its log; the file itself stays as it is.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>

#include "block/formats/vhdx/log.h"
#include "block/read_only_node.h"

namespace strata::block::vhdx {

class PatchedFile final : public ReadOnlyNode {
  public:
    PatchedFile(NodePtr file, LogPatch patch)
        : ReadOnlyNode(file->loop(), file->name(), file->traits()),
          file_(std::move(file)),
          patch_(std::move(patch)) {
        traits_.discard = false;
    }
    [[nodiscard]] std::string_view format() const override { return "file"; }
    [[nodiscard]] std::uint64_t size() const override {
        return std::max(file_->size(), patch_.file_size);
    }
    [[nodiscard]] Node* file() const override { return file_.get(); }
    Task<> read(std::uint64_t offset, Buffers into) override;
    Task<Extent> status(std::uint64_t /*offset*/, std::uint64_t length) override {
        co_return Extent{.kind = Extent::Kind::Data, .length = length, .owner = this};
    }
    Task<> close() override { return file_->close(); }

  private:
    const NodePtr file_;
    const LogPatch patch_;
};

}  // namespace strata::block::vhdx
