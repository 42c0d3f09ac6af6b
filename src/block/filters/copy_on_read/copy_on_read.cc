// CopyOnReadNode: copying up.
#include "block/filters/copy_on_read/copy_on_read.h"

#include <algorithm>
#include <vector>

#include "base/log.h"

namespace strata::block::copy_on_read {
namespace {

constexpr std::uint64_t kDefaultCluster = 64U << 10;
constexpr std::uint64_t kMostAtOnce = 1U << 20;  ///< bytes copied with one buffer

Task<NodePtr> open(Loop& loop, NodeTree tree, OpenOptions options) {
    STRATA_CO_TRY(NodePtr child, co_await open_child(loop, tree, "file", options));
    (void)tree.take("bottom");
    STRATA_CO_TRY_VOID(tree.finish("format", "copy-on-read"));
    co_return NodePtr(std::make_shared<CopyOnReadNode>(std::move(child)));
}

constexpr NodeDriver kDriver{.name = "copy-on-read", .open = &open};

}  // namespace

const NodeDriver& driver() {
    return kDriver;
}

/// Clusters that nobody else copies or writes while it lives.
class [[nodiscard]] CopyOnReadNode::Hold {
  public:
    Hold(CopyOnReadNode& node, std::list<Stretch>::iterator place) : node_(node), place_(place) {}
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    ~Hold() {
        node_.held_.erase(place_);
        node_.released_.wake_all();
    }

  private:
    CopyOnReadNode& node_;
    std::list<Stretch>::iterator place_;
};

CopyOnReadNode::CopyOnReadNode(NodePtr child)
    : FilterNode(std::move(child)),
      cluster_(traits().cluster_size != 0 ? traits().cluster_size : kDefaultCluster),
      released_(loop()) {}

CopyOnReadNode::Stretch CopyOnReadNode::clusters_of(std::uint64_t offset,
                                                    std::uint64_t length) const {
    const std::uint64_t end = (offset + length + cluster_ - 1) / cluster_ * cluster_;
    return {offset / cluster_ * cluster_, std::min(end, std::max(size(), offset + length))};
}

Task<> CopyOnReadNode::acquire(Stretch clusters, std::list<Stretch>::iterator& place) {
    while (std::any_of(held_.begin(), held_.end(), [&](const Stretch& each) {
        return each.first < clusters.end && clusters.first < each.end;
    })) {
        co_await released_.wait();
    }
    place = held_.insert(held_.end(), clusters);
    co_return ok();
}

Task<bool> CopyOnReadNode::only_below(std::uint64_t offset, std::uint64_t& length) {
    STRATA_CO_TRY(const Extent own, co_await child().status(offset, length));
    length = own.length;
    if (own.kind != Extent::Kind::Unallocated || child().backing() == nullptr ||
        offset >= child().backing()->size()) {
        co_return false;
    }
    length = std::min(length, child().backing()->size() - offset);
    STRATA_CO_TRY(const Extent below,
                  co_await status_of_chain(*child().backing(), nullptr, offset, length));
    length = below.length;
    co_return below.kind == Extent::Kind::Data;
}

Task<> CopyOnReadNode::copy_up(std::uint64_t offset, std::uint64_t length) {
    std::list<Stretch>::iterator place;
    STRATA_CO_TRY_VOID(co_await acquire({offset, offset + length}, place));
    const Hold hold(*this, place);
    std::vector<std::byte> bytes;
    for (std::uint64_t at = offset; at < offset + length;) {
        std::uint64_t part = std::min(offset + length - at, std::max(kMostAtOnce, cluster_));
        STRATA_CO_TRY(const bool wanted, co_await only_below(at, part));
        if (wanted) {
            bytes.resize(part);
            STRATA_CO_TRY_VOID(co_await child().read(at, Buffers(std::span(bytes))));
            note(NodeEvent::CorWrite);
            Result<> written = co_await child().write(at, Buffers::of(bytes));
            if (!written.ok() && !std::exchange(told_, true)) {
                log::warn("what was read from a layer below cannot be kept disk='{}' reason='{}'",
                          name(), written.error().text());
            }
        }
        at += part;
    }
    co_return ok();
}

Task<> CopyOnReadNode::read(std::uint64_t offset, Buffers into) {
    STRATA_CO_TRY_VOID(check_range(offset, into.size(), false));
    if (!traits().read_only) {
        const std::uint64_t end = offset + into.size();
        for (std::uint64_t at = offset; at < end;) {
            std::uint64_t part = end - at;
            STRATA_CO_TRY(const bool wanted, co_await only_below(at, part));
            if (wanted) {
                const Stretch clusters = clusters_of(at, part);
                STRATA_CO_TRY_VOID(co_await copy_up(clusters.first, clusters.end - clusters.first));
            }
            at += part;
        }
    }
    co_return co_await child().read(offset, into);
}

Task<> CopyOnReadNode::write(std::uint64_t offset, Buffers from) {
    std::list<Stretch>::iterator place;
    STRATA_CO_TRY_VOID(co_await acquire(clusters_of(offset, from.size()), place));
    const Hold hold(*this, place);
    co_return co_await child().write(offset, from);
}

Task<> CopyOnReadNode::write_compressed(std::uint64_t offset, Buffers from) {
    std::list<Stretch>::iterator place;
    STRATA_CO_TRY_VOID(co_await acquire(clusters_of(offset, from.size()), place));
    const Hold hold(*this, place);
    co_return co_await child().write_compressed(offset, from);
}

Task<> CopyOnReadNode::write_zeroes(std::uint64_t offset, std::uint64_t length,
                                    ZeroOptions options) {
    std::list<Stretch>::iterator place;
    STRATA_CO_TRY_VOID(co_await acquire(clusters_of(offset, length), place));
    const Hold hold(*this, place);
    co_return co_await child().write_zeroes(offset, length, options);
}

Task<> CopyOnReadNode::discard(std::uint64_t offset, std::uint64_t length) {
    std::list<Stretch>::iterator place;
    STRATA_CO_TRY_VOID(co_await acquire(clusters_of(offset, length), place));
    const Hold hold(*this, place);
    co_return co_await child().discard(offset, length);
}

}  // namespace strata::block::copy_on_read
