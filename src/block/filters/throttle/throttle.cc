// ThrottleNode: waiting.
#include "block/filters/throttle/throttle.h"

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

namespace strata::block::throttle {
namespace {

/// How long one sleeps before looking whether the limits have changed.
constexpr std::chrono::milliseconds kNap{100};

Task<NodePtr> open(Loop& loop, NodeTree tree, OpenOptions options) {
    STRATA_CO_TRY(auto group, take_group(tree));
    STRATA_CO_TRY(NodePtr child, co_await open_child(loop, tree, "file", options));
    STRATA_CO_TRY_VOID(tree.finish("format", "throttle"));
    co_return NodePtr(std::make_shared<ThrottleNode>(std::move(child), std::move(group)));
}

constexpr NodeDriver kDriver{.name = "throttle", .open = &open};

}  // namespace

const NodeDriver& driver() {
    return kDriver;
}

Result<std::shared_ptr<ThrottleGroup>> take_group(NodeTree& tree) {
    if (const auto name = tree.take("throttle-group")) {
        auto group = ThrottleGroup::find(*name);
        return group != nullptr
                   ? Result<std::shared_ptr<ThrottleGroup>>(std::move(group))
                   : Error{ErrorKind::NotFound,
                           fmt::format("Throttle group '{}' does not exist", *name), EINVAL};
    }
    const auto name = tree.take("group");
    const Limits limits = STRATA_TRY(Limits::take(tree));
    if (!name) {
        return std::make_shared<ThrottleGroup>(limits);
    }
    auto group = ThrottleGroup::find(*name);
    if (group != nullptr && limits.any()) {
        return Error{
            ErrorKind::AlreadyExists,
            fmt::format(
                "throttle group '{}' has its limits from another disk: name the group alone",
                *name),
            EINVAL};
    }
    return group != nullptr ? Result<std::shared_ptr<ThrottleGroup>>(std::move(group))
                            : ThrottleGroup::make(*name, limits);
}

ThrottleNode::ThrottleNode(NodePtr child, std::shared_ptr<ThrottleGroup> group)
    : FilterNode(std::move(child)), group_(std::move(group)), reads_(loop()), writes_(loop()) {}

Task<> ThrottleNode::wait(bool writing, std::uint64_t bytes) {
    const auto turn = co_await (writing ? writes_ : reads_).lock();
    const std::uint64_t generation = group_->generation();
    const auto until = group_->admit(writing, bytes, ThrottleGroup::Clock::now());
    while (ThrottleGroup::Clock::now() < until && group_->generation() == generation) {
        co_await loop().sleep_until(
            std::min<ThrottleGroup::Clock::time_point>(until, ThrottleGroup::Clock::now() + kNap));
    }
    co_return ok();
}

Task<> ThrottleNode::read(std::uint64_t offset, Buffers into) {
    STRATA_CO_TRY_VOID(co_await wait(false, into.size()));
    co_return co_await child().read(offset, into);
}

Task<> ThrottleNode::write(std::uint64_t offset, Buffers from) {
    STRATA_CO_TRY_VOID(co_await wait(true, from.size()));
    co_return co_await child().write(offset, from);
}

Task<> ThrottleNode::write_compressed(std::uint64_t offset, Buffers from) {
    STRATA_CO_TRY_VOID(co_await wait(true, from.size()));
    co_return co_await child().write_compressed(offset, from);
}

Task<> ThrottleNode::write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) {
    STRATA_CO_TRY_VOID(co_await wait(true, 0));
    co_return co_await child().write_zeroes(offset, length, options);
}

Task<> ThrottleNode::discard(std::uint64_t offset, std::uint64_t length) {
    STRATA_CO_TRY_VOID(co_await wait(true, 0));
    co_return co_await child().discard(offset, length);
}

}  // namespace strata::block::throttle
