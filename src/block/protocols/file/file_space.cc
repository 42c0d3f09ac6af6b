// FileNode: space: zeroing, discarding, holes, size, copies within the host.
#include <algorithm>
#include <array>
#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/protocols/file/file_node.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kLeastAhead = 1U << 20, kMostAhead = 64U << 20;
constexpr std::size_t kZeroes = 1U << 16, kZeroVectors = 64;
constexpr int kDiscardDevice = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE | FALLOC_FL_NO_HIDE_STALE;

bool not_offered(std::int64_t error) {
    return error == EOPNOTSUPP || error == ENOSYS || error == ENODEV || error == ENOTTY ||
           error == EINVAL;
}

std::span<const std::byte> zero_bytes() {
    alignas(4096) static constexpr std::array<std::byte, kZeroes> kBytes{};
    return kBytes;
}

}  // namespace

// 0 or a positive errno.
Task<int> FileNode::allocate(int mode, std::uint64_t offset, std::uint64_t length) {
    std::int64_t result = -EINTR;
    while (result == -EINTR || result == -EAGAIN) {
        IoCommand command;
        command.op = IoOp::Fallocate;
        command.fd = fd_.get();
        command.offset = offset;
        command.length = length;
        command.flags = mode;
        result = co_await loop().io(command);
    }
    co_return static_cast<int>(-result);
}

// As much again as the file has grown since it was opened, within limits. One request at a time
// sees to it; the others need not wait.
Task<> FileNode::set_aside(std::uint64_t end) {
    const std::uint64_t step =
        std::min(end - std::min(end, opened_), kMostAhead) / kLeastAhead * kLeastAhead;
    if (step == 0 || setting_aside_ || end + step / 2 <= set_aside_) {
        co_return ok();
    }
    setting_aside_ = true;
    const std::uint64_t from = std::max(set_aside_, size_);
    const std::uint64_t to = std::max(end, from) + step;
    auto allocated = co_await allocate(0, from, to - from);
    setting_aside_ = false;
    STRATA_CO_TRY(const int error, std::move(allocated));
    ahead_ = error == 0;  // else a file system without room or without the call: writes make the
                          // file grow, or say why not
    set_aside_ = ahead_ ? to : set_aside_;
    co_return ok();
}

Task<> FileNode::write_out_zeroes(std::uint64_t offset, std::uint64_t length) {
    std::array<iovec, kZeroVectors> vectors{};
    // SAFETY: a write never stores through the view.
    vectors.fill({const_cast<std::byte*>(zero_bytes().data()), kZeroes});
    const Buffers all{std::span<const iovec>(vectors)};
    while (length != 0) {
        const std::size_t part = std::min<std::uint64_t>(length, all.size());
        STRATA_CO_TRY_VOID(co_await write(offset, all.slice(0, part)));
        offset += part;
        length -= part;
    }
    co_return ok();
}

Task<> FileNode::write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) {
    if (traits_.read_only) {
        co_return Error{ErrorKind::PermissionDenied,
                        fmt::format("'{}' was opened read-only", name()), EROFS};
    }
    if (length == 0) {
        co_return ok();
    }
    if (!device_ && offset + length > size_) {
        // What the file grows by is zeros. Other requests that make it grow are under way, perhaps:
        // never shrink here.
        const std::uint64_t old = size_;
        const std::uint64_t end = std::max(offset + length, reach_);
        if (end > set_aside_ && ::ftruncate(fd_.get(), static_cast<off_t>(end)) != 0) {
            co_return failed("zeroing", offset, length, -errno);
        }
        size_ = end;
        if (offset >= old) {
            co_return ok();
        }
    }
    data_to_ = data_from_;
    if (options.may_unmap && discard_ && !no_punch_) {
        STRATA_CO_TRY(const int error, co_await allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                                         offset, length));
        if (error == 0) {
            co_return ok();
        }
        no_punch_ = not_offered(error) && error != EINVAL;
        if (!not_offered(error)) {
            co_return failed("zeroing", offset, length, -error);
        }
    }
    if (!no_zero_range_) {
        STRATA_CO_TRY(const int error, co_await allocate(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                                                         offset, length));
        if (error == 0) {
            co_return ok();
        }
        no_zero_range_ = not_offered(error) && error != EINVAL;
        if (!not_offered(error)) {
            co_return failed("zeroing", offset, length, -error);
        }
    }
    if (options.no_fallback) {
        co_return Error{ErrorKind::NotSupported,
                        fmt::format("'{}': its file system cannot zero a range", name()), ENOTSUP};
    }
    co_return co_await write_out_zeroes(offset, length);
}

Task<> FileNode::discard(std::uint64_t offset, std::uint64_t length) {
    if (traits_.read_only) {
        co_return Error{ErrorKind::PermissionDenied,
                        fmt::format("'{}' was opened read-only", name()), EROFS};
    }
    if (length == 0 || !discard_ || no_punch_) {
        co_return ok();
    }
    data_to_ = data_from_;
    const int mode = device_ ? kDiscardDevice : FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    STRATA_CO_TRY(const int error, co_await allocate(mode, offset, length));
    if (error == EIO) {
        co_return failed("discard", offset, length, -error);
    }
    no_punch_ = error != 0 && not_offered(error) && error != EINVAL;
    co_return ok();  // otherwise a hint that the host cannot use
}

