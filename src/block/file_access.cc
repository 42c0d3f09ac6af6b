// File access: the loops around pread(2) and pwrite(2).
#include "block/file_access.h"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/file_lock.h"

namespace strata::block {
namespace {

Error failed(std::string_view what, std::string_view name, std::uint64_t offset, std::size_t length,
             int number) {
    return Error::from_errno(fmt::format("'{}': {} of {} bytes at {}", name, what, length, offset),
                             number);
}

}  // namespace

Result<UniqueFd> open_image_file(DiskOptions& options) {
    UniqueFd fd = std::move(options.fd);
    if (!fd) {
        fd = UniqueFd(::open(options.path.c_str(),
                             (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK));
        if (!fd) {
            return Error::from_errno(fmt::format("cannot open image '{}'", options.path));
        }
    }
    const int flags = ::fcntl(fd.get(), F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) == O_WRONLY ||
        ((flags & O_ACCMODE) == O_RDONLY && !options.read_only)) {
        return Error{ErrorKind::PermissionDenied,
                     fmt::format("image '{}' was passed open in another mode; open it for reading "
                                 "and writing, or add ',readonly'",
                                 options.path)};
    }
    (void)STRATA_TRY(file_size(fd.get(), options.path));
    if (options.lock) {
        STRATA_TRY_VOID(lock_image(fd.get(), !options.read_only, options.path));
    }
    return fd;
}

Result<std::uint64_t> file_size(int fd, std::string_view name) {
    struct stat status {};
    if (::fstat(fd, &status) != 0) {
        return Error::from_errno(fmt::format("cannot look at image '{}'", name));
    }
    if (S_ISREG(status.st_mode)) {
        return static_cast<std::uint64_t>(status.st_size);
    }
    std::uint64_t size = 0;
    if (!S_ISBLK(status.st_mode) || ::ioctl(fd, BLKGETSIZE64, &size) != 0) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("image '{}' is neither a file nor a block device", name)};
    }
    return size;
}

Result<> read_file(int fd, std::uint64_t offset, std::span<std::byte> into, std::string_view name) {
    while (!into.empty()) {
        const ssize_t got = ::pread(fd, into.data(), into.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return failed("read", name, offset, into.size(), errno);
        }
        if (got == 0) {
            std::fill(into.begin(), into.end(), std::byte{0});
            break;
        }
        into = into.subspan(static_cast<std::size_t>(got));
        offset += static_cast<std::uint64_t>(got);
    }
    return ok();
}

Result<> write_file(int fd, std::uint64_t offset, std::span<const std::byte> from,
                    std::string_view name) {
    while (!from.empty()) {
        const ssize_t put = ::pwrite(fd, from.data(), from.size(), static_cast<off_t>(offset));
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            return failed("write", name, offset, from.size(), put == 0 ? EIO : errno);
        }
        from = from.subspan(static_cast<std::size_t>(put));
        offset += static_cast<std::uint64_t>(put);
    }
    return ok();
}

Result<> sync_file(int fd, std::string_view name) {
    while (::fdatasync(fd) != 0) {
        if (errno != EINTR) {
            return Error::from_errno(fmt::format("'{}': flushing to the disk", name));
        }
    }
    return ok();
}

}  // namespace strata::block
