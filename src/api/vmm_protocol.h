// VMM protocol: the messages between a VMM process and whoever started it, one JSON object a
// packet.
//
// To the VMM: first `start` with the MachineConfig and its descriptors, later `stop`,
// `power-button`, `console-size`, `retry`, and `control` with a request of api/control_protocol.h.
// From it: `started`, `power-button` in answer to that request, `waiting` and `going-on` when the
// machine waits for the host and when it does no longer, `reply` to a control request and `notice`
// of what happens by itself, then one `exited`. The VMM ends when the socket closes. The packets
// travel over io/packet_socket.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "api/json.h"
#include "api/machine_config.h"
#include "base/result.h"

namespace strata::api {

enum class VmmOperation : std::uint8_t { Start, Stop, PowerButton, ConsoleSize, Retry, Control };

struct VmmRequest {
    VmmOperation operation = VmmOperation::Stop;
    MachineConfig config;       ///< Start only
    std::uint16_t columns = 0;  ///< ConsoleSize only
    std::uint16_t rows = 0;     ///< ConsoleSize only
    std::uint64_t id = 0;       ///< Control only: the reply's
    Json body{};                ///< Control only: the request, not looked at yet
};

/// How a run ended.
enum class ExitCause : std::uint8_t {
    PowerOff,     ///< the guest switched the machine off
    Reset,        ///< the guest reset the machine, and reboot is off
    Panic,        ///< the guest reported a panic (pvpanic)
    TripleFault,  ///< with reboot off, or again and again right after its start
    DebugExit,    ///< `value` was written to the debug-exit port
    Stopped,      ///< asked to
    Error,        ///< `error` says what
};

struct VmmEvent {
    enum class Kind : std::uint8_t {
        Started,
        PowerButton,
        Waiting,
        GoingOn,
        Reply,
        Notice,
        Exited
    };
    Kind kind = Kind::Exited;
    std::string engine;  ///< Started: "kvm" or "soft"
    std::string reason;  ///< Started: why this engine; Waiting: for what, and what to do
    bool heard = false;  ///< PowerButton: the guest listens to it
    ExitCause cause = ExitCause::Error;
    std::uint32_t value = 0;  ///< DebugExit
    ErrorKind error_kind = ErrorKind::Failed;
    std::string error;     ///< Error
    std::uint64_t id = 0;  ///< Reply: the request's
    Json body{};           ///< Reply: {"result":…} or {"error":…}; Notice: {"event":…}
};

[[nodiscard]] std::string_view to_text(ExitCause cause);

/// The exit status of the command that ran the machine (see base/result.h; 10: the guest panicked
/// or triple-faulted).
[[nodiscard]] int exit_status(const VmmEvent& exited);

Json to_json(const VmmRequest& request);
Result<VmmRequest> vmm_request_from_json(const Json& json, std::size_t fds);
Json to_json(const VmmEvent& event);
Result<VmmEvent> vmm_event_from_json(const Json& json);

}  // namespace strata::api
