// FakeSoftVm: a SoftVm for unit tests: RAM, one CpuState, a recording dispatcher, no threads.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "base/check.h"
#include "engine/soft/mmu/mmu_state.h"
#include "engine/soft/runtime/soft_vm.h"

namespace strata::engine::soft {

/// Reads answer what was set per address; the last write is kept.
class FakeDispatcher final : public IoDispatcher {
  public:
    void mmio_read(std::uint64_t address, std::span<std::byte> data) override {
        last_read_address = address;
        std::memset(data.data(), 0xff, data.size());
        if (data.size() <= 8) {
            std::memcpy(data.data(), &read_value, data.size());
        }
    }
    void mmio_write(std::uint64_t address, std::span<const std::byte> data) override {
        keep(address, data);
    }
    void port_read(std::uint16_t port, std::span<std::byte> data) override {
        mmio_read(port, data);
    }
    void port_write(std::uint16_t port, std::span<const std::byte> data) override {
        keep(port, data);
    }
    std::uint8_t acknowledge_external_interrupt() override { return external_vector; }
    void end_of_interrupt(std::uint8_t vector) override { ended.push_back(vector); }

    std::uint64_t read_value = ~0ULL;
    std::uint64_t last_read_address = 0;
    std::uint64_t last_write_address = 0;
    std::uint64_t last_write_size = 0;
    std::uint64_t last_write_value = 0;
    std::uint8_t external_vector = 0;
    std::vector<std::uint8_t> ended;

  private:
    void keep(std::uint64_t address, std::span<const std::byte> data) {
        last_write_address = address;
        last_write_size = data.size();
        last_write_value = 0;
        std::memcpy(&last_write_value, data.data(), data.size() < 8 ? data.size() : 8);
    }
};

class FakeSoftVm final : public SoftVm, public CodeInvalidator {
  public:
    static std::unique_ptr<FakeSoftVm> create(std::uint64_t ram_bytes) {
        auto vm = std::unique_ptr<FakeSoftVm>(new FakeSoftVm());
        auto made = memory::GuestRam::create(ram_bytes, 3ULL << 30);
        STRATA_CHECK(made.ok(), "no RAM for the test");
        vm->owned_ram_ = std::move(made).value();
        vm->ram = vm->owned_ram_.get();
        vm->io = &vm->dispatcher;
        vm->code = vm.get();
        vm->cpu_ = std::make_unique<CpuState>();
        vm->mmu_ = make_mmu_state(46, true);
        CpuState& cpu = *vm->cpu_;
        cpu.vm = vm.get();
        cpu.mmu = vm->mmu_.get();
        cpu.rflags = 2;
        cpu.xcr0 = 1;
        flush_tlb_all(cpu);
        vm->list_.push_back(&cpu);
        return vm;
    }

    void invalidate(CpuState*, std::uint64_t ram_offset, std::uint64_t) noexcept override {
        invalidated.push_back(ram_offset);
    }
    LocalApic& local_apic(CpuState&) noexcept override {
        STRATA_CHECK(apic != nullptr, "the test has no local APIC");
        return *apic;
    }
    const arch::x86::CpuidTable& cpuid(const CpuState&) const noexcept override {
        return cpuid_table;
    }
    bool read_msr(CpuState&, std::uint32_t, std::uint64_t&) noexcept override { return false; }
    bool write_msr(CpuState&, std::uint32_t, std::uint64_t) noexcept override { return false; }
    std::uint64_t hypercall(CpuState&, std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t,
                            std::uint64_t) noexcept override {
        return static_cast<std::uint64_t>(-1000);
    }
    void run_exclusive(CpuState*, const std::function<void()>& work) override {
        if (others) {
            others();
        }
        work();
    }
    void protect_code_page(CpuState& self, std::uint64_t ram_page) noexcept override {
        ram->page_flags(ram_page).fetch_or(memory::PageFlags::kCode);
        cut_write_tags_of_page(self, ram->base() + (ram_page << 12));
    }
    const std::vector<CpuState*>& cpus() const noexcept override { return list_; }

    Result<std::unique_ptr<Vcpu>> create_vcpu(const VcpuConfig&) override {
        return Error(ErrorKind::NotSupported, "a fake has no vCPUs");
    }
    void set_external_interrupt(bool) override {}
    void set_irq_routes(const std::vector<bus::IrqRoute>&) override {}
    void inject_nmi(std::uint32_t) override {}
    Result<> set_dirty_logging(bool on) override {
        ram->set_dirty_logging(on);
        return ok();
    }
    Result<> sync_dirty_log() override { return ok(); }
    Result<> save_clock(state::StateWriter&) override { return ok(); }
    Result<> load_clock(state::StateReader&) override { return ok(); }
    void send(const bus::MsiMessage&) override {}

    FakeDispatcher dispatcher;
    arch::x86::CpuidTable cpuid_table;
    LocalApic* apic = nullptr;
    std::vector<std::uint64_t> invalidated;
    std::function<void()> others;  ///< what other vCPUs do while one waits to run alone

  private:
    FakeSoftVm() = default;
    std::unique_ptr<memory::GuestRam> owned_ram_;
    std::unique_ptr<CpuState> cpu_;
    MmuStatePtr mmu_;
    std::vector<CpuState*> list_;
};

}  // namespace strata::engine::soft
