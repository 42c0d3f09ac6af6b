// SoftEngine: capabilities and machines of the software CPU.
#include "engine/soft/soft_engine.h"

#include <cstdlib>

#include "arch/x86/cpu_model.h"
#include "engine/soft/runtime/soft_vm_impl.h"
#include "engine/soft/runtime/tsc_clock.h"
#include "engine/soft/translate/factory.h"

namespace strata::engine::soft {

SoftEngine::SoftEngine(const SoftOptions& options) : options_(options) {
    capabilities_.supported_cpuid = arch::x86::software_cpuid(arch::x86::host_cpuid());
    capabilities_.tsc_khz = host_tsc_khz();
    capabilities_.max_vcpus = 254;
}

Result<std::unique_ptr<EngineVm>> SoftEngine::create_vm(memory::GuestRam& ram, IoDispatcher& io) {
    auto vm = std::make_unique<SoftVmImpl>(ram, io, capabilities_.tsc_khz);
    if (options_.translate) {
        // For developers: which optimisations are off, what is printed (factory.h lists the words).
        const char* words = std::getenv("STRATA_TRANSLATOR");
        TranslateOptions options = STRATA_TRY(parse_translate_options(words != nullptr ? words : ""));
        options.profile_fd = options_.profile_fd;
        options.track_flags = options.track_flags && !options_.exact_flags;
        vm->set_executor_factory(STRATA_TRY(make_translator_factory(*vm, options, options_.code_cache_bytes)));
    }
    return std::unique_ptr<EngineVm>(std::move(vm));
}

}  // namespace strata::engine::soft
