// LiveImage: a DiskImage that can be changed, and worked on by jobs, while it is in use.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/result.h"
#include "block/disk_image.h"
#include "block/task.h"

namespace strata::block {

class LiveDisk;

/// A disk's graph, reached from outside its thread.
class LiveAccess {
  public:
    virtual ~LiveAccess() = default;
    using Work = std::function<Task<>(LiveDisk& disk)>;
    /// Starts work(disk) on the graph's thread, where `done` is called with what came of it. The
    /// image's destructor ends jobs, and waits for all of it. Any thread.
    virtual void start(Work work, std::function<void(Result<>)> done) = 0;
};

class LiveImage : public DiskImage {
  public:
    /// The graph, for jobs and changes; null: there is none, and as_graph() makes one.
    [[nodiscard]] virtual LiveAccess* live() = 0;
    /// The same disk as an image with a graph; this one is not used any more when that one is.
    virtual Result<std::unique_ptr<DiskImage>> as_graph() = 0;
    /// Makes the disk `size` bytes long, which is no less than now; `done` is called on any thread,
    /// perhaps before this returns. traits() tells the new size after settle_size(), or before.
    virtual void grow(std::uint64_t size, std::function<void(Result<>)> done) = 0;
    /// On the thread of the image's users, after grow() was done. A size that another grow() has
    /// gone beyond changes nothing.
    virtual void settle_size(std::uint64_t size) = 0;
};

/// `image` as what it is if it can be changed; null if it cannot.
inline LiveImage* live_image(DiskImage& image) {
    return dynamic_cast<LiveImage*>(&image);
}

}  // namespace strata::block
