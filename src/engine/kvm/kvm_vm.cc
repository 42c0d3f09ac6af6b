// KvmVm: the VM ioctls. Linux Documentation/virt/kvm/api.rst.
#include "engine/kvm/kvm_vm.h"

#include <algorithm>
#include <csignal>

#include "engine/kvm/kvm_vcpu.h"

namespace strata::engine::kvm {
namespace {

constexpr std::uint32_t kIoapicPins = 24;
/// Three pages for a task state segment and one for page tables, which Intel processors without
/// unrestricted guest need; in the hole below the BIOS, where a PC has neither RAM nor devices.
constexpr std::uint64_t kIdentityMapAddress = 0xfffbc000, kTssAddress = 0xfffbd000;
constexpr std::uint16_t kClockVersion = 1;
constexpr std::uint32_t kMsiLevel = 1U << 15;
constexpr std::uint32_t kMsiNmi = 4U << 8;
constexpr std::uint64_t kMsiAddress = 0xfee00000;

void on_kick(int) {}

}  // namespace

int kick_signal() {
    return SIGRTMIN;
}

Result<> install_kick_signal() {
    struct sigaction action = {};
    action.sa_handler = on_kick;
    action.sa_flags =
        SA_RESTART;  // KVM_RUN answers EINTR all the same; other calls of the thread go on
    if (::sigaction(kick_signal(), &action, nullptr) != 0) {
        return Error::from_errno("installing the vCPU signal", errno);
    }
    return ok();
}

Result<std::unique_ptr<KvmVm>> KvmVm::create(const KvmEngine& engine, memory::GuestRam& ram,
                                             IoDispatcher& io) {
    UniqueFd fd;
    for (;;) {
        auto made = engine.device().call(KVM_CREATE_VM, std::uint64_t{0}, "creating a KVM machine");
        if (made.ok()) {
            fd.reset(*made);
            break;
        }
        if (made.error().system_errno() != EINTR) {  // older kernels give up on any signal
            return std::move(made).error();
        }
    }
    auto vm = std::unique_ptr<KvmVm>(new KvmVm(engine, KvmFd(std::move(fd)), ram, io));
    STRATA_TRY_VOID(vm->set_up());
    return vm;
}

KvmVm::~KvmVm() = default;

Result<> KvmVm::set_up() {
    if (engine_.device().extension(KVM_CAP_SET_TSS_ADDR) != 0) {
        STRATA_TRY_VOID(
            vm_.call(KVM_SET_TSS_ADDR, kTssAddress, "placing KVM's task state segment"));
    }
    if (engine_.device().extension(KVM_CAP_SET_IDENTITY_MAP_ADDR) != 0) {
        std::uint64_t address = kIdentityMapAddress;
        STRATA_TRY_VOID(
            vm_.call(KVM_SET_IDENTITY_MAP_ADDR, &address, "placing KVM's identity map"));
    }
    kvm_enable_cap split = {};
    split.cap = KVM_CAP_SPLIT_IRQCHIP;
    split.args[0] = kIoapicPins;
    STRATA_TRY_VOID(vm_.call(KVM_ENABLE_CAP, &split, "asking KVM for local APICs"));
    if (engine_.device().extension(KVM_CAP_EXIT_ON_EMULATION_FAILURE) != 0) {
        // Otherwise KVM answers what it cannot emulate with #UD when user mode did it, and the
        // instruction helper never sees it.
        kvm_enable_cap all = {};
        all.cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE;
        all.args[0] = 1;
        STRATA_TRY_VOID(vm_.call(KVM_ENABLE_CAP, &all,
                                 "asking KVM for every instruction that it cannot emulate"));
    }
    return set_memory(false);
}

Result<> KvmVm::set_memory(bool log) {
    std::uint32_t slot = 0;
    for (const memory::RamRange& range : ram_.ranges()) {
        kvm_userspace_memory_region region = {};
        region.slot = slot++;
        region.flags = log ? KVM_MEM_LOG_DIRTY_PAGES : 0;
        region.guest_phys_addr = range.start.value();
        region.memory_size = range.size;
        // SAFETY: the mapping belongs to ram_, which outlives this machine.
        region.userspace_addr = reinterpret_cast<std::uint64_t>(range.host);
        STRATA_TRY_VOID(vm_.call(KVM_SET_USER_MEMORY_REGION, &region, "giving RAM to KVM"));
    }
    return ok();
}

Result<std::unique_ptr<Vcpu>> KvmVm::create_vcpu(const VcpuConfig& config) {
    if (config.bootstrap && config.apic_id != 0) {
        STRATA_TRY_VOID(vm_.call(KVM_SET_BOOT_CPU_ID, std::uint64_t{config.apic_id},
                                 "naming the bootstrap processor"));
    }
    // The kernel's local APIC takes the vCPU's number as its APIC ID.
    UniqueFd fd(STRATA_TRY(
        vm_.call(KVM_CREATE_VCPU, std::uint64_t{config.apic_id}, "creating a KVM vCPU")));
    auto vcpu = STRATA_TRY(KvmVcpu::create(*this, KvmFd(std::move(fd)), config));
    const MutexLock lock(mutex_);
    members_.push_back({config.index, config.apic_id, config.bootstrap, vcpu.get()});
    return std::unique_ptr<Vcpu>(std::move(vcpu));
}

void KvmVm::forget(const KvmVcpu& vcpu) {
    const MutexLock lock(mutex_);
    std::erase_if(members_, [&](const Member& member) { return member.vcpu == &vcpu; });
}

void KvmVm::send(const bus::MsiMessage& message) {
    kvm_msi msi = {};
    msi.address_lo = static_cast<std::uint32_t>(message.address);
    msi.address_hi = static_cast<std::uint32_t>(message.address >> 32);
    msi.data = message.data;
    // The outcome is not ours: a message to nobody, or to an APIC that is off, is lost on hardware,
    // too.
    (void)vm_.call(KVM_SIGNAL_MSI, &msi, "sending an MSI");
}

void KvmVm::set_external_interrupt(bool asserted) {
    // seq_cst: pairs with the load before KVM_RUN; kick() makes a vCPU that has loaded already come
    // back.
    if (external_.exchange(asserted, std::memory_order_seq_cst) == asserted || !asserted) {
        return;
    }
    const MutexLock lock(mutex_);
    for (const Member& member : members_) {
        if (member.bootstrap) {
            member.vcpu->kick();
        }
    }
}

void KvmVm::set_irq_routes(const std::vector<bus::IrqRoute>& routes) {
    // Only level-triggered ones matter: KVM consults the table for nothing but whose EOI must be
    // told to us.
    WithTail<kvm_irq_routing, kvm_irq_routing_entry> table(routes.size());
    for (const bus::IrqRoute& route : routes) {
        if (!route.level || route.gsi >= kIoapicPins) {
            continue;
        }
        kvm_irq_routing_entry& entry = table.items()[table.head()->nr++];
        entry.gsi = route.gsi;
        entry.type = KVM_IRQ_ROUTING_MSI;
        entry.u.msi.address_lo = static_cast<std::uint32_t>(route.message.address);
        entry.u.msi.address_hi = static_cast<std::uint32_t>(route.message.address >> 32);
        entry.u.msi.data = route.message.data | kMsiLevel;
    }
    // Discarded: the kernel refuses only malformed tables, and the guest chose these values: it
    // loses EOIs then.
    (void)vm_.call(KVM_SET_GSI_ROUTING, table.head(), "setting interrupt routes");
}

void KvmVm::inject_nmi(std::uint32_t vcpu_index) {
    // As a message: KVM_NMI would wait until the vCPU's thread leaves the guest.
    std::uint32_t apic_id = 0;
    {
        const MutexLock lock(mutex_);
        const auto found = std::ranges::find(members_, vcpu_index, &Member::index);
        if (found == members_.end()) {
            return;
        }
        apic_id = found->apic_id;
    }
    send({kMsiAddress | (std::uint64_t{apic_id} << 12), kMsiNmi});
}

Result<> KvmVm::set_dirty_logging(bool on) {
    const MutexLock lock(dirty_mutex_);
    STRATA_TRY_VOID(set_memory(on));
    logging_ = on;
    ram_.set_dirty_logging(on);
    return ok();
}

Result<> KvmVm::sync_dirty_log() {
    const MutexLock lock(dirty_mutex_);
    if (!logging_) {
        return ok();
    }
    std::uint32_t slot = 0;
    std::vector<std::uint64_t> bits;
    for (const memory::RamRange& range : ram_.ranges()) {
        bits.assign(((range.size >> memory::kPageShift) + 63) / 64, 0);
        kvm_dirty_log log = {};
        log.slot = slot++;
        log.dirty_bitmap = bits.data();
        STRATA_TRY_VOID(vm_.call(KVM_GET_DIRTY_LOG, &log, "reading KVM's dirty log"));
        const std::uint64_t first_page = range.ram_offset >> memory::kPageShift;
        for (std::size_t word = 0; word < bits.size(); ++word) {
            for (std::uint64_t rest = bits[word]; rest != 0; rest &= rest - 1) {
                ram_.dirty().mark(first_page + word * 64 +
                                  static_cast<unsigned>(__builtin_ctzll(rest)));
            }
        }
    }
    return ok();
}

Result<> KvmVm::save_clock(state::StateWriter& writer) {
    kvm_clock_data data = {};
    STRATA_TRY_VOID(vm_.call(KVM_GET_CLOCK, &data, "reading the KVM clock"));
    writer.begin("kvmclock", kClockVersion);
    writer.u64(data.clock);
    writer.end();
    return ok();
}

Result<> KvmVm::load_clock(state::StateReader& reader) {
    STRATA_TRY_VOID(reader.begin("kvmclock", kClockVersion));
    kvm_clock_data data = {};
    data.clock = reader.u64();
    STRATA_TRY_VOID(reader.end());
    STRATA_TRY_VOID(vm_.call(KVM_SET_CLOCK, &data, "setting the KVM clock"));
    return ok();
}

}  // namespace strata::engine::kvm
