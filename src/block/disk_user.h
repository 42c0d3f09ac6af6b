// DiskUser: a device that has a disk, as the machine's owner reaches it while the machine runs.
#pragma once

#include <memory>

#include "base/result.h"
#include "block/disk_image.h"

namespace strata::block {

/// All on the event loop's thread.
class DiskUser {
  public:
    virtual ~DiskUser() = default;
    [[nodiscard]] virtual DiskImage& disk() = 0;
    /// Goes on with `image`, which is the same disk, once its requests under way have ended. On an
    /// error it goes on with the old one.
    virtual Result<> exchange_image(std::unique_ptr<DiskImage> image) = 0;
    /// The guest can be told of another size; if not, the disk must keep its own.
    [[nodiscard]] virtual bool tells_size() const { return true; }
    /// The disk's traits() tell another size: the guest is told.
    virtual void size_changed() = 0;
};

}  // namespace strata::block
