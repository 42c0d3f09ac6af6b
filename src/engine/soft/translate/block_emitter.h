// BlockEmitter: the host code of one block.
//
// Template translation: each guest instruction is copied with registers renamed and its memory
// operand replaced by a host address that came through an inline TLB check. Slow paths, exit stubs
// and vector loading stand behind the block's main path.
//
// Invariants that precise exceptions and safety rest on:
//   - between two instructions of the main path all guest registers are in their homes, but where
//   the next one is calm: it cannot fault, leave or call anything, and scratch registers may hold
//   what belongs to guest r9 to r11 (block_homes.cc);
//   - an instruction does every check that can fault before it changes anything; a slow path starts
//   the instruction anew;
//   - a host address is used only if the very same instruction, or the group check of its run of
//   stack accesses, compared the page
//     tag with the address in the register that is used, and nothing between could change that
//     register or flush;
//   - a size given to a check covers every byte the host instruction may touch, and never more than
//   a page.
#pragma once

#include <array>
#include <memory>
#include <memory_resource>
#include <span>
#include <vector>

#include "engine/soft/cache/block_table.h"
#include "engine/soft/emit/assembler.h"
#include "engine/soft/translate/analysis.h"
#include "engine/soft/translate/glue.h"
#include "engine/soft/translate/loops.h"

namespace strata::engine::soft {

/// Each optimisation can be switched off, to find out which one is wrong.
struct TranslateOptions {
    bool group_stack = true;         ///< one check for a run of stack accesses
    bool group_runs = true;          ///< one check for a run of accesses off one register
    bool hold_registers = true;      ///< guest r9 to r11 in scratch registers for a while
    bool hoist_loops = true;         ///< one check for many iterations of a loop
    bool quick_fills = true;         ///< … made by the loop itself where that is simple
    bool unroll_loops = true;        ///< several iterations of a short loop in one block
    bool extend_blocks = true;       ///< go on behind a conditional branch that is not taken
    bool chain = true;               ///< direct jumps between blocks
    bool chain_pages = true;         ///< … also across pages, guarded
    bool jump_cache = true;          ///< inline lookup of indirect targets
    bool return_stack = true;        ///< calls and returns by the host's own
    bool track_flags = true;         ///< false: every check saves and restores the flags
    bool interpret_in_place = true;  ///< blocks call the interpreter and go on
    bool direct_faults =
        true;  ///< page faults enter the guest's handler without leaving translated code
    bool inline_system = true;  ///< the most frequent of them are done in place
    bool direct_system = true;  ///< system instructions are called decoded; those that go elsewhere
                                ///< go on through the jump cache
    bool vectors = true;        ///< false: vector instructions go to the interpreter
    bool float_blocks = true;   ///< blocks of user code far up serve all addresses of their page
    bool float_all = false;     ///< … and so do all others, for tests
    bool check_rewritten = true;   ///< blocks of code that is rewritten often compare its bytes
    bool check_early = false;      ///< … when it was rewritten once, for tests
    std::uint32_t max_units = 48;  ///< instructions in a block
    bool small_cache = false;      ///< 4 MiB of code memory, to see evictions
    // To standard error, see trace.h:
    bool trace_decode = false, trace_blocks = false, trace_code = false, trace_exits = false;
    int profile_fd = -1;     ///< blocks count their executions; where that is written at the end
    bool report = false;     ///< print the counters at the end
    bool direct = false;     ///< user code in stub processes (direct/), where the host allows
    bool no_direct = false;  ///< never
    bool always_direct = false;  ///< … whether or not that is worth it, for tests
};

/// What a block is made from.
struct BlockSource {
    std::uint64_t rip = 0;  ///< as Block::rip
    std::uint64_t page = 0;
    std::uint64_t ram_offset = 0;
    std::uint32_t key_mode = 0;
    bool floating = false;
    bool ungrouped = false;
    bool flat = false;  ///< a loop whose checks were hoisted, and that did not pay
    /// Where its bytes are in the host, if the block is to compare them (block_checked.cc), else
    /// null.
    const std::byte* checked_at = nullptr;
    std::uint64_t next_page =
        0;  ///< RAM offset of the next page, if rip is near its page's end and that can be fetched
    std::uint64_t second_offset =
        0;  ///< RAM offset of the next page, if the only instruction reaches into it
};

/// A checked block ends with the instruction that reaches this.
inline constexpr std::size_t kMostCheckedBytes = 64;
/// Whether the instruction's immediate can be read where it stands.
[[nodiscard]] bool reads_immediate(const Instruction& insn);
/// Whether the unit may store, so that a checked block has to end behind it.
[[nodiscard]] bool may_store(const Unit& unit);

/// Whether tier 1 can emit code for the instruction under `mode`; otherwise the interpreter
/// executes it.
[[nodiscard]] bool can_translate(const Instruction& insn, std::uint32_t mode);
/// Whether it usually goes on with the next one, so that the block can call the interpreter and
/// continue.
[[nodiscard]] bool can_interpret_in_place(const Instruction& insn);
/// Whether a system instruction can be done in place under `mode`.
[[nodiscard]] bool can_inline(const Instruction& insn, std::uint32_t mode);
/// The same for strings: REP STOS and REP MOVS of 64-bit code.
[[nodiscard]] bool can_inline_string(const Instruction& insn);
/// Whether it never goes on with the next one within the block.
[[nodiscard]] bool leaves_block(const Instruction& insn);

/// A scratch register that holds a guest register of those that live in memory; `dirty`: memory has
/// an older value.
struct Held {
    Reg reg = Reg::R10;
    std::int8_t guest = -1;
    bool dirty = false;
};
inline constexpr std::array<Held, 2> kNoneHeld = {Held{Reg::R10}, Held{Reg::R11}};

class BlockEmitter {
  public:
    /// `units` are instructions that can_translate() allowed, in order; the last may be a branch.
    /// `stop`: the instruction behind them is the interpreter's. `base` is where the code memory
    /// begins, `cold` where cold code will run, `scratch` memory to work in.
    BlockEmitter(Assembler& a, const Glue& glue, const TranslateOptions& options,
                 const BlockSource& source, std::vector<Unit>& units, bool stop, std::uint64_t base,
                 std::uint64_t cold, std::span<std::byte> scratch);
    /// Emits everything and returns the block, but for its code bytes.
    std::unique_ptr<Block> emit();

