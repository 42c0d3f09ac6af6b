// GuestRam: making the memfd, and access by guest physical address.
#include "memory/guest_ram.h"

#include <algorithm>

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

namespace strata::memory {
namespace {

constexpr std::uint64_t kMinimum = 1ULL << 20;
constexpr std::uint64_t kHighStart = 1ULL << 32;

Error not_ram(GuestAddress address, std::uint64_t length) {
    return {ErrorKind::NotFound,
            fmt::format("guest range {:#x}+{:#x} is not RAM", address.value(), length)};
}

}  // namespace

GuestSlices::GuestSlices(GuestSlices&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)),
      address_(other.address_),
      length_(other.length_),
      access_(other.access_),
      parts_(std::move(other.parts_)) {}

GuestSlices& GuestSlices::operator=(GuestSlices&& other) noexcept {
    if (this != &other) {
        release();
        memory_ = std::exchange(other.memory_, nullptr);
        address_ = other.address_;
        length_ = other.length_;
        access_ = other.access_;
        parts_ = std::move(other.parts_);
    }
    return *this;
}

void GuestSlices::release() {
    if (memory_ != nullptr && access_ == Access::Write) {
        memory_->wrote(address_, length_);
    }
    memory_ = nullptr;
}

GuestRam::GuestRam(UniqueFd fd, MmapRegion mapping)
    : fd_(std::move(fd)),
      mapping_(std::move(mapping)),
      flags_(std::make_unique<std::atomic<std::uint8_t>[]>(mapping_.size() / kPageSize)),
      dirty_(std::make_unique<DirtyBitmap>(mapping_.size() / kPageSize)) {}

Result<std::unique_ptr<GuestRam>> GuestRam::create(std::uint64_t size, std::uint64_t low_limit) {
    if (size < kMinimum || size % kPageSize != 0) {
        return Error{
            ErrorKind::InvalidArgument,
            fmt::format("memory of {} bytes: must be a multiple of 4 KiB and at least 1 MiB",
                        size)};
    }
    UniqueFd fd(::memfd_create("guest-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!fd) {
        return Error::from_errno("cannot create guest memory (memfd_create)");
    }
    if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
        return Error::from_errno(fmt::format("cannot size guest memory to {} bytes", size));
    }
    auto mapping = STRATA_TRY(
        MmapRegion::map(size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd.get()));
    // A hint only: without huge pages the machine is slower, not wrong.
    (void)::madvise(mapping.data(), size, MADV_HUGEPAGE);
    std::unique_ptr<GuestRam> ram(new GuestRam(std::move(fd), std::move(mapping)));
    const std::uint64_t low = std::min(size, low_limit);
    ram->ranges_.push_back({GuestAddress(0), low, 0, ram->base()});
    if (size > low) {
        ram->ranges_.push_back({GuestAddress(kHighStart), size - low, low, ram->base() + low});
    }
    return ram;
}

Result<GuestSlices> GuestRam::slices(GuestAddress address, std::uint64_t length,
                                     Access access) const {
    std::vector<std::span<std::byte>> parts;
    std::uint64_t at = address.value();
    std::uint64_t left = length;
    while (left > 0) {
        const auto range =
            std::find_if(ranges_.begin(), ranges_.end(), [at](const RamRange& candidate) {
                return at - candidate.start.value() < candidate.size;
            });
        if (range == ranges_.end()) {
            return not_ram(address, length);
        }
        const std::uint64_t offset = at - range->start.value();
        const std::uint64_t part = std::min(left, range->size - offset);
        parts.emplace_back(range->host + offset, part);
        at += part;
        left -= part;
    }
    return GuestSlices(*this, address, length, access, std::move(parts));
}

Result<> GuestRam::read(GuestAddress address, std::span<std::byte> out) const {
    const auto views = STRATA_TRY(slices(address, out.size(), Access::Read));
    std::size_t done = 0;
    for (const auto part : views.parts()) {
        std::memcpy(out.data() + done, part.data(), part.size());
        done += part.size();
    }
    return ok();
}

Result<> GuestRam::write(GuestAddress address, std::span<const std::byte> data) const {
    const auto views = STRATA_TRY(slices(address, data.size(), Access::Write));
    std::size_t done = 0;
    for (const auto part : views.parts()) {
        std::memcpy(part.data(), data.data() + done, part.size());
        done += part.size();
    }
    return ok();
}

void GuestRam::wrote(GuestAddress address, std::uint64_t length) const {
    const auto first = ram_offset(address);
    if (!first || length == 0) {
        return;
    }
    const std::uint64_t end = std::min(*first + length, size());
    const bool log = dirty_logging();
    for (std::uint64_t page = *first >> kPageShift; page <= (end - 1) >> kPageShift; ++page) {
        if (log) {
            dirty_->mark(page);
        }
        // acquire: pairs with the translator, which sets the flag before it reads the bytes.
        if ((flags_[page].load(std::memory_order_acquire) & PageFlags::kCode) != 0 &&
            observer_ != nullptr) {
            const std::uint64_t from = std::max(*first, page << kPageShift);
            const std::uint64_t to = std::min(end, (page + 1) << kPageShift);
            observer_->code_page_written(from, to - from);
        }
    }
}

}  // namespace strata::memory
