// UringIo: submission and completion rings.
#include "block/engines/uring/uring_io.h"

#include <limits>

#include <fmt/format.h>

namespace strata::block {
namespace {

// Of a larger batch the kernel holds back the first request until it has prepared the last one, and
// a device that was quick with the batch before it would be idle meanwhile.
constexpr std::size_t kAtOnce = 2;

/// One piece needs no list of pieces, which the kernel would fetch and check.
bool is_plain(const IoCommand& command) {
    return command.count == 1 && command.vectors->iov_len <= std::numeric_limits<unsigned>::max();
}

void prepare(io_uring_sqe& entry, const IoCommand& command) {
    switch (command.op) {
        case IoOp::Readv:
            if (is_plain(command)) {
                ::io_uring_prep_read(&entry, command.fd, command.vectors->iov_base,
                                     static_cast<unsigned>(command.vectors->iov_len),
                                     command.offset);
                entry.rw_flags = command.flags;
            } else {
                ::io_uring_prep_readv2(&entry, command.fd, command.vectors, command.count,
                                       command.offset, command.flags);
            }
            break;
        case IoOp::Writev:
            if (is_plain(command)) {
                ::io_uring_prep_write(&entry, command.fd, command.vectors->iov_base,
                                      static_cast<unsigned>(command.vectors->iov_len),
                                      command.offset);
                entry.rw_flags = command.flags;
            } else {
                ::io_uring_prep_writev2(&entry, command.fd, command.vectors, command.count,
                                        command.offset, command.flags);
            }
            break;
        case IoOp::Datasync:
            ::io_uring_prep_fsync(&entry, command.fd, IORING_FSYNC_DATASYNC);
            break;
        case IoOp::Fallocate:
            ::io_uring_prep_fallocate(&entry, command.fd, command.flags,
                                      static_cast<off_t>(command.offset),
                                      static_cast<off_t>(command.length));
            break;
    }
    if (command.aside) {
        ::io_uring_sqe_set_flags(&entry, IOSQE_ASYNC);
    }
    ::io_uring_sqe_set_data64(&entry, command.token);
}

}  // namespace

Result<std::unique_ptr<AsyncIo>> UringIo::create(unsigned depth) {
    return on(STRATA_TRY(Ring::create(depth, Ring::Rights::All)), nullptr);
}

std::unique_ptr<AsyncIo> UringIo::on(std::unique_ptr<Ring> ring, std::shared_ptr<RingStock> home) {
    return std::unique_ptr<AsyncIo>(new UringIo(std::move(ring), std::move(home)));
}

UringIo::~UringIo() {
    // With something under way it would wake its next user for nothing, with a token of ours.
    if (home_ != nullptr && in_kernel_ == 0) {
        home_->give_back(std::move(ring_));
    }
}

void UringIo::submit(const IoCommand& command) {
    waiting_.push_back(command);
    if (waiting_.size() >= kAtOnce) {
        kick();
    }
}

void UringIo::fill() {
    // Never more under way than the ring has places, so the completion ring (twice as large) cannot
    // overflow.
    while (!waiting_.empty() && in_kernel_ < ring_->depth()) {
        io_uring_sqe* entry = ::io_uring_get_sqe(ring_->get());
        if (entry == nullptr) {
            break;
        }
        prepare(*entry, waiting_.front());
        waiting_.pop_front();
        ++in_kernel_;
    }
}

void UringIo::kick() {
    fill();
    if (::io_uring_sq_ready(ring_->get()) != 0) {
        int submitted = 0;
        do {
            submitted = ::io_uring_submit(ring_->get());
        } while (submitted == -EINTR);
        // EAGAIN, EBUSY: the kernel is short of memory. EPERM: this thread (a vCPU's, resetting its
        // device) may not. The entries stay in the ring and go with the next kick, which the
        // completions under way or this signal bring.
        if (submitted < 0) {
            STRATA_CHECK(submitted == -EAGAIN || submitted == -EBUSY || submitted == -ENOMEM ||
                             submitted == -EPERM,
                         "io_uring_submit failed");
            ring_->done().signal();
        }
    }
}

void UringIo::reap(std::vector<IoCompletion>& out) {
    (void)ring_->done().drain();  // level: the ring says what is there
    io_uring_cqe* entry = nullptr;
    while (::io_uring_peek_cqe(ring_->get(), &entry) == 0) {
        out.push_back({entry->user_data, entry->res});
        ::io_uring_cqe_seen(ring_->get(), entry);
        --in_kernel_;
    }
    kick();
}

void UringIo::wait() {
    kick();
    io_uring_cqe* entry = nullptr;
    if (in_kernel_ != 0) {
        // EINTR and the like: the caller looks and comes again.
        (void)::io_uring_wait_cqe(ring_->get(), &entry);
    }
}

}  // namespace strata::block