  private:
    /// How to compute the linear address of an access into r10.
    struct Address {
        enum class Kind : std::uint8_t { Operand, Stack, FramePointer } kind = Kind::Operand;
        std::int32_t displacement = 0;
    };
    struct SlowSite {
        Label entry, resume, after;
        std::size_t unit = 0;
        Address address;
        std::uint32_t word = 0;
        bool live = false;
    };
    struct StackSite {
        Label entry, back;
        std::size_t unit = 0;
        FlagsPlace flags = FlagsPlace::Dead;
        bool live = false;
    };
    struct RunSite {
        Label entry, back;
        std::size_t unit = 0;
        FlagsPlace flags = FlagsPlace::Dead;
        bool live = false;
    };
    struct BailSite {
        Label entry;
        std::size_t unit = 0;
        FlagsPlace flags = FlagsPlace::Dead;
        bool live = false;
    };
    struct SystemSite {
        Label entry, back;
        std::size_t unit = 0;
        bool live = false;
    };
    struct StringSite {
        Label entry, slow;
    };
    struct VectorSite {
        Label entry, back;
    };
    struct JumpMiss {
        Label entry, refused;
        std::int32_t released;
        bool is_return =
            false;  ///< the return stack disagreed: it is emptied, then the jump table is asked
        bool host_flags = false;  ///< to be put away first
    };
    struct CallMiss {
        Label entry, landing;
    };
    struct PendingExit {
        Label stub;
        Exit exit;
    };

