// ClientHandshake: the client's options, one after the other.
#include "block/nbd/client/handshake.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include <fmt/format.h>

namespace strata::block::nbd {
namespace {

struct OptionName {
    OptionCode code;
    std::string_view name;
};
constexpr std::array kOptionNames = {
    OptionName{OptionCode::ExportName, "export name"},
    OptionName{OptionCode::Abort, "abort"},
    OptionName{OptionCode::List, "list"},
    OptionName{OptionCode::StartTls, "starttls"},
    OptionName{OptionCode::Info, "info"},
    OptionName{OptionCode::Go, "go"},
    OptionName{OptionCode::StructuredReply, "structured reply"},
    OptionName{OptionCode::ListMetaContext, "list meta context"},
    OptionName{OptionCode::SetMetaContext, "set meta context"},
};

constexpr std::size_t kMaxExports = 4096;

Error malformed(std::string_view what) {
    return {ErrorKind::Failed, fmt::format("NBD server: {}", what), EPROTO};
}

/// A server's words, for a terminal.
std::string plain(std::string_view text) {
    std::string result(text);
    std::ranges::replace_if(
        result, [](unsigned char c) { return c < ' ' || c == 0x7f; }, '?');
    return result;
}

struct Reply {
    OptionReply type = OptionReply::Ack;
    std::vector<std::byte> data;
    [[nodiscard]] bool error() const { return is_error(static_cast<std::uint32_t>(type)); }
    [[nodiscard]] std::string text() const {
        // SAFETY: bytes as characters.
        return plain({reinterpret_cast<const char*>(data.data()),
                      std::min<std::size_t>(data.size(), kMaxString)});
    }
};

Error refusal(OptionCode code, const Reply& reply) {
    const auto* const known = std::ranges::find(kOptionNames, code, &OptionName::code);
    const std::string option = fmt::format("option {} ({})", static_cast<std::uint32_t>(code),
                                           known != kOptionNames.end() ? known->name : "unknown");
    std::string text;
    int number = EINVAL;
    switch (reply.type) {
        case OptionReply::Unsupported:
            text = fmt::format("The server does not know {}", option);
            number = ENOTSUP;
            break;
        case OptionReply::Policy:
            text = fmt::format("Denied by server for {}", option);
            number = EACCES;
            break;
        case OptionReply::Invalid:
            text = fmt::format("Invalid parameters for {}", option);
            break;
        case OptionReply::Platform:
            text = fmt::format("Server lacks support for {}", option);
            number = ENOTSUP;
            break;
        case OptionReply::TlsRequired:
            text = fmt::format(
                "TLS negotiation required before {}\nDid you forget a valid tls-creds?", option);
            number = EACCES;
            break;
        case OptionReply::Unknown:
            text = "Requested export not available";
            number = ENOENT;
            break;
        case OptionReply::Shutdown:
            text = fmt::format("Server shutting down before {}", option);
            number = ESHUTDOWN;
            break;
        case OptionReply::BlockSizeRequired:
            text = fmt::format("Server requires INFO_BLOCK_SIZE for {}", option);
            break;
        default:
            text = fmt::format("Unknown error {:#x} of the server for {}",
                               static_cast<std::uint32_t>(reply.type), option);
            break;
    }
    if (!reply.data.empty()) {
        text += "\nserver reported: " + reply.text();
    }
    const ErrorKind kind = number == ENOENT   ? ErrorKind::NotFound
                           : number == EACCES ? ErrorKind::PermissionDenied
                                              : ErrorKind::Failed;
    return {kind, text, number};
}

class Haggling {
  public:
    explicit Haggling(Stream& stream) : stream_(stream) {}

    [[nodiscard]] bool fixed() const { return (flags_ & kFixedNewstyle) != 0; }

    Task<> greet() {
        ServerHello hello{};
        STRATA_CO_TRY_VOID(
            co_await stream_.read(Buffers(std::as_writable_bytes(std::span(&hello, 1)))));
        if (hello.magic != kInitMagic) {
            co_return malformed("it is none: Bad initial magic received");
        }
        if (hello.option_magic != kOptionMagic) {
            co_return malformed(hello.option_magic == kOldMagic
                                    ? "it speaks the protocol's old form, without options"
                                    : "Bad server magic received");
        }
        flags_ = hello.flags;
        const Be32 answer = std::uint32_t{hello.flags} & (kFixedNewstyle | kNoZeroes);
        co_return co_await stream_.send(bytes_of(answer), {}, true);
    }

    Task<> send(OptionCode code, std::span<const std::byte> data) {
        const Message message = option_message(code, data);
        co_return co_await stream_.send(message.bytes(), {}, true);
    }

