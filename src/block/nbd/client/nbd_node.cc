// NbdNode: requests, connections that come and go.
#include "block/nbd/client/nbd_node.h"

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "block/aligned_buffer.h"

namespace strata::block::nbd {
namespace {

constexpr std::chrono::milliseconds kConnectLimit{30000};
constexpr std::chrono::milliseconds kFirstPause{50}, kLongestPause{1000};
constexpr std::chrono::milliseconds kStatusAge{1000};
constexpr std::uint64_t kMaxRange = UINT32_MAX;     ///< of requests without data
constexpr std::uint64_t kStatusAhead = 1ULL << 30;  ///< asked about beyond the range in question
constexpr std::size_t kZeroes = 1U << 20;

}  // namespace

NbdNode::NbdNode(Loop& loop, Location location, std::shared_ptr<const TlsCredentials> tls,
                 std::shared_ptr<Connector> connector, bool read_only)
    : Node(loop, location_uri(location)),
      location_(std::move(location)),
      tls_(std::move(tls)),
      connector_(std::move(connector)),
      connecting_(loop),
      blocks_(loop) {
    traits_.read_only = read_only;
}

Task<NodePtr> NbdNode::open(Loop& loop, Location location, bool read_only,
                            std::shared_ptr<Connector> connector) {
    STRATA_CO_TRY(auto tls, client_credentials(location));
    std::shared_ptr<NbdNode> node(
        new NbdNode(loop, std::move(location), std::move(tls), std::move(connector), read_only));
    STRATA_CO_TRY_VOID(co_await node->first_connection());
    if (!read_only && (node->info_.flags & kReadOnly) != 0) {
        (void)co_await node->close();  // the other error is told
        co_return Error{ErrorKind::PermissionDenied,
                        "request on write denied without write permission: the export is read-only",
                        EACCES};
    }
    co_return NodePtr(std::move(node));
}

Task<std::shared_ptr<Connection>> NbdNode::make_connection() {
    if (connector_ == nullptr) {
        co_return co_await Connection::open(loop(), location_, tls_, kConnectLimit);
    }
    STRATA_CO_TRY(UniqueFd socket, co_await connector_->connect(loop(), kConnectLimit));
    STRATA_CO_TRY(auto stream, Stream::adopt(loop(), std::move(socket), location_.address.text()));
    co_return co_await Connection::begin(std::move(stream), location_, tls_, kConnectLimit);
}

Task<> NbdNode::first_connection() {
    const auto deadline = Loop::Clock::now() + location_.open_timeout;
    auto pause = kFirstPause;
    for (;;) {
        auto made = co_await make_connection();
        if (made.ok()) {
            connection_ = std::move(*made);
            learn(connection_->agreement());
            co_return ok();
        }
        if (made.error().kind() != ErrorKind::Unreachable ||
            Loop::Clock::now() + pause > deadline) {
            co_return std::move(made).error();
        }
        co_await loop().sleep(pause);
        pause = std::min(pause * 2, kLongestPause);
    }
}

void NbdNode::learn(const Agreement& agreement) {
    info_ = agreement.info;
    status_known_ = agreement.context.has_value();
    traits_.request_alignment = info_.minimum_block;
    traits_.discard_alignment = info_.minimum_block;
    traits_.discard = has(kSendTrim);
    traits_.fast_zeroes = has(kSendWriteZeroes);
    traits_.sparse = status_known_;
}

Result<> NbdNode::same_disk(const Agreement& agreement) const {
    const std::uint16_t needed = info_.flags & (kSendFlush | kSendTrim | kSendWriteZeroes);
    const bool less = (needed & ~agreement.info.flags) != 0 ||
                      (!traits_.read_only && (agreement.info.flags & kReadOnly) != 0);
    if (agreement.info.size != info_.size || less ||
        agreement.info.minimum_block > info_.minimum_block ||
        agreement.info.maximum_block < info_.maximum_block ||
        agreement.context.has_value() < status_known_) {
        return Error{ErrorKind::Failed,
                     "the server that answers now has another disk, or allows less", EIO};
    }
    return ok();
}

Task<std::shared_ptr<Connection>> NbdNode::connected() {
    const auto lock = co_await connecting_.lock();
    if (connection_ != nullptr && !connection_->lost()) {
        co_return connection_;
    }
    if (closed_) {
        co_return Error{ErrorKind::WrongState, "the node is closed", EBADF};
    }
    if (!losing_) {
        losing_ = true;
        lost_at_ = Loop::Clock::now();
        next_try_ = {};
    }
    co_return co_await reconnect();
}

// Under the lock of connecting_.
Task<std::shared_ptr<Connection>> NbdNode::reconnect() {
    const auto deadline = lost_at_ + location_.reconnect_delay;
    auto pause = kFirstPause;
    for (;;) {
        if (Loop::Clock::now() < next_try_ && Loop::Clock::now() > deadline) {
            co_return Error{ErrorKind::Unreachable, "the server does not answer", EIO};
        }
        auto made = co_await make_connection();
        if (made.ok()) {
            STRATA_CO_TRY_VOID(same_disk((*made)->agreement()));
            connection_ = std::move(*made);
            losing_ = false;
            co_return connection_;
        }
        next_try_ = Loop::Clock::now() + kLongestPause;
        closed_ = closed_ || made.error().kind() == ErrorKind::WrongState;  // no connector any more
        if (closed_ || Loop::Clock::now() + pause > deadline) {
            co_return Error{ErrorKind::Unreachable, made.error().text(), EIO};
        }
        co_await loop().sleep(pause);
        pause = std::min(pause * 2, kLongestPause);
    }
}

Error NbdNode::about(Error error) const {
    return std::move(error).context(fmt::format("'{}'", name()));
}

Task<> NbdNode::call(Connection::Command command, std::vector<StatusDescriptor>* status) {
    for (;;) {
        std::shared_ptr<Connection> connection = connection_;
        if (connection == nullptr || connection->lost()) {
            auto found = co_await connected();
            if (!found.ok()) {
                co_return about(std::move(found).error());
            }
            connection = std::move(*found);
        }
        Result<> done = co_await connection->request(command, status);
        if (done.ok()) {
            co_return ok();
        }
        const bool again = done.error().kind() == ErrorKind::Unreachable && connection->lost() &&
                           location_.reconnect_delay.count() != 0;
        if (!again) {
            const int number =
                done.error().kind() == ErrorKind::Unreachable ? EIO : done.error().system_errno();
            co_return about(Error{done.error().kind(), done.error().text(), number});
        }
        if (status != nullptr) {
            status->clear();
        }
    }
}

Task<> NbdNode::over_range(CommandType type, std::uint16_t flags, std::uint64_t offset,
                           std::uint64_t length, std::uint64_t limit) {
    while (length != 0) {
        const auto part = static_cast<std::uint32_t>(std::min(length, limit));
        Connection::Command command{.type = type, .flags = flags, .offset = offset, .length = part};
        STRATA_CO_TRY_VOID(co_await call(command));
        offset += part;
        length -= part;
    }
    co_return ok();
}

Task<> NbdNode::transfer(CommandType type, std::uint64_t offset, Buffers buffers) {
    const std::size_t limit = info_.maximum_block;
    for (std::size_t done = 0; done < buffers.size();) {
        const std::size_t part = std::min(buffers.size() - done, limit);
        Connection::Command command{.type = type,
                                    .offset = offset + done,
                                    .length = static_cast<std::uint32_t>(part),
                                    .buffers = buffers.slice(done, part)};
        STRATA_CO_TRY_VOID(co_await call(command));
        done += part;
    }
    co_return ok();
}

bool NbdNode::aligned(std::uint64_t offset, std::uint64_t length) const {
    return (offset | length) % info_.minimum_block == 0;
}

// As a protocol node: what lies past the end reads as zeros.
Task<> NbdNode::read(std::uint64_t offset, Buffers into) {
    const std::uint64_t there =
        offset >= size() ? 0 : std::min<std::uint64_t>(into.size(), size() - offset);
    into.from(there).fill(std::byte{0});
    const Buffers part = into.slice(0, there);
    if (aligned(offset, there)) {
        co_return co_await transfer(CommandType::Read, offset, part);
    }
    co_return co_await read_in_blocks(offset, part);
}

Task<> NbdNode::read_in_blocks(std::uint64_t offset, Buffers into) {
    const std::uint64_t unit = info_.minimum_block, start = offset / unit * unit;
    const std::uint64_t end = std::min((offset + into.size() + unit - 1) / unit * unit, size());
    const AlignedBuffer whole(end - start);
    STRATA_CO_TRY_VOID(co_await transfer(CommandType::Read, start, whole.view()));
    into.copy_from(whole.bytes().subspan(offset - start, into.size()));
    co_return ok();
}

Task<> NbdNode::write(std::uint64_t offset, Buffers from) {
    STRATA_CO_TRY_VOID(check_range(offset, from.size(), true));
    ++writes_;
    extents_to_ = extents_from_;
    if (info_.minimum_block == 1) {
        co_return co_await transfer(CommandType::Write, offset, from);
    }
    if (aligned(offset, from.size())) {
        STRATA_CO_TRY(const Gate::Pass pass, co_await blocks_.shared());
        co_return co_await transfer(CommandType::Write, offset, from);
    }
    STRATA_CO_TRY(const Gate::Pass pass, co_await blocks_.exclusive());
    co_return co_await write_in_blocks(offset, from);
}

Task<> NbdNode::write_in_blocks(std::uint64_t offset, Buffers from) {
    const std::uint64_t unit = info_.minimum_block, start = offset / unit * unit;
    const std::uint64_t end = std::min((offset + from.size() + unit - 1) / unit * unit, size());
    const AlignedBuffer whole(end - start);
    STRATA_CO_TRY_VOID(co_await transfer(CommandType::Read, start, whole.view()));
    from.copy_to(whole.bytes().subspan(offset - start, from.size()));
    co_return co_await transfer(CommandType::Write, start, whole.view());
}

Task<> NbdNode::write_out_zeroes(std::uint64_t offset, std::uint64_t length) {
    const AlignedBuffer zeroes(std::min<std::uint64_t>(length, kZeroes));
    zeroes.view().fill(std::byte{0});
    while (length != 0) {
        const std::size_t part = std::min<std::uint64_t>(length, zeroes.size());
        STRATA_CO_TRY_VOID(co_await write(offset, zeroes.view().slice(0, part)));
        offset += part;
        length -= part;
    }
    co_return ok();
}

Task<> NbdNode::write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) {
    STRATA_CO_TRY_VOID(check_range(offset, length, true));
    ++writes_;
    extents_to_ = extents_from_;
    const bool offered = has(kSendWriteZeroes) && aligned(offset, length);
    if (options.no_fallback && (!offered || !has(kSendFastZero))) {
        co_return lacks("a quick way to write zeros");
    }
    if (!offered) {
        co_return co_await write_out_zeroes(offset, length);
    }
    const unsigned flags =
        (options.may_unmap ? 0 : kNoHole) | (options.no_fallback ? kFastZero : 0);
    STRATA_CO_TRY(const Gate::Pass pass, co_await blocks_.shared());
    co_return co_await over_range(CommandType::WriteZeroes, static_cast<std::uint16_t>(flags),
                                  offset, length,
                                  kMaxRange / info_.minimum_block * info_.minimum_block);
}