    void analyse_unit_flags();
    /// What the units need of each other, and which optimisations they get.
    void analyse_block();
    void count_execution(Block& block);
    void check_bytes(Block& block);
    void emit_checked_head(Block& block, FlagsNeed need);
    void emit_patched(const Unit& unit);
    void emit_head();
    void emit_loop_head(Block& block);
    void emit_fill_call(Label body);
    void plan_fill();
    void emit_quick_fill(Label body);
    void quick_base(std::uint32_t number, bool first);
    /// r10 = where the base's range begins now, and where the host's address is to be counted from.
    void quick_address(const LoopWindows::Base& base);
    [[nodiscard]] Reg stepper_home(const LoopWindows::Base& base) const;
    void load_pinned();
    void emit_quick_fill_site();
    void note_loop_end();
    void check_or_bail(const Unit& unit, std::uint32_t bytes, bool write);
    void emit_loop_sites();
    /// r11 = the TLB entry for the linear address in r10. Clobbers flags.
    void tlb_entry();
    /// Jumps to `miss` unless the access at r10 is in a page that the TLB knows, else r10 = its
    /// host address. Clobbers r11 and flags.
    void tlb_check(std::uint32_t bytes, bool write, Label miss);
    [[nodiscard]] Mem hoisted_operand(const Unit& unit);
    void check_second_page();
    void check_floating_second_page();
    /// `to` = the linear address of what the block knows as `rip`. Leaves flags alone.
    void load_linear(Reg to, std::uint64_t rip);
    [[nodiscard]] bool constant_address(const Unit& unit, std::uint64_t& linear) const;
    void emit_unit(std::size_t index);
    void emit_translated(const Unit& unit);
    void emit_interpreted(const Unit& unit);
    void emit_system(const Unit& unit);
    void emit_inlined(const Unit& unit);
    void emit_access_flag(const Unit& unit, bool set);
    void emit_interrupt_flag(const Unit& unit, bool set);
    void emit_swapgs();
    void emit_rdtsc(const Unit& unit);
    void emit_pushfq(const Unit& unit);
    void emit_read_control(const Unit& unit);
    void emit_invlpg(const Unit& unit);
    void emit_string(const Unit& unit);
    /// r10 = host address of the elements from `first` on, if rcx of them lie in its page and the
    /// TLB knows that; else to `slow`. Clobbers rdi, r11 and flags.
    void string_range(Reg first, unsigned size, bool write, Label slow);
    void emit_system_sites();
    void reload_flags(const Unit& unit);
    void emit_copy(const Unit& unit);
    /// A data instruction of which one operand is a guest register in memory: works on that memory,
    /// if there is such a form and that register is not worth holding. Else false.
    bool emit_on_home(const Unit& unit);
    /// Whether emit_on_home() does it and needs no other register for that, if none is held.
    [[nodiscard]] static bool works_on_home(const Instruction& insn);
    /// Whether the code of a loop's unit leaves r10 and r11 alone.
    [[nodiscard]] static bool spares_scratch(const Unit& unit);
    void emit_lea(const Unit& unit);
    void emit_calm_lea(const Unit& unit);
    /// Whether the unit can neither fault nor leave nor call anything, nor clobber what is held.
    [[nodiscard]] bool calm(const Unit& unit) const;
    /// Whether a calm instruction soon reads what the guest register has then.
    [[nodiscard]] bool soon_read(unsigned guest) const;
    /// The scratch register that holds guest r9 to r11, or null.
    [[nodiscard]] Held* holder(unsigned guest);
    /// The scratch register of a guest register from now on, with its value if `load`. `busy`:
    /// guest registers that must stay held; `r10_taken`: r10 has other work.
    Reg hold(unsigned guest, bool load, std::uint16_t busy, bool r10_taken);
    void note_written(unsigned guest);
    /// Whether what is held, and in memory too, stays good while the unit begins.
    [[nodiscard]] bool keeps_held(const Unit& unit) const;
    /// Brings what is held to where it has to be when the unit begins.
    void prepare_held(const Unit& unit);
    void release(Held& held);
    Reg address_register(std::int8_t guest, std::int8_t other, Reg temporary);
    /// Brings what is held into memory; it stays held.
    void write_back();
    /// Nothing is held any more; all is in memory.
    void drop_held() { held_ = kNoneHeld; }
    void write_back_and_drop() {
        write_back();
        drop_held();
    }
    void emit_stack(const Unit& unit);
    void emit_push(const Unit& unit);
    void emit_pop(const Unit& unit);
    void emit_leave(const Unit& unit);
    void emit_flow(const Unit& unit);
    void emit_call(const Unit& unit, bool indirect);
    void emit_return(const Unit& unit);
    void emit_loop(const Unit& unit);
    void refuse_target(Label refused);
    void emit_indirect_jump(const Unit& unit, std::int32_t released);
    void emit_jump_misses();
    void push_return(std::uint64_t next);
    void emit_landing(Label landing, std::uint64_t call, std::uint64_t next);
    void call_exit(std::uint64_t target);
    void emit_predicted_return(const Unit& unit, std::int32_t released);
    void emit_end();
    void emit_cold();

