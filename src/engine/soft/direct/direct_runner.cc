// DirectRunner: entering stubs, and serving what they come back with.
#include "engine/soft/direct/direct_runner.h"

#include <algorithm>
#include <utility>

#include <fmt/core.h>
#include <signal.h>

#include "arch/x86/cpu_model.h"
#include "arch/x86/registers.h"
#include "base/log.h"
#include "engine/soft/direct/guest_tables.h"
#include "engine/soft/interp/descriptors.h"
#include "engine/soft/mmu/mmu_state.h"
#include "engine/soft/runtime/soft_vm.h"
#include "engine/soft/runtime/vector_state.h"

namespace strata::engine::soft {
namespace {

namespace x86 = arch::x86;
namespace fl = x86::rflags;

// What user code can change by itself: CF PF AF ZF SF TF DF OF NT AC ID.
constexpr std::uint64_t kUserFlags = 0x244dd5;
constexpr std::uint64_t kFixedFlags = 0x202;
constexpr std::uint64_t kCr4Fsgsbase = 1U << 16U;
constexpr std::uint64_t kDr6SingleStep = 1U << 14U;
constexpr std::uint64_t kStubNs = 1'000'000;  // of the zygote's and a stub's time, to make it
constexpr std::uint64_t kNoStubUs = 400'000, kAfterLossUs = 10'000'000;

std::uint64_t now() {
    return __builtin_ia32_rdtsc();
}
bool canonical(std::uint64_t address) {
    return static_cast<std::uint64_t>(static_cast<std::int64_t>(address << 16) >> 16) == address;
}

struct HostSelectors {
    std::uint16_t cs = 0, ss = 0;
};
HostSelectors host_selectors() {
    HostSelectors found;
    __asm__("movw %%cs, %0\n\tmovw %%ss, %1" : "=r"(found.cs), "=r"(found.ss));
    return found;
}

// A feature of user code that this vCPU hides, though the engine offers it: its instructions would
// run in a stub all the same.
bool hides_features(const x86::CpuidTable& shown) {
    const x86::CpuidTable offered = x86::software_cpuid(x86::host_cpuid());
    for (const x86::CpuFeature& feature : x86::cpu_features()) {
        const bool instructions =
            feature.soft == x86::SoftSupport::Host && feature.shown != x86::Shown::OnRequest;
        if (instructions && has_feature(offered, feature) && !has_feature(shown, feature)) {
            return true;
        }
    }
    return false;
}

}  // namespace

DirectRunner::DirectRunner(CpuState& cpu, Zygote& zygote, std::uint64_t tsc_khz, bool always)
    : cpu_(cpu),
      zygote_(zygote),
      events_(std::make_unique<DirectEvents>()),
      cycles_per_us_(tsc_khz / 1000) {
    *events_ = {};
    events_->always = always;
    events_->tsc_khz = static_cast<std::uint32_t>(tsc_khz);
    cpu_.direct = events_.get();
}

DirectRunner::~DirectRunner() {
    cpu_.direct = nullptr;
}

bool DirectRunner::eligible() const {
    constexpr std::uint32_t kNeeded =
        ModeBits::kLong | ModeBits::kCs64 | ModeBits::kPaging | ModeBits::kSse | ModeBits::kXsave;
    constexpr std::uint32_t kRefused =
        ModeBits::kTrap | ModeBits::kAlignCheck | ModeBits::kV8086 | ModeBits::kFpuBlocked;
    static const HostSelectors host = host_selectors();
    const CpuState& cpu = cpu_;
    if (cpu.cpl != 3 || (cpu.mode & (kNeeded | kRefused)) != kNeeded || cpu.interrupt_shadow ||
        cpu.exception.pending) {
        return false;
    }
    if ((cpu.rflags & (fl::kIf | fl::kIopl | fl::kAc | fl::kTf)) != fl::kIf ||
        (cpu.cr4 & kCr4Fsgsbase) == 0 || (cpu.efer & x86::efer::kNxe) == 0) {
        return false;
    }
    if ((cpu.xcr0 & ~kXcr0Pkru) != host_vector_mask() ||
        ((cpu.cr4 & x86::cr4::kPke) != 0 && (cpu.pkru & 3U) != 0)) {
        return false;
    }
    const Segment* segments = cpu.segments;
    const unsigned null = segments[x86::Ds].selector | segments[x86::Es].selector |
                          segments[x86::Fs].selector | segments[x86::Gs].selector;
    return null == 0 && segments[x86::Cs].selector == host.cs &&
           segments[x86::Ss].selector == host.ss && !cpu.vm->ram->dirty_logging();
}

DirectRunner::Outcome DirectRunner::run() noexcept {
    save_vector_state(cpu_);
    events_->user_since = events_->stretch = 0;
    UserSpace& space = current_space(cpu_);
    if (!eligible()) {
        return Outcome::Refused;
    }
    if (!checked_) {
        checked_ = true;
        unusable_ = hides_features(cpu_.vm->cpuid(cpu_));
    }
    const std::uint64_t cpu_began = thread_cpu_ns();
    Then then = Then::Refused;
    Stub* stub = stub_for_space();
    if (stub == nullptr) {
        set_active(*events_, space, false);
        space.not_before = unusable_ ? ~0ULL : now() + kNoStubUs * cycles_per_us_;
        return Outcome::Refused;
    }
    do {
        if (!bring_up_to_date(*stub)) {
            then = Then::Refused;
            stub = nullptr;
            break;
        }
        then = enter(*stub);
    } while (then == Then::Again);
    judge(space, current_stub(), cpu_began);
    switch (then) {
        case Then::Again:
        case Then::Polled:
            return Outcome::Polled;
        case Then::Exception:
            return Outcome::Exception;
        case Then::Refused:
            break;
    }
    return Outcome::Refused;
}

// Whether the stub's time was worth what it cost: of this run(), which began at `cpu_began`.
void DirectRunner::judge(UserSpace& space, Stub* stub, std::uint64_t cpu_began) {
    const std::uint64_t cost = thread_cpu_ns() - cpu_began;
    counters_.cost_ns.fetch_add(cost, std::memory_order_relaxed);
    // Mapping is paid once, for what runs later.
    constexpr std::uint64_t kInvested = 4;
    const std::uint64_t mapping = std::min(std::exchange(mapping_cost_, 0), cost);
    const std::uint64_t invested = mapping - mapping / kInvested;
    if (stub == nullptr) {
        return;
    }
    stub->window.cost += cost - invested;
    if (!stub->window.full()) {
        return;
    }
    const Weighed weighed = weigh(stub->window, stub->process->cpu_time(), events_->lost_ns);
    counters_.native_ns.fetch_add(weighed.native, std::memory_order_relaxed);
    const bool first = space.backoff == 0;
    if (settle(space, weighed.worth)) {
        events_->lost_ns += first ? kStubNs : 0;
        counters_.given_up.fetch_add(1, std::memory_order_relaxed);
        space.not_before = now() + space.backoff * cycles_per_us_;
        set_active(*events_, space, false);
    }
}

void DirectRunner::kick() noexcept {
    // seq_cst with enter(): either it sees the request, or we see that it is inside.
    if (inside_.load(std::memory_order_seq_cst)) {
        const MutexLock lock(mutex_);
        if (running_ != nullptr) {
            running_->kick();
        }
    }
}

StubRegisters DirectRunner::registers_out() const {
    StubRegisters out{};
    for (unsigned i = 0; i < 16; ++i) {
        out.gpr[i] = cpu_.gpr[i];
    }
    out.rip = cpu_.rip;
    out.rflags = (cpu_.rflags & kUserFlags & ~(fl::kTf | fl::kAc)) | kFixedFlags;
    out.fs_base = cpu_.segments[x86::Fs].base;
    out.gs_base = cpu_.segments[x86::Gs].base;
    return out;
}

DirectRunner::Then DirectRunner::enter(Stub& stub) {
    {
        const MutexLock lock(mutex_);
        running_ = stub.process.get();
    }
    inside_.store(true, std::memory_order_seq_cst);
    StubExit exit;
    bool entered = false, good = true;
    if (cpu_.request.load(std::memory_order_seq_cst) == 0) {
        entered = true;
        const std::uint64_t began = now();
        good = stub.process->run(registers_out(), cpu_.xsave, exit);
        note_direct_run(current_space(cpu_), (now() - began) / cycles_per_us_);
        ++stub.window.runs;
        counters_.runs.fetch_add(1, std::memory_order_relaxed);
    }
    inside_.store(false, std::memory_order_seq_cst);
    {
        const MutexLock lock(mutex_);
        running_ = nullptr;
    }
    if (!entered) {
        return Then::Polled;
    }
    return good ? serve(stub, exit) : lost(stub);
}

// The process is gone, or what it reports cannot have come about by guest code that kept to its own
// memory.
DirectRunner::Then DirectRunner::lost(Stub& stub) {
    static log::RateLimit limit;
    if (limit.pass()) {
        log::warn(
            "a process that ran guest user code is lost, and the guest's registers with it: the "
            "guest gets #GP");
    }
    counters_.lost.fetch_add(1, std::memory_order_relaxed);
    discard(stub);
    UserSpace& space = current_space(cpu_);
    set_active(*events_, space, false);
    // Not for ever: another process may get the same page tables.
    space.not_before = now() + kAfterLossUs * cycles_per_us_;
    sanitize_xsave(cpu_.xsave);
    cpu_.exception = {};
    cpu_.exception.vector = x86::vector::kGp;
    cpu_.exception.has_error = true;
    cpu_.exception.pending = true;
    return Then::Exception;
}

bool DirectRunner::load_selectors(const StubRegisters& registers) {
    const HostSelectors host = host_selectors();
    const std::uint16_t data[4] = {registers.ds, registers.es, registers.fs, registers.gs};
    constexpr unsigned kNumbers[4] = {x86::Ds, x86::Es, x86::Fs, x86::Gs};
    for (unsigned i = 0; i < 4; ++i) {
        if (data[i] != 0 && !load_segment(cpu_, kNumbers[i], data[i])) {
            return false;
        }
    }
    if (registers.ss != host.ss && !load_segment(cpu_, x86::Ss, registers.ss)) {
        return false;
    }
    if (registers.cs != host.cs) {
        Descriptor descriptor;
        if (is_null(registers.cs) ||
            !read_descriptor(cpu_, registers.cs, x86::vector::kGp, descriptor)) {
            return false;
        }
        if (!descriptor.code() || !descriptor.present() || descriptor.dpl() != 3) {
            return selector_fault(cpu_, x86::vector::kGp, registers.cs);
        }
        set_cs(cpu_, segment_from(registers.cs, descriptor), 3);
    }
    return true;
}

// False: cpu.exception is pending.
bool DirectRunner::registers_in(const StubRegisters& registers) {
    CpuState& cpu = cpu_;
    for (unsigned i = 0; i < 16; ++i) {
        cpu.gpr[i] = registers.gpr[i];
    }
    cpu.rip = registers.rip;
    cpu.rflags = (cpu.rflags & ~(kUserFlags | fl::kRf)) | (registers.rflags & kUserFlags);
    sanitize_xsave(cpu.xsave);
    const bool loaded = load_selectors(registers);
    cpu.segments[x86::Fs].base = canonical(registers.fs_base) ? registers.fs_base : 0;
    cpu.segments[x86::Gs].base = canonical(registers.gs_base) ? registers.gs_base : 0;
    update_mode(cpu);
    return loaded;
}

DirectRunner::Then DirectRunner::serve(Stub& stub, const StubExit& exit) {
    const bool kicked = exit.signal == kStubKick;
    if (!exit.entered) {
        if (kicked) {
            counters_.kicks.fetch_add(1, std::memory_order_relaxed);
            return cpu_.request.load(std::memory_order_acquire) != 0 ? Then::Polled : Then::Again;
        }
        discard(stub);  // it cannot even be entered
        return Then::Refused;
    }
    if (!canonical(exit.registers.rip)) {
        return lost(stub);
    }
    if (!registers_in(exit.registers)) {
        return Then::Exception;
    }
    if (kicked) {
        counters_.kicks.fetch_add(1, std::memory_order_relaxed);
        if (cpu_.request.load(std::memory_order_acquire) != 0) {
            return Then::Polled;
        }
        return eligible() ? Then::Again : Then::Refused;
    }
    if (exit.signal == SIGSYS) {
        return serve_system_call();
    }
    // Nothing of a guest lies up there, but the host's page of legacy system calls refuses some of
    // them by a signal that holds the trap before.
    if (cpu_.rip >> 47U != 0) {
        return Then::Refused;
    }
    constexpr std::uint32_t kPageFault = 14;
    if (exit.trap != kPageFault) {
        return serve_trap(exit);
    }
    constexpr std::uint32_t kWrote = 2, kFetched = 16;
    const MemAccess access = (exit.error & kFetched) != 0 ? MemAccess::Execute
                             : (exit.error & kWrote) != 0 ? MemAccess::Write
                                                          : MemAccess::Read;
    const std::uint64_t began = now();
    const Fault fault = map_fault(stub, exit.address, access);
    mapping_cost_ += flipped_ ? 0 : (now() - began) * 1000 / cycles_per_us_;
    switch (fault) {
        case Fault::Mapped:
            return Then::Again;
        case Fault::Exception:
            counters_.guest_faults.fetch_add(1, std::memory_order_relaxed);
            return Then::Exception;
        case Fault::Refused:
            break;
    }
    if (access != MemAccess::Execute) {
        return interpret();
    }
    return step_off_page(stub);
}

// Code of a page that may not run natively: mostly a few instructions of it, then it is back on
// others.
DirectRunner::Then DirectRunner::step_off_page(Stub& stub) {
    constexpr int kMost = 100;
    ++stub.window.refused;
    counters_.refused.fetch_add(1, std::memory_order_relaxed);
    const std::uint64_t page = cpu_.rip >> 12U;
    for (int i = 0; i < kMost; ++i) {
        const Then then = interpret();
        if (then != Then::Again || cpu_.rip >> 12U != page) {
            return then;
        }
    }
    return Then::Refused;
}

// The instruction is executed anew by the translator: SYSCALL has left RCX and R11 as it will
// again.
DirectRunner::Then DirectRunner::serve_system_call() {
    counters_.kernel_entries.fetch_add(1, std::memory_order_relaxed);
    std::uint8_t bytes[2] = {};
    constexpr std::uint64_t kVsyscallPage = 0xffffffffff600000;
    const bool read = fetch_code(cpu_, cpu_.rip - 2, bytes, 2) == 2;
    cpu_.exception = {};  // a fetch that failed is raised again where it belongs
    const bool call =
        read && ((bytes[0] == 0x0f && bytes[1] == 0x05) || (bytes[0] == 0xcd && bytes[1] == 0x80));
    if (call) {
        cpu_.rip -= 2;
        return Then::Refused;
    }
    // The host's page of legacy system calls: the kernel has emulated the return, its number is in
    // RAX.
    constexpr std::uint64_t kNumbers[3] = {96, 201, 309};
    for (std::uint64_t i = 0; i < 3; ++i) {
        if (cpu_.gpr[x86::Rax] == kNumbers[i]) {
            cpu_.rip = kVsyscallPage + i * 0x400;
            cpu_.gpr[x86::Rsp] -= 8;
            break;
        }
    }
    return Then::Refused;
}

DirectRunner::Then DirectRunner::serve_trap(const StubExit& exit) {
    if (exit.trap == x86::vector::kDb && (cpu_.rflags & fl::kTf) == 0) {
        // INT1, which some hosts report before it and some behind it.
        constexpr std::uint8_t kInt1 = 0xf1;
        std::uint8_t byte = 0;
        const bool behind = fetch_code(cpu_, cpu_.rip - 1, &byte, 1) == 1 && byte == kInt1;
        cpu_.exception = {};
        cpu_.rip -= behind ? 1 : 0;
        return Then::Refused;
    }
    if (exit.trap == x86::vector::kDb) {
        cpu_.dr6 |= kDr6SingleStep;
        cpu_.exception = {};
        cpu_.exception.vector = x86::vector::kDb;
        cpu_.exception.trap = true;
        cpu_.exception.pending = true;
        return Then::Exception;
    }
    // The host lets user code have INT3 and INTO, INT 3 and INT 4, and reports them behind it.
    if (exit.trap == x86::vector::kBp || exit.trap == x86::vector::kOf) {
        const std::uint8_t one_byte = exit.trap == x86::vector::kBp ? 0xcc : 0xce;
        std::uint8_t byte = 0;
        const bool one = fetch_code(cpu_, cpu_.rip - 1, &byte, 1) == 1 && byte == one_byte;
        cpu_.exception = {};
        cpu_.rip -= one ? 1 : 2;
        return Then::Refused;
    }
    return interpret();
}

DirectRunner::Then DirectRunner::interpret() {
    counters_.interpreted.fetch_add(1, std::memory_order_relaxed);
    const StepResult result = interpret_one(cpu_);
    save_vector_state(cpu_);
    if (result == StepResult::Exception) {
        return Then::Exception;
    }
    if (cpu_.request.load(std::memory_order_acquire) != 0 ||
        window_open(cpu_, result == StepResult::EndBlock)) {
        return Then::Polled;
    }
    return eligible() ? Then::Again : Then::Refused;
}

std::string DirectRunner::report() const {
    const auto get = [](const std::atomic<std::uint64_t>& counter) {
        return counter.load(std::memory_order_relaxed);
    };
    const DirectCounters& c = counters_;
    constexpr double kMs = 1e6;
    return fmt::format(
        "direct: runs {} native-ms {:.1f} cost-ms {:.1f} kernel-entries {} guest-faults {} "
        "mapping-faults {} kicks {} interpreted {} refused {}\n"
        "direct: pages {} orders {} validations {} stubs {} recycled {} lost {} given-up {} "
        "sensitive-pages {} scans {}\n",
        get(c.runs), static_cast<double>(get(c.native_ns)) / kMs,
        static_cast<double>(get(c.cost_ns)) / kMs, get(c.kernel_entries), get(c.guest_faults),
        get(c.mapping_faults), get(c.kicks), get(c.interpreted), get(c.refused),
        get(c.pages_mapped), get(c.orders), get(c.validations), get(c.stubs), get(c.recycled),
        get(c.lost), get(c.given_up), get(c.sensitive_pages), get(c.scans));
}

}  // namespace strata::engine::soft
