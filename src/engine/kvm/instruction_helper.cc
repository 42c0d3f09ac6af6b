// InstructionHelper: a software machine around one CpuState, and the way of the registers there and
// back.
#include "engine/kvm/instruction_helper.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "arch/x86/cpu_features.h"
#include "arch/x86/registers.h"
#include "base/check.h"
#include "engine/kvm/kvm_vm.h"
#include "engine/kvm/vcpu_state.h"
#include "engine/soft/interp/descriptors.h"
#include "engine/soft/interp/interpreter.h"
#include "engine/soft/mmu/mmu.h"
#include "engine/soft/mmu/mmu_state.h"
#include "engine/soft/runtime/arch_registers.h"
#include "engine/soft/runtime/soft_vm.h"
#include "engine/soft/runtime/tsc_clock.h"
#include "engine/soft/runtime/vector_state.h"

namespace strata::engine::kvm {
namespace {

using soft::CpuState;
namespace msr = arch::x86::msr;

struct CpuStateMsr {
    std::uint32_t index;
    std::uint64_t CpuState::*field;
};
/// MSRs that the interpreter finds in CpuState.
constexpr CpuStateMsr kCpuStateMsrs[] = {
    {msr::kStar, &CpuState::star},
    {msr::kLstar, &CpuState::lstar},
    {msr::kCstar, &CpuState::cstar},
    {msr::kSfmask, &CpuState::sfmask},
    {msr::kKernelGsBase, &CpuState::kernel_gs_base},
    {msr::kTscAux, &CpuState::tsc_aux},
    {msr::kSysenterCs, &CpuState::sysenter_cs},
    {msr::kSysenterEsp, &CpuState::sysenter_esp},
    {msr::kSysenterEip, &CpuState::sysenter_eip},
    {msr::kPat, &CpuState::pat},
};

std::uint64_t CpuState::*msr_field(std::uint32_t index) {
    const auto* found = std::ranges::find(kCpuStateMsrs, index, &CpuStateMsr::index);
    return found == std::end(kCpuStateMsrs) ? nullptr : found->field;
}

/// One instruction, and the exception that it may raise.
soft::StepResult step(CpuState& cpu) {
    const soft::StepResult result = soft::interpret_one(cpu);
    return result == soft::StepResult::Exception ? soft::deliver_exception(cpu) : result;
}

VcpuExit broken(const Error& error) {
    return {ExitReason::InternalError, error.text()};
}

}  // namespace

/// The machine that the interpreter sees: RAM and I/O are the real ones, MSRs are KVM's, everything
/// else does not exist.
class HelperVm final : public soft::SoftVm {
  public:
    HelperVm(KvmVm& vm, const KvmFd& vcpu, const VcpuConfig& config)
        : vcpu_(vcpu),
          config_(config),
          cpu_(std::make_unique<CpuState>()),
          mmu_(soft::make_mmu_state(config.cpuid.find(0x80000008, 0).eax & 0xff,
                                    arch::x86::has_feature(config.cpuid, "pdpe1gb"))) {
        ram = &vm.ram();
        io = &vm.io();
        cpu_->vm = this;
        cpu_->mmu = mmu_.get();
        cpus_.push_back(cpu_.get());
    }

    [[nodiscard]] CpuState& cpu() { return *cpu_; }
    Result<> load(const arch::x86::ArchState& state);
    Result<> store(const arch::x86::ArchState& before);
    /// At the entry of the handler of `vector`: takes the exception back if a system call of user
    /// mode caused it, and goes to that instruction. False: nothing was changed.
    bool back_to_system_call(std::uint8_t vector);

