// RawImage: opening files and devices.
#include "block/formats/raw/raw_image.h"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/file_lock.h"
#include "block/graph_image.h"

namespace strata::block {
namespace {

Error open_error(const DiskOptions& options, int number) {
    const char* advice = "";
    switch (number) {
        case ENOENT:
            advice = "; check the path, or make an empty disk with 'truncate -s 10G FILE'";
            break;
        case EACCES:
        case EPERM:
            advice =
                "; give this user access to the file, or open it with ',readonly' if it may be "
                "read";
            break;
        case EROFS:
            advice = "; its file system is read-only: add ',readonly'";
            break;
        case ETXTBSY:
            advice = "; it is a program that runs";
            break;
        default:
            break;
    }
    const Error plain =
        Error::from_errno(fmt::format("cannot open disk '{}'", options.path), number);
    return {plain.kind(), plain.text() + advice, number};
}

Result<UniqueFd> open_file(DiskOptions& options) {
    if (options.fd) {
        return std::move(options.fd);
    }
    // O_NONBLOCK: a FIFO in place of a disk must not hang us; it means nothing for files.
    UniqueFd fd(::open(options.path.c_str(),
                       (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK));
    if (!fd) {
        return open_error(options, errno);
    }
    return fd;
}

Result<> check_access(const DiskOptions& options, int fd) {
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0) {
        return open_error(options, errno);
    }
    const int mode = flags & O_ACCMODE;
    if (mode == O_WRONLY || (mode == O_RDONLY && !options.read_only)) {
        return Error{ErrorKind::PermissionDenied,
                     fmt::format("disk '{}' was passed open for {} only; open it for reading and "
                                 "writing, or add ',readonly'",
                                 options.path, mode == O_WRONLY ? "writing" : "reading")};
    }
    if ((flags & (O_DIRECT | O_NONBLOCK)) != 0 &&
        ::fcntl(fd, F_SETFL, flags & ~(O_DIRECT | O_NONBLOCK)) != 0) {
        return open_error(options, errno);
    }
    return ok();
}

Result<> measure(const DiskOptions& options, RawFile& file) {
    struct stat status {};
    if (::fstat(file.fd.get(), &status) != 0) {
        return open_error(options, errno);
    }
    std::uint64_t size = 0;
    if (S_ISREG(status.st_mode)) {
        size = static_cast<std::uint64_t>(status.st_size);
        file.traits.physical_block = 4096;
    } else if (S_ISBLK(status.st_mode)) {
        unsigned int physical = 512;
        if (::ioctl(file.fd.get(), BLKGETSIZE64, &size) != 0) {
            return Error::from_errno(
                fmt::format("cannot learn the size of disk '{}'", options.path));
        }
        if (::ioctl(file.fd.get(), BLKPBSZGET, &physical) == 0) {
            file.traits.physical_block = physical;
        }
    } else {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("disk '{}' is neither a file nor a block device", options.path)};
    }
    if (size == 0) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("disk '{0}' is empty; give it a size with 'truncate -s 10G {0}'",
                                 options.path)};
    }
    file.traits.size = (size + kSectorSize - 1) / kSectorSize * kSectorSize;
    return ok();
}

/// Opens the file once more with O_DIRECT and learns what that asks for.
Result<> open_direct(const DiskOptions& options, RawFile& file) {
    const std::string self = fmt::format("/proc/self/fd/{}", file.fd.get());
    file.direct = UniqueFd(
        ::open(self.c_str(), (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_DIRECT));
    if (!file.direct) {
        const int number = errno;
        return Error{
            ErrorKind::NotSupported,
            fmt::format(
                "disk '{}' cannot be opened without the host's cache ({}); use cache=writeback",
                options.path, Error::from_errno("O_DIRECT", number).text()),
            number};
    }
    file.memory_alignment = 4096;
    file.offset_alignment = 4096;
#ifdef STATX_DIOALIGN
    struct statx extended {};
    if (::statx(file.direct.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &extended) == 0 &&
        (extended.stx_mask & STATX_DIOALIGN) != 0 && extended.stx_dio_offset_align != 0) {
        file.memory_alignment = std::max(1U, extended.stx_dio_mem_align);
        file.offset_alignment = extended.stx_dio_offset_align;
    }
#endif
    return ok();
}

}  // namespace

