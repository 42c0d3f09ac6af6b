// MediumUser: a drive whose medium can be changed, as the machine's owner reaches it while the
// machine runs.
#pragma once

#include <memory>

#include "base/result.h"
#include "block/disk_image.h"

namespace strata::block {

struct MediumState {
    const DiskImage* medium = nullptr;  ///< null: none is in it
    bool tray_open = false;
    bool locked = false;  ///< by the guest
};

/// All on the event loop's thread.
class MediumUser {
  public:
    virtual ~MediumUser() = default;
    [[nodiscard]] virtual MediumState medium() = 0;
    /// Takes out what is in and puts `image` in; null: nothing, and the tray stays open. WrongState
    /// if the guest has locked the tray and `force` is not said: the guest is asked to give the
    /// medium then, once. What the guest reads meanwhile is from the old medium.
    virtual Result<> change_medium(std::unique_ptr<DiskImage> image, bool force) = 0;
};

}  // namespace strata::block
