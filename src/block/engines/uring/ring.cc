// Ring, RingStock: setting up, and restricting.
#include "block/engines/uring/ring.h"

#include <array>

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "block/engines/uring/uring_io.h"

namespace strata::block {
namespace {

/// What UringIo asks for.
constexpr std::array kOperations{IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_READ,
                                 IORING_OP_WRITE, IORING_OP_FSYNC,  IORING_OP_FALLOCATE};

/// Descriptors that a stock leaves to everything else of the process.
constexpr std::uint64_t kSpareDescriptors = 128;

/// Whether so many are left above `fd`, which is the lowest number that was free.
bool leaves_room(int fd) {
    rlimit limit{};
    return ::getrlimit(RLIMIT_NOFILE, &limit) == 0 &&
           static_cast<std::uint64_t>(fd) + kSpareDescriptors < limit.rlim_cur;
}

Result<> restrict_ring(io_uring& ring) {
    std::array<io_uring_restriction, kOperations.size() + 1> list{};
    for (std::size_t i = 0; i < kOperations.size(); ++i) {
        list[i].opcode = IORING_RESTRICTION_SQE_OP;
        list[i].sqe_op = static_cast<__u8>(kOperations[i]);
    }
    list.back().opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    list.back().sqe_flags = IOSQE_ASYNC;
    // By system call: liburing 2.3 declares functions for these two and does not export them.
    if (::syscall(SYS_io_uring_register, ring.ring_fd, IORING_REGISTER_RESTRICTIONS, list.data(),
                  list.size()) < 0) {
        return Error::from_errno("cannot restrict io_uring");
    }
    if (::syscall(SYS_io_uring_register, ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) <
        0) {
        return Error::from_errno("cannot enable io_uring");
    }
    return ok();
}

}  // namespace

Result<std::unique_ptr<Ring>> Ring::create(unsigned depth, Rights rights) {
    std::unique_ptr<Ring> made(new Ring(STRATA_TRY(io::EventFd::create()), depth));
    STRATA_TRY_VOID(made->set_up(rights));
    return made;
}

Result<> Ring::set_up(Rights rights) {
    const bool restricted = rights == Rights::Restricted;
    const int error =
        ::io_uring_queue_init(depth_, &ring_, restricted ? IORING_SETUP_R_DISABLED : 0);
    if (error < 0) {
        return Error::from_errno("cannot set up io_uring", -error);
    }
    made_ = true;
    const int registered = ::io_uring_register_eventfd(&ring_, done_.fd());
    if (registered < 0) {
        return Error::from_errno("cannot connect io_uring with an eventfd", -registered);
    }
    return restricted ? restrict_ring(ring_) : ok();
}

Ring::~Ring() {
    if (made_) {
        ::io_uring_queue_exit(&ring_);
    }
}

std::shared_ptr<RingStock> RingStock::create(unsigned count, unsigned depth) {
    std::shared_ptr<RingStock> stock(new RingStock());
    const MutexLock lock(stock->mutex_);
    while (stock->rings_.size() < count) {
        auto ring = Ring::create(depth, Ring::Rights::Restricted);
        if (!ring.ok()) {
            log::info("io_uring is not available for all disks, others use threads reason='{}'",
                      ring.error().text());
            break;
        }
        if (!leaves_room((*ring)->get()->ring_fd)) {
            log::info(
                "not all disks get an io_uring, others use threads reason='the limit of open "
                "files (ulimit -n)'");
            break;
        }
        stock->rings_.push_back(std::move(ring).value());
    }
    return stock;
}

std::shared_ptr<RingStock>& RingStock::of_process() {
    static std::shared_ptr<RingStock> stock;
    return stock;
}

void RingStock::adopt(std::shared_ptr<RingStock> stock) {
    of_process() = std::move(stock);
}

RingStock* RingStock::adopted() {
    return of_process().get();
}

std::unique_ptr<AsyncIo> RingStock::take() {
    const MutexLock lock(mutex_);
    if (rings_.empty()) {
        return nullptr;
    }
    std::unique_ptr<Ring> ring = std::move(rings_.back());
    rings_.pop_back();
    return UringIo::on(std::move(ring), shared_from_this());
}

void RingStock::give_back(std::unique_ptr<Ring> ring) {
    const MutexLock lock(mutex_);
    rings_.push_back(std::move(ring));
}

std::size_t RingStock::left() const {
    const MutexLock lock(mutex_);
    return rings_.size();
}

}  // namespace strata::block
