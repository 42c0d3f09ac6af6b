// ZeroRuns: grains between aligned places are zero or not; short zero stretches count as data.
#include "block/jobs/zero_runs.h"

#include <algorithm>

#include "block/buffers.h"

namespace strata::block {

ZeroRuns::Run ZeroRuns::uniform(std::size_t at) const {
    Run run{at, 0, false};
    while (at < bytes_.size()) {
        const std::size_t to_cut = alignment_ - ((disk_offset_ + at) & (alignment_ - 1));
        const auto grain = bytes_.subspan(at, std::min(to_cut, bytes_.size() - at));
        const bool zero = is_zero(grain);
        if (run.length != 0 && zero != run.zero) {
            break;
        }
        run.zero = zero;
        run.length += grain.size();
        at += grain.size();
    }
    return run;
}

std::optional<ZeroRuns::Run> ZeroRuns::next() {
    if (at_ >= bytes_.size()) {
        return std::nullopt;
    }
    Run run = uniform(at_);
    const bool whole = run.length == bytes_.size();
    if (run.zero && !whole && run.length < sparse_) {
        run.zero = false;
    }
    while (!run.zero && run.offset + run.length < bytes_.size()) {
        const Run more = uniform(run.offset + run.length);
        if (more.zero && more.length >= sparse_) {
            break;
        }
        run.length += more.length;
    }
    at_ = run.offset + run.length;
    return run;
}

}  // namespace strata::block
