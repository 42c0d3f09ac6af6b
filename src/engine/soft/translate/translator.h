// Translator: the tier-1 engine of one machine: finds, makes, links and kills blocks, and runs
// them.
//
// One object serves all vCPUs. `mutex_` guards the block table, the code memory's allocation and
// all links; code is executed without it. Making a block: (1) the RAM page is marked as code and
// every vCPU's write tags for it are cut, without the lock, since that waits for the others; (2)
// under the lock the bytes are read, translated and published. A writer stores first and then takes
// the lock to kill what was made of the bytes, so no block made of older bytes survives its store.
// Killed blocks are unlinked: jumps to them go back to their stubs and the thunk that indirect
// jumps use is overwritten. Their code stays until its region of the code memory is used again,
// which happens while every vCPU is at a safe point. A block's thunks may be in a later region than
// the block, never in an earlier one: what leads to them is unlinked with the block.
//
// Chaining: within a page jumps go straight; across pages through a thunk that compares the vCPU's
// own record of the target page's fetch translation (TranslatorState::code_pages), which the MMU
// empties with its TLB. Indirect jumps hit a per-vCPU cache by whole linear address; the thunk
// behind it compares mode word, request and page, so a stale entry is never taken. A miss looks
// into the block index without leaving translated code (find_target).
#pragma once

#include <atomic>
#include <memory>
#include <unordered_set>

#include "base/mutex.h"
#include "engine/soft/cache/block_table.h"
#include "engine/soft/cache/code_memory.h"
#include "engine/soft/cache/rewritten_lines.h"
#include "engine/soft/decode/classify.h"
#include "engine/soft/runtime/executor.h"
#include "engine/soft/runtime/host_faults.h"
#include "engine/soft/runtime/soft_vm.h"
#include "engine/soft/translate/block_emitter.h"
#include "engine/soft/translate/profile.h"
#include "engine/soft/translate/return_stack.h"
#include "engine/soft/translate/system_ops.h"

namespace strata::engine::soft {

/// Relaxed counters of everything that leaves the fast path. Not exact when several vCPUs count: an
/// exact count would cost more than some of what is counted.
struct TranslatorCounters {
    static void bump(std::atomic<std::uint64_t>& counter) {
        counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }

    std::atomic<std::uint64_t> blocks{0}, checked_blocks{0}, guest_bytes{0}, host_bytes{0};
    std::atomic<std::uint64_t> links{0}, page_links{0}, thunks{0};
    std::atomic<std::uint64_t> enters{0}, site_exits{0}, indirect_exits{0}, lookups{0};
    std::atomic<std::uint64_t> interpreted{0}, interpreted_in_block{0}, interpreted_in_place{0},
        slow_accesses{0}, loop_fills{0}, host_faults{0};
    static constexpr std::uint32_t kMnemonics = 2048;
    std::atomic<std::uint64_t> by_mnemonic[kMnemonics] =
        {};  ///< of interpreted_in_place; only for TranslateOptions::report
    std::atomic<std::uint64_t> invalidations{0}, killed{0}, evictions{0};
};

class Translator final : public Executor, public CodeInvalidator {
  public:
    /// For the vCPUs of `vm`, which outlives it. `cache_bytes`: the most that translated code may
    /// take. The caller sets vm.code.
    static Result<std::unique_ptr<Translator>> create(SoftVm& vm, const TranslateOptions& options,
                                                      std::uint64_t cache_bytes);

    ExecResult run(CpuState& cpu) noexcept override;
    void invalidate(CpuState* cpu, std::uint64_t ram_offset,
                    std::uint64_t length) noexcept override;
    [[nodiscard]] std::uint64_t blocks_translated() const noexcept override {
        return counters_.blocks.load(std::memory_order_relaxed);
    }
    [[nodiscard]] const TranslatorCounters& counters() const { return counters_; }
    /// The counters as text, one a line; with the instructions that the interpreter ran most, if
    /// they were counted.
    [[nodiscard]] std::string report() const;
    /// See BlockProfile. When no vCPU runs.
    [[nodiscard]] std::string profile();

