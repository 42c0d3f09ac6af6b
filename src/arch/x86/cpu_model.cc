// CpuModel, Topology: parsing, and the choice of features. The leaves themselves are made in
// cpuid_leaves.cc.
#include "arch/x86/cpu_model.h"

#include <algorithm>
#include <array>
#include <bit>

#include <fmt/format.h>

#include "arch/x86/cpuid_leaves.h"
#include "base/text.h"

namespace strata::arch::x86 {
namespace {

constexpr std::array<std::string_view, 5> kModels = {"host", "x86-64-v1", "x86-64-v2", "x86-64-v3",
                                                     "x86-64-v4"};
constexpr std::uint32_t kMaxApicId = 254;  // 255 is broadcast in the xAPIC. SDM 3A, 11.6.1

std::uint32_t bits_for(std::uint32_t count) {
    return static_cast<std::uint32_t>(std::bit_width(count - 1));
}

Error flag_error(std::string_view flag) {
    const std::string_view near = nearest_cpu_feature(flag);
    return {ErrorKind::InvalidArgument,
            near.empty() ? fmt::format("unknown CPU flag '{}'", flag)
                         : fmt::format("unknown CPU flag '{}'; did you mean '{}'?", flag, near)};
}

Error model_error(std::string_view name) {
    return {ErrorKind::InvalidArgument,
            fmt::format("unknown CPU model '{}'; known are {}", name, fmt::join(kModels, ", "))};
}

/// The psABI level of a model name; 0 for `host`.
unsigned level_of(std::string_view model) {
    return model == "host" ? 0 : static_cast<unsigned>(model.back() - '0');
}

/// The level that a feature is demanded from, or 0.
unsigned demanded_from(Shown shown) {
    switch (shown) {
        case Shown::Level1:
            return 1;
        case Shown::Level2:
            return 2;
        case Shown::Level3:
            return 3;
        case Shown::Level4:
            return 4;
        case Shown::HostOnly:
        case Shown::Platform:
        case Shown::OnRequest:
        case Shown::Level3Hint:
            return 0;
    }
    return 0;
}

bool model_demands(unsigned level, const CpuFeature& feature) {
    const unsigned from = demanded_from(feature.shown);
    return from != 0 && from <= level;
}

bool model_shows(unsigned level, const CpuFeature& feature) {
    if (feature.shown == Shown::OnRequest) {
        return false;
    }
    if (level == 0 || feature.shown == Shown::Platform || model_demands(level, feature)) {
        return true;
    }
    return feature.shown == Shown::Level3Hint && level >= 3;
}

/// Adds to `wanted`'s table what `feature` needs, if the engine offers it.
void add_with_needs(CpuidTable& chosen, const CpuidTable& supported, const CpuFeature& feature) {
    set_feature(chosen, feature, true);
    for (const auto& dependency : cpu_feature_dependencies()) {
        if (dependency.feature != feature.name) {
            continue;
        }
        const CpuFeature* needed = find_cpu_feature(dependency.needs);
        if (!has_feature(chosen, *needed) && has_feature(supported, *needed)) {
            add_with_needs(chosen, supported, *needed);
        }
    }
}

std::string missing_text(const std::vector<std::string_view>& missing) {
    return fmt::format("{} {}", missing.size() == 1 ? "feature" : "features",
                       fmt::join(missing, ", "));
}

Result<CpuidTable> choose_features(const CpuModel& model, const CpuidTable& supported) {
    const unsigned level = level_of(model.name);
    CpuidTable chosen;
    std::vector<std::string_view> missing;
    for (const CpuFeature& feature : cpu_features()) {
        const bool removed = std::ranges::find(model.removed, &feature) != model.removed.end();
        if (removed) {
            continue;
        }
        if (has_feature(supported, feature)) {
            if (model_shows(level, feature)) {
                set_feature(chosen, feature, true);
            }
        } else if (model_demands(level, feature)) {
            missing.push_back(feature.name);
        }
    }
    if (!missing.empty()) {
        return Error(
            ErrorKind::NotSupported,
            fmt::format("CPU model '{}' needs {}, which this host and engine do not offer; "
                        "choose a lower model or 'host'",
                        model.name, missing_text(missing)));
    }
    for (const CpuFeature* feature : model.added) {
        if (!has_feature(supported, *feature)) {
            missing.push_back(feature->name);
        } else {
            add_with_needs(chosen, supported, *feature);
        }
    }
    if (!missing.empty()) {
        return Error(ErrorKind::NotSupported,
                     fmt::format("this host and engine do not offer the CPU {} asked for",
                                 missing_text(missing)));
    }
    for (const CpuFeature* feature : model.removed) {
        set_feature(chosen, *feature, false);
    }
    drop_unmet_dependencies(chosen);
    for (const CpuFeature* feature : model.added) {
        if (!has_feature(chosen, *feature)) {
            return Error(ErrorKind::InvalidArgument,
                         fmt::format("CPU flag '+{}' needs another one that is switched off",
                                     feature->name));
        }
    }
    return chosen;
}

Result<> parse_flag(CpuModel& model, std::string_view part) {
    const CpuFeature* feature = find_cpu_feature(part.substr(1));
    if (feature == nullptr) {
        return flag_error(part.substr(1));
    }
    auto& list = part[0] == '+' ? model.added : model.removed;
    const auto& other = part[0] == '+' ? model.removed : model.added;
    if (std::ranges::find(other, feature) != other.end()) {
        return Error(ErrorKind::InvalidArgument,
                     fmt::format("CPU flag '{}' is both added and removed", feature->name));
    }
    if (std::ranges::find(list, feature) == list.end()) {
        list.push_back(feature);
    }
    return ok();
}

Result<> check(const Topology& topology) {
    for (const std::uint32_t part : {topology.sockets, topology.cores, topology.threads}) {
        if (part == 0) {
            return Error(ErrorKind::InvalidArgument, "the number of CPUs must not be zero");
        }
        if (part > kMaxApicId + 1) {
            return Error(ErrorKind::InvalidArgument,
                         fmt::format("{} CPUs are too many; at most {}", part, kMaxApicId));
        }
    }
    const std::uint64_t total = std::uint64_t{topology.sockets} * topology.cores * topology.threads;
    if (total > kMaxApicId + 1 || topology.apic_id(topology.total() - 1) > kMaxApicId) {
        return Error(
            ErrorKind::InvalidArgument,
            fmt::format(
                "{} CPUs in this topology need APIC IDs above {}; use fewer, or powers of two",
                total, kMaxApicId));
    }
    return ok();
}

}  // namespace

std::uint32_t Topology::thread_bits() const {
    return bits_for(threads);
}
std::uint32_t Topology::socket_shift() const {
    return bits_for(threads) + bits_for(cores);
}

std::uint32_t Topology::apic_id(std::uint32_t index) const {
    const std::uint32_t thread = index % threads;
    const std::uint32_t core = index / threads % cores;
    const std::uint32_t socket = index / threads / cores;
    return (socket << socket_shift()) | (core << thread_bits()) | thread;
}

Result<Topology> Topology::parse(std::string_view text) {
    Topology topology;
    constexpr std::uint64_t kAny = 0xffffffff;
    if (text.find('=') == std::string_view::npos) {
        auto count = parse_integer(text, 0, kAny);
        if (!count.ok()) {
            return std::move(count).error().context("number of CPUs");
        }
        topology.cores = static_cast<std::uint32_t>(*count);
        STRATA_TRY_VOID(check(topology));
        return topology;
    }
    for (const std::string_view part : split(text, ',')) {
        const std::size_t equals = part.find('=');
        const std::string_view key = part.substr(0, equals);
        std::uint32_t* field = key == "sockets"   ? &topology.sockets
                               : key == "cores"   ? &topology.cores
                               : key == "threads" ? &topology.threads
                                                  : nullptr;
        if (field == nullptr || equals == std::string_view::npos) {
            return Error(
                ErrorKind::InvalidArgument,
                fmt::format("'{}' is no part of a CPU topology; write sockets=N,cores=N,threads=N",
                            part));
        }
        auto count = parse_integer(part.substr(equals + 1), 0, kAny);
        if (!count.ok()) {
            return std::move(count).error().context(key);
        }
        *field = static_cast<std::uint32_t>(*count);
    }
    STRATA_TRY_VOID(check(topology));
    return topology;
}

Result<CpuModel> CpuModel::parse(std::string_view text) {
    CpuModel model;
    bool first = true;
    for (const std::string_view part : split(text, ',')) {
        if (part.starts_with('+') || part.starts_with('-')) {
            STRATA_TRY_VOID(parse_flag(model, part));
        } else if (first && std::ranges::find(kModels, part) != kModels.end()) {
            model.name = part;
        } else {
            return first ? model_error(part)
                         : Error(ErrorKind::InvalidArgument,
                                 fmt::format("'{}' in the CPU model needs a '+' or '-' before it",
                                             part));
        }
        first = false;
    }
    return first ? Result<CpuModel>(model_error("")) : Result<CpuModel>(std::move(model));
}

std::vector<std::string_view> cpu_model_names() {
    return {kModels.begin(), kModels.end()};
}

Result<CpuidTable> build_cpuid(const CpuModel& model, const Topology& topology,
                               std::uint32_t vcpu_index, const CpuidTable& supported,
                               std::uint64_t tsc_khz) {
    STRATA_TRY_VOID(check(topology));
    if (vcpu_index >= topology.total()) {
        return Error(ErrorKind::InvalidArgument,
                     fmt::format("vCPU {} is not in the topology", vcpu_index));
    }
    CpuidTable chosen = STRATA_TRY(choose_features(model, supported));
    return make_leaves(std::move(chosen), {model.name, topology, vcpu_index, &supported, tsc_khz});
}

}  // namespace strata::arch::x86
