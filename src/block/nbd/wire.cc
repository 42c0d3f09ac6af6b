// NBD on the wire: messages made and taken apart.
#include "block/nbd/wire.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>

#include <fmt/format.h>

namespace strata::block::nbd {
namespace {

struct ErrorNumber {
    std::uint32_t wire;
    int system;
};
constexpr std::array kErrors = {
    ErrorNumber{1, EPERM},    ErrorNumber{5, EIO},
    ErrorNumber{12, ENOMEM},  ErrorNumber{22, EINVAL},
    ErrorNumber{28, ENOSPC},  ErrorNumber{75, EOVERFLOW},
    ErrorNumber{95, ENOTSUP}, ErrorNumber{kErrorShutdown, ESHUTDOWN},
};

Error malformed(std::string_view what) {
    return {ErrorKind::Failed, fmt::format("NBD: {}", what), EPROTO};
}

Result<> take_block_size(ByteReader& reader, ExportInfo& info) {
    const auto minimum = STRATA_TRY(reader.read<Be32>());
    const auto preferred = STRATA_TRY(reader.read<Be32>());
    const auto maximum = STRATA_TRY(reader.read<Be32>());
    const std::uint32_t low = minimum.value(), best = preferred.value(), high = maximum.value();
    if (!std::has_single_bit(low) || low > (64U << 10) || !std::has_single_bit(best) ||
        best < low || high < low || (high != UINT32_MAX && high % low != 0)) {
        return malformed(
            fmt::format("the server's block sizes ({}, {}, {}) make no sense", low, best, high));
    }
    info.minimum_block = low;
    info.preferred_block = best;
    info.maximum_block = std::min(high, kMaxPayload) / low * low;
    info.block_sizes = true;
    return ok();
}

}  // namespace

std::uint32_t wire_error(int system_errno) {
    switch (system_errno) {
        case EPERM:
        case EACCES:
        case EROFS:
            return 1;
        case EINVAL:
        case EFBIG:
            return 22;
        case EDQUOT:
            return 28;
        default:
            break;
    }
    const auto* const found = std::ranges::find(kErrors, system_errno, &ErrorNumber::system);
    return found != kErrors.end() ? found->wire : 5;
}

int system_error(std::uint32_t wire) {
    const auto* const found = std::ranges::find(kErrors, wire, &ErrorNumber::wire);
    return found != kErrors.end() ? found->system : EINVAL;
}

Message& Message::text(std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
}

Message option_message(OptionCode option, std::span<const std::byte> data) {
    Message message;
    message.add(OptionHeader{kOptionMagic, static_cast<std::uint32_t>(option),
                             static_cast<std::uint32_t>(data.size())});
    // SAFETY: bytes as characters.
    message.text({reinterpret_cast<const char*>(data.data()), data.size()});
    return message;
}

Message option_reply(std::uint32_t option, OptionReply reply, std::span<const std::byte> data) {
    Message message;
    message.add(OptionReplyHeader{kOptionReplyMagic, option, static_cast<std::uint32_t>(reply),
                                  static_cast<std::uint32_t>(data.size())});
    // SAFETY: bytes as characters.
    message.text({reinterpret_cast<const char*>(data.data()), data.size()});
    return message;
}

Result<std::string> read_text(ByteReader& reader, std::size_t length) {
    if (length > kMaxString) {
        return malformed(fmt::format("a name or text of {} bytes is too long", length));
    }
    const auto bytes = STRATA_TRY(reader.take(length));
    // SAFETY: bytes as characters.
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Result<std::string> read_counted(ByteReader& reader) {
    const auto length = STRATA_TRY(reader.read<Be32>());
    return read_text(reader, length.value());
}

Result<InfoRequest> parse_info_request(std::span<const std::byte> data) {
    ByteReader reader(data);
    InfoRequest request;
    request.name = STRATA_TRY(read_counted(reader));
    const auto count = STRATA_TRY(reader.read<Be16>());
    if (reader.remaining() != std::size_t{count.value()} * sizeof(Be16)) {
        return malformed("the list of wanted information has another length than it says");
    }
    while (reader.remaining() != 0) {
        const auto type = STRATA_TRY(reader.read<Be16>());
        request.types.push_back(type);
    }
    return request;
}

Result<ContextRequest> parse_context_request(std::span<const std::byte> data) {
    ByteReader reader(data);
    ContextRequest request;
    request.name = STRATA_TRY(read_counted(reader));
    const auto count = STRATA_TRY(reader.read<Be32>());
    if (count.value() > reader.remaining() / sizeof(Be32)) {
        return malformed("more queries for metadata contexts than the request has room for");
    }
    for (std::uint32_t i = 0; i < count.value(); ++i) {
        request.queries.push_back(STRATA_TRY(read_counted(reader)));
    }
    if (reader.remaining() != 0) {
        return malformed("bytes after the last query for metadata contexts");
    }
    return request;
}

Message context_request(std::string_view name, std::span<const std::string> queries) {
    Message message;
    message.counted(name).add(Be32(static_cast<std::uint32_t>(queries.size())));
    for (const std::string& query : queries) {
        message.counted(query);
    }
    return message;
}

Result<> parse_info_reply(std::span<const std::byte> data, ExportInfo& info) {
    ByteReader reader(data);
    const auto type = STRATA_TRY(reader.read<Be16>());
    switch (static_cast<InfoType>(type.value())) {
        case InfoType::Export: {
            const auto size = STRATA_TRY(reader.read<Be64>());
            const auto flags = STRATA_TRY(reader.read<Be16>());
            if (size.value() > INT64_MAX) {
                return malformed(fmt::format("an export of {} bytes is too large", size.value()));
            }
            info.size = size;
            info.flags = flags;
            break;
        }
        case InfoType::Name:
            info.name = STRATA_TRY(read_text(reader, reader.remaining()));
            break;
        case InfoType::Description:
            info.description = STRATA_TRY(read_text(reader, reader.remaining()));
            break;
        case InfoType::BlockSize:
            STRATA_TRY_VOID(take_block_size(reader, info));
            break;
        default:
            return ok();  // of a newer protocol; nobody asked for it
    }
    return reader.remaining() == 0 ? ok()
                                   : Result<>(malformed(fmt::format(
                                         "information of type {} is too long", type.value())));
}

}  // namespace strata::block::nbd
