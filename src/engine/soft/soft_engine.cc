// SoftEngine: capabilities and machines of the software CPU.
#include "engine/soft/soft_engine.h"

#include <cstdlib>
#include <utility>

#include "arch/x86/cpu_model.h"
#include "base/log.h"
#include "engine/soft/direct/direct_executor.h"
#include "engine/soft/runtime/soft_vm_impl.h"
#include "engine/soft/runtime/tsc_clock.h"
#include "engine/soft/translate/factory.h"

namespace strata::engine::soft {
namespace {

// For developers: which optimisations are off, what is printed (factory.h lists the words).
Result<TranslateOptions> developers_options() {
    const char* words = std::getenv("STRATA_TRANSLATOR");
    return parse_translate_options(words != nullptr ? words : "");
}

// In stub processes. A profile counts what the translator runs, so it has to run everything.
bool runs_user_code(const SoftOptions& options, const TranslateOptions& words) {
    const bool wanted = (options.direct && options.profile_fd < 0) || options.always_direct ||
                        words.direct || words.always_direct;
    return options.translate && wanted && !words.no_direct;
}

}  // namespace

SoftEngine::SoftEngine(const SoftOptions& options) : options_(options) {
    capabilities_.supported_cpuid = arch::x86::software_cpuid(arch::x86::host_cpuid());
    capabilities_.tsc_khz = host_tsc_khz();
    capabilities_.max_vcpus = 254;
    const auto words = developers_options();
    if (words.ok() && runs_user_code(options, *words)) {
        // Now: with the first machine the process may be locked up already.
        auto started = Zygote::start(options.lock_up_helper);
        if (started) {
            zygote_ = std::move(started).value();
        } else {
            log::info("guest user code stays with the translator: {}", started.error().text());
        }
    }
}

Result<std::unique_ptr<EngineVm>> SoftEngine::create_vm(memory::GuestRam& ram, IoDispatcher& io) {
    auto vm = std::make_unique<SoftVmImpl>(ram, io, capabilities_.tsc_khz);
    if (options_.translate) {
        TranslateOptions options = STRATA_TRY(developers_options());
        options.profile_fd = options_.profile_fd;
        options.track_flags = options.track_flags && !options_.exact_flags;
        auto factory = STRATA_TRY(make_translator_factory(*vm, options, options_.code_cache_bytes));
        if (auto zygote = std::exchange(zygote_, nullptr)) {
            // It may have ended in its first steps: what it needs is not everywhere.
            if (const auto ready = zygote->set_ram(ram.fd()); ready.ok()) {
                factory = make_direct_factory(
                    std::move(factory), std::move(zygote), capabilities_.tsc_khz,
                    {options.report, options.always_direct || options_.always_direct});
            } else {
                log::info("guest user code stays with the translator: {}", ready.error().text());
            }
        }
        vm->set_executor_factory(std::move(factory));
    }
    return std::unique_ptr<EngineVm>(std::move(vm));
}

}  // namespace strata::engine::soft
