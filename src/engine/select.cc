// Select: asking the engines, and putting the answer into words.
#include "engine/select.h"

#include <fmt/format.h>

#include "engine/kvm/kvm_engine.h"
#include "engine/probe.h"

namespace strata::engine {
namespace {

/// Why KVM is not to be had, with what to do where something can be done.
std::string refusal(const Error& error) {
    switch (error.kind()) {
        case ErrorKind::NotFound:
            return "this host has no /dev/kvm (no hardware virtualisation, or the kvm module is "
                   "not loaded)";
        case ErrorKind::PermissionDenied:
            return "/dev/kvm may not be opened by this user (add the user to the group 'kvm')";
        default:
            return error.text();
    }
}

Result<std::unique_ptr<kvm::KvmEngine>> make_kvm() {
    auto made = kvm::KvmEngine::create();
    if (made.ok()) {
        return made;
    }
    return Error(made.error().kind(), refusal(made.error()), made.error().system_errno());
}

/// "; " and a limitation, for each.
std::string limitations(const CpuEngine& engine) {
    std::string text;
    for (const std::string& limitation : engine.capabilities().limitations) {
        text += "; " + limitation;
    }
    return text;
}

Verdict probe_kvm(CpuEngine& engine) {
    auto mips = probe_mips(engine);
    Verdict verdict = mips.ok() ? judge_kvm(*mips) : Verdict{false, mips.error().text(), 0.0};
    verdict.reason += limitations(engine);
    return verdict;
}

EngineChoice soft_choice(const soft::SoftOptions& options, std::string reason) {
    return {std::make_unique<soft::SoftEngine>(options), std::move(reason)};
}

}  // namespace

Verdict judge_kvm(double mips) {
    if (mips >= kSaneMips) {
        return {true,
                fmt::format("hardware virtualisation works: a probe guest ran {:.0f} million "
                            "instructions a second",
                            mips),
                mips};
    }
    return {false,
            fmt::format("/dev/kvm is there but emulates: a probe guest ran {:.1f} million "
                        "instructions a second, "
                        "hardware runs thousands",
                        mips),
            mips};
}

Result<EngineChoice> select_engine(std::string_view wanted, const soft::SoftOptions& soft_options) {
    if (wanted == "soft") {
        return soft_choice(soft_options, "asked for");
    }
    if (wanted != "kvm" && wanted != "auto") {
        return Error(ErrorKind::InvalidArgument,
                     fmt::format("unknown engine '{}'; known are auto, kvm and soft", wanted));
    }
    auto made = make_kvm();
    if (wanted == "kvm") {
        if (!made.ok()) {
            return std::move(made).error().context("engine kvm");
        }
        std::string reason = "asked for" + limitations(**made);
        return EngineChoice{std::move(made).value(), std::move(reason)};
    }
    if (!made.ok()) {
        return soft_choice(soft_options, made.error().text());
    }
    Verdict verdict = probe_kvm(**made);
    if (!verdict.usable) {
        return soft_choice(soft_options, std::move(verdict.reason));
    }
    return EngineChoice{std::move(made).value(), std::move(verdict.reason)};
}

std::vector<EngineReport> probe_engines() {
    std::vector<EngineReport> reports;
    auto made = make_kvm();
    reports.push_back(
        {"kvm", made.ok() ? probe_kvm(**made) : Verdict{false, made.error().text(), 0.0}});
    soft::SoftEngine soft;
    auto mips = probe_mips(soft);
    reports.push_back(
        {"soft",
         mips.ok()
             ? Verdict{true,
                       "Strata's software CPU needs nothing of the host but an x86-64 processor",
                       *mips}
             : Verdict{false, mips.error().text(), 0.0}});
    return reports;
}

}  // namespace strata::engine
