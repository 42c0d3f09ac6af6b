// AsyncIo: choosing an engine.
#include "block/async_io.h"

#include "base/log.h"
#include "block/engines/threads/thread_io.h"
#include "block/engines/uring/ring.h"
#include "block/engines/uring/uring_io.h"

namespace strata::block {

bool uring_available() {
    static const bool kAvailable = [] {
        const auto probe = UringIo::create(2);
        if (!probe.ok()) {
            log::info("io_uring is not available, disks use threads reason='{}'",
                      probe.error().text());
        }
        return probe.ok();
    }();
    return kAvailable;
}

Result<std::unique_ptr<AsyncIo>> make_async_io(IoEngine engine, unsigned depth) {
    if (RingStock* stock = RingStock::adopted(); engine == IoEngine::Auto && stock != nullptr) {
        auto ring = stock->take();
        return ring != nullptr ? std::move(ring) : ThreadIo::create(depth);
    }
    if (engine == IoEngine::Uring && !uring_available()) {
        return Error{
            ErrorKind::NotSupported,
            "this host does not let the process use io_uring; use the 'threads' engine or 'auto'"};
    }
    if (engine == IoEngine::Threads || !uring_available()) {
        return ThreadIo::create(depth);
    }
    auto made = UringIo::create(depth);
    if (!made.ok() && engine == IoEngine::Auto) {
        return ThreadIo::create(depth);  // e.g. the locked-memory limit is used up
    }
    return made;
}

Result<std::unique_ptr<AsyncIo>> make_inline_io(unsigned depth) {
    return ThreadIo::create(depth, true);
}

}  // namespace strata::block
