// RawQueue: requests, short transfers, zeroing, durability.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>

#include "block/formats/raw/raw_image.h"

namespace strata::block {
namespace {

constexpr std::size_t kZeroes = 64 * 1024;
constexpr std::size_t kZeroVectors = 16;

bool writes(DiskOp op) {
    return op == DiskOp::Write || op == DiskOp::Discard || op == DiskOp::WriteZeroes;
}

bool not_offered(std::int64_t result) {
    return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENODEV;
}

}  // namespace

RawQueue::~RawQueue() {
    // The kernel must not write into memory that goes with us.
    std::vector<DiskCompletion> ignored;
    while (under_way_ != 0) {
        wait();
        reap(ignored);
    }
}

int RawQueue::refuse(const DiskRequest& request) const {
    const std::uint64_t size = file_.traits.size;
    if (request.op != DiskOp::Flush &&
        (request.offset > size || request.length > size - request.offset)) {
        return EIO;
    }
    if (writes(request.op) && file_.traits.read_only) {
        return EROFS;
    }
    if (request.op == DiskOp::Read || request.op == DiskOp::Write) {
        std::uint64_t total = 0;
        for (const iovec& vector : request.buffers) {
            total += vector.iov_len;
        }
        return total == request.length ? 0 : EINVAL;
    }
    return 0;
}

std::size_t RawQueue::place() {
    if (free_.empty()) {
        free_.push_back(operations_.size());
        operations_.emplace_back();
    }
    const std::size_t at = free_.back();
    free_.pop_back();
    return at;
}

void RawQueue::submit(DiskRequest request) {
    const int refused = refuse(request);
    const bool nothing = (request.op == DiskOp::Flush &&
                          (file_.cache == CacheMode::Unsafe || file_.traits.read_only)) ||
                         (request.op != DiskOp::Flush && request.length == 0) ||
                         (request.op == DiskOp::Discard && !file_.discard);
    if (refused != 0 || nothing) {
        finished_.push_back({request.token, refused});
        return;
    }
    const std::size_t at = place();
    Operation& operation = operations_[at];
    operation.request = std::move(request);
    operation.done = 0;
    operation.first = 0;
    operation.vectors.clear();
    operation.busy = true;
    ++under_way_;
    start(at);
}

void RawQueue::start(std::size_t at) {
    Operation& operation = operations_[at];
    switch (operation.request.op) {
        case DiskOp::Read:
        case DiskOp::Write:
            operation.vectors.swap(operation.request.buffers);
            transfer(at);
            break;
        case DiskOp::Flush:
            sync(at);
            break;
        case DiskOp::Discard:
        case DiskOp::WriteZeroes:
            allocate(at);
            break;
    }
}

bool RawQueue::direct_fits(const Operation& operation) const {
    if (!file_.direct) {
        return false;
    }
    const std::uint64_t place = operation.request.offset + operation.done;
    const bool memory_fits = std::all_of(
        operation.vectors.begin() + static_cast<std::ptrdiff_t>(operation.first),
        operation.vectors.end(), [this](const iovec& each) {
            // SAFETY: only the address's value is looked at.
            return reinterpret_cast<std::uintptr_t>(each.iov_base) % file_.memory_alignment == 0 &&
                   each.iov_len % file_.offset_alignment == 0;
        });
    return memory_fits && place % file_.offset_alignment == 0;
}

void RawQueue::transfer(std::size_t at) {
    Operation& operation = operations_[at];
    operation.phase = Phase::Transfer;
    const bool writing = operation.request.op != DiskOp::Read;
    IoCommand command;
    command.op = writing ? IoOp::Writev : IoOp::Readv;
    command.fd = direct_fits(operation) ? file_.direct.get() : file_.fd.get();
    command.offset = operation.request.offset + operation.done;
    command.vectors = operation.vectors.data() + operation.first;
    command.count = static_cast<unsigned>(
        std::min<std::size_t>(operation.vectors.size() - operation.first, IOV_MAX));
    command.flags = writing && file_.cache == CacheMode::Writethrough ? RWF_DSYNC : 0;
    command.token = at;
    io_->submit(command);
}

void RawQueue::allocate(std::size_t at) {
    Operation& operation = operations_[at];
    operation.phase = Phase::Allocate;
    const bool punch =
        operation.request.op == DiskOp::Discard || (operation.request.may_unmap && file_.discard);
    IoCommand command;
    command.op = IoOp::Fallocate;
    command.fd = file_.fd.get();
    command.offset = operation.request.offset;
    command.length = operation.request.length;
    command.flags = (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE;
    command.token = at;
    io_->submit(command);
}

void RawQueue::sync(std::size_t at) {
    operations_[at].phase = Phase::Sync;
    IoCommand command;
    command.op = IoOp::Datasync;
    command.fd = file_.fd.get();
    command.token = at;
    io_->submit(command);
}

void RawQueue::aim_at_zeroes(Operation& operation) const {
    alignas(4096) static const std::array<std::byte, kZeroes> kZeroBytes{};
    operation.vectors.clear();
    operation.first = 0;
    std::uint64_t left = operation.request.length - operation.done;
    while (left != 0 && operation.vectors.size() < kZeroVectors) {
        const std::size_t part = std::min<std::uint64_t>(left, kZeroes);
        // SAFETY: only ever the source of a write.
        operation.vectors.push_back({const_cast<std::byte*>(kZeroBytes.data()), part});
        left -= part;
    }
}

void RawQueue::transferred(std::size_t at, std::int64_t result) {
    Operation& operation = operations_[at];
    const bool reading = operation.request.op == DiskOp::Read;
    if (result == 0 && !reading) {
        finish(at, EIO);
        return;
    }
    auto advance = static_cast<std::uint64_t>(result);
    operation.done += advance;
    for (; operation.first < operation.vectors.size(); ++operation.first) {
        iovec& vector = operation.vectors[operation.first];
        if (result == 0) {  // the file ends here, the disk does not
            std::memset(vector.iov_base, 0, vector.iov_len);
            continue;
        }
        const std::size_t part = std::min<std::uint64_t>(advance, vector.iov_len);
        // SAFETY: stays inside the vector.
        vector.iov_base = static_cast<std::byte*>(vector.iov_base) + part;
        vector.iov_len -= part;
        advance -= part;
        if (vector.iov_len != 0) {
            break;
        }
    }
    if (result == 0 || operation.done >= operation.request.length) {
        finish(at, 0);
        return;
    }
    if (operation.request.op == DiskOp::WriteZeroes) {
        aim_at_zeroes(operation);
    }
    transfer(at);
}

void RawQueue::completed(std::size_t at, std::int64_t result) {
    Operation& operation = operations_[at];
    if (result == -EAGAIN || result == -EINTR) {
        if (operation.phase == Phase::Transfer) {
            transfer(at);
        } else if (operation.phase == Phase::Allocate) {
            allocate(at);
        } else {
            sync(at);
        }
        return;
    }
    if (operation.phase == Phase::Allocate && not_offered(result)) {
        if (operation.request.op == DiskOp::Discard) {
            finish(at, 0);  // a hint that the host cannot use
        } else {
            aim_at_zeroes(operation);
            transfer(at);
        }
    } else if (result < 0) {
        finish(at, static_cast<int>(-result));
    } else if (operation.phase == Phase::Transfer) {
        transferred(at, result);
    } else if (operation.phase == Phase::Allocate && file_.cache == CacheMode::Writethrough) {
        sync(at);
    } else {
        finish(at, 0);
    }
}

void RawQueue::finish(std::size_t at, int error) {
    Operation& operation = operations_[at];
    finished_.push_back({operation.request.token, error});
    operation.busy = false;
    free_.push_back(at);
    --under_way_;
}

void RawQueue::reap(std::vector<DiskCompletion>& out) {
    scratch_.clear();
    io_->reap(scratch_);
    for (const IoCompletion& each : scratch_) {
        STRATA_CHECK(each.token < operations_.size() && operations_[each.token].busy,
                     "a completion of no operation");
        completed(each.token, each.result);
    }
    io_->kick();
    out.insert(out.end(), finished_.begin(), finished_.end());
    finished_.clear();
}

void RawQueue::wait() {
    if (finished_.empty() && under_way_ != 0) {
        io_->wait();
    }
}

}  // namespace strata::block
