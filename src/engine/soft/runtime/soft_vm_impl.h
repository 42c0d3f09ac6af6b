// SoftVmImpl: one machine of the software CPU: its vCPUs, their local APICs, clock, timers and
// exclusive sections.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "engine/soft/apic/local_apic.h"
#include "engine/soft/runtime/executor.h"
#include "engine/soft/runtime/pv_clock.h"
#include "engine/soft/runtime/safe_points.h"
#include "engine/soft/runtime/soft_vcpu.h"
#include "engine/soft/runtime/soft_vm.h"
#include "engine/soft/runtime/timer_service.h"

namespace strata::engine::soft {

class SoftVmImpl final : public SoftVm, public ApicHost, private memory::WriteObserver {
  public:
    SoftVmImpl(memory::GuestRam& guest_ram, IoDispatcher& dispatcher, std::uint64_t tsc_khz);
    ~SoftVmImpl() override;

    /// How guest code is run; before the first vCPU is made. Without: by the interpreter.
    void set_executor_factory(std::unique_ptr<ExecutorFactory> factory);

    // EngineVm.
    Result<std::unique_ptr<Vcpu>> create_vcpu(const VcpuConfig& config) override;
    void set_external_interrupt(bool asserted) override;
    void set_irq_routes(const std::vector<bus::IrqRoute>&) override {}
    void inject_nmi(std::uint32_t vcpu_index) override;
    Result<> set_dirty_logging(bool on) override;
    Result<> sync_dirty_log() override;
    Result<> save_clock(state::StateWriter& writer) override;
    Result<> load_clock(state::StateReader& reader) override;
    void send(const bus::MsiMessage& message) override { apic_bus_.deliver_msi(message); }

    // SoftVm.
    LocalApic& local_apic(CpuState& cpu) noexcept override { return vcpu(cpu).apic(); }
    const arch::x86::CpuidTable& cpuid(const CpuState& cpu) const noexcept override {
        return vcpu(cpu).cpuid();
    }
    bool read_msr(CpuState& cpu, std::uint32_t index, std::uint64_t& value) noexcept override;
    bool write_msr(CpuState& cpu, std::uint32_t index, std::uint64_t value) noexcept override;
    std::uint64_t hypercall(CpuState& cpu, std::uint64_t number, std::uint64_t a0, std::uint64_t a1,
                            std::uint64_t a2, std::uint64_t a3) noexcept override;
    void run_exclusive(CpuState* self, const std::function<void()>& work) override;
    void protect_code_page(CpuState& self, std::uint64_t ram_page) noexcept override;
    const std::vector<CpuState*>& cpus() const noexcept override { return cpus_; }

    // ApicHost.
    void kick(CpuState& cpu, std::uint32_t bits) noexcept override { vcpu(cpu).kick(bits); }
    void end_of_interrupt(std::uint8_t vector) noexcept override;
    void arm_timer(CpuState& cpu, std::uint64_t deadline) noexcept override;
    std::uint64_t tsc_khz() const noexcept override { return tsc_khz_; }

    // For the vCPUs.
    [[nodiscard]] ApicBus& apic_bus() { return apic_bus_; }
    [[nodiscard]] const PvClock& clock() const { return clock_; }
    [[nodiscard]] SafePoints& safe_points() { return safe_points_; }
    [[nodiscard]] TimerService& timers() { return *timers_; }
    [[nodiscard]] bool external_interrupt() const {
        return external_.load(std::memory_order_acquire);
    }
    /// The offset that makes a vCPU's TSC read `tsc` now. vCPUs whose values lie within a second of
    /// each other, being loaded one after the other, get one and the same offset.
    [[nodiscard]] std::uint64_t tsc_offset_for(std::uint64_t tsc);

  private:
    [[nodiscard]] SoftVcpu& vcpu(const CpuState& cpu) const { return *vcpus_[cpu.index]; }
    void code_page_written(std::uint64_t ram_offset, std::uint64_t length) override;
    std::uint64_t send_ipi(std::uint64_t low, std::uint64_t high, std::uint64_t first,
                           std::uint64_t icr, bool wide) noexcept;

    std::uint64_t tsc_khz_;
    PvClock clock_;
    ApicBus apic_bus_;
    SafePoints safe_points_;
    std::unique_ptr<ExecutorFactory> factory_;
    // Shared with the handles that create_vcpu() gave away: either side may go first.
    std::vector<std::shared_ptr<SoftVcpu>> vcpus_;
    std::vector<CpuState*> cpus_;
    std::unique_ptr<TimerService> timers_;
    std::atomic<bool> external_{false};
    std::uint64_t tsc_offset_ = 0;
    bool tsc_offset_set_ = false;
};

}  // namespace strata::engine::soft