    soft::LocalApic& local_apic(CpuState& /*cpu*/) noexcept override {
        // Asked for only when the MMU's apic_page is hit or a PV hypercall is made; neither is set
        // up here.
        check_failed("no local APIC", __FILE__, __LINE__, "the helper's MMU has no APIC page");
    }
    const arch::x86::CpuidTable& cpuid(const CpuState& /*cpu*/) const noexcept override {
        return config_.cpuid;
    }
    bool read_msr(CpuState& cpu, std::uint32_t index, std::uint64_t& value) noexcept override;
    bool write_msr(CpuState& cpu, std::uint32_t index, std::uint64_t value) noexcept override;
    std::uint64_t hypercall(CpuState&, std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t,
                            std::uint64_t) noexcept override {
        return static_cast<std::uint64_t>(-1000);  // -KVM_ENOSYS; KVM takes VMCALL itself
    }
    void run_exclusive(CpuState* /*self*/, const std::function<void()>& work) override { work(); }
    void protect_code_page(CpuState& /*self*/, std::uint64_t /*ram_page*/) noexcept override {}
    const std::vector<CpuState*>& cpus() const noexcept override { return cpus_; }

    // The machine's side of a SoftVm: not used, the machine talks to KvmVm.
    Result<std::unique_ptr<Vcpu>> create_vcpu(const VcpuConfig& /*config*/) override {
        return none();
    }
    void set_external_interrupt(bool /*asserted*/) override {}
    void set_irq_routes(const std::vector<bus::IrqRoute>& /*routes*/) override {}
    void inject_nmi(std::uint32_t /*vcpu_index*/) override {}
    Result<> set_dirty_logging(bool /*on*/) override { return none(); }
    Result<> sync_dirty_log() override { return none(); }
    Result<> save_clock(state::StateWriter& /*writer*/) override { return none(); }
    Result<> load_clock(state::StateReader& /*reader*/) override { return none(); }
    void send(const bus::MsiMessage& /*message*/) override {}

  private:
    struct Frame {
        std::uint64_t rip, cs, rflags, rsp, ss;
    };
    [[nodiscard]] bool system_call_raised(const Frame& frame, std::uint64_t error_code,
                                          bool code64);
    [[nodiscard]] bool is_syscall(std::uint64_t linear);
    static Error none() {
        return {ErrorKind::NotSupported, "the instruction helper is no machine"};
    }

