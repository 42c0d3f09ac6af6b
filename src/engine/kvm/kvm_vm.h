// KvmVm: one KVM machine: memory slots, interrupt routes, dirty log and clock.
//
// Threads: send(), set_external_interrupt(), set_irq_routes(), inject_nmi() and the dirty log come
// from any thread; KVM's VM ioctls are safe from all. The external interrupt line is an atomic that
// the bootstrap vCPU looks at before each entry.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "engine/cpu_engine.h"
#include "engine/kvm/kvm_engine.h"

namespace strata::engine::kvm {

class KvmVcpu;

/// The signal that makes a thread leave KVM_RUN. Its handler does nothing.
[[nodiscard]] int kick_signal();
/// Installs the handler, once per process.
Result<> install_kick_signal();

class KvmVm final : public EngineVm {
  public:
    static Result<std::unique_ptr<KvmVm>> create(const KvmEngine& engine, memory::GuestRam& ram,
                                                 IoDispatcher& io);
    ~KvmVm() override;

    Result<std::unique_ptr<Vcpu>> create_vcpu(const VcpuConfig& config) override;
    void send(const bus::MsiMessage& message) override;
    void set_external_interrupt(bool asserted) override;
    void set_irq_routes(const std::vector<bus::IrqRoute>& routes) override;
    void inject_nmi(std::uint32_t vcpu_index) override;
    Result<> set_dirty_logging(bool on) override;
    Result<> sync_dirty_log() override;
    Result<> save_clock(state::StateWriter& writer) override;
    Result<> load_clock(state::StateReader& reader) override;

    [[nodiscard]] const KvmEngine& engine() const { return engine_; }
    [[nodiscard]] memory::GuestRam& ram() const { return ram_; }
    [[nodiscard]] IoDispatcher& io() const { return io_; }
    [[nodiscard]] bool external_interrupt() const {
        return external_.load(std::memory_order_seq_cst);
    }
    /// A vCPU goes away.
    void forget(const KvmVcpu& vcpu);

  private:
    KvmVm(const KvmEngine& engine, KvmFd vm, memory::GuestRam& ram, IoDispatcher& io)
        : engine_(engine), vm_(std::move(vm)), ram_(ram), io_(io) {}
    Result<> set_up();
    Result<> set_memory(bool log);

    struct Member {
        std::uint32_t index;
        std::uint32_t apic_id;
        bool bootstrap;
        KvmVcpu* vcpu;
    };

    const KvmEngine& engine_;
    KvmFd vm_;
    memory::GuestRam& ram_;
    IoDispatcher& io_;
    std::atomic<bool> external_{false};
    Mutex mutex_;
    std::vector<Member> members_ STRATA_GUARDED_BY(mutex_);
    Mutex dirty_mutex_;  ///< one reader of the log at a time
    bool logging_ STRATA_GUARDED_BY(dirty_mutex_) = false;
};

}  // namespace strata::engine::kvm
