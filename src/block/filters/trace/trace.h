// TraceNode: a filter that writes a line for each request when it ends: when it began, what, where,
// how long it took, how it ended.
//
// "12.345678 read offset=4096 length=512 us=83 result=0": seconds since opening, then an errno (0:
// good). For looking at what a guest or a job does to a disk. The line goes to a file (appended to)
// or standard error. No content is written.
#pragma once

#include <chrono>
#include <cstdio>
#include <memory>

#include "block/filters/filter_node.h"
#include "block/registry.h"

namespace strata::block::trace {

class TraceNode final : public FilterNode {
  public:
    /// `to` is closed with the node, unless it is standard error.
    TraceNode(NodePtr child, std::FILE* to);
    [[nodiscard]] std::string_view format() const override { return "trace"; }
    Task<> read(std::uint64_t offset, Buffers into) override;
    Task<> write(std::uint64_t offset, Buffers from) override;
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override;
    Task<> discard(std::uint64_t offset, std::uint64_t length) override;
    Task<> flush() override;
    Task<> write_compressed(std::uint64_t offset, Buffers from) override;
    Task<> close() override;

  private:
    using Clock = std::chrono::steady_clock;
    struct Close {
        void operator()(std::FILE* file) const;
    };
    Task<> told(std::string_view what, std::uint64_t offset, std::uint64_t length, Task<> request);

    const std::unique_ptr<std::FILE, Close> to_;
    const Clock::time_point start_;
};

/// "trace": child "file", "to" (a path; standard error if it is not given). Never for names inside
/// images.
const NodeDriver& driver();

}  // namespace strata::block::trace