    const KvmFd& vcpu_;
    const VcpuConfig& config_;
    std::unique_ptr<CpuState> cpu_;
    soft::MmuStatePtr mmu_;
    std::vector<CpuState*> cpus_;
    std::array<std::uint64_t, std::size(kCpuStateMsrs)> loaded_msrs_{};
};

Result<> HelperVm::load(const arch::x86::ArchState& state) {
    CpuState& cpu = *cpu_;
    cpu.vector_live = 0;
    soft::copy_registers(state, cpu);
    soft::sanitize_xsave(std::span(cpu.xsave));
    cpu.pkru = soft::pkru_in(std::span(state.xsave), soft::pkru_offset(config_.cpuid));
    cpu.exception = {};
    cpu.halted = false;
    cpu.interrupt_window = 0;
    cpu.interrupt_shadow = state.events.interrupt_shadow;
    cpu.nmi_masked = state.events.nmi_masked;
    for (std::size_t i = 0; i < std::size(kCpuStateMsrs); ++i) {
        // One that this vCPU's CPUID does not have reads as zero; the interpreter then has no use
        // for it either.
        auto value = kvm::read_msr(vcpu_, kCpuStateMsrs[i].index);
        cpu.*kCpuStateMsrs[i].field = value.ok() ? *value : 0;
        loaded_msrs_[i] = cpu.*kCpuStateMsrs[i].field;
    }
    cpu.tsc_offset = STRATA_TRY(kvm::read_msr(vcpu_, msr::kTsc)) - soft::host_tsc();
    mmu_->apic_page = ~0ULL;
    mmu_->rewrite_pending = false;
    soft::update_mode(cpu);
    soft::flush_tlb_all(cpu);  // the guest changed its page tables without telling us
    return ok();
}

Result<> HelperVm::store(const arch::x86::ArchState& before) {
    CpuState& cpu = *cpu_;
    soft::save_vector_state(cpu);
    arch::x86::ArchState after = before;
    soft::copy_registers(cpu, after);
    soft::put_pkru(std::span(after.xsave), soft::pkru_offset(config_.cpuid), cpu.pkru);
    after.events.exception_pending = false;
    after.events.interrupt_shadow = cpu.interrupt_shadow;
    after.events.nmi_masked = cpu.nmi_masked;
    for (std::size_t i = 0; i < std::size(kCpuStateMsrs); ++i) {
        const std::uint64_t value = cpu.*kCpuStateMsrs[i].field;
        if (value != loaded_msrs_[i]) {
            STRATA_TRY_VOID(kvm::write_msr(vcpu_, kCpuStateMsrs[i].index, value));
        }
    }
    return write_core_changes(vcpu_, before, after);
}

/// Whether user mode would execute 0F 05 at `linear`.
bool HelperVm::is_syscall(std::uint64_t linear) {
    constexpr std::array<std::byte, 2> kSyscall = {std::byte{0x0f}, std::byte{0x05}};
    for (std::size_t i = 0; i < kSyscall.size(); ++i) {
        std::uint64_t physical = 0;
        if (!soft::translate_linear(*cpu_, linear + i, soft::MemAccess::Execute,
                                    soft::Privilege::User, physical)) {
            cpu_->exception = {};
            return false;
        }
        const auto in_ram = ram->ram_offset(memory::GuestAddress(physical));
        if (!in_ram || ram->base()[*in_ram] != kSyscall[i]) {
            return false;
        }
    }
    return true;
}

/// Whether #PF at `frame` comes of a SYSCALL that arrived at the entry point in ring 3, and not of
/// a program that jumped there with RCX and R11 of its own choice: SYSCALL has cleared what FMASK
/// says, IF as a rule, which such a program cannot; flags that it could not have changed are
/// compared else.
bool HelperVm::system_call_raised(const Frame& frame, std::uint64_t error_code, bool code64) {
    namespace fl = arch::x86::rflags;
    constexpr std::uint64_t kUserFetch = 0x14,
                            kNotUsers = fl::kIf | fl::kIopl | fl::kVm | fl::kVif | fl::kVip;
    const CpuState& cpu = *cpu_;
    const std::uint64_t entry = code64 ? cpu.lstar : cpu.cstar;
    if (frame.rip != entry || cpu.cr2 != entry || (error_code & kUserFetch) != kUserFetch) {
        return false;
    }
    const std::uint64_t saved = cpu.gpr[arch::x86::R11];
    const bool masked = (frame.rflags & cpu.sfmask & ~fl::kRf) == 0;
    const bool flags_are_its_own =
        (cpu.sfmask & fl::kIf) != 0 || ((saved ^ frame.rflags) & kNotUsers) == 0;
    return masked && flags_are_its_own && is_syscall(cpu.gpr[arch::x86::Rcx] - 2);
}

bool HelperVm::back_to_system_call(std::uint8_t vector) {
    namespace fl = arch::x86::rflags;
    CpuState& cpu = *cpu_;
    const bool page_fault = vector == arch::x86::vector::kPf;
    std::uint64_t error_code = 0;
    Frame frame{};
    const std::uint64_t at = cpu.gpr[arch::x86::Rsp];
    if ((page_fault && !soft::read_linear(cpu, at, &error_code, sizeof(error_code))) ||
        !soft::read_linear(cpu, at + (page_fault ? sizeof(error_code) : 0), &frame,
                           sizeof(frame))) {
        cpu.exception = {};
        return false;
    }
    if ((frame.cs & 3) != 3) {
        return false;
    }
    soft::Descriptor segment;
    soft::Segment ss;
    if (!soft::read_descriptor(cpu, static_cast<std::uint16_t>(frame.cs), arch::x86::vector::kGp,
                               segment) ||
        !soft::check_stack_segment(cpu, static_cast<std::uint16_t>(frame.ss), 3,
                                   arch::x86::vector::kGp, ss)) {
        cpu.exception = {};
        return false;
    }
    if (page_fault && !system_call_raised(frame, error_code, segment.long_code())) {
        return false;
    }
    cpu.gpr[arch::x86::Rsp] = frame.rsp;
    cpu.rip = page_fault ? cpu.gpr[arch::x86::Rcx] - 2 : frame.rip;
    cpu.rflags = ((page_fault ? cpu.gpr[arch::x86::R11] : frame.rflags) & ~fl::kRf) | fl::kFixed;
    cpu.segments[arch::x86::Ss] = ss;
    soft::set_cs(cpu, soft::segment_from(static_cast<std::uint16_t>(frame.cs), segment), 3);
    return true;
}

bool HelperVm::read_msr(CpuState& cpu, std::uint32_t index, std::uint64_t& value) noexcept {
    if (const auto field = msr_field(index); field != nullptr) {
        value = cpu.*field;
        return true;
    }
    auto read = kvm::read_msr(vcpu_, index);
    value = read.ok() ? *read : 0;
    return read.ok();
}

bool HelperVm::write_msr(CpuState& cpu, std::uint32_t index, std::uint64_t value) noexcept {
    if (const auto field = msr_field(index); field != nullptr) {
        cpu.*field = value;
        return true;
    }
    switch (index) {
        case msr::kFsBase:
            cpu.segments[arch::x86::Fs].base = value;
            return true;
        case msr::kGsBase:
            cpu.segments[arch::x86::Gs].base = value;
            return true;
        case msr::kEfer:
        case msr::kApicBase:
            return false;  // KVM takes WRMSR itself; here they would be undone by store()
        default:
            return kvm::write_msr(vcpu_, index, value).ok();
    }
}

InstructionHelper::InstructionHelper(KvmVm& vm, const KvmFd& vcpu, const VcpuConfig& config)
    : vm_(vm), vcpu_(vcpu), config_(config) {}
InstructionHelper::~InstructionHelper() = default;

void InstructionHelper::prepare() {
    if (!helper_) {
        helper_ = std::make_unique<HelperVm>(vm_, vcpu_, config_);
    }
    soft::prepare_interpreter_thread(helper_->cpu());
}

std::optional<VcpuExit> InstructionHelper::execute() {
    return run(std::nullopt);
}

std::optional<VcpuExit> InstructionHelper::execute_at_handler(std::uint8_t vector) {
    return run(vector);
}

std::optional<VcpuExit> InstructionHelper::run(std::optional<std::uint8_t> handler_of) {
    if (!helper_) {
        prepare();
    }
    arch::x86::ArchState before;
    if (auto read = read_state(vcpu_, StateScope::Core, {}, before); !read.ok()) {
        return broken(read.error());
    }
    if (auto loaded = helper_->load(before); !loaded.ok()) {
        return broken(loaded.error());
    }
    CpuState& cpu = helper_->cpu();
    const bool taken_back = handler_of && helper_->back_to_system_call(*handler_of);
    soft::StepResult result = step(cpu);
    if (taken_back && cpu.cpl == 0 && cpu.rip == before.rip) {
        result = step(cpu);  // the exception was right: past the breakpoint
    }
    if (result == soft::StepResult::TripleFault) {
        return VcpuExit{ExitReason::TripleFault, {}};
    }
    if (auto stored = helper_->store(before); !stored.ok()) {
        return broken(stored.error());
    }
    return result == soft::StepResult::Halted ? halt() : std::nullopt;
}

std::optional<VcpuExit> InstructionHelper::halt() {
    kvm_mp_state halted = {};
    halted.mp_state = KVM_MP_STATE_HALTED;
    if (auto set = vcpu_.call(KVM_SET_MP_STATE, &halted, "halting a vCPU"); !set.ok()) {
        return broken(set.error());
    }
    return std::nullopt;
}

}  // namespace strata::engine::kvm
