// Session: requests, from the socket to the node and back.
#include <algorithm>
#include <cerrno>
#include <limits>

#include <fmt/format.h>

#include "block/nbd/server/session.h"

namespace strata::block::nbd {
namespace {

constexpr unsigned kMaxInFlight = 128;
constexpr std::uint64_t kMaxBytesInFlight = 64U << 20;
constexpr std::size_t kSpareBuffers = 64;
constexpr std::uint32_t kSpareLargest = 256U << 10, kSmallestBuffer = 4096;
constexpr std::uint32_t kSmallestHole = 64U << 10;  ///< shorter ones go as data
constexpr std::uint32_t kPrefetchPart = 1U << 20;

Error wrong(std::string_view what) {
    return {ErrorKind::Failed, fmt::format("NBD client: {}", what), EPROTO};
}

bool has_data(CommandType type) {
    return type == CommandType::Read || type == CommandType::Write;
}

bool changes(CommandType type) {
    return type == CommandType::Write || type == CommandType::Trim ||
           type == CommandType::WriteZeroes;
}

std::uint16_t allowed_flags(CommandType type, bool structured) {
    switch (type) {
        case CommandType::Read:
            return structured ? kFua | kDontFragment : kFua;
        case CommandType::WriteZeroes:
            return kFua | kNoHole | kFastZero;
        case CommandType::BlockStatus:
            return kFua | kOnlyOne;
        default:
            return kFua;
    }
}

int errno_of(const Error& error) {
    return error.system_errno() != 0                 ? error.system_errno()
           : error.kind() == ErrorKind::NotSupported ? ENOTSUP
                                                     : EIO;
}

}  // namespace

Task<> Session::transmit() {
    Result<> ended = ok();
    while (!stopping_) {
        if (in_flight_ >= kMaxInFlight || bytes_in_flight_ > kMaxBytesInFlight) {
            co_await change_.wait();
            continue;
        }
        Call call;
        auto more = co_await next_call(call);
        if (!more.ok()) {
            ended = std::move(more).error();
            break;
        }
        if (!*more) {
            break;
        }
        ++in_flight_;
        const std::uint64_t bytes = call.buffer.size();
        bytes_in_flight_ += bytes;
        loop_.spawn(carry_out(std::move(call)), [this, bytes](const Result<>& done) {
            --in_flight_;
            bytes_in_flight_ -= bytes;
            if (!done.ok()) {
                stream_->shut();  // no reply gets through any more
            }
            change_.wake_all();
        });
    }
    while (in_flight_ != 0) {
        co_await change_.wait();
    }
    co_return stopping_ ? ok() : ended;
}

// False: the client has ended the connection.
Task<bool> Session::next_call(Call& call) {
    Request request{};
    const auto bytes = std::as_writable_bytes(std::span(&request, 1));
    if (!stream_->take(bytes)) {
        STRATA_CO_TRY(const bool more, co_await stream_->read_or_end(bytes));
        if (!more) {
            co_return false;
        }
    }
    if (request.magic != kRequestMagic) {
        co_return wrong(
            fmt::format("what it sends is no request (magic {:#x})", request.magic.value()));
    }
    call.type = static_cast<CommandType>(request.type.value());
    call.flags = request.flags;
    call.cookie = request.cookie;
    call.offset = request.offset;
    call.length = request.length;
    if (call.type == CommandType::Disconnect) {
        co_return false;
    }
    if (call.type == CommandType::Write) {
        if (call.length > kMaxPayload) {
            co_return wrong(fmt::format("a write of {} bytes is too long", call.length));
        }
        call.buffer = take_buffer(call.length);
        STRATA_CO_TRY_VOID(co_await stream_->read(Buffers(call.buffer.bytes().first(call.length))));
    } else if (call.type == CommandType::Read && call.length <= kMaxPayload) {
        call.buffer = take_buffer(call.length);
    }
    co_return true;
}

AlignedBuffer Session::take_buffer(std::uint32_t bytes) {
    const auto fits = std::ranges::find_if(spare_, [&](const AlignedBuffer& each) {
        return each.size() >= bytes && each.size() / 4 <= bytes;
    });
    if (fits == spare_.end()) {
        return AlignedBuffer(std::bit_ceil(std::max(bytes, kSmallestBuffer)));
    }
    AlignedBuffer buffer = std::move(*fits);
    spare_.erase(fits);
    return buffer;
}

void Session::give_buffer(AlignedBuffer buffer) {
    if (buffer.size() != 0 && buffer.size() <= kSpareLargest && spare_.size() < kSpareBuffers) {
        spare_.push_back(std::move(buffer));
    }
}

Result<> Session::validate(const Call& call) const {
    const auto refused = [](int number) {
        return Error{ErrorKind::InvalidArgument, "refused", number};
    };
    if ((call.flags & ~allowed_flags(call.type, structured_)) != 0 ||
        (has_data(call.type) && call.length > kMaxPayload)) {
        return refused(EINVAL);
    }
    if (changes(call.type) && export_->options().read_only) {
        return refused(EPERM);
    }
    if (call.type == CommandType::Flush) {
        return ok();
    }
    if (call.offset > export_->size() || call.length > export_->size() - call.offset) {
        return refused(changes(call.type) && call.type != CommandType::Trim ? ENOSPC : EINVAL);
    }
    return ok();
}

// Fails only if nothing can be sent any more.
Task<> Session::carry_out(Call call) {
    Result<> done = validate(call);
    if (done.ok() && call.type == CommandType::Read) {
        done = co_await read(call);
    } else if (done.ok() && call.type == CommandType::BlockStatus) {
        done = co_await block_status(call);
    } else {
        if (done.ok()) {
            done = co_await perform(call);
        }
        done = co_await answer(call, done.ok() ? 0 : errno_of(done.error()));
        give_buffer(std::move(call.buffer));
        co_return done;
    }
    if (!done.ok() && done.error().kind() != ErrorKind::Unreachable) {
        done = co_await answer(call, errno_of(done.error()));
    }
    give_buffer(std::move(call.buffer));
    co_return done;
}

Task<> Session::perform(Call& call) {
    Node& node = export_->node();
    Result<> done = ok();
    switch (call.type) {
        case CommandType::Write:
            done = co_await write(call);
            break;
        case CommandType::WriteZeroes:
            done = co_await write_zeroes(call);
            break;
        case CommandType::Trim:
            if (call.length != 0) {
                done = co_await node.discard(call.offset, call.length);
            }
            break;
        case CommandType::Cache:
            co_return co_await prefetch(call);
        case CommandType::Flush:
            co_return co_await node.flush();
        default:
            co_return Error{ErrorKind::InvalidArgument, "unknown command", EINVAL};
    }
    if (changes(call.type)) {
        export_->note_write(call.offset, call.length);
    }
    if (done.ok() && (call.flags & kFua) != 0) {
        done = co_await node.flush();
    }
    co_return done;
}

Task<> Session::write(Call& call) {
    Node& node = export_->node();
    const Buffers data(call.buffer.bytes().first(call.length));
    const DetectZeroes detect = export_->options().detect_zeroes;
    if (detect != DetectZeroes::Off && call.length != 0 && data.is_zero()) {
        const ZeroOptions options{.may_unmap = detect == DetectZeroes::Unmap};
        co_return co_await node.write_zeroes(call.offset, call.length, options);
    }
    co_return co_await node.write(call.offset, data);
}

Task<> Session::write_zeroes(const Call& call) {
    ZeroOptions options;
    options.may_unmap = (call.flags & kNoHole) == 0;
    options.no_fallback = (call.flags & kFastZero) != 0;
    if (call.length == 0) {
        co_return ok();
    }
    co_return co_await export_->node().write_zeroes(call.offset, call.length, options);
}

Task<> Session::prefetch(const Call& call) {
    const AlignedBuffer scratch(std::min(std::max(call.length, kSmallestBuffer), kPrefetchPart));
    for (std::uint32_t done = 0; done < call.length;) {
        const std::uint32_t part = std::min(call.length - done, kPrefetchPart);
        STRATA_CO_TRY_VOID(co_await export_->node().read(call.offset + done,
                                                         Buffers(scratch.bytes().first(part))));
        done += part;
    }
    co_return ok();
}

// What is a long hole is told as one, if the client can take that.
Task<std::vector<Session::Segment>> Session::segments(const Call& call) {
    std::vector<Segment> all;
    const bool one =
        !structured_ || (call.flags & kDontFragment) != 0 || call.length < kSmallestHole;
    for (std::uint32_t done = 0; !one && done < call.length;) {
        const auto extent = co_await status_of_chain(export_->node(), nullptr, call.offset + done,
                                                     call.length - done);
        if (!extent.ok()) {
            co_return Error{ErrorKind::Failed, extent.error().text(), errno_of(extent.error())};
        }
        const auto length = static_cast<std::uint32_t>(extent->length);
        const bool hole = extent->kind != Extent::Kind::Data && length >= kSmallestHole;
        if (!all.empty() && all.back().hole == hole) {
            all.back().length += length;
        } else {
            all.push_back({call.offset + done, length, hole});
        }
        done += length;
    }
    if (all.empty()) {
        all.push_back({call.offset, call.length, false});
    }
    co_return all;
}

// An error of kind Unreachable is the connection's; any other is for the client.
Task<> Session::read(Call& call) {
    STRATA_CO_TRY(const std::vector<Segment> all, co_await segments(call));
    for (const Segment& each : all) {
        if (each.hole) {
            continue;
        }
        const auto part = call.buffer.bytes().subspan(each.offset - call.offset, each.length);
        Result<> done = co_await export_->node().read(each.offset, Buffers(part));
        if (!done.ok()) {
            co_return Error{ErrorKind::Failed, done.error().text(), errno_of(done.error())};
        }
    }
    for (const Segment& each : all) {
        STRATA_CO_TRY_VOID(co_await send_data(call, each, &each == &all.back()));
    }
    co_return ok();
}

Task<> Session::send_data(const Call& call, const Segment& segment, bool last) {
    struct DataHead {
        ChunkHeader chunk;
        Be64 offset;
        Be32 hole;
    };
    const bool hurry = in_flight_ == 1;
    const auto part = call.buffer.bytes().subspan(segment.offset - call.offset,
                                                  segment.hole ? 0 : segment.length);
    if (!structured_) {
        const SimpleReply head{kSimpleReplyMagic, 0, call.cookie};
        co_return co_await stream_->send(bytes_of(head), Buffers(part), hurry);
    }
    DataHead head{};
    const ChunkType type = segment.hole ? ChunkType::OffsetHole : ChunkType::OffsetData;
    const std::size_t extra = segment.hole ? sizeof(Be32) : segment.length;
    head.chunk = {kStructuredReplyMagic, last ? kChunkDone : std::uint16_t{0},
                  static_cast<std::uint16_t>(type), call.cookie,
                  static_cast<std::uint32_t>(sizeof(Be64) + extra)};
    head.offset = segment.offset;
    head.hole = segment.length;
    if (segment.length == 0) {  // nothing was asked for
        head.chunk.type = static_cast<std::uint16_t>(ChunkType::None);
        head.chunk.length = 0;
        co_return co_await stream_->send(bytes_of(head.chunk), {}, hurry);
    }
    const auto all = bytes_of(head);
    co_return co_await stream_->send(
        segment.hole ? all : all.first(sizeof(ChunkHeader) + sizeof(Be64)), Buffers(part), hurry);
}

Task<> Session::block_status(const Call& call) {
    if (contexts_.empty() || call.length == 0) {
        co_return Error{ErrorKind::InvalidArgument, "no metadata context was chosen", EINVAL};
    }
    std::vector<Message> chunks;
    const std::size_t limit = (call.flags & kOnlyOne) != 0 ? 1 : kMaxExtents;
    for (const std::uint32_t id : contexts_) {
        auto extents = co_await export_->status(id, call.offset, call.length, limit);
        if (!extents.ok()) {
            co_return Error{ErrorKind::Failed, extents.error().text(), errno_of(extents.error())};
        }
        const bool last = id == contexts_.back();
        const auto length =
            static_cast<std::uint32_t>(sizeof(Be32) + extents->size() * sizeof(StatusDescriptor));
        Message message;
        message.add(ChunkHeader{kStructuredReplyMagic, last ? kChunkDone : std::uint16_t{0},
                                static_cast<std::uint16_t>(ChunkType::BlockStatus), call.cookie,
                                length});
        message.add(Be32(id));
        for (const StatusDescriptor& each : *extents) {
            message.add(each);
        }
        chunks.push_back(std::move(message));
    }
    for (const Message& each : chunks) {
        STRATA_CO_TRY_VOID(co_await stream_->send(each.bytes(), {}, in_flight_ == 1));
    }
    co_return ok();
}

Task<> Session::answer(const Call& call, int system_errno) {
    const std::uint32_t error = system_errno != 0 ? wire_error(system_errno) : 0;
    const bool hurry = in_flight_ == 1;
    if (!structured_ || (error == 0 && call.type != CommandType::Read)) {
        const SimpleReply head{kSimpleReplyMagic, error, call.cookie};
        co_return co_await stream_->send(bytes_of(head), {}, hurry);
    }
    struct ErrorChunk {
        ChunkHeader chunk;
        Be32 error;
        Be16 text_length;
    };
    const ErrorChunk head{{kStructuredReplyMagic, kChunkDone,
                           static_cast<std::uint16_t>(ChunkType::Error), call.cookie, 6},
                          error,
                          0};
    co_return co_await stream_->send(bytes_of(head), {}, hurry);
}

}  // namespace strata::block::nbd
