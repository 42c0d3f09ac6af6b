// Disk files: opening and making.
#include "cli/image/disk_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/text.h"
#include "base/unique_fd.h"
#include "block/file_access.h"
#include "block/file_lock.h"
#include "block/formats/qcow2/create.h"

namespace strata::cli {
namespace {

namespace qcow2 = block::qcow2;

Error bad_value(std::string_view option, std::string_view known) {
    return {ErrorKind::InvalidArgument, fmt::format("-o {}: use {}", option, known)};
}

Result<bool> on_or_off(std::string_view option, std::string_view value) {
    if (value != "on" && value != "off") {
        return bad_value(option, "on or off");
    }
    return value == "on";
}

Result<> apply(qcow2::CreateOptions& to, std::string_view option) {
    const std::size_t equals = option.find('=');
    const std::string_view name = option.substr(0, equals);
    const std::string_view value = equals == std::string_view::npos ? "on" : option.substr(equals + 1);
    if (name == "cluster_size") {
        to.cluster = STRATA_TRY(parse_size(value));
    } else if (name == "refcount_bits") {
        to.refcount_bits = STRATA_TRY(parse_integer(value, 1, 64));
    } else if (name == "compat") {
        if (value != "0.10" && value != "v2" && value != "1.1" && value != "v3") {
            return bad_value(option, "0.10 (v2) or 1.1 (v3)");
        }
        to.version = value == "0.10" || value == "v2" ? 2 : 3;
    } else if (name == "extended_l2") {
        to.extended_l2 = STRATA_TRY(on_or_off(option, value));
    } else if (name == "lazy_refcounts") {
        to.lazy_refcounts = STRATA_TRY(on_or_off(option, value));
    } else if (name == "compression_type") {
        if (value != "zlib" && value != "zstd") {
            return bad_value(option, "zlib or zstd");
        }
        to.compression = value == "zstd" ? qcow2::Compression::Zstd : qcow2::Compression::Zlib;
    } else if (name == "backing_file") {
        to.backing = value;
    } else if (name == "backing_fmt") {
        to.backing_format = value;
    } else {
        return bad_value(option, "cluster_size, compat, refcount_bits, extended_l2, lazy_refcounts, compression_type, backing_file, backing_fmt");
    }
    return ok();
}

Result<> make_raw(const NewDisk& disk) {
    if (!disk.backing.empty() || !disk.options.empty()) {
        return Error{ErrorKind::InvalidArgument, "a raw image has neither options nor a backing file"};
    }
    const UniqueFd fd(::open(disk.path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644));
    if (!fd) {
        return Error::from_errno(fmt::format("cannot create image '{}'", disk.path));
    }
    (void)STRATA_TRY(block::file_size(fd.get(), disk.path));
    STRATA_TRY_VOID(block::lock_image(fd.get(), true, disk.path));
    if (::ftruncate(fd.get(), 0) != 0 || ::ftruncate(fd.get(), static_cast<off_t>(disk.size)) != 0) {
        return Error::from_errno(fmt::format("cannot give image '{}' {} bytes", disk.path, disk.size));
    }
    return ok();
}

}  // namespace

Result<std::unique_ptr<block::Layer>> open_source(std::string_view path, std::string_view format, bool follow_references) {
    block::DiskOptions options;
    options.path = path;
    options.format = format;
    options.read_only = true;
    options.follow_references = follow_references;
    return block::open_layer(std::move(options));
}

Result<> make_disk(const NewDisk& disk) {
    if (disk.size > (1ULL << 62)) {
        return Error{ErrorKind::InvalidArgument, fmt::format("a size of {} bytes is too large", disk.size)};
    }
    if (disk.format == "raw") {
        return make_raw(disk);
    }
    if (disk.format != "qcow2") {
        return Error{ErrorKind::NotSupported, fmt::format("format '{}': raw and qcow2 can be made", disk.format)};
    }
    qcow2::CreateOptions options;
    options.size = disk.size;
    options.backing = disk.backing;
    options.backing_format = disk.backing_format;
    for (const std::string_view list : disk.options) {
        for (const std::string_view each : split(list, ',')) {
            STRATA_TRY_VOID(apply(options, each));
        }
    }
    return qcow2::create(disk.path, options);
}

}  // namespace strata::cli
