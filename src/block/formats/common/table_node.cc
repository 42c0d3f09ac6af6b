// TableNode: reading, writing, flushing.
#include "block/formats/common/table_node.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fmt/format.h>

#include "block/formats/common/wire.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kMaxFill = 1U << 20;
constexpr std::size_t kMaxRun = 64;           ///< blocks looked up for one transfer
constexpr std::size_t kMaxDirtyPages = 1024;  ///< beyond which a write flushes
constexpr std::uint64_t kUnpackedBytes = 4U << 20;
constexpr std::size_t kUnpackedBlocks = 16;

}  // namespace

Task<std::vector<std::byte>> read_bytes(Node& file, std::uint64_t offset, std::size_t length) {
    std::vector<std::byte> bytes(length);
    STRATA_CO_TRY_VOID(co_await file.read(offset, Buffers(std::span(bytes))));
    co_return bytes;
}

TableNode::TableNode(NodePtr file, std::string name, bool read_only)
    : Node(file->loop(), std::move(name)),
      file_(std::move(file)),
      meta_(*file_),
      flushing_(file_->loop()),
      allocated_(file_->loop()) {
    traits_.read_only = read_only;
    end_ = file_->size();
}

void TableNode::configure(std::uint64_t size, std::uint64_t unit, bool zero_blocks) {
    size_ = size;
    unit_ = unit;
    zero_blocks_ = zero_blocks;
    traits_.cluster_size = unit;
    traits_.discard = file_->traits().discard && !traits_.read_only;
    traits_.fast_zeroes = true;
    traits_.zero_initialised = backing_ == nullptr;
    traits_.sparse = true;
}

std::uint64_t TableNode::take_space(std::uint64_t bytes, std::uint64_t alignment) {
    const std::uint64_t offset = round_up(end_, alignment);
    end_ = offset + bytes;
    return offset;
}

Task<Reservation> TableNode::reserve(std::uint64_t /*block*/, std::uint64_t /*count*/) {
    co_return lacks("writing");
}
Task<> TableNode::publish(std::uint64_t /*block*/, const Reservation& /*reservation*/) {
    co_return lacks("writing");
}
Task<> TableNode::publish_packed(std::uint64_t /*block*/, std::uint64_t /*offset*/,
                                 std::uint64_t /*bytes*/) {
    co_return lacks("compressed writes");
}
Task<bool> TableNode::publish_zero(std::uint64_t /*block*/) {
    co_return false;
}
Task<> TableNode::read_data(std::uint64_t host, std::uint64_t /*guest*/, Buffers into) {
    return file_->read(host, into);
}
Task<> TableNode::write_data(std::uint64_t host, std::uint64_t /*guest*/, Buffers from) {
    return file_->write(host, from);
}
Task<> TableNode::zero_data(std::uint64_t host, std::uint64_t /*guest*/, std::uint64_t length,
                            ZeroOptions options) {
    return file_->write_zeroes(host, length, options);
}
Task<> TableNode::before_first_write() {
    co_return ok();
}
Task<> TableNode::write_tail() {
    co_return ok();
}
Task<> TableNode::after_last_flush() {
    co_return ok();
}

// As find(), over neighbouring blocks that lie one behind the other.
Task<Place> TableNode::find_long(std::uint64_t offset, std::uint64_t length) {
    STRATA_CO_TRY(Place place, co_await find(offset, length));
    place.length = std::min(place.length, length);
    for (std::size_t i = 1;
         i < kMaxRun && place.length < length && place.kind != Place::Kind::Packed; ++i) {
        STRATA_CO_TRY(const Place next,
                      co_await find(offset + place.length, length - place.length));
        if (next.kind != place.kind || next.look_below != place.look_below ||
            (place.kind == Place::Kind::Data && next.offset != place.offset + place.length)) {
            break;
        }
        place.length += std::min(next.length, length - place.length);
    }
    co_return place;
}

Task<> TableNode::read_below(std::uint64_t offset, Buffers into) {
    co_return co_await read_or_zero(backing_.get(), backing_shift_ + offset, into);
}