Task<Extent> FileNode::status(std::uint64_t offset, std::uint64_t length) {
    Extent extent{.kind = Extent::Kind::Data,
                  .length = length,
                  .has_offset = true,
                  .offset = offset,
                  .owner = this,
                  .file = this};
    if (offset >= size_) {
        extent.kind = Extent::Kind::Zero;
        co_return extent;
    }
    extent.length = length = std::min(length, size_ - offset);
    if (device_) {
        co_return extent;
    }
    if (offset >= data_from_ && offset < data_to_) {
        extent.length = std::min(length, data_to_ - offset);
        co_return extent;
    }
    const auto at = static_cast<off_t>(offset);
    const off_t data = ::lseek(fd_.get(), at, SEEK_DATA);
    if (data < 0 && errno != ENXIO) {
        co_return extent;
    }
    if (data != at) {
        extent.kind = Extent::Kind::Zero;
        extent.length = data < 0 ? length : std::min(length, static_cast<std::uint64_t>(data - at));
        co_return extent;
    }
    const off_t hole = ::lseek(fd_.get(), at, SEEK_HOLE);
    if (hole > at) {
        data_from_ = offset;
        data_to_ = static_cast<std::uint64_t>(hole);
        extent.length = std::min(length, data_to_ - offset);
    }
    co_return extent;
}

Task<> FileNode::resize(std::uint64_t size, Preallocation preallocation) {
    if (traits_.read_only) {
        co_return Error{ErrorKind::PermissionDenied,
                        fmt::format("'{}' was opened read-only", name()), EROFS};
    }
    const std::uint64_t old = size_;
    if (device_) {
        if (size > size_) {
            co_return Error{ErrorKind::Failed,
                            fmt::format("'{}' is a device of {} bytes and cannot grow to {}",
                                        name(), size_, size),
                            ENOSPC};
        }
        co_return ok();
    }
    data_to_ = data_from_;
    const bool inside = size > old && size <= set_aside_;
    if (!inside && ::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) {
        co_return Error::from_errno(
            fmt::format("'{}': cannot resize it to {} bytes", name(), size));
    }
    size_ = reach_ = size;
    set_aside_ = inside ? set_aside_ : 0;
    if (size <= old || preallocation == Preallocation::Off) {
        co_return ok();
    }
    if (preallocation == Preallocation::Full) {
        co_return co_await write_out_zeroes(old, size - old);
    }
    STRATA_CO_TRY(const int error, co_await allocate(0, old, size - old));
    if (error != 0) {
        (void)::ftruncate(fd_.get(),
                          static_cast<off_t>(old));  // undoing what failed; that error is told
        size_ = old;
        set_aside_ = 0;
        co_return Error::from_errno(
            fmt::format("'{}': cannot set {} bytes aside", name(), size - old), error);
    }
    co_return ok();
}

Task<std::uint64_t> FileNode::allocated_bytes() {
    struct stat status {};
    if (::fstat(fd_.get(), &status) != 0) {
        co_return Error::from_errno(fmt::format("cannot look at image '{}'", name()));
    }
    co_return device_ ? size_ : static_cast<std::uint64_t>(status.st_blocks) * 512;
}

Task<> FileNode::copy_from(Node& source, std::uint64_t from, std::uint64_t to,
                           std::uint64_t length) {
    auto* file = dynamic_cast<FileNode*>(&source);
    if (file == nullptr || file->device_ || device_) {
        co_return lacks("copies of that source within the host");
    }
    struct file_clone_range clone {};
    clone.src_fd = file->fd();
    clone.src_offset = from;
    clone.src_length = length;
    clone.dest_offset = to;
    if (::ioctl(fd_.get(), FICLONERANGE, &clone) == 0) {
        size_ = std::max(size_, to + length);
        co_return ok();
    }
    const int in = file->fd(), out = fd_.get();
    std::uint64_t done = 0;
    while (done < length) {
        auto copied = co_await loop().offload([=]() -> std::int64_t {
            auto in_at = static_cast<loff_t>(from + done), out_at = static_cast<loff_t>(to + done);
            const ssize_t n = ::copy_file_range(
                in, &in_at, out, &out_at, std::min<std::uint64_t>(length - done, 64U << 20), 0);
            return n < 0 ? -errno : n;
        });
        if (copied == -EINTR) {
            continue;
        }
        if (copied < 0 && done == 0 && (not_offered(-copied) || copied == -EXDEV)) {
            co_return lacks("copies of that source within the host");
        }
        if (copied <= 0) {
            co_return failed("copy", to + done, length - done, copied == 0 ? -EIO : copied);
        }
        done += static_cast<std::uint64_t>(copied);
        size_ = std::max(size_, to + done);
    }
    co_return ok();
}

}  // namespace strata::block
