// BlockEmitter: calls and returns, on the host's own (return_stack.h) or through the jump table.
#include "engine/soft/translate/block_emitter.h"
#include "engine/soft/translate/layout.h"

namespace strata::engine::soft {
namespace {

using enum Reg;

bool fits32(std::int64_t value) {
    return value == static_cast<std::int32_t>(value);
}

}  // namespace

void BlockEmitter::emit_call(const Unit& unit, bool indirect) {
    const Instruction& insn = unit.insn;
    const std::uint64_t next = unit.rip + insn.length;
    if (indirect) {
        if (insn.mem.present) {
            check(unit, {}, 8, false);
            a_.load(R11, Mem::at(R10));
            a_.store(layout::spill(2), R11);
        } else {
            a_.store(layout::spill(2), source_register(insn.rm, R11));
        }
        // Before the push, which could not be undone.
        put_away_flags();
        drop_host_flags();
        a_.load(R10, layout::spill(2));
        refuse_target(exit_label(unit.rip, Exit::Kind::Interpret, 0, flags_place()));
    }
    Mem slot = Mem::at(R10);
    if (unit.grouped) {
        a_.load(R10, Mem::gs_at(layout::kStackHost));
        slot = Mem::at(R10, R9, 1, -8);
    } else {
        check(unit, {Address::Kind::Stack, -8}, 8, true);
    }
    if (!source_.floating && fits32(static_cast<std::int64_t>(next))) {
        a_.store_imm32(OpSize::Bits64, slot, static_cast<std::int32_t>(next));
    } else {
        load_linear(R11, next);
        a_.store(slot, R11);
    }
    a_.lea(R9, Mem::at(R9, -8));
    const std::uint64_t target = next + static_cast<std::uint64_t>(insn.imm[0]);
    if (indirect) {
        a_.load(R10, layout::spill(2));
    }
    if (!options_.return_stack) {
        if (indirect) {
            emit_indirect_jump(unit, 0);
        } else {
            jump_exit(target);
        }
        return;
    }
    push_return(next);
    const Label landing = a_.label();
    if (indirect) {
        call_misses_.push_back({a_.label(), landing});
        emit_jump_lookup(a_, call_misses_.back().entry, true);
    } else {
        call_exit(target);
    }
    emit_landing(landing, unit.rip, next);
}

// Minus the guest's return address, so that a return can compare without flags; the host's call
// leaves its own beside it. Clobbers r11. In a floating block r11 = the address.
void BlockEmitter::push_return(std::uint64_t next) {
    if (source_.floating) {
        a_.lea(R11, Mem::at(R11, -1));
        a_.op(OpSize::Bits64, 0xF7, 2, R11);  // not
        a_.push(R11);
        return;
    }
    const std::uint64_t negative = 0 - next;
    if (fits32(static_cast<std::int64_t>(negative))) {
        a_.push_imm32(static_cast<std::int32_t>(negative));
    } else {
        a_.mov_imm(R11, negative);
        a_.push(R11);
    }
}

void BlockEmitter::call_exit(std::uint64_t target) {
    a_.align_patch(1);
    a_.call(exit_label(target, Exit::Kind::Direct, here() + 1, flags_place()));
}

// Where the host's return comes back to, with flags where flags_in_host says, and r10 = `next`.
// Flags are put in order only where somebody wants them.
void BlockEmitter::emit_landing(Label landing, std::uint64_t call, std::uint64_t next) {
    a_.bind(landing);
    a_.lea(Rsp, Mem::at(Rsp, 8));
    if (source_.floating) {
        a_.lea(R10, Mem::at(R10, -static_cast<std::int32_t>(next)));
        a_.store(Mem::gs_at(layout::kAnchor), R10);
    }
    FlagsPlace place = FlagsPlace::Either;
    if (((call ^ next) & ~std::uint64_t{0xFFF}) != 0) {
        // The thunk between pages knows one place only.
        const Label memory = a_.label();
        const Label known = a_.label();
        emit_flags_place(a_, memory);
        a_.pushfq();
        a_.pop(layout::flags());
        a_.jmp(known);
        a_.bind(memory);
        take_flags_place(a_);
        a_.bind(known);
        place = FlagsPlace::Memory;
    }
    a_.align_patch(1);
    a_.jmp(exit_label(next, Exit::Kind::Direct, here() + 1, place));
}

void BlockEmitter::emit_return(const Unit& unit) {
    const auto released =
        unit.insn.imm_count > 0 ? static_cast<std::int32_t>(unit.insn.imm[0] & 0xFFFF) : 0;
    if (unit.grouped) {
        a_.load(R10, Mem::gs_at(layout::kStackHost));
        a_.load(R10, Mem::at(R10, R9, 1, 0));
    } else {
        check(unit, {Address::Kind::Stack, 0}, 8, false);
        a_.load(R10, Mem::at(R10));
    }
    a_.lea(R9, Mem::at(R9, 8 + released));
    if (options_.return_stack) {
        emit_predicted_return(unit, 8 + released);
    } else {
        emit_indirect_jump(unit, 8 + released);
    }
}

// r10 = target; guest rsp was raised by `released`. Where flags are in host RFLAGS they stay there.
void BlockEmitter::emit_predicted_return(const Unit& unit, std::int32_t released) {
    const bool host = host_valid_ && !memory_valid_;
    a_.store_imm32(OpSize::Bits64, Mem::gs_at(layout::kFlagsInHost), host ? 1 : 0);
    const Label miss = a_.label();
    if (host) {
        const Label hit = a_.label();
        a_.mov(R11, Rcx);
        a_.load(Rcx, Mem::at(Rsp, 8));
        a_.lea(Rcx, Mem::at(Rcx, R10, 1, 0));
        a_.jrcxz(hit);
        a_.mov(Rcx, R11);
        a_.jmp(miss);
        a_.bind(hit);
        a_.mov(Rcx, R11);
    } else {
        a_.load(R11, Mem::at(Rsp, 8));
        a_.alu(Alu::Add, OpSize::Bits64, R11, R10);
        a_.jcc(Cond::Ne, miss);
    }
    a_.ret();
    host_valid_ = false;
    memory_valid_ = true;  // at the interpreter's exit, behind the miss
    misses_.push_back({miss, exit_label(unit.rip, Exit::Kind::Interpret, 0, FlagsPlace::Memory),
                       released, true, host});
}

void BlockEmitter::emit_jump_misses() {
    for (const JumpMiss& site : misses_) {
        const Label refused = a_.label();
        a_.bind(site.entry);
        if (site.host_flags) {
            a_.pushfq();
            a_.pop(layout::flags());
        }
        if (site.is_return) {
            a_.load(Rsp, Mem::gs_at(layout::kReturnBase));
        }
        if (site.is_return && options_.jump_cache) {
            const Label unknown = a_.label();
            emit_jump_lookup(a_, unknown);
            a_.bind(unknown);
        }
        refuse_target(refused);
        a_.jmp_to(glue_.indirect);
        a_.bind(refused);
        if (site.released != 0) {
            a_.lea(R9, Mem::at(R9, -site.released));
        }
        a_.jmp(site.refused);
    }
    for (const CallMiss& site : call_misses_) {
        a_.bind(site.entry);
        a_.call_to(glue_.indirect);
        a_.jmp(site.landing);
    }
}

}  // namespace strata::engine::soft
