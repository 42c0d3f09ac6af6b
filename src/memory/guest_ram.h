// GuestRam: the machine's RAM: one memfd, mapped once, shown at one or two guest physical ranges.
//
// Layout: the memfd's bytes are the guest's RAM in ascending guest physical order. The first
// `low_limit` bytes appear at 0, the rest from 4 GiB on (the PC's hole below 4 GiB is for devices).
// Pages are addressed in two ways: by guest page (gpa >> 12) and by RAM page (offset in the memfd
// >> 12), which has no hole. Per RAM page there is a byte of PageFlags: pages with translated code
// on them, written by the software CPU. Threads: immutable after create() but for the flags and the
// dirty bitmap, which are atomic.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/mmap_region.h"
#include "base/unique_fd.h"
#include "memory/dirty_bitmap.h"
#include "memory/guest_memory.h"

namespace strata::memory {

/// Told about writes by devices to pages that carry PageFlags::kCode. Called on the writing thread,
/// after the write.
class WriteObserver {
  public:
    virtual ~WriteObserver() = default;
    virtual void code_page_written(std::uint64_t ram_offset, std::uint64_t length) = 0;
};

/// Bits of a RAM page's flag byte.
struct PageFlags {
    static constexpr std::uint8_t kCode = 1;  ///< translated code was made from this page
};

/// One guest physical range backed by RAM.
struct RamRange {
    GuestAddress start;
    std::uint64_t size = 0;
    std::uint64_t ram_offset = 0;  ///< where it lies in the memfd
    std::byte* host = nullptr;     ///< where it is mapped
};

class GuestRam final : public GuestMemory {
  public:
    /// Makes `size` bytes of RAM (a multiple of 4 KiB, at least 1 MiB). Bytes past `low_limit` lie
    /// from 4 GiB on.
    static Result<std::unique_ptr<GuestRam>> create(std::uint64_t size, std::uint64_t low_limit);

    Result<> read(GuestAddress address, std::span<std::byte> out) const override;
    Result<> write(GuestAddress address, std::span<const std::byte> data) const override;
    Result<GuestSlices> slices(GuestAddress address, std::uint64_t length,
                               Access access) const override;
    void wrote(GuestAddress address, std::uint64_t length) const override;

    [[nodiscard]] const std::vector<RamRange>& ranges() const { return ranges_; }
    [[nodiscard]] std::uint64_t size() const { return mapping_.size(); }
    [[nodiscard]] int fd() const { return fd_.get(); }
    [[nodiscard]] std::byte* base() const { return mapping_.data(); }

    /// The memfd offset of a guest address, or nullopt where there is no RAM. Hot: no allocation,
    /// no lock.
    [[nodiscard]] std::optional<std::uint64_t> ram_offset(GuestAddress address) const {
        for (const RamRange& range : ranges_) {
            const std::uint64_t offset = address.value() - range.start.value();
            if (offset < range.size) {
                return range.ram_offset + offset;
            }
        }
        return std::nullopt;
    }

    /// The flag byte of the RAM page at `ram_offset >> 12`.
    [[nodiscard]] std::atomic<std::uint8_t>& page_flags(std::uint64_t ram_page) const {
        return flags_[ram_page];
    }
    /// Indexed by RAM page. Writers mark it only while logging is on.
    [[nodiscard]] DirtyBitmap& dirty() const { return *dirty_; }
    void set_dirty_logging(bool on) { logging_.store(on, std::memory_order_seq_cst); }
    [[nodiscard]] bool dirty_logging() const { return logging_.load(std::memory_order_relaxed); }
    /// Set once, before any device runs; the observer outlives this object's last write.
    void set_observer(WriteObserver* observer) { observer_ = observer; }

  private:
    GuestRam(UniqueFd fd, MmapRegion mapping);

    UniqueFd fd_;
    MmapRegion mapping_;
    std::vector<RamRange> ranges_;
    std::unique_ptr<std::atomic<std::uint8_t>[]> flags_;
    std::unique_ptr<DirtyBitmap> dirty_;
    std::atomic<bool> logging_{false};
    WriteObserver* observer_ = nullptr;
};

}  // namespace strata::memory
