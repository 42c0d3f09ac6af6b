// Disk setup: probing for the sake of advice, and overlays.
#include "cli/run/disk_setup.h"

#include <cstdlib>
#include <filesystem>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/nbd/address.h"
#include "block/protocols/fat/fat_node.h"
#include "block/registry.h"
#include "cli/image/image_tool.h"

namespace strata::cli {
namespace {

constexpr std::string_view kUndo = ".undo";

Result<std::string> absolute(const std::string& path) {
    std::error_code code;
    const auto whole = std::filesystem::canonical(path, code);
    if (code) {
        return Error::from_errno(fmt::format("disk '{}'", path), code.value());
    }
    return whole.string();
}

/// The format that an export looks like.
block::Task<std::string> look_there(block::Loop& loop, std::string path,
                                    block::OptionList location) {
    block::OpenOptions options;
    options.path = std::move(path);
    options.format = "file";
    options.protocol = "nbd";
    options.protocol_options = std::move(location);
    options.read_only = true;
    STRATA_CO_TRY(block::NodePtr file, co_await block::open_node(loop, std::move(options)));
    auto format = co_await block::probe_format(*file);
    STRATA_CO_TRY_VOID(co_await file->close());
    co_return format;
}

// A guest can write any header into a raw disk, so the content never decides; but who forgot to
// name the format of an image would have it overwritten as if it were raw.
Result<> name_format(ImageTool& tool, api::DiskText& disk, const block::OptionList& location = {}) {
    if (!disk.format.empty()) {
        return ok();
    }
    const std::string looks =
        STRATA_TRY(location.empty() ? tool.looks_like(disk.file.name)
                                    : tool.run(look_there(tool.loop(), disk.file.name, location)));
    if (looks != "raw") {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("disk '{}' looks like a {} image: add format={}, or format=raw if "
                                 "its guest wrote that into a raw disk",
                                 disk.file.name, looks, looks)};
    }
    disk.format = "raw";
    return ok();
}

/// What --disk says of an export, as block/nbd/address.h has it.
Result<block::OptionList> export_options(const api::DiskText& disk) {
    block::OptionList options =
        block::nbd::location_options(STRATA_TRY(block::nbd::parse_location(disk.file.name)));
    for (const auto& said : disk.nbd) {
        const std::string name =
            said.first == "tls-certificates" ? std::string("tls-folder") : said.first;
        std::erase_if(options, [&](const auto& each) { return each.first == name; });
        options.emplace_back(name, said.second);
    }
    // Not known to be right until here. The VMM looks from another folder, perhaps.
    block::nbd::Location location = STRATA_TRY(block::nbd::take_location(options));
    if (!location.tls_folder.empty()) {
        location.tls_folder = STRATA_TRY(absolute(location.tls_folder));
    }
    return block::nbd::location_options(location);
}

/// A disk on an NBD server: the VMM gets its socket from whoever serves its channel.
Result<PreparedDisk> prepare_export(api::DiskText disk) {
    if (disk.mode != api::DiskMode::Persistent) {
        return Error{ErrorKind::NotSupported,
                     fmt::format("disk '{}': an export has no such mode", disk.file.name)};
    }
    block::OptionList options = STRATA_TRY(export_options(disk));
    if (disk.format.empty()) {
        auto tool = STRATA_TRY(ImageTool::start());
        STRATA_TRY_VOID(name_format(tool, disk, options));
    }
    disk.nbd = std::move(options);
    return PreparedDisk{.config = static_cast<api::DiskConfig&&>(disk), .fd = UniqueFd()};
}

/// A folder as a disk. The VMM sees the export of a server that is ours.
Result<PreparedDisk> prepare_folder(api::DiskText disk) {
    const std::string name = disk.file.name;
    const bool drop = disk.mode == api::DiskMode::Nonpersistent;
    if (disk.mode == api::DiskMode::Undoable || !disk.key_secret.empty() || !disk.nbd.empty() ||
        (!disk.format.empty() && disk.format != "raw")) {
        return Error{
            ErrorKind::NotSupported,
            fmt::format("disk '{}': a folder is a raw disk that is read, or written with "
                        "mode=nonpersistent, and no more: copy it first (strata image convert -O "
                        "qcow2 '{}' FILE)",
                        name, name)};
    }
    auto tool = STRATA_TRY(ImageTool::start());  // tells what is wrong with it before all else
    auto node = STRATA_TRY(tool.open_as(name, "raw", false, {}));
    STRATA_TRY_VOID(tool.close(node));
    disk.format = "raw";
    disk.read_only = !drop;
    block::nbd::Location location;
    location.address.path = name;  // for messages: nobody connects there
    disk.nbd = block::nbd::location_options(location);
    PreparedDisk prepared{.config = static_cast<api::DiskConfig&&>(disk), .fd = UniqueFd()};
    prepared.config.pinned = true;
    prepared.folder = {.location = name, .drop_writes = drop};
    return prepared;
}

/// The disk below an overlay must open as the VMM will open it, with no more files than the user
/// allows. Its size.
Result<std::uint64_t> open_below(ImageTool& tool, const std::string& below,
                                 const api::DiskText& disk) {
    auto node =
        STRATA_TRY(tool.open_as(below, disk.format, disk.follow, {.backing = true, .lock = false}));
    const std::uint64_t size = node->size();
    STRATA_TRY_VOID(tool.close(node));
    return size;
}

/// Makes an overlay at `path`.
Result<> make_overlay(ImageTool& tool, const std::string& path, const std::string& below,
                      const api::DiskText& disk) {
    const std::uint64_t size = STRATA_TRY(open_below(tool, below, disk));
    return tool.create("qcow2",
                       {path, size, {{"backing_file", below}, {"backing_fmt", disk.format}}});
}

PreparedDisk over(const api::DiskText& disk, UniqueFd fd, std::string name) {
    PreparedDisk prepared{.config = static_cast<const api::DiskConfig&>(disk), .fd = std::move(fd)};
    prepared.config.file.name = std::move(name);
    prepared.config.format = "qcow2";
    prepared.config.pinned = true;
    prepared.config.follow = true;  // what it names is what we put there
    return prepared;
}

Result<PreparedDisk> temporary_overlay(ImageTool& tool, const api::DiskText& disk) {
    const std::string below = STRATA_TRY(absolute(disk.file.name));
    const char* folder = std::getenv("TMPDIR");  // NOLINT(concurrency-mt-unsafe): one thread yet
    std::string path =
        fmt::format("{}/strata-disk-XXXXXX", folder != nullptr ? folder : "/var/tmp");
    UniqueFd fd(::mkostemp(path.data(), O_CLOEXEC));
    if (!fd.valid()) {
        return Error::from_errno(
            fmt::format("disk '{}': temporary file '{}'", disk.file.name, path));
    }
    auto made = make_overlay(tool, path, below, disk);
    if (made) {
        fd.reset(::open(path.c_str(), O_RDWR | O_CLOEXEC));  // the creation may have replaced it
        made = fd.valid() ? made : Error::from_errno(fmt::format("temporary file '{}'", path));
    }
    (void)::unlink(path.c_str());  // it lives on as a descriptor
    STRATA_TRY_VOID(made);
    return over(disk, std::move(fd), disk.file.name);
}

Result<PreparedDisk> undoable_overlay(ImageTool& tool, const api::DiskText& disk) {
    const std::string below = STRATA_TRY(absolute(disk.file.name));
    const std::string path = below + std::string(kUndo);
    struct stat status {};
    const bool exists = ::lstat(path.c_str(), &status) == 0;
    if (!exists) {
        STRATA_TRY_VOID(make_overlay(tool, path, below, disk));
    } else {
        auto node =
            STRATA_TRY(tool.open_as(path, "qcow2", false, {.backing = false, .lock = false}));
        const block::FormatInfo info = STRATA_TRY(tool.run(node->info()));
        STRATA_TRY_VOID(tool.close(node));
        if (info.backing_name != below || info.backing_format != disk.format ||
            !info.data_file.empty()) {
            return Error{
                ErrorKind::InvalidArgument,
                fmt::format("'{}' is no overlay of the {} image '{}' (but of the {} image "
                            "'{}'): move it away",
                            path, disk.format, below, info.backing_format, info.backing_name)};
        }
        STRATA_TRY_VOID(open_below(tool, below, disk));
    }
    UniqueFd fd = STRATA_TRY(open_checked(path, "disk", O_RDWR));
    PreparedDisk prepared = over(disk, std::move(fd), path);
    prepared.notice = fmt::format(
        "changes to '{}' are in '{}': 'strata image commit -f qcow2 --follow {}' makes them its "
        "own, deleting that file undoes them",
        disk.file.name, path, path);
    return prepared;
}

/// A disk must not change below what an undoable run has kept of it.
Result<> check_no_changes_over(const std::string& disk) {
    const std::string path = STRATA_TRY(absolute(disk)) + std::string(kUndo);
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0) {
        return ok();
    }
    return Error{
        ErrorKind::InvalidArgument,
        fmt::format("'{}' holds changes to this disk: commit them ('strata image commit -f "
                    "qcow2 --follow {}'), delete that file, or use mode=undoable",
                    path, path)};
}

}  // namespace

