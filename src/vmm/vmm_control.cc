// Vmm: what its owner asks of it while it runs.
#include <chrono>
#include <utility>

#include "vmm/vmm.h"

namespace strata::vmm {
namespace {

using api::ControlOperation;
using api::Json;

constexpr std::chrono::milliseconds kHoldLimit{5000};

Result<Json> answer(const Result<>& done) {
    return done.ok() ? Result<Json>(Json::object()) : Result<Json>(done.error());
}

}  // namespace

void Vmm::control(const api::VmmRequest& request, std::vector<UniqueFd> fds) {
    const DiskDesk::Reply reply = [this, id = request.id](Result<Json> result) {
        api::VmmEvent event;
        event.kind = api::VmmEvent::Kind::Reply;
        event.id = id;
        event.body = result.ok() ? Json{{"result", std::move(*result)}}
                                 : Json{{"error", api::error_json(result.error())}};
        send(event);
    };
    auto wanted = api::control_request_from_json(request.body, fds.size());
    if (!wanted) {
        return reply(wanted.error());
    }
    if (wanted->operation < ControlOperation::DiskResize) {
        return wanted->operation == ControlOperation::QueryDisks
                   ? desk_->serve(std::move(*wanted), UniqueFd(), reply)
                   : serve_control(*wanted, reply);
    }
    if (wanted->operation == ControlOperation::DiskResize && held()) {
        return reply(Error{ErrorKind::WrongState, "the machine is paused: resume it first"});
    }
    UniqueFd file;
    if (wanted->file.fd != api::kNoFile) {
        file = std::move(fds[static_cast<std::size_t>(wanted->file.fd)]);
    }
    desk_->serve(std::move(*wanted), std::move(file), reply);
}

void Vmm::serve_control(const api::ControlRequest& request, const DiskDesk::Reply& reply) {
    switch (request.operation) {
        case ControlOperation::Pause:
            return reply(answer(pause_for_owner()));
        case ControlOperation::Resume:
            return reply(answer(resume_for_owner()));
        case ControlOperation::PowerButton:
            return reply(Json{{"heard", machine_->press_power_button()}});
        case ControlOperation::Stop:
            reply(Json::object());
            return finish(api::ExitCause::Stopped);
        default:
            return reply(Json{{"engine", std::string(chosen_.engine->name())},
                              {"state", waiting_  ? "waiting"
                                        : paused_ ? "paused"
                                                  : "running"},
                              {"disks", desk_->disks()}});
    }
}

Result<> Vmm::pause_for_owner() {
    if (paused_) {
        return ok();
    }
    STRATA_TRY_VOID(hold_machine());
    paused_ = true;
    return ok();
}

Result<> Vmm::resume_for_owner() {
    if (!paused_) {
        return ok();
    }
    paused_ = false;
    return release_machine();
}

Result<> Vmm::hold_machine() {
    if (held()) {
        return ok();
    }
    STRATA_TRY_VOID(threads_->hold(kHoldLimit));
    STRATA_TRY_VOID(machine_->pause());
    state::StateWriter clock;
    STRATA_TRY_VOID(machine_->vm().save_clock(clock));
    clock_.assign(clock.bytes().begin(), clock.bytes().end());
    return ok();
}

Result<> Vmm::release_machine() {
    if (held()) {
        return ok();
    }
    state::StateReader clock(clock_);
    STRATA_TRY_VOID(machine_->vm().load_clock(clock));
    STRATA_TRY_VOID(machine_->resume());
    threads_->release();
    return ok();
}

}  // namespace strata::vmm
