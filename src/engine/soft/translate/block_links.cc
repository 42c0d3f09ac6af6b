// Translator: what leads from one block to another: thunks, and the jumps that are patched to them.
#include <array>

#include "engine/soft/translate/fragments.h"
#include "engine/soft/translate/layout.h"
#include "engine/soft/translate/translator.h"

namespace strata::engine::soft {
namespace {

using enum Reg;

void save_flags(Assembler& a) {
    a.pushfq();
    a.pop(layout::flags());
}

void load_flags(Assembler& a) {
    a.push(layout::flags());
    a.popfq();
}

// Flags are the host's, and guest rcx is in r11: goes on with both as they were if rcx is 0, else
// to `miss` with flags in memory.
void go_on_if_zero(Assembler& a, Label miss) {
    const Label hit = a.label();
    a.jrcxz(hit);
    a.mov(Rcx, R11);
    save_flags(a);
    a.jmp(miss);
    a.bind(hit);
    a.mov(Rcx, R11);
}

}  // namespace

// Moves flags from where they are to where the block wants them, and goes there.
void Translator::emit_entry(Assembler& a, const Block& to, bool host_flags) const {
    if (host_flags && to.entry_flags == FlagsPlace::Memory) {
        save_flags(a);
    } else if (!host_flags && to.entry_flags == FlagsPlace::Host) {
        load_flags(a);
    }
    a.jmp_to(memory_->base() + to.code);
}

// r10 = the block's address, flags in memory. What does not hold goes to glue.indirect, which looks
// it up.
void Translator::emit_indirect_thunk(Assembler& a, const Block& to) const {
    a.op(OpSize::Bits64, 0x81, 7,
         Mem::gs_at(layout::kMode));  // cmp qword gs:[mode], imm32: request must be 0
    a.u32(to.key_mode & ~kVariants);
    a.jcc_to(Cond::Ne, glue_.indirect);
    if (to.floating()) {
        a.lea(R11, Mem::at(R10, -static_cast<std::int32_t>(to.rip)));
        a.store(Mem::gs_at(layout::kAnchor), R11);
        emit_page_check(a, to.key_mode & ModeBits::kCplMask, to.ram_offset >> 12, to.rip,
                        glue_.indirect);
    } else {
        a.mov_imm(R11, layout::code_page_key(to.rip, to.ram_offset));
        a.alu(Alu::Cmp, OpSize::Bits64, R11,
              Mem::gs_at(layout::code_page_slot(to.rip, to.key_mode & ModeBits::kCplMask)));
        a.jcc_to(Cond::Ne, glue_.indirect);
    }
    if (to.entry_flags == FlagsPlace::Host) {
        load_flags(a);
    }
}

// One that falls through ends where the block begins, thunk_room() bytes from here; it starts as
// late as that allows.
std::uint32_t Translator::make_indirect_thunk(const Block& to, bool falls_through) {
    counters_.thunks.fetch_add(1, std::memory_order_relaxed);
    std::array<std::uint8_t, 256> code{};
    const auto room = static_cast<std::uint32_t>(thunk_room(to.floating()));
    Assembler a(code, memory_->next());
    if (falls_through) {
        // Jumps to the glue are relative: where the code will run must be known, so its length is
        // found first.
        emit_indirect_thunk(a, to);
        const std::uint32_t length = (a.offset() + 7) & ~7U;
        STRATA_CHECK(length <= room, "a thunk is larger than its room");
        a = Assembler(code, memory_->next());
        a.nop(room - length);
        emit_indirect_thunk(a, to);
        a.nop(room - a.offset());
        return static_cast<std::uint32_t>(memory_->write(a.code()) - memory_->base()) +
               (room - length);
    }
    emit_indirect_thunk(a, to);
    a.jmp_to(memory_->base() + to.code);
    return static_cast<std::uint32_t>(memory_->write(a.code()) - memory_->base());
}

// A thunk: checks the page, moves flags, jumps to the block. Failing, it leaves with the block's
// own address as target.
std::uint32_t Translator::make_thunk(const Block& to, bool check_page, bool host_flags) {
    counters_.thunks.fetch_add(1, std::memory_order_relaxed);
    Assembler a(buffer_, memory_->next());
    const Label miss = a.label();
    const Mem page = Mem::gs_at(layout::code_page_slot(to.rip, to.key_mode & ModeBits::kCplMask));
    const std::uint64_t key = layout::code_page_key(to.rip, to.ram_offset);
    if (check_page && !host_flags) {
        a.mov_imm(R11, key);
        a.alu(Alu::Cmp, OpSize::Bits64, R11, page);
        a.jcc(Cond::Ne, miss);
    } else if (check_page) {
        a.load(R10, page);
        a.mov(R11, Rcx);
        a.mov_imm(Rcx, 0 - key);
        a.lea(Rcx, Mem::at(Rcx, R10, 1, 0));
        go_on_if_zero(a, miss);
    }
    emit_entry(a, to, host_flags);
    a.bind(miss);
    a.mov_imm(R10, to.rip);
    a.jmp_to(glue_.indirect);
    return static_cast<std::uint32_t>(memory_->write(a.code()) - memory_->base());
}

// A thunk of one exit: goes to the block's page, checks that, moves flags, jumps to the block.
// There the source's page is forgotten: behind a call the landing finds it again.
std::uint32_t Translator::make_hop(const Exit& from, const Block& to, bool host_flags) {
    counters_.thunks.fetch_add(1, std::memory_order_relaxed);
    Assembler a(buffer_, memory_->next());
    const Label miss = a.label();
    const std::uint32_t cpl = to.key_mode & ModeBits::kCplMask;
    const std::uint64_t ram_page = to.ram_offset >> 12;
    a.load(R10, Mem::gs_at(layout::kAnchor));
    a.lea(R10, Mem::at(R10, static_cast<std::int32_t>(from.target - to.rip)));
    a.store(Mem::gs_at(layout::kAnchor), R10);
    if (host_flags) {
        a.mov(R11, Rcx);
        emit_page_distance(a, Rcx, cpl, ram_page, 0);
        go_on_if_zero(a, miss);
    } else {
        emit_page_check(a, cpl, ram_page, miss);
    }
    emit_entry(a, to, host_flags);
    a.bind(miss);
    a.lea(R10, Mem::at(R10, static_cast<std::int32_t>(to.rip)));
    a.jmp_to(glue_.indirect);
    return static_cast<std::uint32_t>(memory_->write(a.code()) - memory_->base());
}

// Behind a return: brings flags from where they are to where the block wants them.
std::uint32_t Translator::make_return_thunk(const Block& to) {
    counters_.thunks.fetch_add(1, std::memory_order_relaxed);
    Assembler a(buffer_, memory_->next());
    const Label memory = a.label();
    emit_flags_place(a, memory);
    emit_entry(a, to, true);
    a.bind(memory);
    take_flags_place(a);
    emit_entry(a, to, false);
    return static_cast<std::uint32_t>(memory_->write(a.code()) - memory_->base());
}

std::uint32_t Translator::entry_for(const Exit& from, Block& to) {
    const bool host = from.flags == FlagsPlace::Host;
    if (from.owner().floating() != to.floating()) {
        return 0;  // between high and low addresses few direct jumps reach
    }
    const bool same_page = (from.owner().rip ^ from.target) >> 12 == 0 &&
                           (from.owner().ram_offset ^ to.ram_offset) >> 12 == 0;
    if (!same_page) {
        if (!options_.chain_pages || from.flags == FlagsPlace::Either) {
            return 0;
        }
        const auto way = static_cast<std::int64_t>(from.target - to.rip);
        if (to.floating() && way != static_cast<std::int32_t>(way)) {
            return 0;
        }
        counters_.page_links.fetch_add(1, std::memory_order_relaxed);
        if (to.floating()) {
            return make_hop(from, to, host);
        }
        std::uint32_t& entry = host ? to.host_guard_entry : to.guard_entry;
        if (entry == 0) {
            entry = make_thunk(to, true, host);
        }
        return entry;
    }
    const bool fits = to.entry_flags == FlagsPlace::Dead || to.entry_flags == from.flags ||
                      from.flags == FlagsPlace::Dead;
    if (fits) {
        const bool again = &from.owner() == &to && !from.ungrouped && to.loop_entry != 0;
        return again ? to.loop_entry : to.code;
    }
    if (from.flags == FlagsPlace::Either) {
        if (to.return_entry == 0) {
            to.return_entry = make_return_thunk(to);
        }
        return to.return_entry;
    }
    std::uint32_t& entry = host ? to.save_entry : to.load_entry;
    if (entry == 0) {
        entry = make_thunk(to, false, host);
    }
    return entry;
}

void Translator::link(Exit& from, Block& to) {
    if (from.patch == 0 || from.linked != nullptr || from.owner().dead ||
        memory_->free() <= kSpare / 2) {
        return;
    }
    const std::uint32_t entry = entry_for(from, to);
    if (entry == 0) {
        return;
    }
    from.next_incoming = to.incoming;
    to.incoming = &from;
    from.linked = &to;
    memory_->patch32(memory_->base() + from.patch, entry - (from.patch + 4));
    counters_.links.fetch_add(1, std::memory_order_relaxed);
}

void Translator::remember_jump(CpuState& cpu, Block& to) {
    if (to.indirect_entry == 0) {
        if (memory_->free() <= kSpare / 2) {
            return;
        }
        to.indirect_entry.store(make_indirect_thunk(to, false), std::memory_order_release);
    }
    cpu.translator.jumps[layout::jump_slot(cpu.rip)] = {cpu.rip,
                                                        memory_->base() + to.indirect_entry};
}

// Exits that led here go to their stubs again.
void Translator::unlink_incoming(Block& block) const {
    for (Exit* exit = block.incoming; exit != nullptr;) {
        Exit* following = exit->next_incoming;
        memory_->patch32(memory_->base() + exit->patch, exit->stub - (exit->patch + 4));
        exit->linked = nullptr;
        exit->next_incoming = nullptr;
        exit = following;
    }
    block.incoming = nullptr;
}

// Once for each target: the exits that are taken off its list are linked no more.
void Translator::forget_incoming(Block& block, std::uint32_t region) const {
    Exit** link = &block.incoming;
    while (*link != nullptr) {
        Exit& exit = **link;
        if (memory_->region_of(exit.owner().code) != region) {
            link = &exit.next_incoming;
            continue;
        }
        *link = exit.next_incoming;
        exit.linked = nullptr;
        exit.next_incoming = nullptr;
    }
}

}  // namespace strata::engine::soft