Task<> NbdNode::discard(std::uint64_t offset, std::uint64_t length) {
    STRATA_CO_TRY_VOID(check_range(offset, length, true));
    ++writes_;
    extents_to_ = extents_from_;
    const std::uint64_t unit = info_.minimum_block, start = (offset + unit - 1) / unit * unit,
                        end = (offset + length) / unit * unit;
    if (!has(kSendTrim) || end <= start) {
        co_return ok();
    }
    co_return co_await over_range(CommandType::Trim, 0, start, end - start,
                                  kMaxRange / unit * unit);
}

Task<> NbdNode::flush() {
    if (!has(kSendFlush) || traits_.read_only) {
        co_return ok();
    }
    const Connection::Command command{.type = CommandType::Flush};
    co_return co_await call(command);
}

Extent NbdNode::known_extent(std::uint64_t offset, std::uint64_t length) const {
    Extent extent{.kind = Extent::Kind::Data,
                  .length = length,
                  .has_offset = true,
                  .offset = offset,
                  .owner = this,
                  .file = this};
    std::uint64_t at = extents_from_;
    for (const StatusDescriptor& each : extents_) {
        at += each.length;
        if (offset < at) {
            extent.length = std::min(length, at - offset);
            extent.kind = (each.flags & kStateZero) != 0 ? Extent::Kind::Zero : Extent::Kind::Data;
            if (!location_.context.empty()) {
                extent.context = static_cast<int>(location_.context == kDepthContext
                                                      ? std::min(each.flags.value(), 2U)
                                                      : each.flags.value() & 3);
            }
            break;
        }
    }
    return extent;
}