    /// Slow path of a memory access that only the interpreter can do: runs the whole instruction.
    /// As GlueHelpers::slow_access.
    std::uint64_t interpret_in_block(CpuState& cpu, std::uint32_t site, std::uint64_t pc,
                                     bool vectors) noexcept;
    void count_interpreted(std::uint32_t mnemonic) {
        TranslatorCounters::bump(counters_.interpreted_in_place);
        if (options_.report) {
            counters_.by_mnemonic[mnemonic % TranslatorCounters::kMnemonics].fetch_add(
                1, std::memory_order_relaxed);
        }
    }
    /// Whether page faults enter the guest's handler from within translated code.
    [[nodiscard]] bool delivers_faults() const { return options_.direct_faults; }
    /// Changes whenever blocks are killed or evicted.
    [[nodiscard]] std::uint64_t killed() const {
        return counters_.killed.load(std::memory_order_acquire) +
               generation_.load(std::memory_order_acquire);
    }
    /// Where code for cpu.rip stands that an indirect branch may enter with flags in memory, or 0
    /// if there is none or a request waits. Enters it into the vCPU's jump table. For general
    /// registers only, without the lock.
    std::uint64_t find_target(CpuState& cpu) noexcept;
    /// Where code may be; without the lock, for general registers only. See stored_page.
    [[nodiscard]] const CodeLines& lines() const { return lines_; }
    /// A store to [ram_offset, +length) follows, by translated code at `pc`: kills what was made of
    /// those bytes. Whether the block of `pc` lives on. After save_vector_state().
    bool kill_before_store(std::uint64_t ram_offset, std::uint64_t length,
                           std::uint64_t pc) noexcept;
    /// Stores to that page found no code in it for a while: it need not be a page of code. After
    /// save_vector_state().
    void release_page(std::uint64_t ram_page) noexcept;
    void count_slow_access() { TranslatorCounters::bump(counters_.slow_accesses); }
    void count_loop_fill() { TranslatorCounters::bump(counters_.loop_fills); }
    /// The loop's block is made anew without windows.
    void flatten_loop(CpuState& cpu, const LoopWindows& loop) noexcept;

  private:
    static constexpr std::uint64_t kSpare = 64U << 10U;     ///< room for one block and its thunks
    static constexpr std::uint32_t kUngrouped = 1U << 30U;  ///< in Block::key_mode
    static constexpr std::uint32_t kVariants = kUngrouped | Block::kFloating;

    Translator(SoftVm& vm, const TranslateOptions& options, CodeLines lines);
    Result<> prepare_memory(std::uint64_t cache_bytes);
    static bool on_host_fault(void* self, HostFault& fault) noexcept;

    void enter_thread(CpuState& cpu);
    void reset_jumps(CpuState& cpu) const;
    void give_return_stack(CpuState& cpu);
    /// How to go on at cpu.rip.
    struct Next {
        Exit* from = nullptr;  ///< the exit that led there, to be linked
        bool ungrouped = false;
        bool interpret = false;        ///< one instruction by the interpreter first
        std::uint64_t generation = 0;  ///< of `from`
    };
    /// Sets cpu.rip to where a block was left through a stub, an exception or a host fault.
    Next after_block(CpuState& cpu);
    /// The block at cpu.rip, made if need be; null: the interpreter must execute the instruction.
    /// Links `next.from` to it.
    Block* block_for(CpuState& cpu, const Next& next);
    /// Where in RAM the code at `linear` lies; false: not in RAM, or the fetch faults. Notes it in
    /// code_pages.
    bool locate_code(CpuState& cpu, std::uint64_t linear, std::uint64_t& ram_offset) const;
    /// Whether the block at cpu.rip serves all addresses of its page. Few programs that are linked
    /// to fixed addresses lie as high as libraries do.
    [[nodiscard]] bool floats(const CpuState& cpu, std::uint64_t ram_offset) const {
        return options_.float_blocks && ram_offset >> 12 < TranslatorState::kRamPagesWithHome &&
               (options_.float_all || (cpu.cpl == 3 && cpu.rip >> 32 != 0 && cpu.rip >> 47 == 0));
    }
    /// Of the page behind that of cpu.rip, for instructions that may reach into it; 0: none.
    std::uint64_t locate_next_page(CpuState& cpu) const;
    /// Whether the pages that `source` is made from are marked as code.
    [[nodiscard]] bool pages_are_code(const BlockSource& source) const;
    /// Makes every page of `source` a code page.
    void protect_pages(CpuState& cpu, const BlockSource& source);
    void connect(CpuState& cpu, Block& block, const Next& next) STRATA_REQUIRES(mutex_);
    /// `indirect`: an indirect branch led there, so the block is made with its thunk before it.
    /// Null: the first instruction reaches into the next page; source.second_offset is set then, if
    /// that can be fetched.
    Block* translate(CpuState& cpu, BlockSource& source, bool indirect) STRATA_REQUIRES(mutex_);
    /// Whether the block is to be a checked one.
    void choose_checked(BlockSource& source) const STRATA_REQUIRES(mutex_);
    /// Whether the unit just decoded, `at` bytes into the block, is the last of it for the sake of
    /// code that is rewritten. It may be taken back.
    bool ends_checked(const BlockSource& source, std::uint64_t at, std::uint64_t rewritten)
        STRATA_REQUIRES(mutex_);
    /// Into units_.
    void decode_units(const BlockSource& source, std::uint32_t mode, bool& stop, bool& reaches_on)
        STRATA_REQUIRES(mutex_);
    /// As the options say.
    void trace(const Block& block, std::uint64_t page) STRATA_REQUIRES(mutex_);
    void traced(const CpuState& cpu) const;  ///< an exit
    void link(Exit& from, Block& to) STRATA_REQUIRES(mutex_);
    std::uint32_t entry_for(const Exit& from, Block& to) STRATA_REQUIRES(mutex_);
    std::uint32_t make_thunk(const Block& to, bool check_page, bool host_flags)
        STRATA_REQUIRES(mutex_);
    /// From a floating block to one of another page.
    std::uint32_t make_hop(const Exit& from, const Block& to, bool host_flags)
        STRATA_REQUIRES(mutex_);
    /// Space before a block for its thunk, a multiple of 16.
    static std::uint64_t thunk_room(bool floating) { return floating ? 80 : 64; }
    /// The thunk of indirect branches, with the block behind it.
    void emit_indirect_thunk(Assembler& a, const Block& to) const;
    void emit_entry(Assembler& a, const Block& to, bool host_flags) const;
    std::uint32_t make_return_thunk(const Block& to) STRATA_REQUIRES(mutex_);
    std::uint32_t make_indirect_thunk(const Block& to, bool falls_through) STRATA_REQUIRES(mutex_);
    void remember_jump(CpuState& cpu, Block& to) STRATA_REQUIRES(mutex_);
    void kill(Block& block) STRATA_REQUIRES(mutex_);
    /// A checked block that was left since its bytes have changed; or since they have not.
    void retire(Block& block, bool settled) STRATA_REQUIRES(mutex_);
    void kill_range(std::uint64_t ram_offset, std::uint64_t length) STRATA_REQUIRES(mutex_);
    /// Whether no other vCPU may be storing to the pages that the block was made from.
    [[nodiscard]] bool settled(const CpuState& cpu, const Block& block) const;
    /// Whether the bytes that the last block was made from are still there; after settled().
    [[nodiscard]] bool unchanged(const BlockSource& source) const STRATA_REQUIRES(mutex_);
    /// Waits until such stores are done.
    void settle(CpuState& cpu);
    void unlink_incoming(Block& block) const STRATA_REQUIRES(mutex_);
    /// Takes the exits of blocks in `region` off the list.
    void forget_incoming(Block& block, std::uint32_t region) const STRATA_REQUIRES(mutex_);
    /// Goes on in the next region of the code memory, without what it held.
    void make_room(CpuState& cpu);
    /// While all vCPUs are at a safe point.
    void evict(std::uint32_t region) STRATA_REQUIRES(mutex_);
    /// The block whose code is at offset `at` of the code memory.
    [[nodiscard]] Block* locate(std::uint32_t at) const STRATA_REQUIRES(mutex_) {
        return table_.locate(memory_->region_of(at), at, memory_->is_cold(at));
    }