Task<> TableNode::read_packed(Place place, std::uint64_t offset, Buffers into) {
    auto known = std::find_if(unpacked_.begin(), unpacked_.end(),
                              [&](const Unpacked& each) { return each.offset == place.offset; });
    std::shared_ptr<const std::vector<std::byte>> bytes;
    if (known != unpacked_.end() && known->bytes->size() == place.bytes) {
        bytes = known->bytes;
    } else {
        STRATA_CO_TRY(const std::vector<std::byte> packed,
                      co_await read_bytes(*file_, place.offset, place.packed));
        auto fresh = std::make_shared<std::vector<std::byte>>(place.bytes);
        const Result<> done = co_await loop().offload([&] { return place.unpack(packed, *fresh); });
        if (!done.ok()) {
            co_return Error(done.error())
                .context(fmt::format("'{}': {} compressed bytes at {}", name(), place.packed,
                                     place.offset));
        }
        bytes = std::move(fresh);
        unpacked_.push_front({place.offset, bytes});
        while (unpacked_.size() > 1 && (unpacked_.size() > kUnpackedBlocks ||
                                        unpacked_.size() * place.bytes > kUnpackedBytes)) {
            unpacked_.pop_back();
        }
    }
    into.copy_from(std::span(*bytes).subspan(offset - place.start, into.size()));
    co_return ok();
}

Task<> TableNode::read(std::uint64_t offset, Buffers into) {
    STRATA_CO_TRY_VOID(check_range(offset, into.size(), false));
    for (std::uint64_t done = 0; done < into.size();) {
        STRATA_CO_TRY(const Place place, co_await find_long(offset + done, into.size() - done));
        STRATA_CO_TRY_VOID(check_place(place, offset + done));
        const Buffers part = into.slice(done, place.length);
        switch (place.kind) {
            case Place::Kind::Data:
                file_->note(NodeEvent::ReadAio);
                STRATA_CO_TRY_VOID(co_await read_data(place.offset, offset + done, part));
                break;
            case Place::Kind::Zero:
                part.fill(std::byte{0});
                break;
            case Place::Kind::Hole:
                STRATA_CO_TRY_VOID(co_await read_below(offset + done, part));
                break;
            case Place::Kind::Packed:
                STRATA_CO_TRY_VOID(co_await read_packed(place, offset + done, part));
                break;
            case Place::Kind::Lost:
                break;  // refused above
        }
        done += place.length;
    }
    co_return ok();
}

Task<> TableNode::begin_write() {
    if (!begun_) {
        const auto lock = co_await flushing_.lock();
        if (!begun_) {
            STRATA_CO_TRY_VOID(co_await before_first_write());
            begun_ = true;
        }
    }
    written_ = true;
    if (meta_.dirty_pages() > kMaxDirtyPages) {
        co_return co_await flush();
    }
    co_return ok();
}

Task<> TableNode::write(std::uint64_t offset, Buffers from) {
    STRATA_CO_TRY_VOID(check_range(offset, from.size(), true));
    STRATA_CO_TRY_VOID(co_await begin_write());
    for (std::uint64_t done = 0; done < from.size();) {
        STRATA_CO_TRY(const Place place, co_await find_long(offset + done, from.size() - done));
        STRATA_CO_TRY_VOID(check_place(place, offset + done));
        if (place.kind == Place::Kind::Data) {
            file_->note(NodeEvent::WriteAio);
            STRATA_CO_TRY_VOID(
                co_await write_data(place.offset, offset + done, from.slice(done, place.length)));
            done += place.length;
            continue;
        }
        const Buffers rest = from.from(done);
        STRATA_CO_TRY(const std::uint64_t part,
                      co_await allocate(offset + done, rest.size(), &rest));
        done += part;
    }
    co_return ok();
}

Task<> TableNode::write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) {
    STRATA_CO_TRY_VOID(check_range(offset, length, true));
    STRATA_CO_TRY_VOID(co_await begin_write());
    for (const std::uint64_t end = offset + length; offset < end;) {
        STRATA_CO_TRY(const Place place, co_await find_long(offset, end - offset));
        STRATA_CO_TRY_VOID(check_place(place, offset));
        if (place.kind == Place::Kind::Data) {
            STRATA_CO_TRY_VOID(co_await zero_data(place.offset, offset, place.length, options));
            offset += place.length;
        } else if (place.kind == Place::Kind::Zero ||
                   (place.kind == Place::Kind::Hole && backing_ == nullptr)) {
            offset += place.length;
        } else {
            STRATA_CO_TRY(const std::uint64_t part,
                          co_await allocate(offset, end - offset, nullptr));
            offset += part;
        }
    }
    co_return ok();
}

