// FileLock: host locks on image files that work with QEMU's as well.
//
// The same byte locks as QEMU (open file description locks): byte 100 + n says "I use permission
// n", byte 200 + n says "nobody else may use permission n". A writer uses and denies WRITE and
// RESIZE; a reader denies them. So any number of readers share an image, a writer is alone, and
// either program refuses a disk that the other one uses.
#pragma once

#include <string_view>

#include "base/result.h"

namespace strata::block {

/// Locks the file behind `fd` until it is closed. WrongState if somebody else uses it, naming the
/// process if it can be seen. File systems without locks are not an error.
Result<> lock_image(int fd, bool writing, std::string_view name);

}  // namespace strata::block
