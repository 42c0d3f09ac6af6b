// Stream: copying up under a lock, then cutting the chain.
#include "block/live/stream.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "base/log.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kStretch = 1U << 20;

}  // namespace

Task<> Stream::run(LiveDisk& live) {
    {
        STRATA_CO_TRY(const auto alone, co_await live.gate().exclusive());
        STRATA_CO_TRY_VOID(co_await check(live.disk()));
        live.watch(this);
    }
    Node& disk = live.disk();
    control().begin(disk.size());
    Result<> done = co_await fill(disk);
    co_return co_await cut_off(live, std::move(done));
}

Task<> Stream::check(Node& disk) {
    if (disk.backing() == nullptr) {
        co_return Error{ErrorKind::WrongState,
                        fmt::format("'{}' has no layer below to take in", disk.name())};
    }
    const auto snapshots = co_await disk.snapshots();
    if (!snapshots.ok() && snapshots.error().kind() != ErrorKind::NotSupported) {
        co_return snapshots.error();
    }
    if (snapshots.ok() && !snapshots->empty()) {
        co_return Error{ErrorKind::WrongState,
                        fmt::format("'{}': its internal snapshots need the layers below: delete "
                                    "them first",
                                    disk.name())};
    }
    co_return ok();
}

Task<> Stream::around(std::uint64_t offset, std::uint64_t length, Task<> write) {
    STRATA_CO_TRY(const auto hold, co_await locks_.hold(offset, offset + length, false));
    co_return co_await write;
}

Task<> Stream::fill(Node& disk) {
    const std::uint64_t size = disk.size();
    const std::uint64_t stretch = std::max(kStretch, disk.traits().cluster_size);
    auto due = std::chrono::steady_clock::now() + checkpoint_;
    for (std::uint64_t at = 0; at < size;) {
        STRATA_CO_TRY_VOID(control().check());
        if (std::chrono::steady_clock::now() >= due) {
            STRATA_CO_TRY_VOID(co_await disk.flush());
            due = std::chrono::steady_clock::now() + checkpoint_;
        }
        // Without the lock: what is there stays there.
        unsigned depth = 0;
        STRATA_CO_TRY(const Extent extent,
                      co_await status_of_chain(disk, nullptr, at, size - at, &depth));
        std::uint64_t length = extent.length;
        if (extent.kind == Extent::Kind::Data && depth != 0) {
            length = std::min(length, stretch - at % stretch);
            STRATA_CO_TRY_VOID(co_await control().pause_point(disk.loop(), length));
            STRATA_CO_TRY_VOID(co_await fill_range(disk, at, at + length));
        }
        control().advance(length);
        at += length;
    }
    co_return co_await disk.flush();
}

Task<> Stream::fill_range(Node& disk, std::uint64_t at, std::uint64_t end) {
    STRATA_CO_TRY(const auto hold, co_await locks_.hold(at, end, true));
    while (at < end) {
        unsigned depth = 0;
        STRATA_CO_TRY(const Extent extent,
                      co_await status_of_chain(disk, nullptr, at, end - at, &depth));
        if (extent.kind == Extent::Kind::Data && depth != 0) {
            buffer_.resize(extent.length);
            STRATA_CO_TRY_VOID(co_await disk.read(at, Buffers(std::span(buffer_))));
            STRATA_CO_TRY_VOID(co_await disk.write(at, Buffers::of(buffer_)));
        }
        at += extent.length;
    }
    co_return ok();
}

Task<> Stream::cut_off(LiveDisk& live, Result<> done) {
    Node& disk = live.disk();
    const NodePtr below = disk.backing()->shared_from_this();
    {
        STRATA_CO_TRY(const auto alone, co_await live.gate().exclusive());
        live.watch(nullptr);
        if (done.ok()) {
            done = co_await disk.change_backing(nullptr, "", "");
        }
    }
    if (done.ok()) {
        Result<> closed = co_await below->close();
        if (!closed.ok()) {
            log::warn("a layer that is not needed any more was not closed cleanly reason='{}'",
                      closed.error().text());
        }
    }
    co_return done;
}

}  // namespace strata::block
