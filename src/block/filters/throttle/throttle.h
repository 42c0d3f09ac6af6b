// ThrottleNode: a filter that holds requests back as its group's limits say.
//
// Discards and zeroing count as writes of their length for requests, but not for bytes, since they
// carry none. Flushes pass.
#pragma once

#include <memory>

#include "block/filters/filter_node.h"
#include "block/filters/throttle/throttle_group.h"
#include "block/registry.h"
#include "block/sync.h"

namespace strata::block::throttle {

class ThrottleNode final : public FilterNode {
  public:
    ThrottleNode(NodePtr child, std::shared_ptr<ThrottleGroup> group);
    [[nodiscard]] std::string_view format() const override { return "throttle"; }
    Task<> read(std::uint64_t offset, Buffers into) override;
    Task<> write(std::uint64_t offset, Buffers from) override;
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override;
    Task<> discard(std::uint64_t offset, std::uint64_t length) override;
    Task<> write_compressed(std::uint64_t offset, Buffers from) override;
    [[nodiscard]] ThrottleGroup& group() { return *group_; }

  private:
    Task<> wait(bool writing, std::uint64_t bytes);
    const std::shared_ptr<ThrottleGroup> group_;
    AsyncMutex reads_, writes_;  ///< one request of each kind asks the group at a time
};

/// The group that `options` name ("throttle-group": one that exists) or make (limits, and "group",
/// a name for others to join).
Result<std::shared_ptr<ThrottleGroup>> take_group(NodeTree& options);
/// "throttle": child "file"; "throttle-group" (one that exists), or limits of its own
/// (Limits::take()), for the new group "group" if given.
const NodeDriver& driver();

}  // namespace strata::block::throttle
