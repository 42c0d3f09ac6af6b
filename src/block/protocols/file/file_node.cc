// FileNode: opening, transfers.
#include "block/protocols/file/file_node.h"

#include <algorithm>
#include <cerrno>
#include <climits>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/file_access.h"
#include "block/file_lock.h"
#include "block/protocols/file/cachestat.h"

namespace strata::block {
namespace {

constexpr std::uint32_t kPage = 4096;
constexpr std::size_t kBulk = 64U << 10;
constexpr std::size_t kAside = 256U << 10;  ///< what takes the kernel some 50 microseconds to copy

}  // namespace

FileNode::FileNode(Loop& loop, std::string name, UniqueFd fd, const OpenOptions& options)
    : Node(loop, std::move(name)),
      fd_(std::move(fd)),
      cache_(options.cache),
      discard_(options.discard),
      ask_cache_(options.read_only && !options.above.empty()) {
    traits_.read_only = options.read_only;
}

Result<std::shared_ptr<FileNode>> FileNode::open(Loop& loop, OpenOptions& options) {
    DiskOptions disk;
    disk.path = options.path;
    disk.fd = std::move(options.fd);
    disk.read_only = options.read_only;
    disk.lock = options.lock;
    UniqueFd fd = STRATA_TRY(open_image_file(disk));
    std::shared_ptr<FileNode> node(new FileNode(loop, options.path, std::move(fd), options));
    STRATA_TRY_VOID(node->examine());
    return node;
}

Result<std::shared_ptr<FileNode>> FileNode::create(Loop& loop, const std::string& path,
                                                   std::uint64_t size) {
    // O_NONBLOCK: a FIFO in place of a file must not hang us.
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644));
    if (!fd) {
        return Error::from_errno(fmt::format("cannot create image '{}'", path));
    }
    OpenOptions options;
    options.path = path;
    options.fd = std::move(fd);
    auto node = STRATA_TRY(open(loop, options));
    if (node->device_) {
        if (size > node->size_) {
            return Error{ErrorKind::Failed,
                         fmt::format("'{}' has {} bytes, {} are needed", path, node->size_, size),
                         ENOSPC};
        }
        return node;
    }
    if (::ftruncate(node->fd(), 0) != 0 || ::ftruncate(node->fd(), static_cast<off_t>(size)) != 0) {
        return Error::from_errno(fmt::format("cannot give image '{}' {} bytes", path, size));
    }
    node->size_ = size;
    return node;
}

Result<> FileNode::examine() {
    struct stat status {};
    if (::fstat(fd_.get(), &status) != 0) {
        return Error::from_errno(fmt::format("cannot look at image '{}'", name()));
    }
    opened_ = size_ = STRATA_TRY(file_size(fd_.get(), name()));
    device_ = S_ISBLK(status.st_mode);
    ask_cache_ = ask_cache_ && !device_;
    identity_ = {device_ ? status.st_rdev : status.st_dev, device_ ? 0 : status.st_ino};
    unsigned int physical = 4096;
    if (device_ && ::ioctl(fd_.get(), BLKPBSZGET, &physical) != 0) {
        physical = 512;
    }
    traits_.request_alignment = 1;
    traits_.discard_alignment = std::max(physical, 512U);
    traits_.discard = discard_ && !traits_.read_only;
    traits_.fast_zeroes = true;
    traits_.zero_initialised = !device_;
    traits_.sparse = !device_;
    return cache_ == CacheMode::None ? open_direct() : ok();
}

