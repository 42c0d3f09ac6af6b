// BlockEmitter: loops whose accesses are checked at their head (cache/loop_windows.h).
#include "engine/soft/translate/block_emitter.h"
#include "engine/soft/translate/layout.h"
#include "engine/soft/translate/rewrite.h"

namespace strata::engine::soft {
namespace {

using enum Reg;

Reg home_of(std::int8_t guest) {
    return Rewrite{}.home[guest & 15];
}

}  // namespace

// Entered from elsewhere the block looks its pages up; its own jump back goes to loop_entry, which
// compares whether they are still good for an iteration.
void BlockEmitter::emit_loop_head(Block& block) {
    const Label leave = exit_label(source_.rip, Exit::Kind::Poll, 0, FlagsPlace::Dead);
    const Label body = a_.label();
    loop_fill_ = a_.label();
    loop_again_ = a_.label();
    a_.bind(loop_fill_);
    a_.alu_imm(Alu::Cmp, OpSize::Bits32, Mem::gs_at(layout::kRequest), 0);
    a_.jcc(Cond::Ne, leave);
    for (const Unit& unit : units_) {
        if (unit.insn.cls == InsnClass::CopyVector || unit.insn.cls == InsnClass::Special) {
            vector_check(units_.front());
        }
    }
    if (loop_->quick) {
        emit_quick_fill(body);
    } else {
        emit_fill_call(body);
    }
    a_.align(16);
    loop_entry_ = here();
    if (options_.profile_fd >= 0) {
        count_execution(block);
    }
    a_.alu(Alu::Cmp, OpSize::Bits64, home_of(loop_->steppers[0].reg),
           layout::delta(LoopWindows::kStop));
    a_.jcc(Cond::E, loop_again_);
    a_.bind(body);
}

// Asks the helper; from `body` on what it found holds. It clobbers what is pinned.
void BlockEmitter::emit_fill_call(Label body) {
    // SAFETY: the block owns it and lives as long as its code.
    a_.mov_imm(R11, reinterpret_cast<std::uint64_t>(loop_.get()));
    a_.call_to(glue_.loop);
    a_.jmp(body);
    bail_out(units_.front(), FlagsPlace::Dead);
}

void BlockEmitter::note_loop_end() {
    if (loop_ != nullptr) {
        a_.store(layout::delta(loop_->last()), home_of(loop_->steppers[0].reg));
    }
}

Mem BlockEmitter::hoisted_operand(const Unit& unit) {
    Reg delta = R10;
    if (loop_->pinned && unit.slot == 0) {
        delta = R11;
    } else if (!loop_->pinned || loop_->base_count > 2) {
        load_delta(unit.slot);
    }
    if (unit.stepping == kNoRegister) {
        return Mem::at(delta, unit.displacement);
    }
    const std::uint8_t scale = unit.insn.mem.index == unit.stepping ? unit.insn.mem.scale : 1;
    return Mem::at(delta, home_of(unit.stepping), scale, unit.displacement);
}

// An access that no window covers. What the TLB does not know leaves the loop: no C++ code may run
// between two accesses of an iteration.
void BlockEmitter::check_or_bail(const Unit& unit, std::uint32_t bytes, bool write) {
    BailSite site{a_.label(), current_, FlagsPlace::Dead, false};
    address_of_operand(unit);
    drop_held();
    site.live = begin_clobber(unit);
    site.flags = flags_place();
    tlb_check(bytes, write, site.entry);
    end_clobber(site.live);
    bails_.push_back(site);
}

void BlockEmitter::emit_loop_sites() {
    for (const BailSite& site : bails_) {
        const Unit& unit = units_[site.unit];
        mark(site.unit);
        a_.bind(site.entry);
        end_clobber(site.live);
        bail_out(unit, site.flags);
    }
    if (loop_ != nullptr) {
        emit_quick_fill_site();
        a_.bind(loop_again_);
        note_loop_end();
        a_.jmp(loop_fill_);
    }
}

}  // namespace strata::engine::soft
