// NullNode: latency, and nothing. As every protocol node it takes ranges beyond its end.
#include "block/protocols/null/null_node.h"

#include <cerrno>

#include <fmt/format.h>

namespace strata::block::null {
namespace {

constexpr std::uint64_t kMaxLatency = 3'600'000'000'000;
constexpr std::uint64_t kMaxSize = 1ULL << 62;

Task<NodePtr> open_as(Loop& loop, std::string_view name, NodeTree tree, const OpenOptions& common) {
    Options options;
    (void)tree.take("filename");  // "null-co://"
    STRATA_CO_TRY(options.size, tree.take_size("size", options.size));
    STRATA_CO_TRY(const std::uint64_t latency, tree.take_number("latency-ns", 0));
    STRATA_CO_TRY(options.read_zeroes, tree.take_flag("read-zeroes", false));
    STRATA_CO_TRY_VOID(tree.finish("protocol", name));
    if (latency > kMaxLatency || options.size > kMaxSize) {
        co_return Error{ErrorKind::InvalidArgument,
                        latency > kMaxLatency ? "latency-ns is invalid" : "size is invalid",
                        EINVAL};
    }
    options.latency = std::chrono::nanoseconds(latency);
    co_return NodePtr(std::make_shared<NullNode>(loop, name, options, common.read_only));
}

Task<NodePtr> open(Loop& loop, NodeTree tree, OpenOptions options) {
    co_return co_await open_as(loop, "null-co", std::move(tree), options);
}
Task<NodePtr> open_aio(Loop& loop, NodeTree tree, OpenOptions options) {
    co_return co_await open_as(loop, "null-aio", std::move(tree), options);
}

constexpr NodeDriver kDriver{.name = "null-co", .open = &open};
constexpr NodeDriver kAioDriver{.name = "null-aio", .open = &open_aio};

}  // namespace

const NodeDriver& driver() {
    return kDriver;
}
const NodeDriver& aio_driver() {
    return kAioDriver;
}

NullNode::NullNode(Loop& loop, std::string_view driver, Options options, bool read_only)
    : Node(loop, fmt::format("{}://", driver)), driver_(driver), options_(options) {
    traits_.read_only = read_only;
    traits_.fast_zeroes = true;
    traits_.zero_initialised = options_.read_zeroes;
    traits_.sparse = options_.read_zeroes;
    traits_.discard = true;
}

Task<> NullNode::delay() {
    if (options_.latency.count() != 0) {
        co_await loop().sleep(options_.latency);
    }
    co_return ok();
}

Task<> NullNode::read(std::uint64_t /*offset*/, Buffers into) {
    into.fill(std::byte{0});
    co_return co_await delay();
}

Task<> NullNode::write(std::uint64_t /*offset*/, Buffers /*from*/) {
    STRATA_CO_TRY_VOID(check_range(0, 0, true));
    co_return co_await delay();
}

Task<> NullNode::write_zeroes(std::uint64_t /*offset*/, std::uint64_t /*length*/,
                              ZeroOptions /*options*/) {
    STRATA_CO_TRY_VOID(check_range(0, 0, true));
    co_return co_await delay();
}

Task<> NullNode::discard(std::uint64_t /*offset*/, std::uint64_t /*length*/) {
    STRATA_CO_TRY_VOID(check_range(0, 0, true));
    co_return co_await delay();
}

Task<> NullNode::flush() {
    co_return co_await delay();
}

Task<Extent> NullNode::status(std::uint64_t offset, std::uint64_t length) {
    co_return Extent{.kind = options_.read_zeroes ? Extent::Kind::Zero : Extent::Kind::Data,
                     .length = length,
                     .has_offset = true,
                     .offset = offset,
                     .owner = this,
                     .file = this};
}

}  // namespace strata::block::null