    Task<Reply> receive(OptionCode code) {
        OptionReplyHeader header{};
        STRATA_CO_TRY_VOID(
            co_await stream_.read(Buffers(std::as_writable_bytes(std::span(&header, 1)))));
        if (header.magic != kOptionReplyMagic ||
            header.option != static_cast<std::uint32_t>(code) || header.length > kMaxOption) {
            co_return malformed("its answer to an option is none");
        }
        if (++replies_ > kMaxReplies) {
            co_return malformed("it answers without end");
        }
        Reply reply;
        reply.type = static_cast<OptionReply>(header.reply.value());
        reply.data.resize(header.length);
        STRATA_CO_TRY_VOID(co_await stream_.read(Buffers(std::span(reply.data))));
        co_return reply;
    }

    Task<> start_tls(const Location& location, std::shared_ptr<const TlsCredentials> tls) {
        STRATA_CO_TRY_VOID(co_await send(OptionCode::StartTls, {}));
        STRATA_CO_TRY(const Reply reply, co_await receive(OptionCode::StartTls));
        if (reply.error()) {
            co_return refusal(OptionCode::StartTls, reply);
        }
        if (reply.type != OptionReply::Ack || !reply.data.empty() || stream_.has_input()) {
            co_return malformed("it does not begin TLS as it should");
        }
        const bool by_name = !tls->is_psk() && location.tls_verify;
        std::string host;
        if (by_name) {
            host = location.tls_hostname.empty() ? location.address.host : location.tls_hostname;
        }
        if (by_name && host.empty()) {
            co_return Error{ErrorKind::InvalidArgument, "No hostname for certificate validation",
                            EINVAL};
        }
        co_return co_await stream_.start_tls(std::move(tls), std::move(host));
    }

    /// False: the server does not have them.
    Task<bool> structured_replies() {
        STRATA_CO_TRY_VOID(co_await send(OptionCode::StructuredReply, {}));
        STRATA_CO_TRY(const Reply reply, co_await receive(OptionCode::StructuredReply));
        co_return reply.type == OptionReply::Ack&& reply.data.empty();
    }

    /// Contexts that the server has, with their ids. No query: all, if `code` is a list.
    Task<std::vector<std::pair<std::uint32_t, std::string>>> contexts(
        OptionCode code, std::string_view name, std::vector<std::string> queries) {
        const Message request = context_request(name, queries);
        STRATA_CO_TRY_VOID(co_await send(code, request.bytes()));
        std::vector<std::pair<std::uint32_t, std::string>> found;
        for (;;) {
            STRATA_CO_TRY(const Reply reply, co_await receive(code));
            if (reply.type == OptionReply::Ack || reply.error()) {
                co_return found;  // an error: it has none
            }
            ByteReader reader(reply.data);
            const auto id = reader.read<Be32>();
            auto text = read_text(reader, reader.remaining());
            if (reply.type != OptionReply::MetaContext || !id.ok() || !text.ok() ||
                found.size() >= kMaxContexts) {
                co_return malformed("its answer about metadata contexts makes no sense");
            }
            found.emplace_back(id->value(), std::move(text).value());
        }
    }

    /// Info or Go. False: the server knows neither.
    Task<bool> info(OptionCode code, std::string_view name, bool texts, ExportInfo& info) {
        Message request;
        request.counted(name).add(Be16(texts ? std::uint16_t{3} : std::uint16_t{1}));
        request.add(Be16(static_cast<std::uint16_t>(InfoType::BlockSize)));
        if (texts) {
            request.add(Be16(static_cast<std::uint16_t>(InfoType::Name)))
                .add(Be16(static_cast<std::uint16_t>(InfoType::Description)));
        }
        STRATA_CO_TRY_VOID(co_await send(code, request.bytes()));
        info.name = name;
        for (;;) {
            STRATA_CO_TRY(const Reply reply, co_await receive(code));
            if (reply.type == OptionReply::Ack) {
                if (info.flags == 0) {
                    co_return malformed("it did not say how large the export is");
                }
                co_return true;
            }
            if (reply.type == OptionReply::Unsupported) {
                co_return false;
            }
            if (reply.error()) {
                co_return refusal(code, reply);
            }
            if (reply.type != OptionReply::Info) {
                co_return malformed("its answer about an export is none");
            }
            STRATA_CO_TRY_VOID(parse_info_reply(reply.data, info));
        }
    }

    /// The way of servers that do not know Go.
    Task<> export_name(std::string_view name, ExportInfo& info) {
        STRATA_CO_TRY_VOID(co_await send(OptionCode::ExportName, std::as_bytes(std::span(name))));
        ExportNameReply reply{};
        STRATA_CO_TRY_VOID(
            co_await stream_.read(Buffers(std::as_writable_bytes(std::span(&reply, 1)))));
        if ((flags_ & kNoZeroes) == 0) {
            STRATA_CO_TRY_VOID(co_await stream_.skip(kExportNamePadding));
        }
        if (reply.size > INT64_MAX) {
            co_return malformed("the export is too large");
        }
        info.name = name;
        info.size = reply.size;
        info.flags = reply.flags;
        co_return ok();
    }

