// Connection: sending requests, taking replies apart.
#include "block/nbd/client/connection.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <iterator>

#include <fmt/format.h>

namespace strata::block::nbd {
namespace {

constexpr unsigned kMaxChunks = 1U << 20;
constexpr std::uint32_t kMaxStatusChunk = 1U << 20;
constexpr std::size_t kMaxPieces = 4096;

/// The server does not keep to the protocol: the connection is of no use any more.
Error malformed(std::string_view what) {
    return {ErrorKind::Unreachable, fmt::format("NBD server: {}", what), EPROTO};
}

std::string_view verb(CommandType type) {
    constexpr std::array<std::string_view, 8> kVerbs = {
        "read", "write", "disconnect", "flush", "discard", "cache", "zero", "block status"};
    const auto index = static_cast<std::size_t>(type);
    return index < kVerbs.size() ? kVerbs.at(index) : "request";
}

std::array<std::byte, sizeof(SimpleReply)> to_array(
    std::span<const std::byte, sizeof(SimpleReply)> bytes) {
    std::array<std::byte, sizeof(SimpleReply)> result{};
    std::ranges::copy(bytes, result.begin());
    return result;
}

}  // namespace

struct Connection::Wait {
    Pending& pending;
    [[nodiscard]] bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> self) const { pending.waiter = self; }
    void await_resume() const noexcept {}
};

Task<std::shared_ptr<Connection>> Connection::open(Loop& loop, Location location,
                                                   std::shared_ptr<const TlsCredentials> tls,
                                                   std::chrono::milliseconds limit) {
    STRATA_CO_TRY(auto stream, co_await Stream::connect(loop, location.address, limit));
    co_return co_await begin(std::move(stream), std::move(location), std::move(tls), limit);
}

Task<std::shared_ptr<Connection>> Connection::begin(std::unique_ptr<Stream> stream,
                                                    Location location,
                                                    std::shared_ptr<const TlsCredentials> tls,
                                                    std::chrono::milliseconds limit) {
    std::shared_ptr<Connection> made(new Connection(std::move(stream)));
    TimeLimit haggling(made->stream_->loop(), limit, [&made] { made->stream_->shut(); });
    auto agreement = co_await agree(*made->stream_, location, std::move(tls));
    STRATA_CO_TRY(const bool expired, co_await haggling.end());
    if (expired) {
        co_return Error{ErrorKind::Unreachable,
                        fmt::format("NBD server {}: no answer within {} s", location.address.text(),
                                    limit.count() / 1000),
                        ETIMEDOUT};
    }
    STRATA_CO_TRY(made->agreement_, std::move(agreement));
    co_return made;
}

Task<> Connection::send(const Command& command, std::uint64_t cookie) {
    const Request head{kRequestMagic, command.flags,  static_cast<std::uint16_t>(command.type),
                       cookie,        command.offset, command.length};
    const Buffers data = command.type == CommandType::Write ? command.buffers : Buffers();
    co_return co_await stream_->send(bytes_of(head), data, pending_.size() <= 1);
}

Task<> Connection::request(Command command, std::vector<StatusDescriptor>* status) {
    if (lost_) {
        co_return Error{ErrorKind::Unreachable,
                        fmt::format("NBD connection with {} is lost", stream_->peer()), ENOTCONN};
    }
    Pending pending{.command = command, .status = status};
    const std::uint64_t cookie = next_cookie_++;
    pending_.emplace(cookie, &pending);
    Result<> sent = co_await send(command, cookie);
    if (!sent.ok()) {
        stream_->shut();  // whoever receives learns of it
        if (!receiving_) {
            fail_all(sent.error());
        }
    }
    while (!pending.done) {
        if (receiving_) {
            co_await Wait{pending};
            continue;
        }
        receiving_ = true;
        Result<> received = co_await receive_one();
        receiving_ = false;
        if (!received.ok()) {
            fail_all(received.error());
        }
    }
    if (!receiving_) {
        const auto next = std::ranges::find_if(
            pending_, [](const auto& each) { return bool{each.second->waiter}; });
        if (next != pending_.end()) {
            wake(*next->second);  // to receive from now on
        }
    }
    co_return std::move(pending.result);
}

Task<> Connection::disconnect() {
    if (lost_) {
        co_return ok();
    }
    const Command command{.type = CommandType::Disconnect};
    (void)co_await send(command, next_cookie_++);  // a server that has gone misses nothing
    lost_ = true;
    stream_->shut();
    co_return ok();
}

