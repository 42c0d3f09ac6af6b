// Engine choice: asking the engines.
#include "vmm/engine_choice.h"

#include "engine/select.h"
#include "engine/soft/direct/direct_probe.h"
#include "vmm/host_info.h"
#include "vmm/lock_up.h"

namespace strata::vmm {

Result<ChosenEngine> choose_engine(const api::MachineConfig& config, int profile_fd) {
    engine::soft::SoftOptions options;
    options.translate = !config.interpret_only;
    options.profile_fd = profile_fd;
    options.direct = true;
    options.lock_up_helper = [sandbox = helper_sandbox()]() -> Result<> {
        (void)STRATA_TRY(host::enter_sandbox(sandbox));
        return ok();
    };
    engine::EngineChoice choice =
        STRATA_TRY(engine::select_engine(api::to_text(config.engine), options));
    return ChosenEngine{std::move(choice.engine), std::move(choice.reason)};
}

api::Json probe_host() {
    api::Json engines = api::Json::array();
    std::string auto_engine = "soft";
    std::string auto_reason;
    for (const engine::EngineReport& report : engine::probe_engines()) {
        engines.push_back({{"name", report.name},
                           {"usable", report.verdict.usable},
                           {"reason", report.verdict.reason},
                           {"probe_mips", report.verdict.probe_mips}});
        if (report.name == "kvm") {
            auto_engine = report.verdict.usable ? "kvm" : "soft";
            auto_reason = report.verdict.reason;
        }
    }
    const auto direct = engine::soft::probe_direct_execution();
    const std::string how =
        direct.ok() ? "guest user code that gains by it runs natively, in processes of its own"
                    : direct.error().text();
    return api::Json{{"host", host_info()},
                     {"direct_execution", {{"usable", direct.ok()}, {"reason", how}}},
                     {"engines", engines},
                     {"auto_engine", auto_engine},
                     {"auto_reason", auto_reason}};
}

}  // namespace strata::vmm
