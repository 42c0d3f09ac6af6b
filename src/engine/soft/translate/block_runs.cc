// BlockEmitter: the check of a run of accesses (runs.cc), and where it leads if the TLB misses.
#include "engine/soft/translate/block_emitter.h"
#include "engine/soft/translate/layout.h"

namespace strata::engine::soft {
namespace {

using enum Reg;

constexpr std::int32_t kPage = 4096;

}  // namespace

// r10 = the linear address of the run's lowest byte. Nothing is held. Leaves flags alone.
void BlockEmitter::run_address(const Unit& unit) {
    Unit lowest = unit;
    lowest.insn.mem.displacement = unit.run_low;
    address_of_operand(lowest);
}

// Compares as a single access would, for all bytes of the run, and keeps where the host has them.
void BlockEmitter::run_check(const Unit& unit) {
    RunSite site{a_.label(), a_.label(), current_, FlagsPlace::Dead, false};
    run_address(unit);
    site.live = begin_clobber(unit);
    site.flags = flags_place();
    a_.bind(site.back);
    tlb_entry();
    a_.alu(Alu::Xor, OpSize::Bits64, R10,
           Mem::at(R11, unit.run_write ? layout::kTagWrite : layout::kTagRead));
    a_.alu_imm(Alu::Cmp, OpSize::Bits64, R10, kPage - unit.run_bytes);
    a_.jcc(Cond::A, site.entry);
    a_.alu(Alu::Add, OpSize::Bits64, R10, Mem::at(R11, layout::kHostPage));
    a_.store(layout::delta(static_cast<unsigned>(unit.slot)), R10);
    r10_holds_ = unit.slot;
    end_clobber(site.live);
    run_.push_back(site);
}

// A run that crosses its page's end is left to the block that checks each access by itself.
void BlockEmitter::emit_run_sites() {
    for (const RunSite& site : run_) {
        const Unit& unit = units_[site.unit];
        const Label filled = a_.label();
        const Label crosses = a_.label();
        mark(site.unit);
        a_.bind(site.entry);
        end_clobber(site.live);
        if (site.live) {
            a_.pushfq();
            a_.pop(layout::flags());
        }
        run_address(unit);
        a_.mov32(R11, R10);
        a_.alu_imm(Alu::And, OpSize::Bits32, R11, kPage - 1);
        a_.alu_imm(Alu::Cmp, OpSize::Bits32, R11, kPage - unit.run_bytes);
        a_.jcc(Cond::A, crosses);
        a_.mov_imm(R11, static_cast<std::uint32_t>(unit.run_bytes) |
                            (unit.run_write ? RunWord::kWrite : 0));
        a_.call_to(glue_.run);
        a_.jmp(filled);
        a_.bind(crosses);
        if (site.live) {
            a_.push(layout::flags());
            a_.popfq();
        }
        bail_out(unit, site.flags);
        a_.bind(filled);
        if (site.live) {
            a_.push(layout::flags());
            a_.popfq();
        }
        run_address(unit);
        if (site.live) {
            flags_into_rax();
        }
        a_.jmp(site.back);
    }
}

}  // namespace strata::engine::soft
