// SoftVcpu: one virtual processor of the software CPU: its state, its parts, and the run loop.
//
// The loop: serve request bits; deliver what is pending (exception, then NMI, then interrupts with
// IF, shadow and priority); sleep while halted or waiting for SIPI; otherwise let the executor run
// guest code. Sleeping is a futex on CpuState::request: whoever sets a bit wakes it, so no wake-up
// can be lost, and a sleeping vCPU counts as being at a safe point.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <thread>

#include "engine/cpu_engine.h"
#include "engine/soft/apic/local_apic.h"
#include "engine/soft/mmu/mmu_state.h"
#include "engine/soft/runtime/executor.h"
#include "engine/soft/runtime/msr.h"
#include "engine/soft/runtime/paravirt.h"
#include "engine/soft/runtime/safe_points.h"

namespace strata::engine::soft {

class SoftVmImpl;

class SoftVcpu final : public Vcpu, private MsrEffects {
  public:
    SoftVcpu(SoftVmImpl& vm, const VcpuConfig& config);
    ~SoftVcpu() override;

    void prepare_thread() override;
    VcpuExit run() override;
    void request_exit() override { kick(Request::kExit); }
    Result<> get_state(arch::x86::ArchState& state) override;
    Result<> set_state(const arch::x86::ArchState& state) override;
    [[nodiscard]] VcpuCounters counters() const override;

    /// Sets request bits and wakes the vCPU if it sleeps. Any thread.
    void kick(std::uint32_t bits) noexcept;
    /// The paravirtual unhalt: ends a HLT even with interrupts off. Any thread.
    void unhalt() noexcept;

    [[nodiscard]] CpuState& cpu() { return *cpu_; }
    [[nodiscard]] LocalApic& apic() { return apic_; }
    [[nodiscard]] MsrFile& msrs() { return msrs_; }
    [[nodiscard]] SafePoint& safe_point() { return safe_point_; }
    [[nodiscard]] const arch::x86::CpuidTable& cpuid() const { return config_.cpuid; }
    [[nodiscard]] std::uint32_t index() const { return config_.index; }
    void set_executor(std::unique_ptr<Executor> executor) { executor_ = std::move(executor); }

  private:
    enum class Next : std::uint8_t { Continue, Exit };

    // What MSRs do.
    std::uint64_t apic_base() noexcept override { return apic_.base(); }
    bool write_apic_base(std::uint64_t value) noexcept override;
    bool read_x2apic(std::uint32_t index, std::uint64_t& value) noexcept override {
        return apic_.read_msr(index, value);
    }
    bool write_x2apic(std::uint32_t index, std::uint64_t value) noexcept override {
        return apic_.write_msr(index, value);
    }
    std::uint64_t tsc_deadline() noexcept override { return apic_.tsc_deadline(); }
    void write_tsc_deadline(std::uint64_t value) noexcept override {
        apic_.set_tsc_deadline(value);
    }
    void tsc_moved() noexcept override;
    bool read_paravirtual(std::uint32_t index, std::uint64_t& value) noexcept override {
        return paravirt_.read(index, value);
    }
    bool write_paravirtual(std::uint32_t index, std::uint64_t value) noexcept override {
        return paravirt_.write(index, value);
    }

    // The run loop's parts; they answer Exit with exit_ filled when run() has to return.
    Next step();
    Next serve_requests(std::uint32_t bits);
    Next execute();
    Next after(StepResult result);
    Next leave(ExitReason reason, std::string detail = {});
    Next step_over_shadow();
    std::optional<Next> deliver_pending();
    void sleep();
    void wake_up();
    void take_nmis();
    void take_init();
    void take_sipi();

    SoftVmImpl& vm_;
    VcpuConfig config_;
    std::unique_ptr<CpuState> cpu_;
    MmuStatePtr mmu_;
    LocalApic apic_;
    Paravirt paravirt_;
    MsrFile msrs_;
    SafePoint safe_point_;
    std::unique_ptr<Executor> executor_;
    arch::x86::RunState activity_;  // Running or one of the waits; Halted is CpuState::halted
    std::thread::id prepared_;      // the thread that prepare_thread() ran on
    VcpuExit exit_;
    std::uint32_t nmis_pending_ = 0;              // taken from nmis_arrived_, not delivered yet
    std::atomic<std::uint32_t> nmis_arrived_{0};  // since Request::kNmi was last served
    std::optional<std::uint8_t>
        acknowledged_;  // PendingEvents::interrupt_vector: its controller has let go of it already
    std::atomic<bool> sleeping_{false};
    std::atomic<bool> unhalted_{false};
    std::atomic<std::uint64_t> interrupts_{0};
};

}  // namespace strata::engine::soft
