// KvmVcpu: the KVM_RUN loop. Linux Documentation/virt/kvm/api.rst, 4.10 and 5.
#include "engine/kvm/kvm_vcpu.h"

#include <algorithm>
#include <csignal>

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/kvm/vcpu_state.h"

namespace strata::engine::kvm {
namespace {

pid_t this_thread() {
    return static_cast<pid_t>(::syscall(SYS_gettid));
}

VcpuExit broken(std::string detail) {
    return {ExitReason::InternalError, std::move(detail)};
}

}  // namespace

KvmVcpu::KvmVcpu(KvmVm& vm, KvmFd fd, MmapRegion mapping, const VcpuConfig& config)
    : vm_(vm),
      fd_(std::move(fd)),
      mapping_(std::move(mapping)),
      config_(config),
      helper_(vm, fd_, config_) {
    if (vm.engine().loses_system_calls()) {
        mender_.emplace(vm, fd_, helper_);
    }
}

KvmVcpu::~KvmVcpu() {
    vm_.forget(*this);
}

Result<std::unique_ptr<KvmVcpu>> KvmVcpu::create(KvmVm& vm, KvmFd fd, const VcpuConfig& config) {
    auto mapping =
        STRATA_TRY(MmapRegion::map(static_cast<std::size_t>(vm.engine().vcpu_mapping_size()),
                                   PROT_READ | PROT_WRITE, MAP_SHARED, fd.get()));
    auto vcpu =
        std::unique_ptr<KvmVcpu>(new KvmVcpu(vm, std::move(fd), std::move(mapping), config));
    STRATA_TRY_VOID(vcpu->set_cpuid());
    return vcpu;
}

Result<> KvmVcpu::set_cpuid() {
    const auto& entries = config_.cpuid.entries;
    WithTail<kvm_cpuid2, kvm_cpuid_entry2> cpuid(entries.size());
    cpuid.head()->nent = static_cast<std::uint32_t>(entries.size());
    for (std::size_t i = 0; i < entries.size(); ++i) {
        kvm_cpuid_entry2& out = cpuid.items()[i];
        out.function = entries[i].leaf;
        out.index = entries[i].subleaf;
        out.flags = entries[i].subleaf_matters ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
        out.eax = entries[i].registers.eax;
        out.ebx = entries[i].registers.ebx;
        out.ecx = entries[i].registers.ecx;
        out.edx = entries[i].registers.edx;
    }
    STRATA_TRY_VOID(fd_.call(KVM_SET_CPUID2, cpuid.head(), "setting a vCPU's CPUID"));
    return read_cpuid_back();
}

// Where the processor executes a guest's CPUID by itself (PVM), KVM changes the table to what the
// guest will see: the instruction helper must not refuse instructions that the guest was told to
// have.
Result<> KvmVcpu::read_cpuid_back() {
    WithTail<kvm_cpuid2, kvm_cpuid_entry2> cpuid(kMaxCpuidEntries);
    cpuid.head()->nent = kMaxCpuidEntries;
    STRATA_TRY_VOID(fd_.call(KVM_GET_CPUID2, cpuid.head(), "reading a vCPU's CPUID back"));
    config_.cpuid.entries.clear();
    for (std::uint32_t i = 0; i < std::min<std::uint32_t>(cpuid.head()->nent, kMaxCpuidEntries);
         ++i) {
        config_.cpuid.entries.push_back(from_kvm(cpuid.items()[i]));
    }
    return ok();
}

void KvmVcpu::enter_thread() {
    sigset_t kick;
    sigemptyset(&kick);
    sigaddset(&kick, kick_signal());
    (void)::pthread_sigmask(SIG_UNBLOCK, &kick, nullptr);  // fails only for a wrong first argument
    const MutexLock lock(thread_mutex_);
    thread_ = this_thread();
}

void KvmVcpu::leave_thread() {
    const MutexLock lock(thread_mutex_);
    thread_ = 0;
}

void KvmVcpu::kick() {
    const MutexLock lock(thread_mutex_);
    if (thread_ == this_thread()) {
        return;  // from a device, called by this vCPU's own access: the loop looks before it enters
    }
    immediate_exit().store(1, std::memory_order_seq_cst);
    if (thread_ != 0) {
        // The thread cannot end meanwhile: leave_thread() takes the lock.
        (void)::syscall(SYS_tgkill, ::getpid(), thread_, kick_signal());
    }
}

void KvmVcpu::request_exit() {
    exit_requested_.store(true, std::memory_order_seq_cst);
    immediate_exit().store(1, std::memory_order_seq_cst);
    kick();
}

bool KvmVcpu::interrupted() {
    // First the byte, then the flag: a request that comes between sets both again, and the next
    // KVM_RUN returns at once.
    immediate_exit().store(0, std::memory_order_seq_cst);
    return exit_requested_.exchange(false, std::memory_order_seq_cst);
}

Result<> KvmVcpu::offer_external_interrupt() {
    if (!config_.bootstrap) {
        return ok();
    }
    kvm_run& run = shared();
    if (vm_.external_interrupt() && run.ready_for_interrupt_injection != 0 && run.if_flag != 0 &&
        !offered_vector_) {
        kvm_interrupt interrupt = {};
        interrupt.irq = vm_.io().acknowledge_external_interrupt();
        STRATA_TRY_VOID(fd_.call(KVM_INTERRUPT, &interrupt, "injecting an external interrupt"));
        offered_vector_ = static_cast<std::uint8_t>(interrupt.irq);
        interrupts_.fetch_add(1, std::memory_order_relaxed);
    }
    run.request_interrupt_window = vm_.external_interrupt() ? 1 : 0;
    return ok();
}

VcpuExit KvmVcpu::run() {
    enter_thread();
    std::optional<VcpuExit> end;
    while (!end) {
        if (auto offered = offer_external_interrupt(); !offered.ok()) {
            end = broken(offered.error().text());
            break;
        }
        if (auto watching = mender_ ? mender_->watch() : ok(); !watching.ok()) {
            end = broken(watching.error().text());
            break;
        }
        const int answer = ::ioctl(fd_.get(), KVM_RUN, 0);
        const int error = answer < 0 ? errno : 0;
        // Delivered, unless KVM came back before it entered the guest: then it is not yet ready for
        // another.
        if (error != EINTR || shared().ready_for_interrupt_injection != 0 ||
            shared().if_flag == 0) {
            offered_vector_.reset();
        }
        if (error == 0) {
            end = handle_exit();
        } else if (error == EINTR) {
            if (interrupted()) {
                end = VcpuExit{ExitReason::Interrupted, {}};
            }
        } else if (error != EAGAIN) {  // EAGAIN: an application processor got INIT or SIPI
            end = broken(Error::from_errno("running a KVM vCPU", error).text());
        }
    }
    leave_thread();
    return *std::move(end);
}

std::optional<VcpuExit> KvmVcpu::handle_exit() {
    kvm_run& run = shared();
    switch (run.exit_reason) {
        case KVM_EXIT_IO:
            port_io();
            return std::nullopt;
        case KVM_EXIT_MMIO:
            memory_io();
            return std::nullopt;
        case KVM_EXIT_IOAPIC_EOI:
            vm_.io().end_of_interrupt(run.eoi.vector);
            return std::nullopt;
        case KVM_EXIT_IRQ_WINDOW_OPEN:
        case KVM_EXIT_INTR:
        case KVM_EXIT_HLT:  // the kernel's local APIC does the waiting; should one come out,
                            // entering again is right
            return std::nullopt;
        case KVM_EXIT_SHUTDOWN:
        case KVM_EXIT_SYSTEM_EVENT:
            return VcpuExit{ExitReason::TripleFault, {}};
        case KVM_EXIT_DEBUG:
            helped_.fetch_add(1, std::memory_order_relaxed);
            return mender_ ? mender_->stopped(run)
                           : broken("KVM stopped at a breakpoint that nobody set");
        case KVM_EXIT_INTERNAL_ERROR:
            return internal_error();
        case KVM_EXIT_FAIL_ENTRY:
            return broken(fmt::format("KVM cannot enter the guest: hardware reason {:#x}",
                                      std::uint64_t{run.fail_entry.hardware_entry_failure_reason}));
        default:
            return broken(fmt::format("KVM stopped for an unknown reason ({})", run.exit_reason));
    }
}

void KvmVcpu::port_io() {
    kvm_run& run = shared();
    io_exits_.fetch_add(1, std::memory_order_relaxed);
    const std::size_t size = run.io.size;
    for (std::uint32_t i = 0; i < run.io.count; ++i) {
        const std::uint64_t at = run.io.data_offset + i * size;
        if (size == 0 || size > 4 || at + size > mapping_.size()) {
            return;
        }
        const std::span<std::byte> data = mapping_.bytes().subspan(at, size);
        if (run.io.direction == KVM_EXIT_IO_OUT) {
            vm_.io().port_write(run.io.port, data);
        } else {
            vm_.io().port_read(run.io.port, data);
        }
    }
}

void KvmVcpu::memory_io() {
    kvm_run& run = shared();
    io_exits_.fetch_add(1, std::memory_order_relaxed);
    const std::size_t size = std::min<std::size_t>(run.mmio.len, sizeof(run.mmio.data));
    const std::span<std::byte> data = std::as_writable_bytes(std::span(run.mmio.data)).first(size);
    if (run.mmio.is_write != 0) {
        vm_.io().mmio_write(run.mmio.phys_addr, data);
    } else {
        vm_.io().mmio_read(run.mmio.phys_addr, data);
    }
}

std::optional<VcpuExit> KvmVcpu::internal_error() {
    const kvm_run& run = shared();
    if (run.internal.suberror != KVM_INTERNAL_ERROR_EMULATION) {
        return broken(fmt::format("KVM internal error, suberror {}", run.internal.suberror));
    }
    helped_.fetch_add(1, std::memory_order_relaxed);
    return helper_.execute();
}

Result<> KvmVcpu::get_state(arch::x86::ArchState& state) {
    STRATA_TRY_VOID(read_state(fd_, StateScope::Whole, vm_.engine().saved_msrs(), state));
    if (offered_vector_ && !state.events.interrupt_pending) {
        state.events.interrupt_pending = true;
        state.events.interrupt_vector = *offered_vector_;
    }
    return ok();
}

Result<> KvmVcpu::set_state(const arch::x86::ArchState& state) {
    shared().ready_for_interrupt_injection =
        0;  // of the old state; KVM says anew after the next entry
    return write_state(fd_, StateScope::Whole, state);
}

VcpuCounters KvmVcpu::counters() const {
    VcpuCounters counters;
    counters.io_exits = io_exits_.load(std::memory_order_relaxed);
    counters.interrupts = interrupts_.load(std::memory_order_relaxed);
    counters.helped = helped_.load(std::memory_order_relaxed);
    return counters;
}

}  // namespace strata::engine::kvm
