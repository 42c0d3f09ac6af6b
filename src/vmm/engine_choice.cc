// Engine choice: asking the engines.
#include "vmm/engine_choice.h"

#include "engine/soft/soft_engine.h"
#include "vmm/host_info.h"

namespace strata::vmm {

Result<ChosenEngine> choose_engine(const api::MachineConfig& config) {
    if (config.engine == api::EngineChoice::Kvm) {
        return Error{ErrorKind::NotSupported, "engine kvm: this build has no KVM engine: use --engine soft"};
    }
    engine::soft::SoftOptions options;
    options.translate = !config.interpret_only;
    return ChosenEngine{std::make_unique<engine::soft::SoftEngine>(options),
                        config.engine == api::EngineChoice::Soft ? "as asked" : "this build has no KVM engine"};
}

api::Json probe_host() {
    return api::Json{{"host", host_info()},
                     {"engines", api::Json::array({{{"name", "soft"}, {"usable", true}, {"reason", "needs nothing but this processor"}}})},
                     {"auto_engine", "soft"},
                     {"auto_reason", "this build has no KVM engine"}};
}

}  // namespace strata::vmm
