// FakeEngine: an engine whose vCPUs never run: they keep the state they are given. For tests of the
// machine around them.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "engine/cpu_engine.h"

namespace strata::machine::pc {

class FakeVcpu final : public engine::Vcpu {
  public:
    explicit FakeVcpu(arch::x86::ArchState& state) : state_(state) {}
    engine::VcpuExit run() override { return {}; }
    void request_exit() override {}
    Result<> get_state(arch::x86::ArchState& state) override {
        state = state_;
        return ok();
    }
    Result<> set_state(const arch::x86::ArchState& state) override {
        state_ = state;
        return ok();
    }
    [[nodiscard]] engine::VcpuCounters counters() const override { return {}; }

  private:
    arch::x86::ArchState& state_;
};

class FakeVm final : public engine::EngineVm {
  public:
    Result<std::unique_ptr<engine::Vcpu>> create_vcpu(const engine::VcpuConfig& config) override {
        states.push_back(std::make_unique<arch::x86::ArchState>(
            arch::x86::ArchState::power_on(config.apic_id, config.bootstrap)));
        return std::unique_ptr<engine::Vcpu>(std::make_unique<FakeVcpu>(*states.back()));
    }
    void set_external_interrupt(bool asserted) override { external = asserted; }
    void set_irq_routes(const std::vector<bus::IrqRoute>& new_routes) override {
        routes = new_routes;
    }
    void inject_nmi(std::uint32_t /*vcpu_index*/) override {}
    Result<> set_dirty_logging(bool /*on*/) override { return ok(); }
    Result<> sync_dirty_log() override { return ok(); }
    Result<> save_clock(state::StateWriter& /*writer*/) override { return ok(); }
    Result<> load_clock(state::StateReader& /*reader*/) override { return ok(); }
    void send(const bus::MsiMessage& message) override { messages.push_back(message); }

    std::vector<std::unique_ptr<arch::x86::ArchState>> states;
    std::vector<bus::MsiMessage> messages;
    std::vector<bus::IrqRoute> routes;
    bool external = false;
};

class FakeEngine final : public engine::CpuEngine {
  public:
    FakeEngine() { capabilities_.max_vcpus = 8; }
    [[nodiscard]] std::string_view name() const override { return "fake"; }
    [[nodiscard]] const engine::Capabilities& capabilities() const override {
        return capabilities_;
    }
    Result<std::unique_ptr<engine::EngineVm>> create_vm(memory::GuestRam& /*ram*/,
                                                        engine::IoDispatcher& /*io*/) override {
        auto made = std::make_unique<FakeVm>();
        vm = made.get();
        return std::unique_ptr<engine::EngineVm>(std::move(made));
    }
    FakeVm* vm = nullptr;  ///< the last one made; borrowed from the machine

  private:
    engine::Capabilities capabilities_;
};

}  // namespace strata::machine::pc
