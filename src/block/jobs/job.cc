// JobControl: progress in steps, a speed limit that spreads requests over time.
#include "block/jobs/job.h"

#include <algorithm>
#include <cerrno>

namespace strata::block {
namespace {

constexpr std::uint64_t kSteps = 10000;  // reports of a whole job

}  // namespace

void JobControl::begin(std::uint64_t total) {
    total_ = total;
    done_ = 0;
    reported_ = 0;
    if (report_) {
        report_(0, total_);
    }
}

void JobControl::advance(std::uint64_t bytes) {
    done_ = std::min(total_, done_ + bytes);
    if (report_ &&
        (done_ - reported_ > total_ / kSteps || (done_ == total_ && reported_ != total_))) {
        reported_ = done_;
        report_(done_, total_);
    }
}

Task<> JobControl::pause_point(Loop& loop, std::uint64_t bytes) {
    if (cancelled()) {
        co_return Error(ErrorKind::Failed, "cancelled", ECANCELED);
    }
    if (speed_ == 0) {
        co_return ok();
    }
    const auto now = std::chrono::steady_clock::now();
    const auto start = std::max(now, next_);
    next_ = start + std::chrono::nanoseconds(static_cast<std::uint64_t>(
                        static_cast<double>(bytes) * 1e9 / static_cast<double>(speed_)));
    if (start > now) {
        co_await loop.sleep_until(start);
    }
    co_return ok();
}

}  // namespace strata::block
