// UringIo: submission and completion rings.
#include "block/engines/uring/uring_io.h"

#include <fmt/format.h>

namespace strata::block {

Result<std::unique_ptr<AsyncIo>> UringIo::create(unsigned depth) {
    std::unique_ptr<UringIo> made(new UringIo(STRATA_TRY(io::EventFd::create()), depth));
    const int error = ::io_uring_queue_init(depth, &made->ring_, 0);
    if (error < 0) {
        return Error::from_errno("cannot set up io_uring", -error);
    }
    made->made_ = true;
    const int registered = ::io_uring_register_eventfd(&made->ring_, made->done_.fd());
    if (registered < 0) {
        return Error::from_errno("cannot connect io_uring with an eventfd", -registered);
    }
    return std::unique_ptr<AsyncIo>(std::move(made));
}

UringIo::~UringIo() {
    if (made_) {
        ::io_uring_queue_exit(&ring_);
    }
}

void UringIo::submit(const IoCommand& command) {
    waiting_.push_back(command);
}

void UringIo::prepare(io_uring_sqe& entry, const IoCommand& command) {
    switch (command.op) {
        case IoOp::Readv:
            ::io_uring_prep_readv2(&entry, command.fd, command.vectors, command.count,
                                   command.offset, command.flags);
            break;
        case IoOp::Writev:
            ::io_uring_prep_writev2(&entry, command.fd, command.vectors, command.count,
                                    command.offset, command.flags);
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

void UringIo::fill() {
    // Never more under way than the ring has places, so the completion ring (twice as large) cannot
    // overflow.
    while (!waiting_.empty() && in_kernel_ < depth_) {
        io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
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
    if (::io_uring_sq_ready(&ring_) != 0) {
        int submitted = 0;
        do {
            submitted = ::io_uring_submit(&ring_);
        } while (submitted == -EINTR);
        // EAGAIN, EBUSY: the kernel is short of memory; the entries stay in the ring and go with
        // the next kick, which the completions under way or this signal bring.
        if (submitted < 0) {
            STRATA_CHECK(submitted == -EAGAIN || submitted == -EBUSY || submitted == -ENOMEM,
                         "io_uring_submit failed");
            done_.signal();
        }
    }
}

void UringIo::reap(std::vector<IoCompletion>& out) {
    (void)done_.drain();  // level: the ring says what is there
    io_uring_cqe* entry = nullptr;
    while (::io_uring_peek_cqe(&ring_, &entry) == 0) {
        out.push_back({entry->user_data, entry->res});
        ::io_uring_cqe_seen(&ring_, entry);
        --in_kernel_;
    }
    kick();
}

void UringIo::wait() {
    kick();
    io_uring_cqe* entry = nullptr;
    if (in_kernel_ != 0) {
        // EINTR and the like: the caller looks and comes again.
        (void)::io_uring_wait_cqe(&ring_, &entry);
    }
}

}  // namespace strata::block
