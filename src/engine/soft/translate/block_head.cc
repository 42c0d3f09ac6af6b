// BlockEmitter: what stands before a block's first instruction, and addresses in a floating block.
#include <algorithm>
#include <limits>

#include "engine/soft/translate/block_emitter.h"
#include "engine/soft/translate/fragments.h"
#include "engine/soft/translate/layout.h"

namespace strata::engine::soft {
namespace {

using enum Reg;

constexpr std::int32_t kPage = 4096;

}  // namespace

// The block outlives its code. Flags stay.
void BlockEmitter::count_execution(Block& block) {
    a_.mov_imm(R11, reinterpret_cast<std::uint64_t>(&block.executions));
    a_.load(R10, Mem::at(R11));
    a_.lea(R10, Mem::at(R10, 1));
    a_.store(Mem::at(R11), R10);
}

// A block with a backward branch looks at `request` when it is entered, so no loop of direct jumps
// can ignore one.
void BlockEmitter::emit_head() {
    const Unit& last = units_.back();
    const InsnClass cls = last.insn.cls;
    const bool direct = cls == InsnClass::Jcc || cls == InsnClass::Jmp || cls == InsnClass::Call ||
                        cls == InsnClass::Loop;
    if (!direct || last.insn.imm[0] + last.insn.length > 0) {
        return;
    }
    const Label leave = exit_label(source_.rip, Exit::Kind::Poll, 0, flags_place());
    if (!host_valid_) {
        a_.alu_imm(Alu::Cmp, OpSize::Bits32, Mem::gs_at(layout::kRequest), 0);
        a_.jcc(Cond::Ne, leave);
        return;
    }
    const Label quiet = a_.label();
    a_.mov(R11, Rcx);
    a_.load32(Rcx, Mem::gs_at(layout::kRequest));
    a_.jrcxz(quiet);
    a_.mov(Rcx, R11);
    a_.jmp(leave);
    a_.bind(quiet);
    a_.mov(Rcx, R11);
}

// The rest of the instruction lies in another page: the vCPU must see there what the block was made
// from. Else the interpreter fetches it, which may fault.
void BlockEmitter::check_second_page() {
    if (source_.floating) {
        check_floating_second_page();
        return;
    }
    const std::uint64_t page = (source_.rip & ~std::uint64_t{kPage - 1}) + kPage;
    const Mem slot =
        Mem::gs_at(layout::code_page_slot(page, source_.key_mode & ModeBits::kCplMask));
    const std::uint64_t key = layout::code_page_key(page, source_.second_offset);
    const Label leave = exit_label(source_.rip, Exit::Kind::Interpret, 0, flags_place());
    exits_.back().exit.second_page = true;
    if (!host_valid_) {
        a_.mov_imm(R11, key);
        a_.alu(Alu::Cmp, OpSize::Bits64, R11, slot);
        a_.jcc(Cond::Ne, leave);
        return;
    }
    const Label hit = a_.label();
    a_.mov(R11, Rcx);
    a_.load(R10, slot);
    a_.mov_imm(Rcx, 0 - key);
    a_.lea(Rcx, Mem::at(Rcx, R10, 1, 0));
    a_.jrcxz(hit);
    a_.mov(Rcx, R11);
    a_.jmp(leave);
    a_.bind(hit);
    a_.mov(Rcx, R11);
}

void BlockEmitter::check_floating_second_page() {
    const std::uint32_t cpl = source_.key_mode & ModeBits::kCplMask;
    const std::uint64_t ram_page = source_.second_offset >> 12;
    const Label leave = exit_label(source_.rip, Exit::Kind::Interpret, 0, flags_place());
    exits_.back().exit.second_page = true;
    a_.load(R10, Mem::gs_at(layout::kAnchor));
    a_.lea(R10, Mem::at(R10, kPage));
    if (!host_valid_) {
        emit_page_check(a_, cpl, ram_page, leave);
        return;
    }
    const Label hit = a_.label();
    a_.mov(R11, Rcx);
    emit_page_distance(a_, Rcx, cpl, ram_page, 0);
    a_.jrcxz(hit);
    a_.mov(Rcx, R11);
    a_.jmp(leave);
    a_.bind(hit);
    a_.mov(Rcx, R11);
}

void BlockEmitter::load_linear(Reg to, std::uint64_t rip) {
    if (!source_.floating) {
        a_.mov_imm(to, rip);
        return;
    }
    a_.load(to, Mem::gs_at(layout::kAnchor));
    // An operand's distance from the page can be a little more than 32 bits hold.
    for (auto rest = static_cast<std::int64_t>(rip); rest != 0;) {
        const auto step = static_cast<std::int32_t>(
            std::clamp<std::int64_t>(rest, std::numeric_limits<std::int32_t>::min(),
                                     std::numeric_limits<std::int32_t>::max()));
        a_.lea(to, Mem::at(to, step));
        rest -= step;
    }
}

}  // namespace strata::engine::soft
