// ThrottleGroup: the buckets' arithmetic, and groups by name.
#include "block/filters/throttle/throttle_group.h"

#include <algorithm>
#include <cerrno>
#include <map>

#include <fmt/format.h>

namespace strata::block::throttle {
namespace {

constexpr std::uint64_t kMostPerSecond = 1'000'000'000'000'000;
constexpr double kTenth = 0.1;
constexpr std::array<std::string_view, kKinds> kNames = {"bps",  "bps-read",  "bps-write",
                                                         "iops", "iops-read", "iops-write"};

struct Registry {
    Mutex mutex;
    std::map<std::string, std::weak_ptr<ThrottleGroup>> groups STRATA_GUARDED_BY(mutex);
};

Registry& registry() {
    static Registry shared;
    return shared;
}

Error wrong(std::string text) {
    return {ErrorKind::InvalidArgument, std::move(text), EINVAL};
}

/// "iops-max", and "iops-total-max" for the same.
Result<std::uint64_t> take_number(NodeTree& options, std::string_view prefix, std::size_t kind,
                                  std::string_view ending, std::uint64_t fallback) {
    const bool bytes = kind < 3;
    const bool total = kind % 3 == 0;
    const std::string name = fmt::format("{}{}{}", prefix, kNames.at(kind), ending);
    const std::string other = fmt::format("{}{}-total{}", prefix, kNames.at(kind), ending);
    const std::string& given = total && options.has(other) ? other : name;
    return bytes && ending != "-max-length" ? options.take_size(given, fallback)
                                            : options.take_number(given, fallback);
}

}  // namespace

bool Limits::any() const {
    return std::any_of(of.begin(), of.end(), [](const Limit& each) { return each.average != 0; });
}

Result<> Limits::check() const {
    for (const std::size_t total : {std::size_t{0}, std::size_t{3}}) {
        if (of.at(total).average != 0 &&
            (of.at(total + 1).average | of.at(total + 2).average) != 0) {
            return wrong(
                "bps/iops/max total values and read/write values cannot be used at the same time");
        }
    }
    for (std::size_t kind = 0; kind < kKinds; ++kind) {
        const Limit& limit = of.at(kind);
        if (limit.average > kMostPerSecond || limit.burst > kMostPerSecond) {
            return wrong(fmt::format("bps/iops/max values must be within [0, {}]", kMostPerSecond));
        }
        if (limit.burst != 0 && limit.burst < limit.average) {
            return wrong("bps_max/iops_max cannot be lower than bps/iops");
        }
        if (limit.burst != 0 && limit.average == 0) {
            return wrong("bps_max/iops_max require corresponding bps/iops values");
        }
        if (limit.burst_seconds == 0) {
            return wrong("the burst length cannot be 0");
        }
        if (limit.burst_seconds > 1 && limit.burst == 0) {
            return wrong("burst length set without burst rate");
        }
        if (limit.burst != 0 && limit.burst_seconds > kMostPerSecond / limit.burst) {
            return wrong("burst length too high for this burst rate");
        }
    }
    const bool requests = (of[3].average | of[4].average | of[5].average) != 0;
    return request_size != 0 && !requests
               ? Result<>(wrong("iops size requires an iops value to be set"))
               : ok();
}

Result<Limits> Limits::take(NodeTree& options, std::string_view prefix) {
    Limits limits;
    for (std::size_t kind = 0; kind < kKinds; ++kind) {
        Limit& limit = limits.of.at(kind);
        limit.average = STRATA_TRY(take_number(options, prefix, kind, "", 0));
        limit.burst = STRATA_TRY(take_number(options, prefix, kind, "-max", 0));
        limit.burst_seconds = STRATA_TRY(take_number(options, prefix, kind, "-max-length", 1));
    }
    limits.request_size = STRATA_TRY(options.take_size(fmt::format("{}iops-size", prefix), 0));
    STRATA_TRY_VOID(limits.check());
    return limits;
}

void LeakyBucket::leak(const Limit& limit, Seconds time) {
    level_ = std::max(level_ - static_cast<double>(limit.average) * time.count(), 0.0);
    burst_level_ = std::max(burst_level_ - static_cast<double>(limit.burst) * time.count(), 0.0);
}

LeakyBucket::Seconds LeakyBucket::wait(const Limit& limit) const {
    if (limit.average == 0) {
        return Seconds(0);
    }
    const auto average = static_cast<double>(limit.average),
               burst = static_cast<double>(limit.burst);
    const double size =
        limit.burst == 0 ? average * kTenth : burst * static_cast<double>(limit.burst_seconds);
    if (level_ > size) {
        return Seconds((level_ - size) / average);
    }
    // A long burst is held to its own rate.
    if (limit.burst_seconds > 1 && burst_level_ > burst * kTenth) {
        return Seconds((burst_level_ - burst * kTenth) / burst);
    }
    return Seconds(0);
}

void LeakyBucket::add(const Limit& limit, double units) {
    level_ += units;
    burst_level_ += limit.burst_seconds > 1 ? units : 0;
}

ThrottleGroup::Clock::time_point ThrottleGroup::admit(bool writing, std::uint64_t bytes,
                                                      Clock::time_point now) {
    const MutexLock lock(mutex_);
    const LeakyBucket::Seconds passed =
        leaked_ == Clock::time_point() || now < leaked_ ? LeakyBucket::Seconds(0) : now - leaked_;
    leaked_ = std::max(leaked_, now);
    const double requests =
        limits_.request_size == 0 || bytes <= limits_.request_size
            ? 1.0
            : static_cast<double>(bytes) / static_cast<double>(limits_.request_size);
    LeakyBucket::Seconds wait(0);
    for (std::size_t kind = 0; kind < kKinds; ++kind) {
        LeakyBucket& bucket = buckets_.at(kind);
        bucket.leak(limits_.of.at(kind), passed);
        const std::size_t part = kind % 3;
        if (part == 0 || (part == 2) == writing) {
            wait = std::max(wait, bucket.wait(limits_.of.at(kind)));
            bucket.add(limits_.of.at(kind), kind < 3 ? static_cast<double>(bytes) : requests);
        }
    }
    return now + std::chrono::duration_cast<Clock::duration>(wait);
}

void ThrottleGroup::set_limits(const Limits& limits) {
    const MutexLock lock(mutex_);
    limits_ = limits;
    buckets_ = {};
    ++generation_;
}

Limits ThrottleGroup::limits() const {
    const MutexLock lock(mutex_);
    return limits_;
}

std::uint64_t ThrottleGroup::generation() const {
    const MutexLock lock(mutex_);
    return generation_;
}

std::shared_ptr<ThrottleGroup> ThrottleGroup::find(const std::string& name) {
    Registry& all = registry();
    const MutexLock lock(all.mutex);
    const auto place = all.groups.find(name);
    return place != all.groups.end() ? place->second.lock() : nullptr;
}

Result<std::shared_ptr<ThrottleGroup>> ThrottleGroup::make(const std::string& name,
                                                           const Limits& limits) {
    Registry& all = registry();
    const MutexLock lock(all.mutex);
    std::erase_if(all.groups, [](const auto& each) { return each.second.expired(); });
    if (all.groups.contains(name)) {
        return Error{ErrorKind::AlreadyExists,
                     fmt::format("A group with the name '{}' already exists", name)};
    }
    auto group = std::make_shared<ThrottleGroup>(limits);
    all.groups.emplace(name, group);
    return group;
}

}  // namespace strata::block::throttle