    Task<std::vector<ExportInfo>> list() {
        STRATA_CO_TRY_VOID(co_await send(OptionCode::List, {}));
        std::vector<ExportInfo> all;
        for (;;) {
            STRATA_CO_TRY(const Reply reply, co_await receive(OptionCode::List));
            if (reply.type == OptionReply::Ack) {
                co_return all;
            }
            if (reply.error()) {
                co_return refusal(OptionCode::List, reply);
            }
            ByteReader reader(reply.data);
            auto name = read_counted(reader);
            auto text = read_text(reader, reader.remaining());
            if (reply.type != OptionReply::Server || !name.ok() || !text.ok() ||
                all.size() >= kMaxExports) {
                co_return malformed("its list of exports makes no sense");
            }
            ExportInfo info;
            info.name = std::move(name).value();
            info.description = plain(*text);
            all.push_back(std::move(info));
        }
    }

  private:
    Stream& stream_;
    std::uint16_t flags_ = 0;
    unsigned replies_ = 0;
};

}  // namespace

Result<std::shared_ptr<const TlsCredentials>> client_credentials(const Location& location) {
    if (!location.tls) {
        return std::shared_ptr<const TlsCredentials>();
    }
    if (!location.tls_files.empty()) {
        return location.tls_psk
                   ? TlsCredentials::client_psk(location.tls_files, location.tls_user)
                   : TlsCredentials::client_x509(location.tls_files, location.tls_verify);
    }
    return location.tls_psk
               ? TlsCredentials::psk(TlsRole::Client, location.tls_folder, location.tls_user)
               : TlsCredentials::x509(TlsRole::Client, location.tls_folder, location.tls_verify);
}

Task<Agreement> agree(Stream& stream, const Location& location,
                      std::shared_ptr<const TlsCredentials> tls) {
    Haggling haggling(stream);
    Agreement agreement;
    STRATA_CO_TRY_VOID(co_await haggling.greet());
    if (tls != nullptr) {
        if (!haggling.fixed()) {
            co_return malformed("it knows no TLS");
        }
        STRATA_CO_TRY_VOID(co_await haggling.start_tls(location, std::move(tls)));
    }
    if (!haggling.fixed()) {
        STRATA_CO_TRY_VOID(co_await haggling.export_name(location.export_name, agreement.info));
        co_return agreement;
    }
    STRATA_CO_TRY(agreement.structured, co_await haggling.structured_replies());
    if (agreement.structured) {
        const std::string wanted =
            location.context.empty() ? std::string(kAllocationContext) : location.context;
        std::vector<std::string> queries(1, wanted);
        STRATA_CO_TRY(const auto found,
                      co_await haggling.contexts(OptionCode::SetMetaContext, location.export_name,
                                                 std::move(queries)));
        for (const auto& [id, name] : found) {
            if (name == wanted) {
                agreement.context = id;
            }
        }
        if (!agreement.context && !location.context.empty()) {
            co_return Error{ErrorKind::NotFound,
                            fmt::format("requested x-dirty-bitmap {} not found", location.context),
                            EINVAL};
        }
    }
    STRATA_CO_TRY(const bool known, co_await haggling.info(OptionCode::Go, location.export_name,
                                                           false, agreement.info));
    if (!known) {
        STRATA_CO_TRY_VOID(co_await haggling.export_name(location.export_name, agreement.info));
    }
    co_return agreement;
}

Task<std::vector<ExportInfo>> list_exports(Stream& stream, const Location& location,
                                           std::shared_ptr<const TlsCredentials> tls) {
    Haggling haggling(stream);
    STRATA_CO_TRY_VOID(co_await haggling.greet());
    if (!haggling.fixed()) {
        co_return malformed("it lists no exports");
    }
    if (tls != nullptr) {
        STRATA_CO_TRY_VOID(co_await haggling.start_tls(location, std::move(tls)));
    }
    STRATA_CO_TRY(const bool structured, co_await haggling.structured_replies());
    STRATA_CO_TRY(std::vector<ExportInfo> all, co_await haggling.list());
    for (ExportInfo& each : all) {
        const std::string name = each.name;
        auto known = co_await haggling.info(OptionCode::Info, name, true, each);
        if (!known.ok() && known.error().kind() == ErrorKind::Unreachable) {
            co_return std::move(known).error();
        }
        if (!known.ok() || !*known || !structured) {
            continue;
        }
        std::vector<std::string> no_queries;
        STRATA_CO_TRY(const auto contexts, co_await haggling.contexts(OptionCode::ListMetaContext,
                                                                      name, std::move(no_queries)));
        for (const auto& context : contexts) {
            each.contexts.push_back(plain(context.second));
        }
    }
    (void)co_await haggling.send(OptionCode::Abort, {});  // we have all we want
    co_return all;
}

}  // namespace strata::block::nbd
