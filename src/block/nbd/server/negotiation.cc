// Session: haggling over options, up to the choice of an export.
#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "base/log.h"
#include "block/nbd/server/session.h"

namespace strata::block::nbd {
namespace {

Error wrong(std::string_view what) {
    return {ErrorKind::Failed, fmt::format("NBD client: {}", what), EPROTO};
}

constexpr std::uint32_t number(OptionCode code) {
    return static_cast<std::uint32_t>(code);
}

/// "base:", "qemu:dirty-bitmap:" and the like ask for all that begin so; only a list may.
bool matches(std::string_view query, std::string_view context, bool listing) {
    return query == context || (listing && query.ends_with(':') && context.starts_with(query));
}

}  // namespace

Task<> Session::run() {
    TimeLimit limit(loop_, context_.handshake_limit, [this] { stream_->shut(); });
    Result<> done = co_await negotiate();
    STRATA_CO_TRY(const bool expired, co_await limit.end());
    if (expired) {
        co_return wrong("took too long over its options");
    }
    if (done.ok() && export_ != nullptr) {
        transmitting_ = true;
        done = co_await transmit();
    }
    stream_->shut();
    co_return done;
}

void Session::stop() {
    stopping_ = true;
    if (transmitting_) {
        stream_->end_input();
        change_.wake_all();
    } else {
        stream_->shut();
    }
}

Task<> Session::greet() {
    const ServerHello hello{kInitMagic, kOptionMagic,
                            static_cast<std::uint16_t>(kFixedNewstyle | kNoZeroes)};
    STRATA_CO_TRY_VOID(co_await stream_->send(bytes_of(hello), {}, true));
    Be32 flags;
    STRATA_CO_TRY_VOID(
        co_await stream_->read(Buffers(std::as_writable_bytes(std::span(&flags, 1)))));
    client_flags_ = flags;
    if ((client_flags_ & ~std::uint32_t{kFixedNewstyle | kNoZeroes}) != 0) {
        co_return wrong(fmt::format("unknown flags {:#x}", client_flags_));
    }
    co_return ok();
}

Task<> Session::negotiate() {
    STRATA_CO_TRY_VOID(co_await greet());
    for (unsigned count = 0; export_ == nullptr && !aborted_; ++count) {
        OptionHeader header{};
        STRATA_CO_TRY_VOID(
            co_await stream_->read(Buffers(std::as_writable_bytes(std::span(&header, 1)))));
        if (header.magic != kOptionMagic || header.length > kMaxSkipped || count >= kMaxOptions) {
            co_return wrong(count >= kMaxOptions ? "sends options without end"
                                                 : "sends no option, or one that is too long");
        }
        if ((client_flags_ & kFixedNewstyle) == 0 &&
            header.option != number(OptionCode::ExportName)) {
            co_return wrong("an option that its flags do not allow");
        }
        STRATA_CO_TRY_VOID(co_await option(header.option, header.length));
    }
    co_return ok();
}

Task<> Session::option(std::uint32_t code, std::uint32_t length) {
    const bool needs_tls = context_.tls != nullptr && !stream_->encrypted();
    if (code == number(OptionCode::StartTls)) {
        co_return co_await start_tls(length);
    }
    const bool plain_allowed = code == number(OptionCode::Abort);
    if (code == number(OptionCode::ExportName) && (needs_tls || length > kMaxString)) {
        co_return wrong("an export's name without TLS, or too long");  // there is no way to refuse
    }
    if (length > kMaxOption || (needs_tls && !plain_allowed)) {
        STRATA_CO_TRY_VOID(co_await stream_->skip(length));
        if (needs_tls) {
            co_return co_await refuse(code, OptionReply::TlsRequired,
                                      fmt::format("Option {:#x} not permitted before TLS", code));
        }
        co_return co_await refuse(code, OptionReply::TooBig, "option is too long");
    }
    std::vector<std::byte> data(length);
    STRATA_CO_TRY_VOID(co_await stream_->read(Buffers(std::span(data))));
    switch (static_cast<OptionCode>(code)) {
        case OptionCode::ExportName:
            co_return co_await export_name(data);
        case OptionCode::Abort:
            aborted_ = true;
            (void)co_await reply(code, OptionReply::Ack);  // the client may be gone already
            co_return ok();
        case OptionCode::List:
            co_return co_await list(data);
        case OptionCode::Info:
        case OptionCode::Go:
            co_return co_await info(code, data);
        case OptionCode::StructuredReply:
            if (length != 0 || structured_) {
                co_return co_await refuse(
                    code, OptionReply::Invalid,
                    "structured replies were chosen already, or the option has data");
            }
            structured_ = true;
            co_return co_await reply(code, OptionReply::Ack);
        case OptionCode::ListMetaContext:
        case OptionCode::SetMetaContext:
            co_return co_await meta_context(code, data);
        default:
            co_return co_await refuse(code, OptionReply::Unsupported,
                                      fmt::format("Unsupported option {:#x}", code));
    }
}

Task<> Session::reply(std::uint32_t code, OptionReply reply, std::span<const std::byte> data) {
    const Message message = option_reply(code, reply, data);
    co_return co_await stream_->send(message.bytes(), {}, true);
}

Task<> Session::refuse(std::uint32_t code, OptionReply why, std::string text) {
    co_return co_await reply(code, why, std::as_bytes(std::span(text)));
}

std::shared_ptr<Export> Session::find(std::string_view name) const {
    const auto found = std::ranges::find(
        context_.exports, name,
        [](const auto& each) -> std::string_view { return each->options().name; });
    return found != context_.exports.end() ? *found : nullptr;
}

Task<> Session::export_name(std::span<const std::byte> data) {
    // SAFETY: bytes as characters.
    const std::shared_ptr<Export> chosen =
        find({reinterpret_cast<const char*>(data.data()), data.size()});
    if (chosen == nullptr) {
        co_return wrong("there is no export of the name it wants");
    }
    Message message;
    message.add(ExportNameReply{chosen->size(), chosen->flags(structured_)});
    if ((client_flags_ & kNoZeroes) == 0) {
        message.text(std::string(kExportNamePadding, '\0'));
    }
    export_ = chosen;
    co_return co_await stream_->send(message.bytes(), {}, true);
}

Task<> Session::list(std::span<const std::byte> data) {
    if (!data.empty()) {
        co_return co_await refuse(number(OptionCode::List), OptionReply::Invalid,
                                  "option has data");
    }
    for (const auto& each : context_.exports) {
        Message entry;
        entry.counted(each->options().name).text(each->options().description);
        STRATA_CO_TRY_VOID(
            co_await reply(number(OptionCode::List), OptionReply::Server, entry.bytes()));
    }
    co_return co_await reply(number(OptionCode::List), OptionReply::Ack);
}

Task<> Session::start_tls(std::uint32_t length) {
    const std::uint32_t code = number(OptionCode::StartTls);
    STRATA_CO_TRY_VOID(co_await stream_->skip(length));
    if (length != 0 || stream_->encrypted()) {
        co_return co_await refuse(code, OptionReply::Invalid,
                                  "TLS is in use already, or the option has data");
    }
    if (context_.tls == nullptr) {
        co_return co_await refuse(code, OptionReply::Policy, "TLS not configured");
    }
    if (stream_->has_input()) {
        co_return wrong(
            "sent on before TLS began");  // what came in the clear must not count as encrypted
    }
    STRATA_CO_TRY_VOID(co_await reply(code, OptionReply::Ack));
    STRATA_CO_TRY_VOID(co_await stream_->start_tls(context_.tls, ""));
    structured_ = false;
    contexts_.clear();
    if (context_.authorized) {
        const std::string name = stream_->tls()->peer_name();
        if (!context_.authorized(name)) {
            co_return Error{ErrorKind::PermissionDenied,
                            fmt::format("TLS x509 authz check for {} is denied", name)};
        }
    }
    co_return ok();
}

Task<> Session::info(std::uint32_t code, std::span<const std::byte> data) {
    auto request = parse_info_request(data);
    if (!request.ok()) {
        co_return co_await refuse(code, OptionReply::Invalid, request.error().text());
    }
    const std::shared_ptr<Export> chosen = find(request->name);
    if (chosen == nullptr) {
        co_return co_await refuse(code, OptionReply::Unknown,
                                  fmt::format("export '{}' not present", request->name));
    }
    const auto wants = [&](InfoType type) {
        return std::ranges::find(request->types, static_cast<std::uint16_t>(type)) !=
               request->types.end();
    };
    const auto text = [](InfoType type, std::string_view words) {
        Message message;
        message.add(Be16(static_cast<std::uint16_t>(type))).text(words);
        return message;
    };
    if (wants(InfoType::Name)) {
        const Message name = text(InfoType::Name, chosen->options().name);
        STRATA_CO_TRY_VOID(co_await reply(code, OptionReply::Info, name.bytes()));
    }
    if (wants(InfoType::Description) && !chosen->options().description.empty()) {
        const Message description = text(InfoType::Description, chosen->options().description);
        STRATA_CO_TRY_VOID(co_await reply(code, OptionReply::Info, description.bytes()));
    }
    const std::uint32_t minimum = wants(InfoType::BlockSize) ? chosen->options().minimum_block : 1;
    const InfoBlockSize blocks{static_cast<std::uint16_t>(InfoType::BlockSize), minimum,
                               std::max(4096U, chosen->node().traits().request_alignment),
                               kMaxPayload};
    STRATA_CO_TRY_VOID(co_await reply(code, OptionReply::Info, bytes_of(blocks)));
    const InfoExport about{static_cast<std::uint16_t>(InfoType::Export), chosen->size(),
                           chosen->flags(structured_)};
    STRATA_CO_TRY_VOID(co_await reply(code, OptionReply::Info, bytes_of(about)));
    STRATA_CO_TRY_VOID(co_await reply(code, OptionReply::Ack));
    if (code == number(OptionCode::Go)) {
        export_ = chosen;
        if (context_export_ != chosen) {
            contexts_.clear();
        }
    }
    co_return ok();
}

Task<> Session::meta_context(std::uint32_t code, std::span<const std::byte> data) {
    if (!structured_) {
        co_return co_await refuse(code, OptionReply::Invalid,
                                  "request option without structured replies");
    }
    auto request = parse_context_request(data);
    if (!request.ok()) {
        co_return co_await refuse(code, OptionReply::Invalid, request.error().text());
    }
    const std::shared_ptr<Export> chosen = find(request->name);
    if (chosen == nullptr) {
        co_return co_await refuse(code, OptionReply::Unknown,
                                  fmt::format("export '{}' not present", request->name));
    }
    const bool listing = code == number(OptionCode::ListMetaContext);
    std::vector<std::uint32_t> found;
    const std::vector<std::string>& all = chosen->contexts();
    for (std::uint32_t id = 0; id < all.size() && found.size() < kMaxContexts; ++id) {
        const bool wanted = std::ranges::any_of(request->queries, [&](const std::string& query) {
            return matches(query, all[id], listing);
        });
        if (wanted || (listing && request->queries.empty())) {
            found.push_back(id);
        }
    }
    for (const std::uint32_t id : found) {
        Message message;
        message.add(Be32(listing ? 0 : id)).text(all[id]);
        STRATA_CO_TRY_VOID(co_await reply(code, OptionReply::MetaContext, message.bytes()));
    }
    if (!listing) {
        contexts_ = std::move(found);
        context_export_ = chosen;
    }
    co_return co_await reply(code, OptionReply::Ack);
}

}  // namespace strata::block::nbd
