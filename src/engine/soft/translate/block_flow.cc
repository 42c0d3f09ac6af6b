// BlockEmitter: stack instructions, branches, and what stands behind the main path.
#include <Zydis/Zydis.h>

#include "engine/soft/translate/block_emitter.h"
#include "engine/soft/translate/layout.h"
#include "engine/soft/translate/rewrite.h"

namespace strata::engine::soft {
namespace {

using enum Reg;

constexpr std::uint16_t kInMemory = 0x0E00;
constexpr std::uint8_t kRsp = 4;
bool in_memory(unsigned guest) {
    return ((kInMemory >> guest) & 1U) != 0;
}
Reg home_of(unsigned guest) {
    return Rewrite{}.home[guest];
}

}  // namespace

BlockEmitter::BlockEmitter(Assembler& a, const Glue& glue, const TranslateOptions& options,
                           const BlockSource& source, std::vector<Unit>& units, bool stop,
                           std::uint64_t base, std::uint64_t cold, std::span<std::byte> scratch)
    : a_(a),
      glue_(glue),
      options_(options),
      source_(source),
      units_(units),
      stop_(stop),
      base_(base),
      cold_(cold),
      arena_(scratch.data(), scratch.size()) {
    marks_.reserve(4 * units.size());
}

void BlockEmitter::mark(std::size_t unit) {
    const auto guest = static_cast<std::uint16_t>(units_[unit].rip - source_.rip);
    marks_.push_back(
        {static_cast<std::uint16_t>(a_.offset()),
         static_cast<std::uint16_t>(guest | (host_valid_ ? InsnMark::kHostFlags : 0))});
}

FlagsPlace BlockEmitter::flags_place() const {
    return host_valid_ ? FlagsPlace::Host : memory_valid_ ? FlagsPlace::Memory : FlagsPlace::Dead;
}

void BlockEmitter::analyse_unit_flags() {
    analyse_flags(units_);
    if (!options_.track_flags) {
        for (Unit& unit : units_) {
            unit.need_before = unit.need_after = FlagsNeed::Host;
        }
    }
}

void BlockEmitter::analyse_block() {
    analyse_unit_flags();
    if (source_.ungrouped) {
        return;
    }
    const bool plain = source_.checked_at == nullptr && source_.second_offset == 0;
    if (options_.hoist_loops && !source_.flat && plain) {
        loop_ = find_loop(units_, source_.ram_offset, source_.floating);
    }
    if (loop_ != nullptr) {
        plan_fill();
        return;
    }
    const std::size_t count = units_.size();
    // A profile counts iterations.
    if (plain && options_.unroll_loops && options_.group_runs && options_.profile_fd < 0 &&
        options_.max_units > 1 && unroll_loop(units_)) {
        analyse_unit_flags();
    }
    if (options_.group_runs && !group_base_accesses(units_) && units_.size() != count) {
        units_.resize(count);
        units_.back().goes_back = false;
        analyse_unit_flags();
    }
    if (options_.group_stack) {
        group_stack_accesses(units_);
    }
}

std::unique_ptr<Block> BlockEmitter::emit() {
    auto block = std::make_unique<Block>();
    block->ram_offset = source_.ram_offset;
    block->rip = source_.rip;
    block->met_at = source_.page;
    block->key_mode = source_.key_mode;
    block->second_offset = source_.second_offset;
    block->guest_length =
        static_cast<std::uint16_t>(units_.back().rip + units_.back().insn.length - source_.rip);
    block->code = here();
    const bool checked = source_.checked_at != nullptr;
    block->checked = checked;
    analyse_block();
    const FlagsNeed need = units_.front().need_before;
    host_valid_ = need == FlagsNeed::Host && !checked;
    // Whatever the bytes have become may need the flags.
    memory_valid_ = checked || need == FlagsNeed::Exit;
    block->entry_flags = flags_place();
    if (options_.profile_fd >= 0) {
        count_execution(*block);
    }
    if (checked) {
        emit_checked_head(*block, need);
    }
    if (loop_ != nullptr) {
        emit_loop_head(*block);
    } else {
        emit_head();
    }
    if (source_.second_offset != 0) {
        check_second_page();
    }
    for (std::size_t i = 0; i < units_.size(); ++i) {
        emit_unit(i);
    }
    write_back_and_drop();
    emit_end();
    emit_cold();
    block->code_size = a_.hot_size();
    block->cold = static_cast<std::uint32_t>(cold_ - base_);
    block->cold_size = a_.offset() - a_.hot_size();
    block->loop_entry = loop_entry_;
    block->loop = std::move(loop_);
    std::pmr::vector<Exit> exits(exits_.size(), &arena_);
    std::ranges::transform(exits_, exits.begin(), &PendingExit::exit);
    block->parts = BlockParts(*block, exits, marks_);
    return block;
}

// What is rarely run: away from the rest.
void BlockEmitter::emit_cold() {
    a_.begin_cold(cold_);
    emit_slow_sites();
    emit_jump_misses();
    emit_stack_sites();
    emit_run_sites();
    emit_loop_sites();
    for (const StringSite& site : strings_) {
        a_.bind(site.entry);
        a_.load(Reg::Rdi, layout::spill(1));
        a_.jmp(site.slow);
    }
    emit_system_sites();
    for (const VectorSite& site : vector_) {
        a_.bind(site.entry);
        a_.call_to(glue_.vector);
        a_.jmp(site.back);
    }
    emit_exit_stubs();
}

void BlockEmitter::emit_stack(const Unit& unit) {
    switch (unit.insn.mnemonic) {
        case ZYDIS_MNEMONIC_PUSH:
            emit_push(unit);
            break;
        case ZYDIS_MNEMONIC_POP:
            emit_pop(unit);
            break;
        default:
            emit_leave(unit);
            break;
    }
}

void BlockEmitter::emit_push(const Unit& unit) {
    const Instruction& insn = unit.insn;
    Reg source = R11;
    bool spilled = false;
    if (insn.mem.present) {
        check(unit, {}, 8, false);
        a_.load(R11, Mem::at(R10));
        if (!unit.grouped) {
            a_.store(layout::spill(2), R11);
            spilled = true;
        }
    }
    Mem slot = Mem::at(R10);
    if (unit.grouped) {
        load_stack_host();
        slot = Mem::at(R10, R9, 1, -8);
    } else {
        check(unit, {Address::Kind::Stack, -8}, 8, true);
    }
    if (spilled) {
        a_.load(R11, layout::spill(2));
    } else if (!insn.mem.present && insn.imm_count == 0) {
        source = source_register(insn.modrm_offset != kNoOffset ? insn.rm : insn.opcode_reg, R11);
    }
    if (!insn.mem.present && insn.imm_count != 0) {
        a_.store_imm32(OpSize::Bits64, slot, static_cast<std::int32_t>(insn.imm[0]));
    } else {
        a_.store(slot, source);
    }
    a_.lea(R9, Mem::at(R9, -8));
}

void BlockEmitter::emit_pop(const Unit& unit) {
    const Instruction& insn = unit.insn;
    const unsigned to = insn.modrm_offset != kNoOffset ? insn.rm : insn.opcode_reg;
    Mem slot = Mem::at(R10);
    if (unit.grouped) {
        load_stack_host();
        slot = Mem::at(R10, R9, 1, 0);
    } else {
        check(unit, {Address::Kind::Stack, 0}, 8, false);
    }
    if (to == kRsp) {
        a_.load(R9, slot);
        return;
    }
    const Reg home = in_memory(to) ? R11 : home_of(to);
    a_.load(home, slot);
    if (in_memory(to)) {
        a_.store(layout::gpr(to), home);
    }
    a_.lea(R9, Mem::at(R9, 8));
}

void BlockEmitter::emit_leave(const Unit& unit) {
    check(unit, {Address::Kind::FramePointer, 0}, 8, false);
    a_.load(R10, Mem::at(R10));
    a_.lea(R9, Mem::at(Rbp, 8));
    a_.mov(Rbp, R10);
}

void BlockEmitter::emit_flow(const Unit& unit) {
    const Instruction& insn = unit.insn;
    const std::uint64_t next = unit.rip + insn.length;
    const std::uint64_t target = next + static_cast<std::uint64_t>(insn.imm[0]);
    switch (insn.cls) {
        case InsnClass::Jcc:
            if (unit.goes_back) {
                branch_exit(static_cast<Cond>((insn.opcode & 15) ^ 1), next);
                return;
            }
            branch_exit(static_cast<Cond>(insn.opcode & 15), target);
            if (current_ + 1 == units_.size()) {
                note_loop_end();
            }
            if (current_ + 1 < units_.size() || stop_) {
                return;  // the block goes on behind the branch
            }
            jump_exit(next);
            break;
        case InsnClass::Jmp:
            jump_exit(target);
            break;
        case InsnClass::Call:
            emit_call(unit, false);
            break;
        case InsnClass::CallIndirect:
            emit_call(unit, true);
            break;
        case InsnClass::JmpIndirect:
            if (insn.mem.present) {
                check(unit, {}, 8, false);
                a_.load(R10, Mem::at(R10));
            } else {
                const Reg source = source_register(insn.rm, R10);
                if (source != R10) {
                    a_.mov(R10, source);
                }
            }
            emit_indirect_jump(unit, 0);
            break;
        case InsnClass::Ret:
            emit_return(unit);
            break;
        default:
            emit_loop(unit);
            break;
    }
    ended_ = true;
}

void BlockEmitter::emit_loop(const Unit& unit) {
    const Instruction& insn = unit.insn;
    const std::uint64_t next = unit.rip + insn.length;
    const std::uint64_t target = next + static_cast<std::uint64_t>(insn.imm[0]);
    const Label zero = a_.label();
    const bool counts = insn.mnemonic == ZYDIS_MNEMONIC_LOOP;
    if (counts) {
        a_.lea(Rcx, Mem::at(Rcx, -1));
    }
    a_.jrcxz(zero);
    jump_exit(counts ? target : next);
    a_.bind(zero);
    jump_exit(counts ? next : target);
}

// r10 = target: to `refused` unless it is canonical: the branch itself raises #GP then, not the
// fetch of the target. Clobbers r11 and flags.
void BlockEmitter::refuse_target(Label refused) {
    a_.rorx(OpSize::Bits64, R11, R10, 47);
    a_.alu_imm(Alu::Add, OpSize::Bits32, R11, 1);
    a_.alu_imm(Alu::And, OpSize::Bits32, R11, 0x1FFFF);
    a_.alu_imm(Alu::Cmp, OpSize::Bits32, R11, 1);
    a_.jcc(Cond::A, refused);
}

// r10 = target; guest rsp was raised by `released`. Hits only where the whole address is the same;
// the thunk it jumps to checks mode, request and page.
void BlockEmitter::emit_indirect_jump(const Unit& unit, std::int32_t released) {
    put_away_flags();
    host_valid_ = false;
    const Label miss = a_.label();
    misses_.push_back(
        {miss, exit_label(unit.rip, Exit::Kind::Interpret, 0, flags_place()), released});
    if (!options_.jump_cache) {
        a_.jmp(miss);
        return;
    }
    emit_jump_lookup(a_, miss);
}

Label BlockEmitter::exit_label(std::uint64_t target, Exit::Kind kind, std::uint32_t patch,
                               FlagsPlace flags) {
    PendingExit pending{a_.label(), {}};
    pending.exit.target = target;
    pending.exit.kind = kind;
    pending.exit.patch = patch;
    pending.exit.flags = flags;
    exits_.push_back(pending);
    return pending.stub;
}

void BlockEmitter::jump_exit(std::uint64_t target) {
    a_.align_patch(1);
    a_.jmp(exit_label(target, Exit::Kind::Direct, here() + 1, flags_place()));
}

void BlockEmitter::branch_exit(Cond cond, std::uint64_t target) {
    a_.align_patch(2);
    a_.jcc(cond, exit_label(target, Exit::Kind::Direct, here() + 2, flags_place()));
}

// Leaves here and now, without a jump that could be patched.
void BlockEmitter::emit_exit_here(std::uint64_t target, Exit::Kind kind, FlagsPlace flags,
                                  bool ungrouped) {
    PendingExit pending{a_.label(), {}};
    pending.exit.target = target;
    pending.exit.kind = kind;
    pending.exit.flags = flags;
    pending.exit.ungrouped = ungrouped;
    pending.exit.stub = here();
    a_.bind(pending.stub);
    a_.call_to(flags == FlagsPlace::Host ? glue_.exit_host : glue_.exit_memory);
    exits_.push_back(pending);
}

void BlockEmitter::emit_end() {
    if (ended_) {
        return;
    }
    const std::uint64_t next = units_.back().rip + units_.back().insn.length;
    if (stop_) {
        emit_exit_here(next, Exit::Kind::Interpret, flags_place(), false);
    } else {
        jump_exit(next);
    }
}

void BlockEmitter::emit_slow_sites() {
    for (const SlowSite& site : slow_) {
        const Unit& unit = units_[site.unit];
        mark(site.unit);
        a_.bind(site.entry);
        if (site.live) {
            end_clobber(true);
            a_.pushfq();
            a_.pop(layout::flags());
        }
        emit_address(unit, site.address);
        const std::uint64_t word =
            site.word | (static_cast<std::uint32_t>(unit.insn.length) << SiteWord::kLengthShift) |
            (unit.rip << SiteWord::kRipShift);
        if (source_.floating) {
            // Flags are in memory, or nobody wants them.
            a_.load(R11, Mem::gs_at(layout::kAnchor));
            a_.shl_imm(OpSize::Bits64, R11, SiteWord::kRipShift);
            a_.alu_imm(Alu::Or, OpSize::Bits64, R11, static_cast<std::int32_t>(word));
        } else {
            a_.mov_imm(R11, word);
        }
        a_.call_to(glue_.slow);
        const Label pointer = site.live ? a_.label() : site.resume;
        a_.jmp(pointer);
        a_.jmp(site.after);
        if ((site.word & SiteWord::kCopyOut) != 0) {
            Rewrite rewrite;
            rewrite.memory = Mem::at(R10);
            emit_rewritten(a_, unit.insn, rewrite);
            a_.call_to(glue_.store);
            a_.jmp(site.after);
        }
        if (site.live) {
            a_.bind(pointer);
            a_.push(layout::flags());
            a_.popfq();
            a_.jmp(site.resume);
        }
    }
}

void BlockEmitter::emit_stack_sites() {
    for (const StackSite& site : stack_) {
        const Unit& unit = units_[site.unit];
        mark(site.unit);
        a_.bind(site.entry);
        a_.lea(R10, Mem::at(R9, unit.group_low));
        a_.mov_imm(R11, static_cast<std::uint32_t>(unit.group_bytes));
        a_.call_to(glue_.stack);
        a_.jmp(site.back);
        end_clobber(site.live);
        bail_out(unit, site.flags);
    }
}

// Goes on at the same instruction in a block that checks each access by itself.
void BlockEmitter::bail_out(const Unit& unit, FlagsPlace flags) {
    const Label stub = a_.label();
    a_.align_patch(1);
    PendingExit pending{stub, {}};
    pending.exit.target = unit.rip;
    pending.exit.kind = Exit::Kind::Direct;
    pending.exit.flags = flags;
    pending.exit.ungrouped = true;
    pending.exit.patch = here() + 1;
    a_.jmp(stub);
    exits_.push_back(pending);
}

void BlockEmitter::emit_exit_stubs() {
    for (PendingExit& pending : exits_) {
        if (pending.exit.stub != 0) {
            continue;
        }
        a_.bind(pending.stub);
        pending.exit.stub = here();
        a_.call_to(pending.exit.flags == FlagsPlace::Host     ? glue_.exit_host
                   : pending.exit.flags == FlagsPlace::Either ? glue_.exit_either
                                                              : glue_.exit_memory);
    }
}

}  // namespace strata::engine::soft
