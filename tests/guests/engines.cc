// Engines: the engines under test.
#include "engines.h"

#include <fmt/core.h>

#if __has_include("engine/kvm/kvm_engine.h")
#include "engine/kvm/kvm_engine.h"
#define STRATA_HAS_KVM 1
#endif
#include "engine/soft/direct/direct_probe.h"
#include "engine/soft/soft_engine.h"

namespace strata::tests {

std::vector<std::string_view> engine_names() {
    return {"soft", "direct", "interpreter", "kvm"};
}

Result<std::unique_ptr<engine::CpuEngine>> make_engine(std::string_view name) {
#ifdef STRATA_HAS_KVM
    if (name == "kvm") {
        return std::unique_ptr<engine::CpuEngine>(STRATA_TRY(engine::kvm::KvmEngine::create()));
    }
#endif
    if (name == "direct") {
        STRATA_TRY_VOID(engine::soft::probe_direct_execution());
    }
    if (name == "soft" || name == "direct" || name == "interpreter") {
        return std::unique_ptr<engine::CpuEngine>(
            std::make_unique<engine::soft::SoftEngine>(engine::soft::SoftOptions{
                .translate = name != "interpreter", .always_direct = name == "direct"}));
    }
    return Error(ErrorKind::NotFound, fmt::format("no engine '{}'", name));
}

}  // namespace strata::tests