void Connection::wake(Pending& pending) {
    if (pending.waiter) {
        stream_->loop().resume_later(std::exchange(pending.waiter, {}));
    }
}

void Connection::finish(std::uint64_t cookie, Pending& pending) {
    pending_.erase(cookie);
    pending.done = true;
    wake(pending);
}

void Connection::fail_all(const Error& error) {
    lost_ = true;
    stream_->shut();
    const Error lost{ErrorKind::Unreachable, error.text(), error.system_errno()};
    for (const auto& [cookie, pending] : pending_) {
        pending->result = lost;
        pending->done = true;
        wake(*pending);
    }
    pending_.clear();
}

// One simple reply or one chunk, whosever it is.
Task<> Connection::receive_one() {
    std::array<std::byte, sizeof(ChunkHeader)> bytes{};
    const auto start = std::span(bytes).first<sizeof(SimpleReply)>();
    if (!stream_->take(start)) {
        STRATA_CO_TRY_VOID(co_await stream_->read(Buffers(start)));
    }
    const auto simple = std::bit_cast<SimpleReply>(to_array(start));
    const bool structured = simple.magic == kStructuredReplyMagic && agreement_.structured;
    if (!structured && simple.magic != kSimpleReplyMagic) {
        co_return malformed(
            fmt::format("what it sends is no reply (magic {:#x})", simple.magic.value()));
    }
    const std::uint64_t cookie = simple.cookie;  // at the same place in both
    const auto found = pending_.find(cookie);
    if (found == pending_.end()) {
        co_return malformed("it answers what was not asked");
    }
    Pending& pending = *found->second;
    if (!structured) {
        STRATA_CO_TRY_VOID(co_await simple_reply(simple, pending));
        finish(cookie, pending);
        co_return ok();
    }
    const auto rest = std::span(bytes).subspan(sizeof(SimpleReply));
    if (!stream_->take(rest)) {
        STRATA_CO_TRY_VOID(co_await stream_->read(Buffers(rest)));
    }
    const auto header = std::bit_cast<ChunkHeader>(bytes);
    STRATA_CO_TRY_VOID(co_await chunk(header, pending));
    if ((header.flags & kChunkDone) == 0) {
        co_return ++pending.chunks > kMaxChunks
            ? Result<>(malformed("it answers in pieces without end"))
            : ok();
    }
    const bool whole =
        pending.command.type != CommandType::Read || pending.received == pending.command.length;
    const bool told = pending.command.type != CommandType::BlockStatus ||
                      pending.status == nullptr || !pending.status->empty();
    if (pending.result.ok() && (!whole || !told)) {
        co_return malformed("it answers less than it was asked");
    }
    finish(cookie, pending);
    co_return ok();
}

Task<> Connection::simple_reply(const SimpleReply& reply, Pending& pending) {
    const CommandType type = pending.command.type;
    if (agreement_.structured &&
        (type == CommandType::Read || (type == CommandType::BlockStatus && reply.error == 0))) {
        co_return malformed("a simple reply where a structured one belongs");
    }
    if (reply.error != 0) {
        pending.result =
            Error::from_errno(fmt::format("NBD {} of {} bytes at {}", verb(type),
                                          pending.command.length, pending.command.offset),
                              system_error(reply.error));
        co_return ok();
    }
    if (type == CommandType::Read) {
        co_return co_await stream_->read(pending.command.buffers);
    }
    co_return ok();
}

Task<> Connection::chunk(const ChunkHeader& header, Pending& pending) {
    const std::uint32_t length = header.length;
    const std::uint16_t type = header.type;
    switch (static_cast<ChunkType>(type)) {
        case ChunkType::None:
            if (length != 0 || (header.flags & kChunkDone) == 0) {
                co_return malformed("an empty chunk that is not empty, or not the last");
            }
            if (pending.command.type == CommandType::BlockStatus && pending.result.ok()) {
                co_return malformed("it does not answer about block status");
            }
            co_return ok();
        case ChunkType::OffsetData:
            co_return co_await data_chunk(length, pending);
        case ChunkType::OffsetHole:
            co_return co_await hole_chunk(length, pending);
        case ChunkType::BlockStatus:
            co_return co_await status_chunk(length, pending);
        default:
            break;
    }
    if ((type & (1U << 15)) == 0) {
        co_return malformed(fmt::format("a chunk of unknown type {}", type));
    }
    co_return co_await error_chunk(length, pending);
}