Task<> TableNode::discard(std::uint64_t offset, std::uint64_t length) {
    STRATA_CO_TRY_VOID(check_range(offset, length, true));
    STRATA_CO_TRY_VOID(co_await begin_write());
    for (const std::uint64_t end = offset + length; offset < end;) {
        STRATA_CO_TRY(const Place place, co_await find_long(offset, end - offset));
        if (place.kind == Place::Kind::Data) {
            STRATA_CO_TRY_VOID(co_await file_->discard(place.offset, place.length));
        }
        offset += place.length;
    }
    co_return ok();
}

bool TableNode::busy(std::uint64_t first, std::uint64_t last) const {
    const auto it = allocating_.lower_bound(first);
    return it != allocating_.end() && *it <= last;
}

// Writes `from`, or zeros if null, to what lies at `offset` and has no place yet; answers for how
// many bytes (0: look again).
Task<std::uint64_t> TableNode::allocate(std::uint64_t offset, std::uint64_t length,
                                        const Buffers* from) {
    const std::uint64_t first = offset / unit_;
    const std::uint64_t last = std::min((offset + length - 1) / unit_, first + kMaxRun - 1);
    while (busy(first, last)) {
        co_await allocated_.wait();
    }
    for (std::uint64_t block = first; block <= last; ++block) {
        allocating_.insert(block);
    }
    Result<std::uint64_t> part =
        co_await allocate_locked(offset, std::min(length, (last + 1) * unit_ - offset), from);
    for (std::uint64_t block = first; block <= last; ++block) {
        allocating_.erase(block);
    }
    allocated_.wake_all();
    co_return part;
}

Task<> TableNode::write_packed_locked(std::uint64_t block, std::span<const std::byte> packed) {
    STRATA_CO_TRY(const Place now,
                  co_await find(block * unit_, std::min(unit_, size_ - block * unit_)));
    if (now.kind != Place::Kind::Hole) {
        co_return Error{
            ErrorKind::WrongState,
            fmt::format("'{}': the block at {} has a place, and is not written compressed", name(),
                        block * unit_),
            EIO};
    }
    const std::uint64_t at = take_space(packed.size(), 1);
    STRATA_CO_TRY_VOID(co_await file_->write(at, Buffers::of(packed)));
    co_return co_await publish_packed(block, at, packed.size());
}

Task<> TableNode::write_packed(std::uint64_t offset, Buffers from, Pack pack) {
    STRATA_CO_TRY_VOID(check_range(offset, from.size(), true));
    if (from.empty()) {
        co_return ok();
    }
    if (offset % unit_ != 0 || (from.size() != unit_ && offset + from.size() != size_) ||
        from.size() > unit_) {
        co_return Error{
            ErrorKind::InvalidArgument,
            fmt::format("'{}': {} bytes at {} are no whole block", name(), from.size(), offset),
            EINVAL};
    }
    std::vector<std::byte> whole(unit_), packed(unit_);
    from.copy_to(whole);
    const std::size_t size =
        co_await loop().offload([&] { return pack(whole, std::span(packed).first(unit_ - 1)); });
    if (size == 0) {
        co_return co_await write(offset, from);
    }
    STRATA_CO_TRY_VOID(co_await begin_write());
    const std::uint64_t block = offset / unit_;
    while (busy(block, block)) {
        co_await allocated_.wait();
    }
    allocating_.insert(block);
    Result<> done = co_await write_packed_locked(block, std::span(packed).first(size));
    allocating_.erase(block);
    allocated_.wake_all();
    co_return done;
}

// How many blocks from `first` on have no place, of those that [offset, end) covers wholly; the
// first one counts in any case.
Task<std::uint64_t> TableNode::without_place(std::uint64_t first, std::uint64_t offset,
                                             std::uint64_t end) {
    std::uint64_t count = 1;
    if (offset % unit_ != 0 || offset + unit_ > end) {
        co_return count;
    }
    while ((first + count + 1) * unit_ <= end) {
        STRATA_CO_TRY(const Place place, co_await find((first + count) * unit_, unit_));
        if (place.kind == Place::Kind::Data || place.length < unit_) {
            break;
        }
        ++count;
    }
    co_return count;
}

