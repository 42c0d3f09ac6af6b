// EventFd: the three system calls.
#include "io/event_fd.h"

#include <cstdint>

#include <sys/eventfd.h>
#include <unistd.h>

namespace strata::io {

Result<EventFd> EventFd::create() {
    UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!fd) {
        return Error::from_errno("cannot create an eventfd");
    }
    return EventFd(std::move(fd));
}

void EventFd::signal() const {
    const std::uint64_t one = 1;
    // Fails only with EAGAIN, when the counter is at its maximum: it is signalled already.
    [[maybe_unused]] const auto written = ::write(fd_.get(), &one, sizeof(one));
}

bool EventFd::drain() const {
    std::uint64_t count = 0;
    return ::read(fd_.get(), &count, sizeof(count)) == sizeof(count);
}

}  // namespace strata::io