// Each byte comes once: one that came twice would stand for another that never did.
Result<> Connection::cover(Pending& pending, std::uint64_t from, std::uint64_t bytes) {
    std::uint64_t end = from + bytes;
    auto& pieces = pending.pieces;
    auto next = pieces.lower_bound(from);
    if ((next != pieces.end() && next->first < end) ||
        (next != pieces.begin() && std::prev(next)->second > from)) {
        return malformed("the same data twice");
    }
    if (next != pieces.end() && next->first == end) {
        end = next->second;
        next = pieces.erase(next);
    }
    if (next != pieces.begin() && std::prev(next)->second == from) {
        std::prev(next)->second = end;
    } else {
        pieces.emplace_hint(next, from, end);
    }
    pending.received += bytes;
    return pieces.size() > kMaxPieces ? Result<>(malformed("it scatters its answer")) : ok();
}

Task<> Connection::data_chunk(std::uint32_t length, Pending& pending) {
    const Command& command = pending.command;
    Be64 offset;
    if (command.type != CommandType::Read || length <= sizeof(offset)) {
        co_return malformed("data that nobody asked for");
    }
    STRATA_CO_TRY_VOID(
        co_await stream_->read(Buffers(std::as_writable_bytes(std::span(&offset, 1)))));
    const std::uint64_t from = offset.value() - command.offset, bytes = length - sizeof(offset);
    if (offset.value() < command.offset || from > command.length || bytes > command.length - from) {
        co_return malformed("data of another place than it was asked for");
    }
    STRATA_CO_TRY_VOID(cover(pending, from, bytes));
    co_return co_await stream_->read(command.buffers.slice(from, bytes));
}

Task<> Connection::hole_chunk(std::uint32_t length, Pending& pending) {
    const Command& command = pending.command;
    struct Hole {
        Be64 offset;
        Be32 length;
    } hole{};
    if (command.type != CommandType::Read || length != sizeof(hole)) {
        co_return malformed("a hole that nobody asked for");
    }
    STRATA_CO_TRY_VOID(
        co_await stream_->read(Buffers(std::as_writable_bytes(std::span(&hole, 1)))));
    const std::uint64_t from = hole.offset.value() - command.offset;
    if (hole.offset.value() < command.offset || from > command.length ||
        hole.length > command.length - from || hole.length == 0) {
        co_return malformed("a hole of another place than it was asked for");
    }
    STRATA_CO_TRY_VOID(cover(pending, from, hole.length));
    command.buffers.slice(from, hole.length).fill(std::byte{0});
    co_return ok();
}

Task<> Connection::status_chunk(std::uint32_t length, Pending& pending) {
    const Command& command = pending.command;
    Be32 id;
    if (command.type != CommandType::BlockStatus || pending.status == nullptr ||
        length < sizeof(id) + sizeof(StatusDescriptor) || length > kMaxStatusChunk ||
        (length - sizeof(id)) % sizeof(StatusDescriptor) != 0) {
        co_return malformed("block status that nobody asked for, or without end");
    }
    STRATA_CO_TRY_VOID(co_await stream_->read(Buffers(std::as_writable_bytes(std::span(&id, 1)))));
    std::vector<StatusDescriptor> all((length - sizeof(id)) / sizeof(StatusDescriptor));
    STRATA_CO_TRY_VOID(co_await stream_->read(Buffers(std::as_writable_bytes(std::span(all)))));
    if (!agreement_.context || id.value() != *agreement_.context) {
        co_return ok();
    }
    if (!pending.status->empty() ||
        std::ranges::any_of(all, [](const StatusDescriptor& each) { return each.length == 0; })) {
        co_return malformed("block status twice, or of nothing");
    }
    *pending.status = std::move(all);
    co_return ok();
}

Task<> Connection::error_chunk(std::uint32_t length, Pending& pending) {
    struct ErrorHead {
        Be32 error;
        Be16 length;
    } head{};
    if (length < sizeof(head) || length > kMaxString + sizeof(head) + sizeof(Be64)) {
        co_return malformed("an error of a strange length");
    }
    STRATA_CO_TRY_VOID(
        co_await stream_->read(Buffers(std::as_writable_bytes(std::span(&head, 1)))));
    STRATA_CO_TRY_VOID(
        co_await stream_->skip(length - sizeof(head)));  // words for people, and a place
    if (head.error == 0 || head.length > length - sizeof(head)) {
        co_return malformed("an error without an error");
    }
    if (pending.result.ok()) {
        pending.result =
            Error::from_errno(fmt::format("NBD {} of {} bytes at {}", verb(pending.command.type),
                                          pending.command.length, pending.command.offset),
                              system_error(head.error));
    }
    co_return ok();
}

}  // namespace strata::block::nbd