Task<std::uint64_t> TableNode::allocate_locked(std::uint64_t offset, std::uint64_t length,
                                               const Buffers* from) {
    const std::uint64_t first = offset / unit_;
    STRATA_CO_TRY(const Place now, co_await find(offset, length));
    if (now.kind == Place::Kind::Data) {
        co_return std::uint64_t{0};
    }
    if (from == nullptr && zero_blocks_ && offset % unit_ == 0 &&
        (length >= unit_ || offset + length == size_)) {
        STRATA_CO_TRY(const bool done, co_await publish_zero(first));
        if (done) {
            co_return std::min(length, unit_);
        }
    }
    STRATA_CO_TRY(const std::uint64_t blocks,
                  co_await without_place(first, offset, offset + length));
    STRATA_CO_TRY(const Reservation reservation, co_await reserve(first, blocks));
    const std::uint64_t base = first * unit_;
    const std::uint64_t block_end = std::min(base + reservation.blocks * unit_, size_);
    const std::uint64_t end = std::min(offset + length, block_end);
    STRATA_CO_TRY_VOID(co_await fill(base, offset, reservation, base));
    STRATA_CO_TRY_VOID(co_await fill(end, block_end, reservation, base));
    const std::uint64_t target = reservation.offset + (offset - base);
    if (from != nullptr) {
        file_->note(NodeEvent::WriteAio);
        STRATA_CO_TRY_VOID(co_await write_data(target, offset, from->slice(0, end - offset)));
    } else if (!reservation.zeroed) {
        STRATA_CO_TRY_VOID(co_await zero_data(target, offset, end - offset, {.may_unmap = true}));
    }
    STRATA_CO_TRY_VOID(co_await publish(first, reservation));
    co_return end - offset;
}

// Gives [from, to) of the disk, which begins at `base` in the reservation, the content that it has
// had.
Task<> TableNode::fill(std::uint64_t from, std::uint64_t to, const Reservation& reservation,
                       std::uint64_t base) {
    std::vector<std::byte> buffer;
    while (from < to) {
        STRATA_CO_TRY(Place place, co_await find_long(from, std::min(to - from, kMaxFill)));
        const std::uint64_t target = reservation.offset + (from - base);
        const bool zeros = place.kind == Place::Kind::Zero ||
                           (place.kind == Place::Kind::Hole && backing_ == nullptr);
        if (place.kind == Place::Kind::Data && reservation.in_place) {
            from += place.length;
            continue;
        }
        if (zeros) {
            if (!reservation.zeroed) {
                STRATA_CO_TRY_VOID(co_await zero_data(target, from, place.length, {}));
            }
            from += place.length;
            continue;
        }
        buffer.resize(place.length);
        STRATA_CO_TRY_VOID(co_await read(from, Buffers(std::span(buffer))));
        if (!reservation.zeroed || !is_zero(buffer)) {
            file_->note(NodeEvent::WriteAio);
            STRATA_CO_TRY_VOID(co_await write_data(target, from, Buffers::of(buffer)));
        }
        from += place.length;
    }
    co_return ok();
}

Task<> TableNode::flush_locked() {
    MetaCache::Staged staged = meta_.stage();
    if (staged.empty()) {
        co_return co_await file_->flush();
    }
    Result<> result = ok();
    if (end_ > file_->size()) {
        result = co_await file_->resize(end_, Preallocation::Off);
    }
    if (result.ok()) {
        result = co_await file_->flush();
    }
    if (result.ok()) {
        result = co_await write_tail();
    }
    if (!result.ok()) {
        meta_.unstage(staged);
        co_return result;
    }
    STRATA_CO_TRY_VOID(co_await meta_.write_staged(std::move(staged)));
    co_return co_await file_->flush();
}

Task<> TableNode::flush() {
    const auto lock = co_await flushing_.lock();
    co_return co_await flush_locked();
}

Task<> TableNode::end_file(std::uint64_t end) {
    STRATA_CO_TRY_VOID(co_await flush());
    if (std::max(end_, file_->size()) <= end + tail_bytes()) {
        co_return ok();
    }
    const std::uint64_t old = std::exchange(end_, end);
    Result<> done = co_await write_tail();
    if (done.ok()) {
        done = co_await file_->flush();
    }
    if (done.ok()) {
        done = co_await file_->resize(end + tail_bytes(), Preallocation::Off);
        if (!done.ok() && done.error().kind() == ErrorKind::NotSupported) {
            done = ok();
        }
    }
    if (done.ok()) {
        done = co_await file_->flush();
    }
    if (!done.ok() || file_->size() > end + tail_bytes()) {
        end_ = old;  // a device keeps its size, and what lies there is no zeros
        if (done.ok() && old > end && tail_bytes() != 0) {
            done = co_await file_->write_zeroes(end, tail_bytes(), {});  // the old tail holds
        }
    }
    co_return done;
}

