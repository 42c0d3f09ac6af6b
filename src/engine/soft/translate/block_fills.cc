// BlockEmitter: a loop's pages looked up by the block itself, where their addresses are simple sums
// (cache/loop_windows.h).
//
// As for a single access, the comparison with the TLB's tag proves page and range; how many
// iterations stay in the page is a shift, for only steps that are powers of two count as simple.
// What was found goes to the same places as the helper's finds.
#include <algorithm>
#include <bit>
#include <cstdlib>

#include "engine/soft/translate/block_emitter.h"
#include "engine/soft/translate/layout.h"
#include "engine/soft/translate/rewrite.h"

namespace strata::engine::soft {
namespace {

using enum Reg;

constexpr std::int32_t kPage = 4096;
constexpr std::uint16_t kInMemory = 0x0E00;  // guest r9 to r11
constexpr unsigned kRsp = 4;

Reg home_of(std::int8_t guest) {
    return Rewrite{}.home[guest & 15];
}
bool in_memory(std::int8_t guest) {
    return guest >= 0 && ((kInMemory >> guest) & 1U) != 0;
}

std::uint32_t magnitude(std::int32_t step) {
    return step < 0 ? 0U - static_cast<std::uint32_t>(step) : static_cast<std::uint32_t>(step);
}

std::uint8_t log2_of(std::int32_t step) {
    return static_cast<std::uint8_t>(std::countr_zero(magnitude(step)));
}

// Whether the base's address is one LEA.
bool simple(const LoopWindows::Base& base) {
    const bool constant = base.constant != 0 || base.anchored;
    if (constant) {
        return base.base < 0 && base.index < 0 && base.stepper < 0;
    }
    if (in_memory(base.index)) {
        return false;
    }
    const bool one = base.base < 0 || base.index < 0;
    return base.stepper >= 0 ? one && (base.shift == 0 || base.index < 0) : base.base >= 0;
}

bool all_simple(const LoopWindows& loop) {
    for (std::uint32_t i = 0; i < loop.stepper_count; ++i) {
        if (!std::has_single_bit(magnitude(loop.steppers[i].step))) {
            return false;
        }
    }
    const auto* end = loop.bases.begin() + loop.base_count;
    const auto steps = [](const LoopWindows::Base& base) { return base.stepper >= 0; };
    return std::all_of(loop.bases.begin(), end, simple) &&
           std::any_of(loop.bases.begin(), end, steps);
}

// Two low registers that no base is made of: they can be lent.
unsigned free_registers(const LoopWindows& loop, std::array<Reg, 2>& free) {
    std::uint32_t used = 1U << kRsp;
    const auto use = [&used](std::int8_t guest) {
        used |= guest >= 0 ? 1U << static_cast<unsigned>(guest) : 0;
    };
    for (std::uint32_t i = 0; i < loop.stepper_count; ++i) {
        use(loop.steppers[i].reg);
    }
    for (std::uint32_t i = 0; i < loop.base_count; ++i) {
        use(loop.bases[i].base);
        use(loop.bases[i].index);
    }
    unsigned count = 0;
    for (unsigned guest = 0; guest < 8 && count < free.size(); ++guest) {
        if (((used >> guest) & 1U) == 0) {
            free[count++] = static_cast<Reg>(guest);
        }
    }
    return count;
}

}  // namespace

bool BlockEmitter::spares_scratch(const Unit& unit) {
    const Instruction& insn = unit.insn;
    switch (insn.cls) {
        case InsnClass::Nop:
        case InsnClass::Jcc:
            return true;
        case InsnClass::Copy:
        case InsnClass::CopyVector:
            return !insn.uses_high_byte && (!touches_memory(insn) || unit.hoisted) &&
                   ((data_registers(insn) & kInMemory) == 0 || works_on_home(insn));
        default:
            return false;
    }
}

void BlockEmitter::plan_fill() {
    LoopWindows& loop = *loop_;
    loop.quick = options_.quick_fills && all_simple(loop) && free_registers(loop, quick_.free) == 2;
    loop.pinned = loop.quick && options_.profile_fd < 0 &&
                  std::all_of(units_.begin(), units_.end(), spares_scratch);
}

Reg BlockEmitter::stepper_home(const LoopWindows::Base& base) const {
    return home_of(loop_->steppers[static_cast<std::uint8_t>(base.stepper)].reg);
}

void BlockEmitter::quick_address(const LoopWindows::Base& base) {
    if (base.constant != 0 || base.anchored) {
        load_linear(R10, base.constant + static_cast<std::uint64_t>(std::int64_t{base.low}));
        return;
    }
    Mem ea;
    ea.disp = base.low;
    if (base.base >= 0) {
        ea.base = static_cast<std::int8_t>(in_memory(base.base) ? R11 : home_of(base.base));
        if (in_memory(base.base)) {
            a_.load(R11, layout::gpr(static_cast<unsigned>(base.base)));
        }
    }
    if (base.stepper >= 0 && base.index < 0) {
        ea.index = static_cast<std::int8_t>(stepper_home(base));
        ea.scale = static_cast<std::uint8_t>(1U << base.shift);
    } else if (base.index >= 0) {
        if (base.stepper >= 0) {
            ea.base = static_cast<std::int8_t>(stepper_home(base));
        }
        ea.index = static_cast<std::int8_t>(home_of(base.index));
        ea.scale = base.index_scale;
    }
    a_.lea(R10, ea);
}

// Leaves the fewest iterations of the bases so far in the second lent register.
void BlockEmitter::quick_base(std::uint32_t number, bool first) {
    const LoopWindows::Base& base = loop_->bases[number];
    const auto [offset, fewest] = quick_.free;
    quick_address(base);
    a_.mov(offset, R10);
    tlb_entry();
    a_.alu(Alu::Xor, OpSize::Bits64, offset,
           Mem::at(R11, base.write ? layout::kTagWrite : layout::kTagRead));
    a_.alu_imm(Alu::Cmp, OpSize::Bits64, offset, kPage - base.bytes);
    a_.jcc(Cond::A, quick_.miss);
    a_.load(R11, Mem::at(R11, layout::kHostPage));
    a_.alu(Alu::Add, OpSize::Bits64, R11, offset);
    // All of the address is fixed but its displacement and the stepping register.
    if (base.stepper < 0 || base.shift == 0) {
        a_.lea(R11, Mem::at(R11, -base.low));
    }
    if (base.stepper < 0) {
        a_.store(layout::delta(LoopWindows::kBase + number), R11);
        return;
    }
    if (base.shift == 0) {
        a_.alu(Alu::Sub, OpSize::Bits64, R11, stepper_home(base));
    } else {
        a_.alu(Alu::Sub, OpSize::Bits64, R11, R10);
        if (in_memory(base.base)) {
            a_.alu(Alu::Add, OpSize::Bits64, R11, layout::gpr(static_cast<unsigned>(base.base)));
        } else if (base.base >= 0) {
            a_.alu(Alu::Add, OpSize::Bits64, R11, home_of(base.base));
        }
    }
    a_.store(layout::delta(LoopWindows::kBase + number), R11);
    const std::int32_t step = loop_->steppers[static_cast<std::uint8_t>(base.stepper)].step;
    if (step > 0) {
        constexpr std::uint8_t kNeg = 3;
        a_.alu_imm(Alu::Sub, OpSize::Bits64, offset, kPage - base.bytes);
        a_.op(OpSize::Bits64, 0xF7, kNeg, offset);
    }
    if (const auto count = static_cast<std::uint8_t>(base.shift + log2_of(step)); count != 0) {
        a_.shr_imm(OpSize::Bits64, offset, count);
    }
    if (first) {
        a_.mov(fewest, offset);
        return;
    }
    constexpr std::uint32_t kCmovB = 0x0F42;
    a_.alu(Alu::Cmp, OpSize::Bits64, offset, fewest);
    a_.op(OpSize::Bits64, kCmovB, Assembler::raw(fewest), offset);
}

// At most as many iterations as a page has bytes: no more than kMostIterations.
void BlockEmitter::emit_quick_fill(Label body) {
    static_assert(LoopWindows::kMostIterations >= kPage);
    quick_.miss = a_.label();
    quick_.ask = a_.label();
    quick_.body = a_.label();
    const auto [offset, fewest] = quick_.free;
    a_.alu_imm(Alu::Sub, OpSize::Bits32, layout::delta(LoopWindows::kSample), 1);
    a_.jcc(Cond::S, quick_.ask);
    a_.store(layout::spill(1), offset);
    a_.store(layout::spill(2), fewest);
    bool first = true;
    for (std::uint32_t i = 0; i < loop_->base_count; ++i) {
        quick_base(i, first);
        first = first && loop_->bases[i].stepper < 0;
    }
    const LoopWindows::Stepper& lead = loop_->steppers[0];
    constexpr std::uint8_t kNeg = 3;
    a_.lea(R10, Mem::at(fewest, 1));
    a_.load(offset, layout::spill(1));
    a_.load(fewest, layout::spill(2));
    if (const std::uint8_t count = log2_of(lead.step); count != 0) {
        a_.shl_imm(OpSize::Bits64, R10, count);
    }
    if (lead.step < 0) {
        a_.op(OpSize::Bits64, 0xF7, kNeg, R10);
    }
    a_.alu(Alu::Add, OpSize::Bits64, R10, home_of(lead.reg));
    a_.store(layout::delta(LoopWindows::kStop), R10);
    a_.bind(quick_.body);
    load_pinned();
    a_.jmp(body);
}

void BlockEmitter::load_pinned() {
    if (!loop_->pinned) {
        return;
    }
    a_.load(R11, layout::delta(LoopWindows::kBase));
    if (loop_->base_count == 2) {
        a_.load(R10, layout::delta(LoopWindows::kBase + 1));
    }
}

// A range of which the TLB has the page, but that does not end there: the helper could do no
// better.
void BlockEmitter::emit_quick_fill_site() {
    if (!loop_->quick) {
        return;
    }
    const Label crosses = a_.label();
    a_.bind(quick_.miss);
    a_.alu_imm(Alu::Cmp, OpSize::Bits64, quick_.free[0], kPage);
    a_.load(quick_.free[0], layout::spill(1));
    a_.load(quick_.free[1], layout::spill(2));
    a_.jcc(Cond::B, crosses);
    a_.bind(quick_.ask);
    emit_fill_call(quick_.body);
    a_.bind(crosses);
    bail_out(units_.front(), FlagsPlace::Dead);
}

}  // namespace strata::engine::soft
