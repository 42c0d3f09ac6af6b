// VMM protocol: the messages' way to JSON and back.
#include "api/vmm_protocol.h"

#include <array>

#include <fmt/format.h>

namespace strata::api {
namespace {

constexpr std::array<std::string_view, 6> kOperations = {"start",        "stop",  "power-button",
                                                         "console-size", "retry", "control"};
constexpr std::array<std::string_view, 7> kCauses = {
    "power-off", "reset", "panic", "triple-fault", "debug-exit", "stopped", "error"};

constexpr int kGuestCrashed = 10;

template <std::size_t N>
int place_of(const std::array<std::string_view, N>& names, std::string_view name) {
    for (std::size_t i = 0; i < N; ++i) {
        if (names.at(i) == name) {
            return static_cast<int>(i);
        }
    }
    return -1;
}

}  // namespace

std::string_view to_text(ExitCause cause) {
    return kCauses.at(static_cast<std::size_t>(cause));
}

int exit_status(const VmmEvent& exited) {
    switch (exited.cause) {
        case ExitCause::PowerOff:
        case ExitCause::Reset:
            return 0;
        case ExitCause::Panic:
        case ExitCause::TripleFault:
            return kGuestCrashed;
        case ExitCause::DebugExit:
            return static_cast<int>(((exited.value << 1) | 1) & 0xff);
        case ExitCause::Stopped:
            return exit_status(ErrorKind::Failed);
        case ExitCause::Error:
            return exit_status(exited.error_kind);
    }
    return exit_status(ErrorKind::Failed);
}

Json to_json(const VmmRequest& request) {
    Json json{{"operation", kOperations.at(static_cast<std::size_t>(request.operation))}};
    if (request.operation == VmmOperation::Start) {
        json["config"] = to_json(request.config);
    }
    if (request.operation == VmmOperation::ConsoleSize) {
        json["columns"] = request.columns;
        json["rows"] = request.rows;
    }
    if (request.operation == VmmOperation::Control) {
        json["id"] = request.id;
        json["body"] = request.body;
    }
    return json;
}

Result<VmmRequest> vmm_request_from_json(const Json& json, std::size_t fds) {
    ObjectReader reader(json, "");
    VmmRequest request;
    const std::string name = reader.text("operation");
    const int place = place_of(kOperations, name);
    if (place < 0) {
        return Error{ErrorKind::InvalidArgument, fmt::format("operation: no '{}'", name)};
    }
    request.operation = static_cast<VmmOperation>(place);
    if (request.operation == VmmOperation::Start) {
        const Json* config = reader.member("config");
        if (config == nullptr) {
            return Error{ErrorKind::InvalidArgument, "config: missing"};
        }
        request.config = STRATA_TRY(machine_config_from_json(*config, fds));
    }
    if (request.operation == VmmOperation::ConsoleSize) {
        request.columns = static_cast<std::uint16_t>(reader.number("columns", 80, 1, UINT16_MAX));
        request.rows = static_cast<std::uint16_t>(reader.number("rows", 25, 1, UINT16_MAX));
    }
    if (request.operation == VmmOperation::Control) {
        request.id = reader.number("id", 0, 0, UINT64_MAX);
        const Json* body = reader.member("body");
        request.body = body != nullptr ? *body : Json();
    }
    STRATA_TRY_VOID(reader.finish());
    return request;
}

Json to_json(const VmmEvent& event) {
    if (event.kind == VmmEvent::Kind::Started) {
        return Json{{"event", "started"}, {"engine", event.engine}, {"reason", event.reason}};
    }
    if (event.kind == VmmEvent::Kind::PowerButton) {
        return Json{{"event", "power-button"}, {"heard", event.heard}};
    }
    if (event.kind == VmmEvent::Kind::Waiting) {
        return Json{{"event", "waiting"}, {"reason", event.reason}};
    }
    if (event.kind == VmmEvent::Kind::GoingOn) {
        return Json{{"event", "going-on"}};
    }
    if (event.kind == VmmEvent::Kind::Reply) {
        return Json{{"event", "reply"}, {"id", event.id}, {"body", event.body}};
    }
    if (event.kind == VmmEvent::Kind::Notice) {
        return Json{{"event", "notice"}, {"body", event.body}};
    }
    Json json{{"event", "exited"}, {"cause", to_text(event.cause)}};
    if (event.cause == ExitCause::DebugExit) {
        json["value"] = event.value;
    }
    if (event.cause == ExitCause::Error || !event.error.empty()) {
        json["error"] = {{"code", exit_status(event.error_kind)}, {"message", event.error}};
    }
    return json;
}

Result<VmmEvent> vmm_event_from_json(const Json& json) {
    ObjectReader reader(json, "");
    VmmEvent event;
    const std::string kind = reader.text("event");
    if (kind == "started") {
        event.kind = VmmEvent::Kind::Started;
        event.engine = reader.text("engine");
        event.reason = reader.text("reason");
    } else if (kind == "power-button") {
        event.kind = VmmEvent::Kind::PowerButton;
        event.heard = reader.boolean("heard", false);
    } else if (kind == "waiting") {
        event.kind = VmmEvent::Kind::Waiting;
        event.reason = reader.text("reason");
    } else if (kind == "going-on") {
        event.kind = VmmEvent::Kind::GoingOn;
    } else if (kind == "reply" || kind == "notice") {
        event.kind = kind == "reply" ? VmmEvent::Kind::Reply : VmmEvent::Kind::Notice;
        event.id = reader.number("id", 0, 0, UINT64_MAX);
        const Json* body = reader.member("body");
        event.body = body != nullptr ? *body : Json();
    } else if (kind == "exited") {
        const int place = place_of(kCauses, reader.text("cause"));
        if (place < 0) {
            return Error{ErrorKind::InvalidArgument, "cause: unknown"};
        }
        event.cause = static_cast<ExitCause>(place);
        event.value = static_cast<std::uint32_t>(reader.number("value", 0, 0, UINT32_MAX));
        if (const Json* error = reader.member("error")) {
            ObjectReader inner(*error, "error");
            event.error_kind = static_cast<ErrorKind>(inner.number("code", 1, 1, 9));
            event.error = inner.text("message");
            STRATA_TRY_VOID(inner.finish());
        }
    } else {
        return Error{ErrorKind::InvalidArgument, fmt::format("event: no '{}'", kind)};
    }
    STRATA_TRY_VOID(reader.finish());
    return event;
}

}  // namespace strata::api
