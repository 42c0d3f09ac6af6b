// Control protocol: what the owner of a running machine may ask of it: its state, its disks, jobs.
//
// One JSON object a request: {"execute":"disk-resize","arguments":{"disk":"disk0","size":…}}. The
// answer is {"result":…} or {"error":{"code","kind","message"}}; what happens by itself is told as
// events. Over the machine's control socket each is a line, requests carry an "id" that answers
// repeat, and files come along as descriptors with the line, in whose order "fd" counts. Whatever
// is said here is checked as if a stranger had said it. docs/control.md is the reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/json.h"
#include "api/machine_config.h"
#include "base/result.h"

namespace strata::api {

inline constexpr std::size_t kMaxControlLine = 64U << 10;
inline constexpr std::size_t kMaxControlFds = 8;

enum class ControlOperation : std::uint8_t {
    QueryMachine,
    QueryDisks,
    Pause,
    Resume,
    PowerButton,
    Stop,
    DiskResize,
    DiskLimits,
    DiskMirror,
    DiskBackup,
    DiskStream,
    DiskCommit,
    DiskSnapshot,
    DiskEject,
    DiskChange,
    JobList,
    JobCancel,
    JobSpeed,
    JobComplete,
};

/// "query-machine", "disk-mirror" …
[[nodiscard]] std::string_view to_text(ControlOperation operation);

/// How a mirror that is ready ends.
enum class MirrorEnd : std::uint8_t { Ask, Pivot, Keep };
/// "ask", "pivot" or "keep".
Result<MirrorEnd> mirror_end_from_text(std::string_view text);
[[nodiscard]] std::string_view to_text(MirrorEnd end);

struct ControlRequest {
    ControlOperation operation = ControlOperation::QueryMachine;
    std::string disk{};               ///< disk operations: its name or its file
    std::string job{};                ///< job operations
    std::uint64_t size = 0;           ///< DiskResize
    std::uint64_t speed = 0;          ///< bytes a second; 0: no limit
    std::vector<DiskLimit> limits{};  ///< DiskLimits; none: no limits
    /// DiskMirror, DiskBackup, DiskCommit, external DiskSnapshot, DiskChange
    FileRef file{};
    std::string format = "raw";  ///< of `file`
    /// DiskMirror, DiskBackup: not a file but an NBD export, as DiskConfig::nbd. The descriptor, a
    /// channel to who connects, comes from the machine's owner.
    std::vector<std::pair<std::string, std::string>> nbd{};
    bool empty = false;              ///< `file` reads as zeros
    MirrorEnd end = MirrorEnd::Ask;  ///< DiskMirror, JobComplete
    std::string bitmap{};            ///< DiskBackup
    bool incremental = false;        ///< DiskBackup
    std::string snapshot{};          ///< internal DiskSnapshot: its name
    bool force = false;              ///< DiskEject, DiskChange: whatever the guest has locked
    std::string backing{};           ///< external DiskSnapshot: what the overlay calls the disk
    bool operator==(const ControlRequest&) const = default;
};

Json to_json(const ControlRequest& request);
/// `fds` is how many descriptors came along.
Result<ControlRequest> control_request_from_json(const Json& json, std::size_t fds);

/// A line of the control socket.
struct ControlLine {
    Json id{};    ///< a number, a short text, or null: the answer repeats it
    Json body{};  ///< "execute" and "arguments"; not looked at yet
};
Result<ControlLine> control_line_from_text(std::string_view text);

/// {"code":3,"kind":"not-found","message":"…"}.
Json error_json(const Error& error);
/// The error of such an object.
Error error_from_json(const Json& json);

}  // namespace strata::api
