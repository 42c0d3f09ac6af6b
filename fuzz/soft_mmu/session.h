// Session: one input of fuzz_soft_mmu: a vCPU with its tables in the first 64 KiB, what the
// reference sees of them, and what is still binding.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "../input.h"
#include "engine/soft/mmu/mmu_state.h"
#include "engine/soft/runtime/soft_vm_fake.h"
#include "reference_walk.h"

namespace strata::fuzz {

using namespace strata::engine::soft;  // NOLINT(google-build-using-namespace): of a program

constexpr std::uint64_t kRamSize = 1U << 20;
constexpr std::uint64_t kArena = 64U << 10;
constexpr std::uint64_t kArenaPages = kArena >> 12;

class Session {
  public:
    Session(FakeSoftVm& vm, std::vector<std::byte>& memory)
        : vm_(vm), cpu_(*vm.cpus()[0]), memory_(memory) {}

    void reset(Input& input);
    void step(Input& input);
    void check_rest_is_untouched();

  private:
    /// A table entry that mostly leads to another page of the arena; now and then any 64 bits.
    void entry(Input& input, bool flushed);
    void control(Input& input);

    /// What needs no flush: privilege, AC, PKRU, and the bits that say how rights are read.
    void rights(Input& input);

    /// Partial flushes and address spaces; only the full one makes answers binding again.
    void flush(Input& input);
    void code_and_log(Input& input);
    void flush_all();
    [[nodiscard]] PagingState paging() const;

    /// Mostly addresses whose indexes are those that entry() fills.
    std::uint64_t address(Input& input);
    void access(Input& input, unsigned kind);
    [[nodiscard]] Access wanted(std::uint64_t linear, MemAccess access, Privilege privilege) const;

    struct Part {
        std::uint64_t physical;
        std::uint32_t size;
    };

    /// The reference's outcome of an access of `size` bytes; the parts are by page. Sets bits in
    /// memory_.
    Translation expect(std::uint64_t linear, std::uint32_t size, MemAccess access,
                       Privilege privilege);
    [[nodiscard]] std::uint64_t pointers(const PagingState& state) const;
    [[nodiscard]] std::string describe() const;

    /// What happened agrees with the reference: `translated` or the pending fault; and memory is as
    /// the reference left it.
    void compare(const Translation& expected, bool translated);
    [[nodiscard]] bool same(const Part& part, std::span<const std::byte> data) const;
    void compare_memory();
    void read(std::uint64_t linear, std::uint32_t size, Privilege privilege);

    /// Data that may be a table in use stays as it is: changing it would need a flush first.
    void write(std::uint64_t linear, std::uint32_t size, Privilege privilege, std::uint64_t filler);
    void check_logged(bool done);
    void point(std::uint64_t linear, MemAccess access, Privilege privilege);
    void ask(std::uint64_t linear, MemAccess access, Privilege privilege);

    /// Stops at the first byte that faults; only if it is the very first the fault is reported.
    void fetch(std::uint64_t linear, std::uint32_t size);

    FakeSoftVm& vm_;
    CpuState& cpu_;
    std::vector<std::byte>& memory_;  ///< the arena as the reference sees it
    std::vector<Part> parts_;
    std::uint64_t fault_at_ = 0;
    Access last_;
    std::uint64_t tables_ = 0;  ///< arena pages that were walked since the last full flush
    bool fresh_ = true;         ///< no change since the last flush could make a stale answer right
};

}  // namespace strata::fuzz
