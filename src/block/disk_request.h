// DiskRequest, DiskQueue: asynchronous requests to a disk image, by guest offset.
//
// A DiskQueue is one stream of requests with its own engine resources; an image may have several,
// e.g. one a virtqueue. Requests are submitted, complete in any order, and are reaped by whoever
// owns the queue when completion_fd() polls readable. Buffers and the memory behind them stay valid
// until the completion was reaped. Threads: one at a time; the owner holds a lock of its own.
#pragma once

#include <cstdint>
#include <vector>

#include <sys/uio.h>

#include "base/result.h"

namespace strata::block {

inline constexpr std::uint64_t kSectorSize = 512;

enum class DiskOp : std::uint8_t {
    Read,
    Write,
    Flush,        ///< all writes completed before are durable afterwards
    Discard,      ///< the content is not needed any more; it reads as anything
    WriteZeroes,  ///< reads as zeros afterwards
};

struct DiskRequest {
    DiskOp op = DiskOp::Read;
    std::uint64_t offset = 0;      ///< bytes
    std::uint64_t length = 0;      ///< bytes; for Read and Write the sum of `buffers`
    bool may_unmap = false;        ///< WriteZeroes: space may be given back
    std::vector<iovec> buffers{};  ///< Read and Write
    std::uint64_t token = 0;       ///< the owner's, handed back in the completion
};

struct DiskCompletion {
    std::uint64_t token = 0;
    int error = 0;  ///< 0, or a positive errno (EIO, ENOSPC, EROFS …)
};

class DiskQueue {
  public:
    virtual ~DiskQueue() = default;
    /// Takes a request. Requests outside the image, writes to a read-only one and the like complete
    /// with an error as well: nothing fails here.
    virtual void submit(DiskRequest request) = 0;
    /// Sends what was submitted on its way; after a batch of submit(). Some requests may be
    /// complete already without completion_fd() having been signalled: reap() follows.
    virtual void kick() = 0;
    /// Polls readable when reap() has something.
    [[nodiscard]] virtual int completion_fd() const = 0;
    /// Appends what has completed. Does not wait.
    virtual void reap(std::vector<DiskCompletion>& out) = 0;
    /// Waits until at least one request has completed, if any is under way. Not on vCPU threads.
    virtual void wait() = 0;
    /// Requests submitted and not reaped.
    [[nodiscard]] virtual std::size_t in_flight() const = 0;
};

}  // namespace strata::block
