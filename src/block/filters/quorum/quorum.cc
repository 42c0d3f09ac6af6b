// QuorumNode: voting.
#include "block/filters/quorum/quorum.h"

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

namespace strata::block::quorum {
namespace {

constexpr std::size_t kMostCopies = 32;

Task<NodePtr> open(Loop& loop, NodeTree tree, OpenOptions options) {
    STRATA_CO_TRY(const std::uint64_t threshold, tree.take_number("vote-threshold", 0));
    const std::string pattern = tree.take("read-pattern").value_or("quorum");
    std::vector<NodePtr> copies;
    while (tree.has(fmt::format("children.{}", copies.size())) && copies.size() < kMostCopies) {
        STRATA_CO_TRY(
            NodePtr copy,
            co_await open_child(loop, tree, fmt::format("children.{}", copies.size()), options));
        copies.push_back(std::move(copy));
    }
    STRATA_CO_TRY_VOID(tree.finish("format", "quorum"));
    const bool fifo = pattern == "fifo";
    if (copies.empty() || (!fifo && pattern != "quorum")) {
        co_return Error{ErrorKind::InvalidArgument,
                        copies.empty() ? "Number of provided children must be 1 or more"
                                       : "Please set read-pattern as fifo or quorum",
                        EINVAL};
    }
    if (!fifo && (threshold == 0 || threshold > copies.size())) {
        co_return Error{ErrorKind::InvalidArgument,
                        fmt::format("vote-threshold={}: from 1 to the number of children, {}",
                                    threshold, copies.size()),
                        EINVAL};
    }
    const std::uint64_t size = copies.front()->size();
    if (std::any_of(copies.begin(), copies.end(),
                    [&](const NodePtr& each) { return each->size() != size; })) {
        co_return Error{ErrorKind::InvalidArgument, "the copies of a quorum have different sizes",
                        EINVAL};
    }
    co_return NodePtr(std::make_shared<QuorumNode>(std::move(copies), fifo ? 1 : threshold, fifo));
}

constexpr NodeDriver kDriver{.name = "quorum", .open = &open};

}  // namespace

const NodeDriver& driver() {
    return kDriver;
}

QuorumNode::QuorumNode(std::vector<NodePtr> copies, std::size_t threshold, bool first_answer)
    : Node(copies.front()->loop(), ""),
      copies_(std::move(copies)),
      threshold_(threshold),
      first_answer_(first_answer) {
    traits_.zero_initialised = true;
    traits_.fast_zeroes = true;
    for (const NodePtr& each : copies_) {
        traits_.read_only = traits_.read_only || each->traits().read_only;
        traits_.request_alignment =
            std::max(traits_.request_alignment, each->traits().request_alignment);
        traits_.memory_alignment =
            std::max(traits_.memory_alignment, each->traits().memory_alignment);
        traits_.zero_initialised = traits_.zero_initialised && each->traits().zero_initialised;
        traits_.fast_zeroes = traits_.fast_zeroes && each->traits().fast_zeroes;
    }
}

std::vector<Node*> QuorumNode::children() const {
    std::vector<Node*> all;
    std::transform(copies_.begin(), copies_.end(), std::back_inserter(all),
                   [](const NodePtr& each) { return each.get(); });
    return all;
}

Result<> QuorumNode::voted(std::size_t good, const Result<>& last, std::string_view what) const {
    if (good >= threshold_) {
        return ok();
    }
    if (!last.ok() && good == 0) {
        return last;
    }
    return Error{ErrorKind::Failed,
                 fmt::format("quorum: only {} of {} copies agree on {}, {} must", good,
                             copies_.size(), what, threshold_),
                 EIO};
}

Task<> QuorumNode::read_first(std::uint64_t offset, Buffers into) {
    Result<> last = ok();
    for (const NodePtr& each : copies_) {
        last = co_await each->read(offset, into);
        if (last.ok()) {
            break;
        }
    }
    co_return last;
}

Task<> QuorumNode::read(std::uint64_t offset, Buffers into) {
    if (first_answer_ || copies_.size() == 1) {
        co_return co_await read_first(offset, into);
    }
    std::vector<std::vector<std::byte>> answers;
    Result<> last = ok();
    for (const NodePtr& each : copies_) {
        std::vector<std::byte> bytes(into.size());
        Result<> done = co_await each->read(offset, Buffers(std::span(bytes)));
        if (done.ok()) {
            answers.push_back(std::move(bytes));
        } else {
            last = std::move(done);
        }
    }
    std::size_t most = 0;
    for (const auto& each : answers) {
        const auto votes =
            static_cast<std::size_t>(std::count(answers.begin(), answers.end(), each));
        if (votes > most) {
            most = votes;
            into.copy_from(each);
        }
    }
    co_return voted(most, last, fmt::format("{} bytes at {}", into.size(), offset));
}

Task<> QuorumNode::write(std::uint64_t offset, Buffers from) {
    std::size_t good = 0;
    Result<> last = ok();
    for (const NodePtr& each : copies_) {
        Result<> done = co_await each->write(offset, from);
        good += done.ok() ? 1 : 0;
        last = done.ok() ? std::move(last) : std::move(done);
    }
    co_return voted(good, last, "a write");
}

Task<> QuorumNode::write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) {
    std::size_t good = 0;
    Result<> last = ok();
    for (const NodePtr& each : copies_) {
        Result<> done = co_await each->write_zeroes(offset, length, options);
        good += done.ok() ? 1 : 0;
        last = done.ok() ? std::move(last) : std::move(done);
    }
    co_return voted(good, last, "zeroing");
}

Task<> QuorumNode::discard(std::uint64_t /*offset*/, std::uint64_t /*length*/) {
    co_return ok();
}  // copies may keep different things there

Task<> QuorumNode::flush() {
    std::size_t good = 0;
    Result<> last = ok();
    for (const NodePtr& each : copies_) {
        Result<> done = co_await each->flush();
        good += done.ok() ? 1 : 0;
        last = done.ok() ? std::move(last) : std::move(done);
    }
    co_return voted(good, last, "a flush");
}

Task<Extent> QuorumNode::status(std::uint64_t /*offset*/, std::uint64_t length) {
    co_return Extent{.kind = Extent::Kind::Data, .length = length, .owner = this};
}

Task<> QuorumNode::close() {
    for (const NodePtr& each : copies_) {
        STRATA_CO_TRY_VOID(co_await each->close());
    }
    co_return ok();
}

}  // namespace strata::block::quorum
