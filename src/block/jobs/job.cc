// JobControl: progress in steps, a speed limit that spreads requests over time.
#include "block/jobs/job.h"

#include <algorithm>
#include <cerrno>

#include "block/jobs/progress_signal.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSteps = 10000;            // reports of a whole job
constexpr std::chrono::milliseconds kGlance{100};  // for a cancel or another limit, while asleep

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
    look_for_progress_signal(done_, total_);
}

void JobControl::set_speed(std::uint64_t bytes_per_second) {
    speed_ = bytes_per_second;
    next_ = {};  // whoever sleeps for the old limit's sake looks again
}

Result<> JobControl::check() const {
    return cancelled() ? Result<>(Error(ErrorKind::Failed, "cancelled", ECANCELED)) : ok();
}

void JobControl::charge(std::uint64_t bytes) {
    if (speed_ != 0) {
        next_ = std::max(std::chrono::steady_clock::now(), next_) +
                std::chrono::nanoseconds(static_cast<std::uint64_t>(
                    static_cast<double>(bytes) * 1e9 / static_cast<double>(speed_)));
    }
}

Task<> JobControl::pause_point(Loop& loop, std::uint64_t bytes) {
    STRATA_CO_TRY_VOID(check());
    const auto start = next_;
    charge(bytes);
    for (auto now = std::chrono::steady_clock::now(); speed_ != 0 && now < start;
         now = std::chrono::steady_clock::now()) {
        if (next_ < start) {
            break;  // another limit holds now
        }
        look_for_progress_signal(done_, total_);
        co_await loop.sleep_until(std::min(start, now + kGlance));
        STRATA_CO_TRY_VOID(check());
    }
    co_return ok();
}

}  // namespace strata::block
