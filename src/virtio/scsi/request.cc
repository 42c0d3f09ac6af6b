// ScsiDevice: carrying one command to its unit and the answer back.
#include <algorithm>
#include <array>
#include <cstring>

#include "virtio/scsi/scsi.h"

namespace strata::virtio {

using scsi_wire::RequestHeader;
using scsi_wire::Response;
using scsi_wire::ResponseHeader;

Result<> ScsiDevice::serve(unsigned index) {
    if (index == kEventQueue) {
        return report_missed();
    }
    auto served = QueuedDevice::serve(index);
    kick();
    reap();
    return served;
}

Result<> ScsiDevice::serve_chain(unsigned index, DescriptorChain chain) {
    return index == kControlQueue ? control(std::move(chain)) : command(index, std::move(chain));
}

void ScsiDevice::kick() {
    for (auto& [lun, slot] : units_) {
        slot.unit->kick();
    }
}

// Single-level addresses of target 0. VIRTIO 1.2, 5.6.6.1.
scsi::LogicalUnit* ScsiDevice::unit_at(const scsi_wire::Address& address) {
    if (address[0] != 1 || address[1] != 0) {
        return nullptr;
    }
    const auto lun = static_cast<std::uint16_t>(((address[2] << 8) | address[3]) & 0x3fff);
    const auto found = units_.find(lun);
    return found != units_.end() ? found->second.unit.get() : &absent_;
}

std::size_t ScsiDevice::place() {
    if (free_.empty()) {
        free_.push_back(requests_.size());
        requests_.emplace_back();
    }
    const std::size_t at = free_.back();
    free_.pop_back();
    requests_[at].used = true;
    return at;
}

Result<> ScsiDevice::command(unsigned index, DescriptorChain chain) {
    const auto header = chain.load<RequestHeader>(0);
    const std::uint64_t data_out = sizeof(RequestHeader) + cdb_size_;
    const std::uint64_t data_in = sizeof(ResponseHeader) + sense_size_;
    scsi::Task task;
    const auto cdb = std::span(task.cdb).first(std::min<std::size_t>(cdb_size_, task.cdb.size()));
    if (!header.ok() || chain.readable() < data_out || chain.writable() < data_in ||
        !chain.read(sizeof(RequestHeader), std::as_writable_bytes(cdb)).ok()) {
        std::move(chain).abandon();
        return Error{ErrorKind::Failed, "a SCSI request is shorter than its header and its answer"};
    }
    const std::size_t at = place();
    Request& request = requests_[at];
    request.chain.emplace(std::move(chain));
    request.queue = index;
    request.lun = static_cast<std::uint16_t>(((header->lun[2] << 8) | header->lun[3]) & 0x3fff);
    request.id = header->id;
    request.sense_size = sense_size_;
    task.token = at;
    scsi::LogicalUnit* unit = unit_at(header->lun);
    if (unit == nullptr) {
        finish(at, {}, Response::BadTarget);
    } else if (!look_up(request, task, data_out, data_in).ok()) {
        finish(at, {}, Response::Failure);
    } else {
        unit->submit(std::move(task));
        if (unit == &absent_) {
            reap_unit(absent_);
        }
    }
    return ok();
}

Result<> ScsiDevice::look_up(Request& request, scsi::Task& task, std::uint64_t header,
                             std::uint64_t answer) {
    const std::uint64_t out = request.chain->readable() - header;
    const std::uint64_t in = request.chain->writable() - answer;
    if (out != 0 && in != 0) {
        return Error{ErrorKind::NotSupported, "data both ways"};  // not offered
    }
    request.reading = in != 0;
    request.data = request.reading ? in : out;
    STRATA_TRY_VOID(
        request.chain->slices(request.reading ? memory::Access::Write : memory::Access::Read,
                              request.reading ? answer : header, request.data, request.views));
    auto& views = request.reading ? task.in : task.out;
    for (const auto& view : request.views) {
        for (const auto part : view.parts()) {
            views.push_back({part.data(), part.size()});
        }
    }
    return ok();
}

void ScsiDevice::reap_unit(scsi::LogicalUnit& unit) {
    scratch_.clear();
    unit.reap(scratch_);
    if (scratch_.empty()) {
        return;
    }
    for (const scsi::Completion& completion : scratch_) {
        finish(completion.token, completion, completion.overrun ? Response::Overrun : Response::Ok);
    }
    for (unsigned index = 0; index < touched_.size(); ++index) {
        if (touched_[index]) {
            touched_[index] = false;
            signal(index);
        }
    }
}

void ScsiDevice::reap() {
    for (auto& [lun, slot] : units_) {
        reap_unit(*slot.unit);
    }
}

void ScsiDevice::finish(std::size_t at, const scsi::Completion& completion, Response response) {
    Request request = std::exchange(requests_[at], Request{});
    free_.push_back(at);
    request.views.clear();  // reports what was written
    task_ended(at);
    if (!request.chain) {
        return;  // its queue was reset meanwhile
    }
    DescriptorChain chain = std::move(*request.chain);
    request.chain.reset();
    ResponseHeader header{};
    header.response = static_cast<std::uint8_t>(request.aborted ? Response::Aborted : response);
    header.status = static_cast<std::uint8_t>(completion.status);
    header.residual = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(request.data - completion.moved, 0xffffffff));
    const bool has_sense = completion.status == scsi::Status::CheckCondition;
    const std::size_t sense =
        has_sense ? std::min<std::size_t>(request.sense_size, scsi::kSenseSize) : 0;
    header.sense_length = static_cast<std::uint32_t>(sense);
    auto stored = chain.store(0, header);
    if (stored.ok() && sense != 0) {
        stored =
            chain.write(sizeof(header), std::as_bytes(std::span(completion.sense)).first(sense));
    }
    if (!stored.ok()) {
        std::move(chain).abandon();
        fail(stored.error());
        return;
    }
    const std::uint64_t written =
        sizeof(header) + request.sense_size + (request.reading ? completion.moved : 0);
    queue(request.queue)
        ->push(std::move(chain),
               static_cast<std::uint32_t>(std::min<std::uint64_t>(written, 0xffffffff)));
    touched_[request.queue] = true;
}

}  // namespace strata::virtio