    /// One instruction by the interpreter. True: `result` says why the run loop must look.
    bool step(CpuState& cpu, ExecResult& result);
    static bool ends_run(CpuState& cpu, StepResult step, ExecResult& result);
    /// Runs from `block` on and puts the state in order afterwards.
    void execute(CpuState& cpu, const Block& block);

    SoftVm& vm_;
    TranslateOptions options_;
    std::unique_ptr<CodeMemory> memory_;
    Glue glue_;
    HostFaultRange faults_;
    std::uint64_t glue_end_ = 0;
    Mutex mutex_;
    BlockTable table_ STRATA_GUARDED_BY(mutex_);
    const BlockIndex& index_;  ///< table_'s: to be read without the lock
    const CodeLines& lines_;   ///< likewise
    std::unique_ptr<IsaSupport> isa_ STRATA_GUARDED_BY(mutex_);
    SystemOps system_ops_ STRATA_GUARDED_BY(mutex_);
    std::unordered_set<std::uint64_t> flat_loops_
        STRATA_GUARDED_BY(mutex_);  ///< RAM offsets of loops whose windows did not pay
    RewrittenLines rewritten_ STRATA_GUARDED_BY(mutex_);
    // Memory that one translation after the other uses.
    std::vector<std::uint8_t> buffer_ STRATA_GUARDED_BY(mutex_);
    std::vector<std::byte> scratch_ STRATA_GUARDED_BY(mutex_);
    std::vector<Unit> units_ STRATA_GUARDED_BY(mutex_);
    std::vector<Block*> killed_ STRATA_GUARDED_BY(mutex_);
    Assembler assembler_ STRATA_GUARDED_BY(mutex_);
    BlockProfile evicted_ STRATA_GUARDED_BY(mutex_);
    std::vector<ReturnStack> return_stacks_ STRATA_GUARDED_BY(mutex_);
    std::atomic<std::uint64_t> generation_{
        1};  ///< changes with every eviction: pointers to blocks and exits die
    TranslatorCounters counters_;
};

}  // namespace strata::engine::soft
