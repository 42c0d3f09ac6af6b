// Control protocol: which members each operation has, and their way to JSON and back.
#include "api/control_protocol.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace strata::api {
namespace {

constexpr std::uint64_t kMaxDiskSize = 1ULL << 62;
constexpr std::uint64_t kMaxNumber = 1ULL << 62;
constexpr std::size_t kMaxName = 4096;
constexpr std::size_t kMaxId = 64;
constexpr std::size_t kMaxLimits = 32;
constexpr std::size_t kMaxExportOptions = 16;

// What an operation's arguments are.
enum : unsigned {
    kDisk = 1U << 0,
    kJob = 1U << 1,
    kSize = 1U << 2,
    kSpeed = 1U << 3,
    kLimits = 1U << 4,
    kFile = 1U << 5,
    kEmpty = 1U << 6,
    kEnd = 1U << 7,
    kBitmap = 1U << 8,
    kSnapshot = 1U << 9,
    kFileMayLack = 1U << 10,
    kExport = 1U << 11,
    kForce = 1U << 12,
};

struct Shape {
    std::string_view name;
    unsigned members;
};

constexpr std::array<Shape, 19> kOperations{{
    {"query-machine", 0},
    {"query-disks", 0},
    {"pause", 0},
    {"resume", 0},
    {"power-button", 0},
    {"stop", 0},
    {"disk-resize", kDisk | kSize},
    {"disk-limits", kDisk | kLimits},
    {"disk-mirror", kDisk | kFile | kExport | kEmpty | kEnd | kSpeed},
    {"disk-backup", kDisk | kFile | kExport | kEmpty | kBitmap | kSpeed},
    {"disk-stream", kDisk | kSpeed},
    {"disk-commit", kDisk | kFile | kSpeed},
    {"disk-snapshot", kDisk | kFile | kFileMayLack | kSnapshot},
    {"disk-eject", kDisk | kForce},
    {"disk-change", kDisk | kFile | kForce},
    {"job-list", 0},
    {"job-cancel", kJob},
    {"job-speed", kJob | kSpeed},
    {"job-complete", kJob | kEnd},
}};

constexpr std::array<std::string_view, 3> kEnds = {"ask", "pivot", "keep"};

constexpr std::array<std::string_view, 10> kKinds = {
    "ok",          "failed",     "usage",   "not-found",   "exists",
    "wrong-state", "permission", "timeout", "unreachable", "unsupported"};

const Shape& shape_of(ControlOperation operation) {
    return kOperations.at(static_cast<std::size_t>(operation));
}

std::string read_name(ObjectReader& reader, std::string_view member, bool wanted) {
    std::string name = reader.text(member);
    if (name.size() > kMaxName || name.find('\0') != std::string::npos) {
        reader.reject(member, "too long, or no name");
        return {};
    }
    if (wanted && name.empty()) {
        reader.reject(member, "missing");
    }
    return name;
}

void read_limits(ObjectReader& reader, ControlRequest& request) {
    const Json* limits = reader.member("limits");
    if (limits == nullptr || !limits->is_object() || limits->size() > kMaxLimits) {
        reader.reject("limits", "must be an object of limits");
        return;
    }
    for (const auto& [name, value] : limits->items()) {
        if (!is_disk_limit(name) || !value.is_number_unsigned() ||
            value.get<std::uint64_t>() > kMaxNumber) {
            reader.reject("limits", "has a name that is no limit, or no number");
            return;
        }
        request.limits.push_back({name, value.get<std::uint64_t>()});
    }
}

void read_file(ObjectReader& reader, ControlRequest& request, std::size_t fds, bool wanted) {
    const std::int64_t fd = reader.integer("fd", kNoFile);
    if (fd == kNoFile && !wanted) {
        return;
    }
    if (fd < 0 || static_cast<std::uint64_t>(fd) >= fds) {
        reader.reject("fd", "no such descriptor came along");
        return;
    }
    request.file.fd = fd;
    request.file.name = read_name(reader, "file", true);
    request.format = read_name(reader, "format", true);
}

void read_export(ObjectReader& reader, ControlRequest& request) {
    const Json* location = reader.member("nbd");
    if (location == nullptr) {
        return;
    }
    if (!location->is_object() || location->size() > kMaxExportOptions) {
        reader.reject("nbd", "must be an object of texts");
        return;
    }
    for (const auto& [name, value] : location->items()) {
        if (!value.is_string()) {
            reader.reject("nbd", "must be an object of texts");
            return;
        }
        request.nbd.emplace_back(name, value.get<std::string>());
    }
}

void read_members(ObjectReader& reader, unsigned members, std::size_t fds,
                  ControlRequest& request) {
    if ((members & kDisk) != 0) {
        request.disk = read_name(reader, "disk", true);
    }
    if ((members & kJob) != 0) {
        request.job = read_name(reader, "job", true);
    }
    if ((members & kSize) != 0) {
        request.size = reader.number("size", 0, 512, kMaxDiskSize);
    }
    if ((members & kSpeed) != 0) {
        request.speed = reader.number("speed", 0, 0, kMaxNumber);
    }
    if ((members & kLimits) != 0) {
        read_limits(reader, request);
    }
    if ((members & kFile) != 0) {
        read_file(reader, request, fds, (members & kFileMayLack) == 0);
    }
    if ((members & kExport) != 0) {
        read_export(reader, request);
    }
    if ((members & kEmpty) != 0) {
        request.empty = reader.boolean("empty", false);
    }
    if ((members & kEnd) != 0) {
        const auto end = mirror_end_from_text(reader.text("end", "ask"));
        if (!end) {
            reader.reject("end", "must be ask, pivot or keep");
        } else {
            request.end = *end;
        }
    }
    if ((members & kBitmap) != 0) {
        request.bitmap = read_name(reader, "bitmap", false);
        request.incremental = reader.boolean("incremental", false);
    }
    if ((members & kForce) != 0) {
        request.force = reader.boolean("force", false);
    }
    if ((members & kSnapshot) != 0) {
        request.snapshot = read_name(reader, "snapshot", false);
        request.backing = read_name(reader, "backing", false);
    }
}

Result<> check_meaning(const ControlRequest& request) {
    const auto wrong = [](std::string_view what) {
        return Error{ErrorKind::InvalidArgument, std::string(what)};
    };
    if (request.operation == ControlOperation::DiskBackup && request.incremental &&
        request.bitmap.empty()) {
        return wrong("an incremental backup needs a bitmap");
    }
    if (request.operation == ControlOperation::DiskSnapshot &&
        (request.file.fd == kNoFile) == request.snapshot.empty()) {
        return wrong("a snapshot is either inside the image (snapshot) or a new overlay (file)");
    }
    if (request.operation == ControlOperation::DiskSnapshot && request.file.fd != kNoFile &&
        request.backing.empty()) {
        return wrong("backing: missing");
    }
    if (request.operation == ControlOperation::DiskResize && request.size % 512 != 0) {
        return wrong("size: must be a multiple of 512");
    }
    if (request.operation == ControlOperation::JobComplete && request.end == MirrorEnd::Ask) {
        return wrong("end: must be pivot or keep");
    }
    return ok();
}

}  // namespace

