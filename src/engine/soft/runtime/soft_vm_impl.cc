// SoftVmImpl: the machine.
#include "engine/soft/runtime/soft_vm_impl.h"

#include <fmt/core.h>

#include "engine/soft/mmu/mmu_state.h"
#include "engine/soft/runtime/tsc_clock.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint16_t kClockVersion = 1;

/// What create_vcpu() gives away: a share of the SoftVcpu that the machine keeps for its device
/// threads.
class VcpuHandle final : public Vcpu {
  public:
    explicit VcpuHandle(std::shared_ptr<SoftVcpu> vcpu) : vcpu_(std::move(vcpu)) {}
    void prepare_thread() override { vcpu_->prepare_thread(); }
    VcpuExit run() override { return vcpu_->run(); }
    void request_exit() override { vcpu_->request_exit(); }
    Result<> get_state(arch::x86::ArchState& state) override { return vcpu_->get_state(state); }
    Result<> set_state(const arch::x86::ArchState& state) override {
        return vcpu_->set_state(state);
    }
    [[nodiscard]] VcpuCounters counters() const override { return vcpu_->counters(); }

  private:
    std::shared_ptr<SoftVcpu> vcpu_;
};

class InterpreterFactory final : public ExecutorFactory {
  public:
    std::unique_ptr<Executor> make_executor(CpuState&) override {
        return std::make_unique<InterpreterExecutor>();
    }
    CodeInvalidator* invalidator() override { return nullptr; }
};

}  // namespace

SoftVmImpl::SoftVmImpl(memory::GuestRam& guest_ram, IoDispatcher& dispatcher, std::uint64_t tsc_khz)
    : tsc_khz_(tsc_khz), clock_(tsc_khz), safe_points_([this] {
          for (const auto& vcpu : vcpus_) {
              if (vcpu->safe_point().running()) {
                  vcpu->kick(Request::kExclusive);
              }
          }
      }) {
    ram = &guest_ram;
    io = &dispatcher;
    factory_ = std::make_unique<InterpreterFactory>();
    timers_ = std::make_unique<TimerService>(
        [this](std::uint32_t slot) { vcpus_[slot]->kick(Request::kTimer); });
    ram->set_observer(this);
}

SoftVmImpl::~SoftVmImpl() {
    ram->set_observer(nullptr);
    timers_.reset();  // its thread calls into vcpus_
    for (const auto& vcpu : vcpus_) {
        vcpu->set_executor(nullptr);  // executors do not outlive their factory, handles may
    }
}

void SoftVmImpl::set_executor_factory(std::unique_ptr<ExecutorFactory> factory) {
    STRATA_CHECK(vcpus_.empty(), "the executor is chosen before vCPUs are made");
    factory_ = std::move(factory);
    code = factory_->invalidator();
}

Result<std::unique_ptr<Vcpu>> SoftVmImpl::create_vcpu(const VcpuConfig& config) {
    if (config.index != vcpus_.size() || config.index >= TimerService::kMaxSlots) {
        return Error(
            ErrorKind::InvalidArgument,
            fmt::format("vCPU {} cannot be made now: there are {}", config.index, vcpus_.size()));
    }
    auto made = std::make_shared<SoftVcpu>(*this, config);
    made->cpu().index = config.index;
    made->set_executor(factory_->make_executor(made->cpu()));
    vcpus_.push_back(made);
    cpus_.push_back(&made->cpu());
    apic_bus_.add(made->apic());
    safe_points_.add(made->safe_point());
    return std::unique_ptr<Vcpu>(std::make_unique<VcpuHandle>(std::move(made)));
}

void SoftVmImpl::set_external_interrupt(bool asserted) {
    external_.store(asserted, std::memory_order_release);
    if (!asserted) {
        return;
    }
    for (const auto& vcpu : vcpus_) {
        if (vcpu->apic().accepts_external()) {
            vcpu->kick(Request::kInterrupt);
        }
    }
}

