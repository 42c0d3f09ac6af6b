// SoftEngine: the CPU engine that needs nothing of the host but an x86-64 processor: Strata's own
// software CPU.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "engine/cpu_engine.h"
#include "engine/soft/direct/zygote.h"
#include "engine/soft/runtime/executor.h"

namespace strata::engine::soft {

class SoftVm;

/// What can be switched off to find out who is wrong.
struct SoftOptions {
    bool translate = true;  ///< false: every instruction through the interpreter
    bool direct = false;    ///< user code that gains by it runs on the host's processor, in stub
                            ///< processes, where the host allows
    bool always_direct = false;  ///< user code in stub processes wherever possible, for tests
    bool exact_flags = false;    ///< true: translated code keeps even flags that nothing reads, so
                                 ///< that a fault shows them right
    std::uint64_t code_cache_bytes = 128ULL << 20;  ///< the most that translated code may take
    int profile_fd = -1;  ///< where the profile of translated blocks goes when a machine ends; the
                          ///< caller's, open until then
    std::function<Result<>()> lock_up_helper =
        {};  ///< what the process that makes stub processes does to lock itself up
};

class SoftEngine final : public CpuEngine {
  public:
    explicit SoftEngine(const SoftOptions& options = {});

    [[nodiscard]] std::string_view name() const override { return "soft"; }
    [[nodiscard]] const Capabilities& capabilities() const override { return capabilities_; }
    Result<std::unique_ptr<EngineVm>> create_vm(memory::GuestRam& ram, IoDispatcher& io) override;

  private:
    SoftOptions options_;
    std::shared_ptr<Zygote> zygote_;  ///< for the first machine
    Capabilities capabilities_;
};

}  // namespace strata::engine::soft
