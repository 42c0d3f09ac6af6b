// RawLayer: a file's bytes; holes are zeros.
#include "block/formats/raw/raw_layer.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include <fmt/format.h>

#include "block/file_access.h"

namespace strata::block {

Result<std::unique_ptr<Layer>> RawLayer::open(DiskOptions options) {
    UniqueFd fd = STRATA_TRY(open_image_file(options));
    const std::uint64_t bytes = STRATA_TRY(file_size(fd.get(), options.path));
    const std::uint64_t size = (bytes + kSectorSize - 1) / kSectorSize * kSectorSize;
    return std::unique_ptr<Layer>(new RawLayer(std::move(options.path), std::move(fd), size, options.read_only));
}

Result<> RawLayer::check(std::uint64_t offset, std::uint64_t length, bool writing) const {
    if (offset > size_ || length > size_ - offset) {
        return Error{ErrorKind::Failed, fmt::format("'{}': {} bytes at {} reach past the end at {}", name_, length, offset, size_), EIO};
    }
    if (writing && read_only_) {
        return Error{ErrorKind::PermissionDenied, fmt::format("'{}' was opened read-only", name_), EROFS};
    }
    return ok();
}

Result<> RawLayer::read(std::uint64_t offset, std::span<std::byte> into) {
    STRATA_TRY_VOID(check(offset, into.size(), false));
    return read_file(fd_.get(), offset, into, name_);
}

Result<> RawLayer::write(std::uint64_t offset, std::span<const std::byte> from) {
    STRATA_TRY_VOID(check(offset, from.size(), true));
    return write_file(fd_.get(), offset, from, name_);
}

Result<> RawLayer::write_zeroes(std::uint64_t offset, std::uint64_t length, bool unmap) {
    STRATA_TRY_VOID(check(offset, length, true));
    const int mode = (unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE;
    if (length == 0 || ::fallocate(fd_.get(), mode, static_cast<off_t>(offset), static_cast<off_t>(length)) == 0) {
        return ok();
    }
    if (errno != EOPNOTSUPP && errno != ENOSYS && errno != ENODEV && errno != EINTR) {
        return Error::from_errno(fmt::format("'{}': zeroing {} bytes at {}", name_, length, offset));
    }
    static const std::array<std::byte, 65536> kZeroes{};
    while (length != 0) {
        const std::size_t part = std::min<std::uint64_t>(length, kZeroes.size());
        STRATA_TRY_VOID(write_file(fd_.get(), offset, std::span(kZeroes).first(part), name_));
        offset += part;
        length -= part;
    }
    return ok();
}

Result<> RawLayer::discard(std::uint64_t offset, std::uint64_t length) {
    STRATA_TRY_VOID(check(offset, length, true));
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (length != 0 && ::fallocate(fd_.get(), mode, static_cast<off_t>(offset), static_cast<off_t>(length)) != 0 && errno == EIO) {
        return Error::from_errno(fmt::format("'{}': discarding {} bytes at {}", name_, length, offset));
    }
    return ok();  // otherwise a hint that the host cannot use
}

Result<> RawLayer::flush() { return read_only_ ? ok() : sync_file(fd_.get(), name_); }

Result<Extent> RawLayer::status(std::uint64_t offset, std::uint64_t length) {
    STRATA_TRY_VOID(check(offset, length, false));
    const auto at = static_cast<off_t>(offset);
    const off_t data = ::lseek(fd_.get(), at, SEEK_DATA);
    if (data < 0 && errno != ENXIO) {
        return Extent{.kind = Extent::Kind::Data, .length = length, .has_offset = true, .offset = offset};
    }
    if (data != at) {
        const std::uint64_t hole = data < 0 ? length : std::min<std::uint64_t>(length, static_cast<std::uint64_t>(data - at));
        return Extent{.kind = Extent::Kind::Zero, .length = hole, .has_offset = true, .offset = offset};
    }
    const off_t hole = ::lseek(fd_.get(), at, SEEK_HOLE);
    const std::uint64_t end = hole <= at ? length : static_cast<std::uint64_t>(hole - at);
    return Extent{.kind = Extent::Kind::Data, .length = std::min(length, end), .has_offset = true, .offset = offset};
}

}  // namespace strata::block