std::string_view to_text(ControlOperation operation) {
    return shape_of(operation).name;
}

std::string_view to_text(MirrorEnd end) {
    return kEnds.at(static_cast<std::size_t>(end));
}

Result<MirrorEnd> mirror_end_from_text(std::string_view text) {
    const auto* const found = std::ranges::find(kEnds, text);
    if (found == kEnds.end()) {
        return Error{ErrorKind::InvalidArgument, fmt::format("'{}': use ask, pivot or keep", text)};
    }
    return static_cast<MirrorEnd>(found - kEnds.begin());
}

Json to_json(const ControlRequest& request) {
    const Shape& shape = shape_of(request.operation);
    Json arguments = Json::object();
    const auto put = [&](unsigned member, const char* name, const auto& value) {
        if ((shape.members & member) != 0) {
            arguments[name] = value;
        }
    };
    put(kDisk, "disk", request.disk);
    put(kJob, "job", request.job);
    put(kSize, "size", request.size);
    put(kSpeed, "speed", request.speed);
    if ((shape.members & kLimits) != 0) {
        Json limits = Json::object();
        for (const DiskLimit& limit : request.limits) {
            limits[limit.name] = limit.value;
        }
        arguments["limits"] = std::move(limits);
    }
    if ((shape.members & kFile) != 0 && request.file.fd != kNoFile) {
        arguments["fd"] = request.file.fd;
        arguments["file"] = request.file.name;
        arguments["format"] = request.format;
    }
    if (!request.nbd.empty()) {
        // The owner adds the descriptor.
        arguments["file"] = request.file.name;
        arguments["format"] = request.format;
        for (const auto& [name, value] : request.nbd) {
            arguments["nbd"][name] = value;
        }
    }
    put(kEmpty, "empty", request.empty);
    put(kEnd, "end", to_text(request.end));
    put(kBitmap, "bitmap", request.bitmap);
    put(kBitmap, "incremental", request.incremental);
    put(kForce, "force", request.force);
    put(kSnapshot, "snapshot", request.snapshot);
    put(kSnapshot, "backing", request.backing);
    return Json{{"execute", shape.name}, {"arguments", std::move(arguments)}};
}

