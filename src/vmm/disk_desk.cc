// DiskDesk: requests on the event loop, work on the graphs' threads.
#include "vmm/disk_desk.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "vmm/disk_orders.h"

namespace strata::vmm {
namespace {

using api::ControlOperation;
using api::Json;

constexpr std::size_t kKeptJobs = 32;
constexpr std::chrono::seconds kProgress{1};
constexpr std::array<std::string_view, 5> kStates = {"running", "ready", "done", "failed",
                                                     "cancelled"};

bool replaces_the_top(const api::ControlRequest& request) {
    switch (request.operation) {
        case ControlOperation::DiskCommit:
        case ControlOperation::DiskStream:
            return true;
        case ControlOperation::DiskMirror:
            return request.end != api::MirrorEnd::Keep;
        case ControlOperation::DiskSnapshot:
            return request.snapshot.empty();
        default:
            return false;
    }
}

// What the guest has written since the machine began would be lost with the run's own layer, or be
// laid over what was committed the next time.
Result<> keeps_its_layers(const RunningDisk& disk, const api::ControlRequest& request) {
    if (!disk.pinned || !replaces_the_top(request)) {
        return ok();
    }
    return Error{
        ErrorKind::NotSupported,
        fmt::format("{} is a folder, or has the mode nonpersistent or undoable: its layers "
                    "stay as they are while the machine runs (copy it: disk backup, disk "
                    "mirror --keep)",
                    disk.name)};
}

}  // namespace

/// A job on its way to a graph's thread, and what to do when it is there.
struct DiskDesk::Order {
    api::ControlRequest request;
    UniqueFd file;
    std::shared_ptr<block::LiveJob> job;  ///< the graph's thread makes it
    std::function<void()> on_started, on_ready;
};

DiskDesk::DiskDesk(io::EventLoop& loop, std::vector<RunningDisk> disks,
                   std::vector<RunningDrive> drives, std::function<void(Json)> tell)
    : loop_(loop), disks_(std::move(disks)), drives_(std::move(drives)), tell_(std::move(tell)) {}

Result<std::size_t> DiskDesk::find_disk(const std::string& name) const {
    std::string known;
    for (std::size_t i = 0; i < disks_.size(); ++i) {
        if (disks_[i].name == name || disks_[i].file == name ||
            disks_[i].device->disk().name() == name) {
            return i;
        }
        known += fmt::format("{}{}", known.empty() ? "" : ", ", disks_[i].name);
    }
    return Error{ErrorKind::NotFound,
                 fmt::format("no disk '{}'; there are: {}", name, known.empty() ? "none" : known)};
}

Result<block::LiveImage*> DiskDesk::image_of(std::size_t disk) const {
    block::LiveImage* image = block::live_image(disks_[disk].device->disk());
    if (image == nullptr) {
        return Error{ErrorKind::NotSupported,
                     fmt::format("{} cannot be changed while it is in use", disks_[disk].name)};
    }
    return image;
}

block::LiveAccess* DiskDesk::graph_now(std::size_t disk) const {
    block::LiveImage* image = block::live_image(disks_[disk].device->disk());
    return image != nullptr ? image->live() : nullptr;
}

Result<block::LiveAccess*> DiskDesk::graph_of(std::size_t disk) {
    block::LiveImage* image = STRATA_TRY(image_of(disk));
    if (image->live() == nullptr) {
        auto graph = STRATA_TRY(image->as_graph());
        STRATA_TRY_VOID(disks_[disk].device->exchange_image(std::move(graph)));
    }
    return graph_now(disk);
}

void DiskDesk::serve(api::ControlRequest request, UniqueFd file, Reply reply) {
    switch (request.operation) {
        case ControlOperation::QueryDisks:
            return query(reply);
        case ControlOperation::JobList:
        case ControlOperation::JobCancel:
        case ControlOperation::JobSpeed:
        case ControlOperation::JobComplete:
            return serve_job(request, reply);
        case ControlOperation::DiskEject:
        case ControlOperation::DiskChange: {
            const auto done = change_medium(request, std::move(file));
            return reply(done.ok() ? Result<Json>(Json::object()) : Result<Json>(done.error()));
        }
        default:
            break;
    }
    const auto disk = find_disk(request.disk);
    if (!disk) {
        return reply(disk.error());
    }
    if (const auto kept = keeps_its_layers(disks_[*disk], request); !kept.ok()) {
        return reply(kept.error());
    }
    switch (request.operation) {
        case ControlOperation::DiskResize:
            return resize(*disk, request.size, reply);
        case ControlOperation::DiskLimits:
            return change(
                *disk,
                [limits = request.limits](block::LiveDisk& live, Json& /*answer*/) {
                    return set_limits(live, limits);
                },
                reply);
        case ControlOperation::DiskSnapshot: {
            const auto kept = std::make_shared<UniqueFd>(std::move(file));
            return change(
                *disk,
                [request, kept](block::LiveDisk& live, Json& /*answer*/) {
                    return take_snapshot(live, request, std::move(*kept));
                },
                reply);
        }
        default:
            return start_job(*disk, std::move(request), std::move(file), std::move(reply));
    }
}

Result<> DiskDesk::change_medium(const api::ControlRequest& request, UniqueFd file) {
    std::string known;
    const RunningDrive* drive = nullptr;
    for (const RunningDrive& each : drives_) {
        const block::DiskImage* medium = each.device->medium().medium;
        if (each.name == request.disk || (medium != nullptr && medium->name() == request.disk)) {
            drive = &each;
        }
        known += fmt::format("{}{}", known.empty() ? "" : ", ", each.name);
    }
    if (drive == nullptr) {
        return Error{ErrorKind::NotFound, fmt::format("no drive '{}'; there are: {}", request.disk,
                                                      known.empty() ? "none" : known)};
    }
    std::unique_ptr<block::DiskImage> image;
    if (request.operation == ControlOperation::DiskChange) {
        block::DiskOptions options;
        options.path = request.file.name;
        options.fd = std::move(file);
        options.format = request.format;
        options.read_only = true;
        image = STRATA_TRY(block::open_disk(std::move(options)));
    }
    STRATA_TRY_VOID(drive->device->change_medium(std::move(image), request.force));
    tell_(Json{{"event", "medium-changed"}, {"disk", drive->name}, {"file", request.file.name}});
    return ok();
}

void DiskDesk::query(const Reply& reply) {
    const auto list = std::make_shared<Json>(Json::array());
    const auto left = std::make_shared<std::size_t>(disks_.size());
    for (std::size_t i = 0; i < disks_.size(); ++i) {
        block::DiskImage& image = disks_[i].device->disk();
        Json disk{{"disk", disks_[i].name},
                  {"file", std::string(image.name())},
                  {"format", std::string(image.format())},
                  {"size", image.traits().size},
                  {"read_only", image.traits().read_only}};
        for (const Job& job : jobs_) {
            if (job.disk == i && job.work != nullptr) {
                disk["job"] = job.id;
            }
        }
        list->push_back(std::move(disk));
    }
    for (const RunningDrive& drive : drives_) {
        const block::MediumState state = drive.device->medium();
        const block::DiskImage* medium = state.medium;
        list->push_back({{"disk", drive.name},
                         {"file", medium != nullptr ? std::string(medium->name()) : ""},
                         {"format", medium != nullptr ? std::string(medium->format()) : ""},
                         {"size", medium != nullptr ? medium->traits().size : 0},
                         {"read_only", true},
                         {"cdrom", true},
                         {"tray_open", state.tray_open},
                         {"locked", state.locked}});
    }
    if (disks_.empty()) {
        reply(std::move(*list));
    }
    for (std::size_t i = 0; i < disks_.size(); ++i) {
        query_disk(i, list, left, reply);
    }
}

void DiskDesk::query_disk(std::size_t index, std::shared_ptr<Json> list,
                          std::shared_ptr<std::size_t> left, const Reply& reply) {
    const auto known = [list, left, reply] {
        if (--*left == 0) {
            reply(std::move(*list));
        }
    };
    block::LiveAccess* graph = graph_now(index);
    if (graph == nullptr) {
        (*list)[index]["chain"] =
            Json::array({{{"file", (*list)[index]["file"]}, {"format", (*list)[index]["format"]}}});
        return known();
    }
    const auto disk = std::make_shared<Json>((*list)[index]);
    graph->start([disk](block::LiveDisk& live) { return describe_disk(live, *disk); },
                 [this, disk, list, index, known](const Result<>& /*never fails*/) {
                     loop_.post([disk, list, index, known] {
                         (*list)[index] = std::move(*disk);
                         known();
                     });
                 });
}

void DiskDesk::resize(std::size_t disk, std::uint64_t size, const Reply& reply) {
    block::DiskUser& device = *disks_[disk].device;
    const block::DiskTraits& traits = device.disk().traits();
    if (traits.read_only) {
        return reply(Error{ErrorKind::WrongState, "the disk is read-only"});
    }
    if (!device.tells_size()) {
        return reply(Error{ErrorKind::NotSupported,
                           "a SATA disk cannot tell its guest of another size: make it larger "
                           "while the machine is off, or hang it on bus virtio or scsi"});
    }
    if (size < traits.size) {
        return reply(Error{
            ErrorKind::WrongState,
            fmt::format("the disk has {} bytes, and a disk in use cannot shrink", traits.size)});
    }
    const auto image = image_of(disk);
    if (!image) {
        return reply(image.error());
    }
    (*image)->grow(size, [this, disk, size, reply](Result<> done) {
        loop_.post([this, disk, size, reply, done = std::move(done)] {
            if (!done.ok()) {
                return reply(done.error());
            }
            block::DiskUser& grown = *disks_[disk].device;
            if (auto* now = block::live_image(grown.disk())) {
                now->settle_size(size);
            }
            grown.size_changed();
            tell_(Json{{"event", "disk-resized"}, {"disk", disks_[disk].name}, {"size", size}});
            reply(Json{{"size", size}});
        });
    });
}

void DiskDesk::change(std::size_t disk, std::function<block::Task<>(block::LiveDisk&, Json&)> work,
                      const Reply& reply) {
    const auto graph = graph_of(disk);
    if (!graph) {
        return reply(graph.error());
    }
    const auto answer = std::make_shared<Json>(Json::object());
    (*graph)->start(
        [answer, work = std::move(work)](block::LiveDisk& live) { return work(live, *answer); },
        [this, answer, reply](Result<> done) {
            loop_.post([answer, reply, done = std::move(done)] {
                reply(done.ok() ? Result<Json>(std::move(*answer)) : Result<Json>(done.error()));
            });
        });
}

block::Task<> DiskDesk::carry_out(block::LiveDisk& live, std::shared_ptr<Order> order) {
    if (live.job() != nullptr) {
        co_return Error{ErrorKind::WrongState,
                        fmt::format("the disk is busy with a {}: wait for it or cancel it",
                                    live.job()->kind())};
    }
    STRATA_CO_TRY(order->job,
                  co_await make_job(live, std::move(order->request), std::move(order->file)));
    order->job->on_ready(order->on_ready);
    order->on_started();
    co_return co_await live.run(order->job);
}

void DiskDesk::start_job(std::size_t disk, api::ControlRequest request, UniqueFd file,
                         Reply reply) {
    const auto graph = graph_of(disk);
    if (!graph) {
        return reply(graph.error());
    }
    const auto order = std::make_shared<Order>();
    order->request = std::move(request);
    order->file = std::move(file);
    // Called on the graph's thread, which alone has the order; the job goes along.
    const std::weak_ptr<Order> weak = order;
    order->on_started = [this, disk, reply, weak] {
        loop_.post([this, disk, reply, job = weak.lock()->job] { job_started(disk, job, reply); });
    };
    order->on_ready = [this, weak] {
        const auto there = weak.lock();
        if (there != nullptr) {
            loop_.post([this, job = there->job] {
                for (Job& each : jobs_) {
                    if (each.work == job) {
                        each.state = JobState::Ready;
                        tell_job(each);
                    }
                }
            });
        }
    };
    (*graph)->start([order](block::LiveDisk& live) { return carry_out(live, order); },
                    [this, order, reply](Result<> done) {
                        loop_.post([this, job = order->job, reply, done = std::move(done)] {
                            if (job != nullptr) {
                                job_ended(job, done);
                            } else {
                                reply(done.error());
                            }
                        });
                    });
}

void DiskDesk::job_started(std::size_t disk, std::shared_ptr<block::LiveJob> work,
                           const Reply& reply) {
    while (jobs_.size() >= kKeptJobs) {
        const auto over =
            std::ranges::find_if(jobs_, [](const Job& each) { return each.work == nullptr; });
        if (over == jobs_.end()) {
            break;
        }
        jobs_.erase(over);
    }
    Job job;
    job.id = fmt::format("job{}", next_job_++);
    job.kind = work->kind();
    job.disk = disk;
    job.work = std::move(work);
    jobs_.push_back(std::move(job));
    reply(Json{{"job", jobs_.back().id}});
    tell_job(jobs_.back());
    watch_progress();
}

void DiskDesk::job_ended(const std::shared_ptr<block::LiveJob>& work, const Result<>& result) {
    for (Job& job : jobs_) {
        if (job.work != work) {
            continue;
        }
        job.state = result.ok()     ? JobState::Done
                    : job.cancelled ? JobState::Cancelled
                                    : JobState::Failed;
        job.error = result.ok() || job.cancelled ? "" : result.error().text();
        tell_job(job);
        job.work.reset();
    }
}

Json DiskDesk::describe(const Job& job) const {
    Json json{{"job", job.id},
              {"kind", job.kind},
              {"disk", disks_[job.disk].name},
              {"state", std::string(kStates.at(static_cast<std::size_t>(job.state)))},
              {"done", job.done},
              {"total", job.total}};
    if (!job.error.empty()) {
        json["error"] = job.error;
    }
    return json;
}

void DiskDesk::tell_job(Job& job) {
    if (job.work != nullptr) {
        job.done = job.work->done();
        job.total = job.work->total();
    }
    Json event{{"event", "job"}};
    event.update(describe(job));
    tell_(std::move(event));
}

void DiskDesk::watch_progress() {
    if (watching_) {
        return;
    }
    watching_ = true;
    (void)loop_.at(io::EventLoop::Clock::now() + kProgress, [this] {
        watching_ = false;
        bool running = false;
        for (Job& job : jobs_) {
            if (job.work != nullptr) {
                running = true;
                if (job.done != job.work->done() || job.total != job.work->total()) {
                    tell_job(job);
                }
            }
        }
        if (running) {
            watch_progress();
        }
    });
}

Result<DiskDesk::Job*> DiskDesk::find_job(const std::string& id) {
    const auto found = std::ranges::find_if(jobs_, [&](const Job& each) { return each.id == id; });
    if (found == jobs_.end()) {
        return Error{ErrorKind::NotFound, fmt::format("no job '{}'", id)};
    }
    if (found->work == nullptr) {
        return Error{ErrorKind::WrongState, fmt::format("job '{}' is over", id)};
    }
    return &*found;
}

void DiskDesk::serve_job(const api::ControlRequest& request, const Reply& reply) {
    if (request.operation == ControlOperation::JobList) {
        Json list = Json::array();
        for (Job& job : jobs_) {
            if (job.work != nullptr) {
                job.done = job.work->done();
                job.total = job.work->total();
            }
            list.push_back(describe(job));
        }
        return reply(std::move(list));
    }
    const auto job = find_job(request.job);
    if (!job) {
        return reply(job.error());
    }
    const std::shared_ptr<block::LiveJob> work = (*job)->work;
    const auto finish = request.end == api::MirrorEnd::Pivot ? block::LiveJob::Finish::Pivot
                                                             : block::LiveJob::Finish::Keep;
    (*job)->cancelled = (*job)->cancelled || request.operation == ControlOperation::JobCancel;
    const auto outcome = std::make_shared<Result<>>(ok());
    graph_now((*job)->disk)
        ->start(
            [work, outcome, finish, operation = request.operation,
             speed = request.speed](block::LiveDisk& live) {
                if (operation == ControlOperation::JobCancel) {
                    work->cancel();
                } else if (operation == ControlOperation::JobSpeed) {
                    work->set_speed(speed);
                } else {
                    *outcome = work->complete(finish);
                }
                return live.nothing();
            },
            [this, outcome, reply](const Result<>& /*never fails*/) {
                loop_.post([outcome, reply] {
                    reply(outcome->ok() ? Result<Json>(Json::object())
                                        : Result<Json>(outcome->error()));
                });
            });
}

}  // namespace strata::vmm
