// Result and Error: construction from errno.
#include "base/result.h"

#include <cerrno>
#include <system_error>

#include <fmt/format.h>

namespace strata {
namespace {

ErrorKind kind_of_errno(int number) {
    switch (number) {
        case ENOENT:
        case ENODEV:
        case ENXIO:
            return ErrorKind::NotFound;
        case EEXIST:
            return ErrorKind::AlreadyExists;
        case EACCES:
        case EPERM:
        case EROFS:
            return ErrorKind::PermissionDenied;
        case ETIMEDOUT:
            return ErrorKind::TimedOut;
        case ECONNREFUSED:
            return ErrorKind::Unreachable;
        case EOPNOTSUPP:
        case ENOSYS:
            return ErrorKind::NotSupported;
        default:
            return ErrorKind::Failed;
    }
}

}  // namespace

Error Error::from_errno(std::string_view text, int number) {
    return {kind_of_errno(number),
            fmt::format("{}: {}", text, std::generic_category().message(number)), number};
}

Error Error::from_errno(std::string_view text) {
    return from_errno(text, errno);
}

}  // namespace strata