    void address_of_operand(const Unit& unit);
    void emit_address(const Unit& unit, const Address& address);
    /// r10 = what is to be added to a linear address of the stack group, of the run, unless it is
    /// there already.
    void load_stack_host();
    void load_delta(std::int8_t slot);
    /// Whether the code of the unit leaves r10 alone.
    [[nodiscard]] bool keeps_r10(const Unit& unit) const;
    /// r10 = host address of the access.
    void check(const Unit& unit, const Address& address, std::uint32_t bytes, bool write);
    void constant_check(std::uint64_t linear, bool write, Label slow);
    void group_check(const Unit& unit);
    void run_address(const Unit& unit);
    void run_check(const Unit& unit);
    /// Emits what begin_clobber() emits for kept flags.
    void flags_into_rax();
    void vector_check(const Unit& unit);
    /// Host flags are about to be lost: puts them where they are needed. True: they are kept in rax
    /// and come back in end.
    bool begin_clobber(const Unit& unit);
    void end_clobber(bool live);
    void put_away_flags();
    void drop_host_flags();
    [[nodiscard]] FlagsPlace flags_place() const;
    /// r11 = the value of a guest register (or the register itself if it lives in one).
    Reg source_register(unsigned guest, Reg temporary);

    void jump_exit(std::uint64_t target);
    void branch_exit(Cond cond, std::uint64_t target);
    Label exit_label(std::uint64_t target, Exit::Kind kind, std::uint32_t patch, FlagsPlace flags);
    void emit_exit_here(std::uint64_t target, Exit::Kind kind, FlagsPlace flags, bool ungrouped);
    void emit_slow_sites();
    void emit_stack_sites();
    void emit_run_sites();
    void bail_out(const Unit& unit, FlagsPlace flags);
    void emit_exit_stubs();
    void mark(std::size_t unit);
    /// Offset in the code memory.
    [[nodiscard]] std::uint32_t here() const {
        return static_cast<std::uint32_t>(a_.here() - base_);
    }

    Assembler& a_;
    const Glue& glue_;
    const TranslateOptions& options_;
    const BlockSource& source_;
    std::vector<Unit>& units_;
    bool stop_;
    std::uint64_t base_, cold_;
    std::size_t current_ = 0;
    Label after_;
    bool host_valid_ = false, memory_valid_ = false;
    bool vectors_checked_ = false;
    static constexpr std::int8_t kNothing = -1, kStackHeld = -2;
    std::int8_t r10_holds_ = kNothing;  ///< the delta of this slot, or of the stack group
    std::array<Held, 2> held_ = kNoneHeld;
    bool after_used_ = false;  ///< a slow path goes on at `after_`, where nothing is held
    bool ended_ = false;
    std::pmr::monotonic_buffer_resource arena_;
    std::pmr::vector<SlowSite> slow_{&arena_};
    std::pmr::vector<StackSite> stack_{&arena_};
    std::pmr::vector<RunSite> run_{&arena_};
    std::pmr::vector<BailSite> bails_{&arena_};
    std::unique_ptr<LoopWindows> loop_;  ///< the block is a loop whose checks stand at its head
    std::uint32_t loop_entry_ = 0;
    Label loop_again_, loop_fill_;
    struct QuickFill {
        std::array<Reg, 2> free{};  ///< of guest registers that no base is made of
        Label miss, ask, body;
    } quick_;
    std::pmr::vector<VectorSite> vector_{&arena_};
    std::pmr::vector<SystemSite> system_{&arena_};
    std::pmr::vector<StringSite> strings_{&arena_};
    std::pmr::vector<JumpMiss> misses_{&arena_};
    std::pmr::vector<CallMiss> call_misses_{&arena_};
    std::pmr::vector<PendingExit> exits_{&arena_};
    std::pmr::vector<InsnMark> marks_{&arena_};
};

}  // namespace strata::engine::soft
