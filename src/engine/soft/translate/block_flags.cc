// BlockEmitter: the guest's arithmetic flags while checks need the host's.
#include "engine/soft/translate/block_emitter.h"
#include "engine/soft/translate/layout.h"

namespace strata::engine::soft {

using enum Reg;

void BlockEmitter::put_away_flags() {
    if (host_valid_ && !memory_valid_) {
        a_.pushfq();
        a_.pop(layout::flags());
        memory_valid_ = true;
    }
}

void BlockEmitter::flags_into_rax() {
    a_.store(layout::spill(0), Rax);
    a_.lahf();
    a_.op(OpSize::Bits32, 0x0F90, 0, Rax);  // seto al
}

bool BlockEmitter::begin_clobber(const Unit& unit) {
    const FlagsNeed need = unit.need_before;
    if (need == FlagsNeed::Host && host_valid_) {
        flags_into_rax();
        return true;
    }
    if (need != FlagsNeed::None) {
        put_away_flags();
    }
    drop_host_flags();
    return false;
}

void BlockEmitter::drop_host_flags() {
    if (host_valid_) {
        host_valid_ = false;
        mark(current_);  // a host fault from here on must not take the guest's flags from the host
    }
}

void BlockEmitter::end_clobber(bool live) {
    if (live) {
        a_.byte(0x04);  // add al, 7Fh: OF = al
        a_.byte(0x7F);
        a_.sahf();
        a_.load(Rax, layout::spill(0));
    }
}

}  // namespace strata::engine::soft