Task<Extent> NbdNode::status(std::uint64_t offset, std::uint64_t length) {
    Extent plain{.kind = Extent::Kind::Data,
                 .length = length,
                 .has_offset = true,
                 .offset = offset,
                 .owner = this,
                 .file = this};
    if (offset >= size()) {
        plain.kind = Extent::Kind::Zero;
        co_return plain;
    }
    plain.length = std::min(length, size() - offset);
    if (!status_known_) {
        co_return plain;
    }
    if (offset < extents_from_ || offset >= extents_to_ || Loop::Clock::now() > extents_until_) {
        const std::uint64_t unit = info_.minimum_block, start = offset / unit * unit;
        const std::uint64_t wanted =
            std::min(std::max(length, kStatusAhead) + unit, size() - start);
        std::vector<StatusDescriptor> found;
        Connection::Command command{
            .type = CommandType::BlockStatus,
            .offset = start,
            .length = static_cast<std::uint32_t>(std::min(wanted, kMaxRange / unit * unit))};
        const std::uint64_t before = writes_;
        STRATA_CO_TRY_VOID(co_await call(command, &found));
        extents_ = std::move(found);
        extents_from_ = extents_to_ = start;
        for (const StatusDescriptor& each : extents_) {
            extents_to_ += each.length;
        }
        extents_until_ = Loop::Clock::now() + kStatusAge;
        const Extent extent = known_extent(offset, plain.length);
        if (before != writes_) {
            extents_to_ = extents_from_;
        }
        co_return extent;
    }
    co_return known_extent(offset, plain.length);
}

Task<> NbdNode::close() {
    closed_ = true;
    if (connection_ != nullptr) {
        STRATA_CO_TRY_VOID(co_await connection_->disconnect());
        connection_ = nullptr;
    }
    co_return ok();
}

Task<> NbdNode::resize(std::uint64_t size, Preallocation /*preallocation*/) {
    if (size != info_.size) {
        co_return Error{ErrorKind::NotSupported, "Cannot resize NBD nodes", ENOTSUP};
    }
    co_return ok();
}

Task<std::uint64_t> NbdNode::allocated_bytes() {
    co_return lacks("a known size on the disk");
}

}  // namespace strata::block::nbd