void SoftVmImpl::inject_nmi(std::uint32_t vcpu_index) {
    if (vcpu_index < vcpus_.size()) {
        vcpus_[vcpu_index]->kick(Request::kNmi);
    }
}

Result<> SoftVmImpl::set_dirty_logging(bool on) {
    run_exclusive(nullptr, [&] {
        for (CpuState* cpu : cpus_) {
            cut_write_tags(*cpu, ram->dirty_logging());
        }
        ram->set_dirty_logging(on);
    });
    return ok();
}

Result<> SoftVmImpl::sync_dirty_log() {
    // A page is marked when its write tag is granted; what was written through the tag since then
    // is marked here.
    run_exclusive(nullptr, [&] {
        for (CpuState* cpu : cpus_) {
            cut_write_tags(*cpu, true);
        }
    });
    return ok();
}

Result<> SoftVmImpl::save_clock(state::StateWriter& writer) {
    writer.begin("kvmclock", kClockVersion);
    writer.u64(clock_.now());
    writer.end();
    return ok();
}

Result<> SoftVmImpl::load_clock(state::StateReader& reader) {
    STRATA_TRY_VOID(reader.begin("kvmclock", kClockVersion));
    const std::uint64_t now = reader.u64();
    STRATA_TRY_VOID(reader.end());
    clock_.set(now);
    return ok();
}

bool SoftVmImpl::read_msr(CpuState& cpu, std::uint32_t index, std::uint64_t& value) noexcept {
    save_vector_state(cpu);
    return vcpu(cpu).msrs().read(index, value);
}

bool SoftVmImpl::write_msr(CpuState& cpu, std::uint32_t index, std::uint64_t value) noexcept {
    save_vector_state(cpu);
    return vcpu(cpu).msrs().write(index, value);
}

void SoftVmImpl::run_exclusive(CpuState* self, const std::function<void()>& work) {
    if (self != nullptr) {
        save_vector_state(*self);
    }
    safe_points_.run_exclusive(self != nullptr ? &vcpu(*self).safe_point() : nullptr, work);
}

void SoftVmImpl::protect_code_page(CpuState& self, std::uint64_t ram_page) noexcept {
    save_vector_state(self);
    auto& flags = ram->page_flags(ram_page);
    if ((flags.load(std::memory_order_acquire) & memory::PageFlags::kCode) != 0) {
        return;
    }
    const std::byte* host_page = ram->base() + (ram_page << memory::kPageShift);
    const auto protect = [&] {
        flags.fetch_or(memory::PageFlags::kCode, std::memory_order_seq_cst);
        for (CpuState* cpu : cpus_) {
            cut_write_tags_of_page(*cpu, host_page);
        }
    };
    if (cpus_.size() == 1) {
        protect();
    } else {
        run_exclusive(&self, protect);
    }
}

void SoftVmImpl::end_of_interrupt(std::uint8_t vector) noexcept {
    io->end_of_interrupt(vector);
}

void SoftVmImpl::arm_timer(CpuState& cpu, std::uint64_t deadline) noexcept {
    if (deadline == kNoDeadline) {
        timers_->disarm(cpu.index);
    } else {
        timers_->arm(cpu.index, deadline);
    }
}

std::uint64_t SoftVmImpl::tsc_offset_for(std::uint64_t tsc) {
    const std::uint64_t now = host_tsc();
    const auto ahead = static_cast<std::int64_t>(tsc - (now + tsc_offset_));
    const auto second = static_cast<std::int64_t>(tsc_khz_ * 1000);
    if (!tsc_offset_set_ || ahead > second || ahead < -second) {
        tsc_offset_ = tsc - now;
        tsc_offset_set_ = true;
    }
    return tsc_offset_;
}

void SoftVmImpl::code_page_written(std::uint64_t ram_offset, std::uint64_t length) {
    if (code != nullptr) {
        code->invalidate(nullptr, ram_offset, length);
    }
}

}  // namespace strata::engine::soft