Result<ControlRequest> control_request_from_json(const Json& json, std::size_t fds) {
    ObjectReader reader(json, "");
    const std::string name = reader.text("execute");
    const auto* const found = std::ranges::find(kOperations, name, &Shape::name);
    if (found == kOperations.end()) {
        return Error{ErrorKind::NotSupported, fmt::format("execute: no '{:.64}'", name)};
    }
    ControlRequest request;
    request.operation = static_cast<ControlOperation>(found - kOperations.begin());
    const Json nothing = Json::object();
    const Json* arguments = reader.member("arguments");
    ObjectReader inner(arguments != nullptr ? *arguments : nothing, "arguments");
    read_members(inner, found->members, fds, request);
    STRATA_TRY_VOID(inner.finish());
    STRATA_TRY_VOID(reader.finish());
    STRATA_TRY_VOID(check_meaning(request));
    return request;
}

Result<ControlLine> control_line_from_text(std::string_view text) {
    if (text.size() > kMaxControlLine) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("a line has more than {} bytes", kMaxControlLine)};
    }
    ControlLine line;
    line.body = STRATA_TRY(parse_json(text));
    if (!line.body.is_object()) {
        return Error{ErrorKind::InvalidArgument, "a line must be a JSON object"};
    }
    if (const auto id = line.body.find("id"); id != line.body.end()) {
        const bool text_id = id->is_string() && id->get_ref<const std::string&>().size() <= kMaxId;
        if (!text_id && !id->is_number_integer() && !id->is_null()) {
            return Error{ErrorKind::InvalidArgument, "id: must be a number or a short text"};
        }
        line.id = *id;
        line.body.erase(id);
    }
    return line;
}

Json error_json(const Error& error) {
    const int code = exit_status(error.kind());
    return Json{{"code", code},
                {"kind", kKinds.at(static_cast<std::size_t>(code))},
                {"message", error.text()}};
}

Error error_from_json(const Json& json) {
    ObjectReader reader(json, "error");
    const std::uint64_t code = reader.number("code", 1, 1, 9);
    (void)reader.text("kind");
    return {static_cast<ErrorKind>(code), reader.text("message")};
}

}  // namespace strata::api
