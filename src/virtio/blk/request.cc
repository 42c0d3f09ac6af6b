// BlkDevice: serving one request: from its header to its status byte.
#include <algorithm>
#include <array>
#include <cstring>

#include <fmt/format.h>

#include "virtio/blk/blk.h"

namespace strata::virtio {

using blk::RequestType;
using blk::Status;

void BlkDevice::begin(unsigned index, std::size_t at) {
    switch (lanes_[index].requests[at].header.type) {
        case RequestType::kIn:
        case RequestType::kOut:
            transfer(index, at);
            break;
        case RequestType::kFlush:
            submit(index, at, {.op = block::DiskOp::Flush});
            break;
        case RequestType::kGetId:
            get_id(index, at);
            break;
        case RequestType::kDiscard:
        case RequestType::kWriteZeroes:
            change_ranges(index, at);
            break;
        default:
            finish(index, at, Status::Unsupported);
            break;
    }
}

void BlkDevice::transfer(unsigned index, std::size_t at) {
    Request& request = lanes_[index].requests[at];
    const bool reading = request.header.type == RequestType::kIn;
    const std::uint64_t sector = request.header.sector;
    const DescriptorChain& chain = *request.chain;
    request.length = reading ? chain.writable() - 1 : chain.readable() - sizeof(blk::RequestHeader);
    const std::uint64_t sectors = image_->traits().size / block::kSectorSize;
    if (request.length % block::kSectorSize != 0 || sector > sectors ||
        request.length / block::kSectorSize > sectors - sector) {
        finish(index, at, Status::IoError);
        return;
    }
    const auto access = reading ? memory::Access::Write : memory::Access::Read;
    if (!chain
             .slices(access, reading ? 0 : sizeof(blk::RequestHeader), request.length,
                     request.views)
             .ok()) {
        finish(index, at, Status::IoError);
        return;
    }
    block::DiskRequest disk;
    disk.op = reading ? block::DiskOp::Read : block::DiskOp::Write;
    disk.offset = sector * block::kSectorSize;
    disk.length = request.length;
    for (const auto& view : request.views) {
        for (const auto part : view.parts()) {
            disk.buffers.push_back({part.data(), part.size()});
        }
    }
    // VIRTIO 1.2, 5.2.6.2: without the flush feature a completed write is durable.
    request.sync_after =
        !reading && image_->traits().write_cache && (features() & blk::Features::kFlush) == 0;
    submit(index, at, std::move(disk));
}

void BlkDevice::change_ranges(unsigned index, std::size_t at) {
    Request& request = lanes_[index].requests[at];
    const bool zeroing = request.header.type == RequestType::kWriteZeroes;
    const block::DiskTraits& traits = image_->traits();
    if (!(zeroing ? traits.write_zeroes : traits.discard)) {
        finish(index, at, Status::Unsupported);
        return;
    }
    const std::uint64_t bytes = request.chain->readable() - sizeof(blk::RequestHeader);
    std::array<blk::Segment, kMaxSegments> segments{};
    const std::size_t count = bytes / sizeof(blk::Segment);
    if (bytes % sizeof(blk::Segment) != 0 || count == 0 || count > kMaxSegments ||
        !request.chain
             ->read(sizeof(blk::RequestHeader),
                    std::as_writable_bytes(std::span(segments).first(count)))
             .ok()) {
        finish(index, at, Status::IoError);
        return;
    }
    const std::uint32_t allowed_flags = zeroing ? 1 : 0;
    const std::uint64_t sectors = traits.size / block::kSectorSize;
    for (const blk::Segment& segment : std::span(segments).first(count)) {
        if ((segment.flags & ~allowed_flags) != 0) {
            finish(index, at, Status::Unsupported);
            return;
        }
        if (segment.sectors > kMaxSegmentSectors || segment.sector > sectors ||
            segment.sectors > sectors - segment.sector) {
            finish(index, at, Status::IoError);
            return;
        }
    }
    request.sync_after = zeroing && traits.write_cache && (features() & blk::Features::kFlush) == 0;
    for (const blk::Segment& segment : std::span(segments).first(count)) {
        submit(index, at,
               {.op = zeroing ? block::DiskOp::WriteZeroes : block::DiskOp::Discard,
                .offset = segment.sector * block::kSectorSize,
                .length = segment.sectors * block::kSectorSize,
                .may_unmap = (segment.flags & 1) != 0});
    }
}

void BlkDevice::get_id(unsigned index, std::size_t at) {
    Request& request = lanes_[index].requests[at];
    std::array<char, blk::kIdSize> id{};
    std::copy(serial_.begin(), serial_.end(), id.begin());
    request.length = std::min<std::uint64_t>(id.size(), request.chain->writable() - 1);
    const bool written =
        request.chain->write(0, std::as_bytes(std::span(id)).first(request.length)).ok();
    finish(index, at, written ? Status::Ok : Status::IoError);
}

void BlkDevice::submit(unsigned index, std::size_t at, block::DiskRequest request) {
    request.token = at;
    ++lanes_[index].requests[at].outstanding;
    lanes_[index].disk->submit(std::move(request));
}

void BlkDevice::reap(unsigned index) {
    if (take_completed(index)) {
        lanes_[index].disk->kick();
        signal(index);
    }
}

bool BlkDevice::take_completed(unsigned index) {
    scratch_.clear();
    lanes_[index].disk->reap(scratch_);
    for (const auto& completion : scratch_) {
        completed(index, completion);
    }
    return !scratch_.empty();
}

void BlkDevice::completed(unsigned index, const block::DiskCompletion& completion) {
    Request& request = lanes_[index].requests[completion.token];
    request.error = request.error != 0 ? request.error : completion.error;
    if (--request.outstanding != 0) {
        return;
    }
    if (std::exchange(request.sync_after, false) && request.error == 0) {
        submit(index, completion.token, {.op = block::DiskOp::Flush});
        return;
    }
    finish(index, completion.token, request.error != 0 ? Status::IoError : Status::Ok);
}

std::optional<block::DiskWait> BlkDevice::waiting() const {
    const MutexLock lock(mutex_);
    for (const Lane& lane : lanes_) {
        if (auto wait = lane.disk->waiting()) {
            return wait;
        }
    }
    return std::nullopt;
}

void BlkDevice::retry() {
    const MutexLock lock(mutex_);
    for (unsigned index = 0; index < lanes_.size(); ++index) {
        lanes_[index].disk->retry();
        lanes_[index].disk->kick();
        reap(index);
    }
}

Result<> BlkDevice::save(state::StateWriter& writer) const {
    if (const auto wait = waiting()) {
        return Error{
            ErrorKind::WrongState,
            fmt::format("{}: requests wait for room for '{}' on the host", label(), wait->disk)};
    }
    return QueuedDevice::save(writer);
}

void BlkDevice::finish(unsigned index, std::size_t at, Status status) {
    Lane& lane = lanes_[index];
    Request& request = lane.requests[at];
    request.views.clear();  // reports what was written
    lane.free.push_back(at);
    if (!request.chain) {
        return;  // its queue was reset meanwhile
    }
    DescriptorChain chain = std::move(*request.chain);
    request.chain.reset();
    const bool fills =
        request.header.type == RequestType::kIn || request.header.type == RequestType::kGetId;
    // The status is the last byte of the writable part, wherever the data ends. VIRTIO 1.2, 5.2.6.
    if (const auto stored = chain.store(chain.writable() - 1, static_cast<std::uint8_t>(status));
        !stored.ok()) {
        std::move(chain).abandon();
        fail(stored.error());
        return;
    }
    const std::uint64_t written = (fills && status == Status::Ok ? request.length : 0) + 1;
    queue(index)->push(std::move(chain),
                       static_cast<std::uint32_t>(std::min<std::uint64_t>(written, 0xffffffff)));
}

}  // namespace strata::virtio