Result<> FileNode::open_direct() {
    const std::string self = fmt::format("/proc/self/fd/{}", fd_.get());
    direct_ = UniqueFd(
        ::open(self.c_str(), (traits_.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_DIRECT));
    if (!direct_) {
        const int number = errno;
        return Error{
            ErrorKind::NotSupported,
            fmt::format(
                "disk '{}' cannot be opened without the host's cache ({}); use cache=writeback",
                name(), Error::from_errno("O_DIRECT", number).text()),
            number};
    }
    traits_.memory_alignment = 4096;
    traits_.request_alignment = 4096;
#ifdef STATX_DIOALIGN
    struct statx extended {};
    if (::statx(direct_.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &extended) == 0 &&
        (extended.stx_mask & STATX_DIOALIGN) != 0 && extended.stx_dio_offset_align != 0) {
        traits_.memory_alignment = std::max(1U, extended.stx_dio_mem_align);
        traits_.request_alignment = extended.stx_dio_offset_align;
    }
#endif
    return ok();
}

Error FileNode::failed(std::string_view what, std::uint64_t offset, std::uint64_t length,
                       std::int64_t result) const {
    return Error::from_errno(
        fmt::format("'{}': {} of {} bytes at {}", name(), what, length, offset),
        static_cast<int>(-result));
}

void FileNode::write_in_bulk() {
    if (cache_ != CacheMode::Writeback || traits_.read_only || direct_.valid()) {
        return;
    }
    const std::string self = fmt::format("/proc/self/fd/{}", fd_.get());
    direct_ = UniqueFd(::open(self.c_str(), O_RDWR | O_CLOEXEC | O_DIRECT));
    bulk_ = direct_.valid();
    ahead_ = may_grow_ && bulk_;
}

/// All of it lies in the host's cache, if this is a layer that may be read from there.
bool FileNode::in_cache(std::uint64_t offset, std::uint64_t length) {
    const auto pages = ask_cache_ ? cached_pages(fd_.get(), offset, length) : 0;
    ask_cache_ = ask_cache_ && pages.has_value();  // whoever does not tell never will
    return ask_cache_ && *pages == length / kPage;
}

int FileNode::descriptor(std::uint64_t offset, const Buffers& part, bool writing) {
    // Whole pages only: a direct write beside a cached one in the same page may fail to drop it,
    // and the kernel makes that an error of the next flush.
    // Only what goes past the cache altogether, to a device, has smaller units.
    const std::uint32_t unit =
        device_ && !bulk_ ? traits_.request_alignment : std::max(traits_.request_alignment, kPage);
    const bool fits = direct_.valid() && offset % unit == 0 && part.size() % unit == 0 &&
                      part.aligned(bulk_ ? kPage : traits_.memory_alignment);
    const bool direct = fits && (bulk_ ? writing && part.size() >= kBulk
                                       : writing || !in_cache(offset, part.size()));
    return direct ? direct_.get() : fd_.get();
}

// Bytes moved; a read ends early at the end of the file only.
Task<std::uint64_t> FileNode::transfer(bool writing, std::uint64_t offset, Buffers buffers) {
    std::vector<iovec> vectors;
    std::uint64_t done = 0;
    int fd = descriptor(offset, buffers, writing);
    while (done < buffers.size()) {
        vectors.clear();
        buffers.from(done).append_to(vectors);
        IoCommand command;
        command.op = writing ? IoOp::Writev : IoOp::Readv;
        command.fd = fd;
        command.offset = offset + done;
        command.vectors = vectors.data();
        command.count = static_cast<unsigned>(std::min<std::size_t>(vectors.size(), IOV_MAX));
        command.aside = fd == fd_.get() && buffers.size() - done >= kAside;
        command.flags = writing && cache_ == CacheMode::Writethrough ? RWF_DSYNC : 0;
        const std::int64_t result = co_await loop().io(command);
        if (result == -EINTR || result == -EAGAIN) {
            continue;
        }
        if (result == -EINVAL && fd == direct_.get() && direct_.valid()) {
            fd = fd_.get();  // e.g. the unaligned end of a file
            continue;
        }
        if (result < 0 || (result == 0 && writing)) {
            co_return failed(writing ? "write" : "read", offset + done, buffers.size() - done,
                             result == 0 ? -EIO : result);
        }
        if (result == 0) {
            break;
        }
        done += static_cast<std::uint64_t>(result);
        fd = done < buffers.size() ? fd_.get() : fd;  // a short direct transfer may end anywhere
    }
    co_return done;
}

Task<> FileNode::read(std::uint64_t offset, Buffers into) {
    STRATA_CO_TRY(const std::uint64_t got, co_await transfer(false, offset, into));
    into.from(got).fill(std::byte{0});
    co_return ok();
}

Task<> FileNode::write(std::uint64_t offset, Buffers from) {
    if (traits_.read_only) {
        co_return Error{ErrorKind::PermissionDenied,
                        fmt::format("'{}' was opened read-only", name()), EROFS};
    }
    const std::uint64_t end = offset + from.size();
    reach_ = std::max(reach_, end);
    if (ahead_ && end > size_) {
        STRATA_CO_TRY_VOID(co_await set_aside(end));
    }
    STRATA_CO_TRY_VOID(co_await transfer(true, offset, from));
    size_ = std::max(size_, end);
    co_return ok();
}

Task<> FileNode::flush() {
    if (cache_ == CacheMode::Unsafe || traits_.read_only) {
        co_return ok();
    }
    std::int64_t result = flush_error_;
    while (result == 0) {
        IoCommand command;
        command.op = IoOp::Datasync;
        command.fd = fd_.get();
        result = co_await loop().io(command);
        if (result == 0) {
            co_return ok();
        }
        if (result == -EINTR || result == -EAGAIN) {
            result = 0;
        }
    }
    flush_error_ = static_cast<int>(result);
    co_return Error::from_errno(fmt::format("'{}': flushing to the disk", name()),
                                static_cast<int>(-result));
}

Task<> FileNode::close() {
    if (set_aside_ > size_ && ::ftruncate(fd_.get(), static_cast<off_t>(size_)) != 0) {
        co_return Error::from_errno(fmt::format("'{}': giving back space behind its end", name()));
    }
    set_aside_ = 0;
    ahead_ = false;
    co_return ok();
}

}  // namespace strata::block
