// BundleNode: a .hdd folder's disk, read only: storages one behind the other, each with its layers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "block/read_only_node.h"

namespace strata::block::parallels {

class BundleNode final : public ReadOnlyNode {
  public:
    struct Part {
        std::uint64_t start = 0, size = 0;
        NodePtr node{};  ///< the top layer; may be shorter
    };
    BundleNode(NodePtr file, std::string name, std::vector<Part> parts)
        : ReadOnlyNode(file->loop(), std::move(name)),
          file_(std::move(file)),
          parts_(std::move(parts)) {
        traits_.sparse = true;
    }
    [[nodiscard]] std::string_view format() const override { return "parallels"; }
    [[nodiscard]] std::uint64_t size() const override {
        return parts_.back().start + parts_.back().size;
    }
    [[nodiscard]] Node* file() const override { return file_.get(); }
    [[nodiscard]] std::vector<Node*> children() const override {
        std::vector<Node*> all{file_.get()};
        for (const Part& each : parts_) {
            all.push_back(each.node.get());
        }
        return all;
    }
    Task<> read(std::uint64_t offset, Buffers into) override {
        STRATA_CO_TRY_VOID(check_range(offset, into.size(), false));
        for (std::uint64_t done = 0; done < into.size();) {
            const Part& part = part_at(offset + done);
            const std::uint64_t within = offset + done - part.start;
            const std::uint64_t count = std::min(into.size() - done, part.size - within);
            STRATA_CO_TRY_VOID(
                co_await read_or_zero(part.node.get(), within, into.slice(done, count)));
            done += count;
        }
        co_return ok();
    }
    /// Of all layers.
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override {
        STRATA_CO_TRY_VOID(check_range(offset, length, false));
        const Part& part = part_at(offset);
        const std::uint64_t within = offset - part.start;
        length = std::min(length, part.size - within);
        Extent extent{.kind = Extent::Kind::Zero, .length = length};
        if (within < part.node->size()) {
            STRATA_CO_TRY(extent,
                          co_await status_of_chain(*part.node, nullptr, within,
                                                   std::min(length, part.node->size() - within)));
        }
        if (extent.kind == Extent::Kind::Unallocated) {
            extent.kind = Extent::Kind::Zero;
        }
        extent.owner = this;
        co_return extent;
    }
    Task<> close() override {
        for (Node* each : children()) {
            STRATA_CO_TRY_VOID(co_await each->close());
        }
        co_return ok();
    }

  private:
    [[nodiscard]] const Part& part_at(std::uint64_t offset) const {
        const auto next = std::ranges::upper_bound(parts_, offset, {}, &Part::start);
        return *std::prev(next);
    }
    const NodePtr file_;
    const std::vector<Part> parts_;
};

}  // namespace strata::block::parallels