Result<std::unique_ptr<DiskImage>> RawImage::open(DiskOptions options) {
    RawFile file;
    file.fd = STRATA_TRY(open_file(options));
    STRATA_TRY_VOID(check_access(options, file.fd.get()));
    STRATA_TRY_VOID(measure(options, file));
    if (options.lock) {
        STRATA_TRY_VOID(lock_image(file.fd.get(), !options.read_only, options.path));
    }
    if (options.cache == CacheMode::None) {
        STRATA_TRY_VOID(open_direct(options, file));
    }
    file.cache = options.cache;
    file.discard = options.discard;
    file.traits.read_only = options.read_only;
    file.traits.write_cache = options.cache != CacheMode::Writethrough;
    file.traits.discard = options.discard && !options.read_only;
    file.traits.write_zeroes = !options.read_only;
    file.traits.discard_alignment = std::max<std::uint32_t>(file.traits.physical_block, 512);
    return std::unique_ptr<DiskImage>(
        new RawImage(std::move(options.path), options.engine, std::move(file)));
}

Result<std::unique_ptr<DiskQueue>> RawImage::open_queue(unsigned depth) {
    auto io = make_async_io(engine_, depth);
    if (!io.ok()) {
        return std::move(io).error().context(fmt::format("disk '{}'", name_));
    }
    return std::unique_ptr<DiskQueue>(std::make_unique<RawQueue>(file_, std::move(io).value()));
}

Result<std::unique_ptr<DiskImage>> RawImage::as_graph() {
    struct stat status {};
    if (::fstat(file_.fd.get(), &status) != 0) {
        return Error::from_errno(fmt::format("disk '{}'", name_));
    }
    if (S_ISREG(status.st_mode) &&
        static_cast<std::uint64_t>(status.st_size) != file_.traits.size) {
        return Error{
            ErrorKind::NotSupported,
            fmt::format("disk '{}' has {} bytes, which are no whole sectors: grow it first", name_,
                        status.st_size)};
    }
    DiskOptions options;
    options.path = name_;
    options.fd = UniqueFd(::fcntl(file_.fd.get(), F_DUPFD_CLOEXEC, 3));
    if (!options.fd) {
        return Error::from_errno(fmt::format("disk '{}'", name_));
    }
    options.read_only = file_.traits.read_only;
    // A locked-up process opens nothing, so there is no second descriptor past the host's cache.
    options.cache = file_.cache == CacheMode::None ? CacheMode::Writeback : file_.cache;
    options.engine = engine_;
    options.lock = false;  // the lock is the open file's, which stays open
    options.discard = file_.discard;
    return open_graph_image(std::move(options));
}

void RawImage::grow(std::uint64_t size, std::function<void(Result<>)> done) {
    if (size < file_.traits.size) {
        done(Error{ErrorKind::WrongState, "a disk in use cannot shrink"});
        return;
    }
    struct stat status {};
    if (::fstat(file_.fd.get(), &status) != 0) {
        done(Error::from_errno(fmt::format("disk '{}'", name_)));
        return;
    }
    std::uint64_t has = 0;
    if (S_ISBLK(status.st_mode)) {
        if (::ioctl(file_.fd.get(), BLKGETSIZE64, &has) != 0 || has < size) {
            done(Error{ErrorKind::Failed,
                       fmt::format("device '{}' has {} bytes: make it larger first", name_, has),
                       ENOSPC});
            return;
        }
    } else if (::ftruncate(file_.fd.get(), static_cast<off_t>(size)) != 0) {
        done(Error::from_errno(fmt::format("cannot give disk '{}' {} bytes", name_, size)));
        return;
    }
    file_.traits.size = size;
    done(ok());
}

}  // namespace strata::block
