// Disk orders: requests to jobs and changes.
#include "vmm/disk_orders.h"

#include <chrono>
#include <utility>

#include <fcntl.h>

#include "block/filters/throttle/throttle_group.h"
#include "block/graph_image.h"
#include "block/live/backup.h"
#include "block/live/mirror.h"
#include "block/live/stream.h"
#include "block/nbd/connector.h"
#include "block/registry.h"

namespace strata::vmm {
namespace {

using block::LiveJob;
using block::NodePtr;

LiveJob::Finish finish_of(api::MirrorEnd end) {
    switch (end) {
        case api::MirrorEnd::Ask:
            return LiveJob::Finish::Ask;
        case api::MirrorEnd::Pivot:
            return LiveJob::Finish::Pivot;
        case api::MirrorEnd::Keep:
            return LiveJob::Finish::Keep;
    }
    return LiveJob::Finish::Ask;
}

/// Opens what the owner passed; without what it names. It is trusted as far as its format goes.
block::Task<NodePtr> open_passed(block::Loop& loop, api::ControlRequest request, UniqueFd file,
                                 bool lock) {
    block::OpenOptions options;
    options.path = request.file.name;
    options.format = request.format;
    options.open_backing = false;
    options.lock = lock;
    if (!request.nbd.empty()) {
        co_return co_await block::open_export(
            loop, std::move(options), std::move(request.nbd),
            std::make_shared<block::nbd::ChannelConnector>(std::move(file)));
    }
    options.fd = std::move(file);
    co_return co_await block::open_node(loop, std::move(options));
}

block::Task<std::shared_ptr<LiveJob>> make_commit(block::LiveDisk& live,
                                                  api::ControlRequest request, UniqueFd file) {
    UniqueFd lock(::fcntl(file.get(), F_DUPFD_CLOEXEC, 3));
    if (!lock) {
        co_return Error::from_errno("duplicating a descriptor");
    }
    // The disk's own chain has this file locked, as a reader.
    STRATA_CO_TRY(NodePtr target,
                  co_await open_passed(live.loop(), request, std::move(file), false));
    co_return std::shared_ptr<LiveJob>(std::make_shared<block::ActiveCommit>(
        live.loop(),
        block::MirrorOptions{
            .target = std::move(target), .finish = LiveJob::Finish::Pivot, .speed = request.speed},
        std::move(lock)));
}

block::Task<> put_overlay(block::LiveDisk& live, api::ControlRequest request, NodePtr overlay) {
    STRATA_CO_TRY(const auto alone, co_await live.gate().exclusive());
    STRATA_CO_TRY_VOID(live.check_free());
    const NodePtr old = live.disk_ptr();
    if (overlay->size() != old->size()) {
        co_return Error{ErrorKind::InvalidArgument,
                        "the overlay has another size than the disk: make it anew"};
    }
    STRATA_CO_TRY_VOID(co_await old->flush());
    STRATA_CO_TRY_VOID(
        co_await overlay->change_backing(old, request.backing, std::string(old->format())));
    live.replace(std::move(overlay));
    co_return ok();
}

}  // namespace

block::Task<std::shared_ptr<LiveJob>> make_job(block::LiveDisk& live, api::ControlRequest request,
                                               UniqueFd file) {
    if (live.disk().traits().read_only) {
        co_return Error{ErrorKind::WrongState, "the disk is read-only: nobody changes it"};
    }
    if (request.operation == api::ControlOperation::DiskStream) {
        co_return std::shared_ptr<LiveJob>(
            std::make_shared<block::Stream>(live.loop(), request.speed));
    }
    if (request.operation == api::ControlOperation::DiskCommit) {
        co_return co_await make_commit(live, std::move(request), std::move(file));
    }
    STRATA_CO_TRY(NodePtr target,
                  co_await open_passed(live.loop(), request, std::move(file), true));
    if (target->traits().whole_clusters) {
        co_return Error{ErrorKind::NotSupported,
                        "a disk in use is not copied in order, as the target's format needs it"};
    }
    if (request.operation == api::ControlOperation::DiskBackup) {
        co_return std::shared_ptr<LiveJob>(std::make_shared<block::Backup>(
            live.loop(), block::BackupOptions{.target = std::move(target),
                                              .target_zero = request.empty,
                                              .bitmap = request.bitmap,
                                              .incremental = request.incremental,
                                              .speed = request.speed}));
    }
    co_return std::shared_ptr<LiveJob>(std::make_shared<block::Mirror>(
        live.loop(), block::MirrorOptions{.target = std::move(target),
                                          .target_zero = request.empty,
                                          .finish = finish_of(request.end),
                                          .speed = request.speed}));
}

block::Task<> take_snapshot(block::LiveDisk& live, api::ControlRequest request, UniqueFd file) {
    STRATA_CO_TRY_VOID(live.check_free());
    if (!request.snapshot.empty()) {
        const auto now = std::chrono::system_clock::now().time_since_epoch();
        block::SnapshotInfo snapshot;
        snapshot.name = request.snapshot;
        snapshot.date_seconds = static_cast<std::uint32_t>(
            std::chrono::duration_cast<std::chrono::seconds>(now).count());
        STRATA_CO_TRY(const auto alone, co_await live.gate().exclusive());
        STRATA_CO_TRY_VOID(live.check_free());
        snapshot.disk_size = live.disk().size();
        STRATA_CO_TRY_VOID(co_await live.disk().create_snapshot(std::move(snapshot)));
        co_return ok();
    }
    STRATA_CO_TRY(NodePtr overlay,
                  co_await open_passed(live.loop(), request, std::move(file), true));
    Result<> done = co_await put_overlay(live, std::move(request), overlay);
    if (!done.ok()) {
        (void)co_await overlay->close();  // the other error is told
    }
    co_return done;
}

block::Task<> set_limits(block::LiveDisk& live, std::vector<api::DiskLimit> limits) {
    block::OptionList list;
    for (const api::DiskLimit& limit : limits) {
        list.emplace_back(limit.name, std::to_string(limit.value));
    }
    block::NodeTree tree(std::move(list));
    STRATA_CO_TRY(const auto wanted, block::throttle::Limits::take(tree));
    STRATA_CO_TRY_VOID(tree.finish("filter", "throttle"));
    if (live.limits() != nullptr) {
        live.limits()->set_limits(wanted);
        co_return ok();
    }
    if (wanted.any()) {
        STRATA_CO_TRY(const auto alone, co_await live.gate().exclusive());
        live.set_limits(std::make_shared<block::throttle::ThrottleGroup>(wanted));
    }
    co_return ok();
}

block::Task<> describe_disk(block::LiveDisk& live, api::Json& disk) {
    api::Json chain = api::Json::array();
    for (const block::Node* node = &live.disk(); node != nullptr; node = node->backing()) {
        chain.push_back({{"file", node->name()}, {"format", std::string(node->format())}});
    }
    disk["file"] = live.disk().name();
    disk["format"] = std::string(live.disk().format());
    disk["chain"] = std::move(chain);
    const auto bitmaps = co_await live.disk().bitmaps();
    if (bitmaps.ok()) {  // other formats have none
        api::Json names = api::Json::array();
        for (const block::BitmapInfo& each : bitmaps.value()) {
            names.push_back(each.name);
        }
        disk["bitmaps"] = std::move(names);
    }
    co_return ok();
}

}  // namespace strata::vmm
