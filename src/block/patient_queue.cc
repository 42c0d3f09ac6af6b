// PatientQueue: holding, trying again, giving up.
#include "block/patient_queue.h"

#include <cerrno>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace strata::block {

PatientQueue::PatientQueue(std::unique_ptr<DiskQueue> below, std::string disk,
                           WriteErrorPolicy policy, std::function<void()> on_wait,
                           ReadErrorPolicy reads)
    : below_(std::move(below)),
      disk_(std::move(disk)),
      policy_(policy),
      reads_(reads),
      on_wait_(std::move(on_wait)) {}

bool PatientQueue::changes_disk(DiskOp op) {
    return op == DiskOp::Write || op == DiskOp::WriteZeroes || op == DiskOp::Discard;
}

void PatientQueue::exchange(std::unique_ptr<DiskQueue> below) {
    STRATA_CHECK(in_flight() == 0, "a disk's queue is exchanged with requests under way");
    below_ = std::move(below);
}

void PatientQueue::submit(DiskRequest request) {
    if (free_.empty()) {
        free_.push_back(entries_.size());
        entries_.emplace_back();
    }
    const std::size_t at = free_.back();
    free_.pop_back();
    DiskRequest below = request;
    below.token = at;
    if (!changes_disk(request.op) &&
        !(request.op == DiskOp::Read && reads_ == ReadErrorPolicy::Stop)) {
        request.buffers.clear();  // never asked for again
    }
    entries_[at] = {.request = std::move(request), .busy = true};
    below_->submit(std::move(below));
}

void PatientQueue::reap(std::vector<DiskCompletion>& out) {
    scratch_.clear();
    below_->reap(scratch_);
    for (const DiskCompletion& completion : scratch_) {
        Entry& entry = entries_[completion.token];
        if (!entry.given_up && should_wait(entry, completion.error)) {
            hold(entry, completion.error);
        } else {
            end(completion.token, completion.error, out);
        }
    }
    for (const std::size_t at : std::exchange(given_up_, {})) {
        end(at, entries_[at].error, out);
    }
}

void PatientQueue::wait() {
    if (given_up_.empty()) {
        below_->wait();
    }
}

bool PatientQueue::should_wait(const Entry& entry, int error) const {
    const bool no_room = error == ENOSPC || error == EDQUOT;
    if (error == 0) {
        return false;
    }
    switch (entry.request.op) {
        case DiskOp::Read:
            return reads_ == ReadErrorPolicy::Stop;
        case DiskOp::Flush:
            return policy_ == WriteErrorPolicy::Stop && error == kUnreachable;
        default:
            return policy_ == WriteErrorPolicy::Stop ||
                   (policy_ == WriteErrorPolicy::Enospc && no_room);
    }
}

void PatientQueue::hold(Entry& entry, int error) {
    entry.held = true;
    entry.error = error;
    if (std::exchange(entry.waits, true) || waits_++ != 0) {
        return;
    }
    wait_ = {.disk = disk_,
             .offset = entry.request.offset,
             .error = error,
             .reading = entry.request.op == DiskOp::Read};
    if (on_wait_) {
        on_wait_();
    }
}

void PatientQueue::end(std::size_t at, int error, std::vector<DiskCompletion>& out) {
    Entry& entry = entries_[at];
    const bool ignored =
        error != 0 && policy_ == WriteErrorPolicy::Ignore && changes_disk(entry.request.op);
    if (error != 0) {
        complain(error, ignored);
    }
    out.push_back({entry.request.token, ignored ? 0 : error});
    const bool waited = entry.waits;
    entry = {};
    free_.push_back(at);
    if (waited && --waits_ == 0 && on_wait_) {
        on_wait_();
    }
}

void PatientQueue::complain(int error, bool ignored) const {
    static log::RateLimit limit;
    if (limit.pass()) {
        log::warn("a disk request failed; the guest is told{} disk='{}' reason='{}'",
                  ignored ? " nothing (werror=ignore)" : "", disk_,
                  Error::from_errno("host", error).text());
    }
}

std::optional<DiskWait> PatientQueue::waiting() const {
    return waits_ != 0 ? std::optional(wait_) : std::nullopt;
}

void PatientQueue::retry() {
    for (std::size_t at = 0; at < entries_.size(); ++at) {
        if (std::exchange(entries_[at].held, false)) {
            DiskRequest below = entries_[at].request;
            below.token = at;
            below_->submit(std::move(below));
        }
    }
}

void PatientQueue::give_up(std::uint64_t token) {
    for (std::size_t at = 0; at < entries_.size(); ++at) {
        Entry& entry = entries_[at];
        if (entry.busy && entry.request.token == token) {
            give_up_entry(at);
        }
    }
}

void PatientQueue::give_up_all() {
    for (std::size_t at = 0; at < entries_.size(); ++at) {
        if (entries_[at].busy) {
            give_up_entry(at);
        }
    }
}

// One that is under way will not be held when it fails.
void PatientQueue::give_up_entry(std::size_t at) {
    entries_[at].given_up = true;
    if (std::exchange(entries_[at].held, false)) {
        given_up_.push_back(at);
    }
}

}  // namespace strata::block