Task<> TableNode::close() {
    if (closed_) {
        co_return ok();
    }
    closed_ = true;
    if (!traits_.read_only) {
        STRATA_CO_TRY_VOID(co_await flush());
        if (begun_) {
            STRATA_CO_TRY_VOID(co_await after_last_flush());
        }
    }
    if (backing_ != nullptr) {
        STRATA_CO_TRY_VOID(co_await backing_->close());
    }
    co_return co_await file_->close();
}

Task<Extent> TableNode::status(std::uint64_t offset, std::uint64_t length) {
    STRATA_CO_TRY_VOID(check_range(offset, length, false));
    STRATA_CO_TRY(const Place place, co_await find_long(offset, length));
    Extent extent{
        .kind = Extent::Kind::Data, .length = place.length, .owner = this, .file = file_.get()};
    if (!check_place(place, offset).ok()) {
        extent.file = nullptr;  // to be read through this node, which refuses it
    } else if (place.kind == Place::Kind::Data) {
        extent.has_offset = true;
        extent.offset = place.offset;
        if (place.look_below) {
            STRATA_CO_TRY(const Extent below, co_await file_->status(place.offset, place.length));
            extent.kind =
                below.kind == Extent::Kind::Data ? Extent::Kind::Data : Extent::Kind::Zero;
            extent.length = below.length;
        }
    } else if (place.kind == Place::Kind::Packed) {
        extent.compressed = true;
    } else {
        extent.kind =
            place.kind == Place::Kind::Zero ? Extent::Kind::Zero : Extent::Kind::Unallocated;
    }
    co_return extent;
}

Task<FormatInfo> TableNode::info() {
    FormatInfo info;
    info.cluster_size = traits_.cluster_size;
    co_return info;
}

Task<CheckReport> TableNode::check(Repair /*repair*/) {
    CheckReport report;
    std::vector<std::uint64_t> places;
    report.total_clusters = divide_up(size_, unit_);
    const std::uint64_t file_end = std::max(end_, file_->size());  // a flush makes it that long
    std::uint64_t expected = 0;
    for (std::uint64_t offset = 0; offset < size_;) {
        STRATA_CO_TRY(const Place place, co_await find(offset, size_ - offset));
        if (place.kind == Place::Kind::Packed) {
            ++report.allocated_clusters;
            ++report.compressed_clusters;
        } else if (place.kind == Place::Kind::Data && offset % unit_ == 0) {
            ++report.allocated_clusters;
            report.fragmented_clusters += expected != 0 && place.offset != expected ? 1 : 0;
            expected = place.offset + unit_;
            places.push_back(place.offset);
            report.image_end_offset = std::max(report.image_end_offset, expected);
            if (checks_ends_ && place.offset + place.length > file_end) {
                ++report.corruptions;
                if (report.messages.size() < 20) {
                    report.messages.push_back(
                        fmt::format("the block at {} lies at {}, {}", offset, place.offset,
                                    place.offset >= file_end ? "past the end of the file"
                                                             : "and the file ends within it"));
                }
            }
        } else if (place.kind == Place::Kind::Lost && checks_ends_) {
            ++report.corruptions;
            if (report.messages.size() < 20) {
                report.messages.push_back(
                    fmt::format("what maps the block at {} lies at {}, past the end of the file",
                                offset, place.offset));
            }
        }
        offset += place.length;
        if (places.size() % 256 == 255) {
            co_await loop().yield();
        }
    }
    std::sort(places.begin(), places.end());
    for (std::size_t i = 1; i < places.size(); ++i) {
        if (places[i] - places[i - 1] < unit_) {
            ++report.corruptions;
            if (report.messages.size() < 20) {
                report.messages.push_back(fmt::format("two blocks share the place {}", places[i]));
            }
        }
    }
    co_return report;
}

}  // namespace strata::block