Result<UniqueFd> open_checked(const std::string& path, std::string_view what, int flags) {
    // Not blocking: a FIFO in place of a file must not hang us.
    UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
    if (!fd.valid()) {
        return Error::from_errno(fmt::format("{} '{}'", what, path));
    }
    struct stat status {};
    if (fstat(fd.get(), &status) != 0) {
        return Error::from_errno(fmt::format("{} '{}'", what, path));
    }
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
        return Error{ErrorKind::InvalidArgument, fmt::format("{} '{}': not a file", what, path)};
    }
    if (S_ISREG(status.st_mode) && status.st_size == 0) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("{} '{}': the file is empty", what, path)};
    }
    return fd;
}

Result<PreparedDisk> prepare_disk(api::DiskText disk) {
    if (block::is_location(disk.file.name)) {
        return prepare_export(std::move(disk));
    }
    if (block::fat::is_location(disk.file.name)) {
        return prepare_folder(std::move(disk));
    }
    if (!disk.nbd.empty()) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("disk '{}': {} is for disks on NBD servers (nbd://HOST/EXPORT)",
                                 disk.file.name, disk.nbd.front().first)};
    }
    // First of all whether it is there and may be opened as wanted.
    const bool writes = !disk.read_only && disk.mode == api::DiskMode::Persistent;
    UniqueFd fd = STRATA_TRY(open_checked(disk.file.name, "disk", writes ? O_RDWR : O_RDONLY));
    if (writes) {
        STRATA_TRY_VOID(check_no_changes_over(disk.file.name));
    }
    if (!disk.key_secret.empty() && disk.mode != api::DiskMode::Persistent) {
        return Error{ErrorKind::NotSupported,
                     fmt::format("disk '{}': what its guest writes would lie in the clear in "
                                 "another file: an encrypted disk has no such mode",
                                 disk.file.name)};
    }
    if (!disk.format.empty() && disk.mode == api::DiskMode::Persistent) {
        return PreparedDisk{.config = static_cast<api::DiskConfig&&>(disk), .fd = std::move(fd)};
    }
    auto tool = STRATA_TRY(ImageTool::start());
    STRATA_TRY_VOID(name_format(tool, disk));
    switch (disk.mode) {
        case api::DiskMode::Nonpersistent:
            return temporary_overlay(tool, disk);
        case api::DiskMode::Undoable:
            return undoable_overlay(tool, disk);
        case api::DiskMode::Persistent:
            break;
    }
    return PreparedDisk{.config = static_cast<api::DiskConfig&&>(disk), .fd = std::move(fd)};
}

}  // namespace strata::cli
