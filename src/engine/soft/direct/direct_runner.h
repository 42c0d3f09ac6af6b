// DirectRunner: one vCPU's user code on the host's processor, in stub processes: tier 3 of the
// software CPU.
//
// For each address space that is worth it (direct_events.h) a stub (stub_process.h) with a
// ShadowMap. run() brings the stub's mappings up to date with what the guest flushed, enters it,
// and serves what it comes back with: a page that the guest's tables grant is mapped, with its
// neighbours; a page fault of the guest, an interrupt request or a system call goes to the run
// loop; anything else is the interpreter's or the translator's. What a stub reports is taken as
// guest registers only: why it stopped is found out anew from them.
//
// Never in a stub: other modes than flat 64-bit user code, single-stepping, alignment checks, dirty
// logging, device pages, writes to pages with translated code, pages that are writable and
// executable at once, pages with sensitive instructions (page_scan.h), protection keys but 0.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/mutex.h"
#include "engine/soft/direct/direct_events.h"
#include "engine/soft/direct/direct_worth.h"
#include "engine/soft/direct/scanned_pages.h"
#include "engine/soft/direct/shadow_map.h"
#include "engine/soft/direct/stub_process.h"
#include "engine/soft/mmu/mmu.h"
#include "engine/soft/runtime/executor.h"

namespace strata::engine::soft {

class GuestRegion;
struct GuestPage;

/// Of one vCPU; relaxed.
struct DirectCounters {
    std::atomic<std::uint64_t> runs{0}, kernel_entries{0}, guest_faults{0}, mapping_faults{0},
        kicks{0}, interpreted{0}, refused{0};
    std::atomic<std::uint64_t> pages_mapped{0}, orders{0}, validations{0}, stubs{0}, recycled{0},
        lost{0}, given_up{0}, sensitive_pages{0}, scans{0};
    std::atomic<std::uint64_t> native_ns{0}, cost_ns{0};
};

class DirectRunner {
  public:
    /// For the vCPU `cpu`, whose `direct` it sets. `always`: whether or not it is worth it.
    DirectRunner(CpuState& cpu, Zygote& zygote, std::uint64_t tsc_khz, bool always);
    ~DirectRunner();
    DirectRunner(const DirectRunner&) = delete;
    DirectRunner& operator=(const DirectRunner&) = delete;

    enum class Outcome : std::uint8_t { Polled, Exception, Refused };
    /// Runs user code from cpu.rip on. Refused: the translator has to go on. On the vCPU's thread.
    Outcome run() noexcept;
    /// A request bit was set: leaves guest code. Any thread.
    void kick() noexcept;
    [[nodiscard]] std::string report() const;
    /// How often stubs were entered. Any thread.
    [[nodiscard]] std::uint64_t runs() const {
        return counters_.runs.load(std::memory_order_relaxed);
    }

  private:
    struct Stub {
        std::unique_ptr<StubProcess> process;
        ShadowMap map;
        std::vector<bool> writable;  // by RAM page: may be mapped for writing
        // By their numbers of 2 MiB and of 1 GiB: where something may be mapped of a page that size
        // or larger. Only the look at everything in the region takes one out again.
        std::unordered_set<std::uint64_t> large, huge;
        std::uint64_t root = 0;  // of CR3: where the page tables are
        std::uint64_t pcid = 0;  // whose flushes were looked at
        std::uint64_t flushes = 0;
        std::uint64_t head = 0;
        std::uint64_t last_use = 0;
        std::uint64_t faulted = 0;  // where the guest's kernel was to make a page; 0: nowhere
        MemAccess fault_access = MemAccess::Read;
        StubWindow window;
    };
    enum class Fault : std::uint8_t { Mapped, Exception, Refused };
    enum class Then : std::uint8_t { Again, Polled, Exception, Refused };

    [[nodiscard]] bool eligible() const;
    [[nodiscard]] Stub* current_stub() const;
    [[nodiscard]] Stub* stub_for_space();
    [[nodiscard]] Stub* take_stub();
    [[nodiscard]] std::uint64_t find_base() const;
    void discard(Stub& stub);
    [[nodiscard]] std::uint64_t pcid() const;
    [[nodiscard]] std::uint64_t flushes_now() const;
    [[nodiscard]] bool keep_within_budget(const Stub& stub);
    [[nodiscard]] bool bring_up_to_date(Stub& stub);
    [[nodiscard]] bool validate(Stub& stub);
    std::uint64_t validate_leaf(Stub& stub, std::uint64_t first, ShadowMap::Leaf& leaf);
    [[nodiscard]] bool validate_flushed(Stub& stub, std::uint64_t page);
    static void note_size(Stub& stub, const GuestRegion& region, std::uint64_t linear);
    [[nodiscard]] bool apply(Stub& stub);
    [[nodiscard]] ShadowPage wanted(std::uint64_t linear, const GuestRegion& region, ShadowPage now,
                                    MemAccess access, bool flushed = false);
    [[nodiscard]] bool scan(std::uint64_t linear, std::uint64_t ram_page);
    [[nodiscard]] bool forget_code(const GuestPage& page);
    [[nodiscard]] Fault map_fault(Stub& stub, std::uint64_t linear, MemAccess access);
    void map_after_fault(Stub& stub);
    void map_neighbours(Stub& stub, const GuestRegion& region, std::uint64_t linear);
    void set_page(Stub& stub, std::uint64_t page, ShadowPage entry);

    [[nodiscard]] Then enter(Stub& stub);
    [[nodiscard]] StubRegisters registers_out() const;
    [[nodiscard]] bool registers_in(const StubRegisters& registers);
    [[nodiscard]] bool load_selectors(const StubRegisters& registers);
    [[nodiscard]] Then serve(Stub& stub, const StubExit& exit);
    [[nodiscard]] Then serve_system_call();
    [[nodiscard]] Then serve_trap(const StubExit& exit);
    [[nodiscard]] Then interpret();
    [[nodiscard]] Then step_off_page(Stub& stub);
    [[nodiscard]] Then lost(Stub& stub);
    void judge(UserSpace& space, Stub* stub, std::uint64_t cpu_began);

    CpuState& cpu_;
    Zygote& zygote_;
    std::unique_ptr<DirectEvents> events_;
    std::uint64_t cycles_per_us_;
    static constexpr std::size_t kStubs = 6;
    std::array<std::unique_ptr<Stub>, kStubs> stubs_;
    DirectCounters counters_;
    std::uint64_t mapping_cost_ = 0;  // of this run()'s: ns, about
    ScannedPages scanned_;
    bool flipped_ = false;  // a page that is written and executed in turn: no investment
    std::uint64_t last_fault_ = 0;
    std::uint32_t same_faults_ = 0;
    bool unusable_ = false;  // the host refuses stubs
    bool checked_ = false;   // whether the vCPU's model was compared
    std::atomic<bool> inside_{false};
    Mutex mutex_;
    StubProcess* running_ STRATA_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace strata::engine::soft
