// ScsiDevice: task management, and events.
#include <algorithm>

#include "virtio/scsi/scsi.h"

namespace strata::virtio {

using scsi_wire::ControlType;
using scsi_wire::EventType;
using scsi_wire::Function;
using scsi_wire::Response;

Result<> ScsiDevice::control(DescriptorChain chain) {
    const auto type = chain.load<Le32>(0);
    if (type.ok() && *type == ControlType::kTaskManagement) {
        return manage_tasks(std::move(chain));
    }
    if (type.ok() && (*type == ControlType::kNotificationQuery ||
                      *type == ControlType::kNotificationSubscribe)) {
        return answer_notification(std::move(chain));
    }
    std::move(chain).abandon();
    return Error{ErrorKind::Failed, "a control request is of no type"};
}

Result<> ScsiDevice::answer(DescriptorChain chain, Response response) {
    const std::uint64_t place = chain.writable() - 1;
    if (auto stored = chain.store(place, static_cast<std::uint8_t>(response)); !stored.ok()) {
        std::move(chain).abandon();
        return stored;
    }
    queue(kControlQueue)->push(std::move(chain), static_cast<std::uint32_t>(place + 1));
    return ok();
}

// Asynchronous notifications are about media; none are offered.
Result<> ScsiDevice::answer_notification(DescriptorChain chain) {
    if (chain.readable() < sizeof(scsi_wire::Notification) ||
        chain.writable() < sizeof(scsi_wire::NotificationAnswer)) {
        std::move(chain).abandon();
        return Error{ErrorKind::Failed, "a notification request is too short"};
    }
    const scsi_wire::NotificationAnswer none{0U, static_cast<std::uint8_t>(Response::Ok)};
    if (auto stored = chain.store(0, none); !stored.ok()) {
        std::move(chain).abandon();
        return stored;
    }
    queue(kControlQueue)->push(std::move(chain), sizeof(none));
    return ok();
}

std::vector<std::size_t> ScsiDevice::tasks_of(const scsi_wire::TaskManagement& wanted) const {
    const auto lun = static_cast<std::uint16_t>(((wanted.lun[2] << 8) | wanted.lun[3]) & 0x3fff);
    const bool one =
        wanted.function == Function::kAbortTask || wanted.function == Function::kQueryTask;
    const bool all = wanted.function == Function::kNexusReset;
    std::vector<std::size_t> tasks;
    for (std::size_t at = 0; at < requests_.size(); ++at) {
        const Request& request = requests_[at];
        if (request.used && (all || request.lun == lun) && (!one || request.id == wanted.id)) {
            tasks.push_back(at);
        }
    }
    return tasks;
}

Result<> ScsiDevice::manage_tasks(DescriptorChain chain) {
    const auto wanted = chain.load<scsi_wire::TaskManagement>(0);
    if (!wanted.ok() || chain.writable() < 1) {
        std::move(chain).abandon();
        return Error{ErrorKind::Failed, "a task management request is too short"};
    }
    scsi::LogicalUnit* unit = unit_at(wanted->lun);
    if (unit == nullptr) {
        return answer(std::move(chain), Response::BadTarget);
    }
    if (unit == &absent_ && wanted->function != Function::kNexusReset) {
        return answer(std::move(chain), Response::IncorrectLun);
    }
    switch (wanted->function) {
        case Function::kAbortTask:
        case Function::kAbortTaskSet:
        case Function::kClearTaskSet:
        case Function::kNexusReset:
        case Function::kUnitReset:
            end_tasks(*wanted, std::move(chain));
            return ok();
        case Function::kQueryTask:
        case Function::kQueryTaskSet:
            return answer(std::move(chain),
                          tasks_of(*wanted).empty() ? Response::Ok : Response::FunctionSucceeded);
        default:
            return answer(std::move(chain), Response::FunctionRejected);
    }
}

void ScsiDevice::end_tasks(const scsi_wire::TaskManagement& wanted, DescriptorChain chain) {
    Waiting waiting{.chain = std::move(chain), .tasks = tasks_of(wanted), .reset = std::nullopt};
    waiting.reset_all = wanted.function == Function::kNexusReset;
    if (wanted.function == Function::kUnitReset) {
        waiting.reset = static_cast<std::uint16_t>(((wanted.lun[2] << 8) | wanted.lun[3]) & 0x3fff);
    }
    const std::vector<std::size_t> tasks = waiting.tasks;
    if (tasks.empty()) {
        function_done(std::move(waiting));
        return;
    }
    functions_.push_back(std::move(waiting));
    for (const std::size_t at : tasks) {
        requests_[at].aborted = true;
        if (const auto found = units_.find(requests_[at].lun); found != units_.end()) {
            found->second.unit->cancel(at);
        }
    }
}

void ScsiDevice::task_ended(std::size_t at) {
    for (std::size_t i = 0; i < functions_.size();) {
        std::erase(functions_[i].tasks, at);
        if (functions_[i].tasks.empty()) {
            Waiting done = std::move(functions_[i]);
            functions_.erase(functions_.begin() + static_cast<std::ptrdiff_t>(i));
            function_done(std::move(done));
        } else {
            ++i;
        }
    }
}

void ScsiDevice::function_done(Waiting waiting) {
    for (auto& [lun, slot] : units_) {
        if (waiting.reset_all || waiting.reset == lun) {
            slot.unit->reset();
        }
    }
    if (auto done = answer(std::move(waiting.chain), Response::Ok); !done.ok()) {
        fail(done.error());
        return;
    }
    touched_[kControlQueue] = true;
}

Result<bool> ScsiDevice::put_event(const scsi_wire::Event& event) {
    Virtqueue* ring = queue(kEventQueue);
    if (ring == nullptr) {
        return false;
    }
    auto chain = STRATA_TRY(ring->pop());
    if (!chain) {
        return false;
    }
    if (chain->writable() < sizeof(event) || !chain->store(0, event).ok()) {
        std::move(*chain).abandon();
        return Error{ErrorKind::Failed, "an event's place is too short or outside memory"};
    }
    ring->push(std::move(*chain), sizeof(event));
    signal(kEventQueue);
    return true;
}

Result<> ScsiDevice::report_missed() {
    if (missed_) {
        missed_ = !STRATA_TRY(put_event({EventType::kMissed | EventType::kNone, {}, 0U}));
    }
    return ok();
}

void ScsiDevice::report(std::uint32_t type, std::uint16_t lun, std::uint32_t reason,
                        std::uint64_t feature) {
    if (!serving()) {
        missed_ = queue(kEventQueue) != nullptr;  // paused: told afterwards
        return;
    }
    if ((features() & feature) == 0) {
        return;
    }
    // Up to 255 the number stands alone: drivers expect it so here.
    const scsi_wire::Address address{1, 0, 0, static_cast<std::uint8_t>(lun), 0, 0, 0, 0};
    const auto put = put_event({type | (missed_ ? EventType::kMissed : 0), address, reason});
    if (!put.ok()) {
        fail(put.error());
    } else {
        missed_ = !*put;
    }
}

}  // namespace strata::virtio
