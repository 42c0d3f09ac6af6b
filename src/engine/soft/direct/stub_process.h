// StubProcess: one process that executes guest user code on the host's processor, as its VMM sees
// it.
//
// Between two runs the stub's only thread with guest code is known to wait in the kernel: the gate
// is closed, and requeueing the waiters of the gate's futex counted one. Only then is anything in
// the area believed, are mappings changed (by the helper thread, which obeys nothing but the orders
// pages) and does the vCPU do anything else. Guest code can forge every report, which gains it
// nothing: its registers are its own anyhow, and an untrue end of a run is found out by the count.
// A kick closes the gate before it signals, so that no report decides whether the handler goes on
// again; a stub that has run on for two seconds when it is kicked once more is killed.
//
// Used by its vCPU's thread alone, but for kick().
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

#include "base/mmap_region.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "engine/soft/direct/stub_layout.h"
#include "engine/soft/direct/zygote.h"

namespace strata::engine::soft {

/// What a processor's user code can see and change of its registers, but for vector values.
struct StubRegisters {
    std::uint64_t gpr[16];  ///< ModRM order
    std::uint64_t rip, rflags, fs_base, gs_base;
    std::uint16_t cs, ss, ds, es, fs, gs;
};

/// How a run ended.
struct StubExit {
    int signal = 0;
    std::uint32_t trap = 0;  ///< exception vector
    std::uint32_t error = 0;
    std::uint64_t address = 0;  ///< of a page fault
    bool entered = true;        ///< false: a signal came first, or a kick; registers were not read
    StubRegisters registers{};
};

class StubProcess {
  public:
    /// A stub whose area lies at `base`. Takes a millisecond or so.
    static Result<std::unique_ptr<StubProcess>> create(Zygote& zygote, std::uint64_t base);
    ~StubProcess();
    StubProcess(const StubProcess&) = delete;
    StubProcess& operator=(const StubProcess&) = delete;

    [[nodiscard]] std::uint64_t base() const { return base_; }
    /// Whether an address is the area's own.
    [[nodiscard]] bool owns(std::uint64_t address) const {
        return address - base_ < sizeof(StubArea);
    }

    /// Runs guest code from these registers and this XSAVE image, which is replaced by what it ends
    /// with (unchecked: to be sanitized). False: the process is lost, and the guest's registers
    /// with it.
    [[nodiscard]] bool run(const StubRegisters& registers,
                           std::span<std::byte, arch::x86::kXsaveBytes> xsave, StubExit& exit);
    /// How much processor time it may spend behind a kick before the next one kills it.
    static constexpr std::uint64_t kPatienceNs = 2'000'000'000;
    /// Pulls it out of guest code, now or as soon as it enters. Any thread.
    /// Not from two threads at once.
    void kick(std::uint64_t patience_ns = kPatienceNs);
    /// Maps and unmaps, nothing of the area's own. False: not all could be done; the stub must not
    /// run again.
    [[nodiscard]] bool apply(std::span<const StubMap> maps);

    /// The processor time it has taken, in ns.
    [[nodiscard]] std::uint64_t cpu_time() const;

  private:
    StubProcess(MmapRegion area, std::uint64_t base) : area_(std::move(area)), base_(base) {}
    [[nodiscard]] StubArea& area() const;
    [[nodiscard]] bool wait_for(std::uint32_t& word, std::uint32_t value, std::uint32_t spins,
                                bool gated);
    void signal(int number) const;
    [[nodiscard]] bool stopped();
    /// A thread of the stub, by its notification: while the VMM has it the thread waits.
    struct Waiting {
        int thread = 0;
        std::uint64_t id = 0;  ///< 0: it does not wait
    };
    [[nodiscard]] bool receive(Waiting& who);
    [[nodiscard]] bool release(Waiting& who);
    [[nodiscard]] bool start();
    [[nodiscard]] bool finish_run();
    [[nodiscard]] bool finish_order();
    [[nodiscard]] bool alive() const;
    [[nodiscard]] bool read_context(std::span<std::byte, arch::x86::kXsaveBytes> xsave,
                                    StubExit& exit) const;

    MmapRegion area_;
    std::uint64_t base_;
    UniqueFd process_, listener_;
    Waiting guest_, helper_;
    std::uint32_t runs_ = 0;
    std::uint32_t orders_ = 0;
    int pid_ = 0;
    static constexpr std::uint64_t kNotKicked = ~std::uint64_t{0};
    /// The stub's processor time at this run's first kick.
    std::atomic<std::uint64_t> kicked_at_{kNotKicked};
};

}  // namespace strata::engine::soft
