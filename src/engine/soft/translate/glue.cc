// Glue: its code. Register homes are those of cpu_state.h: guest rsp in r9, guest r9 to r11 in
// memory, r10 and r11 scratch.
#include "engine/soft/translate/glue.h"

#include <array>

#include "base/check.h"
#include "engine/soft/translate/layout.h"

namespace strata::engine::soft {
namespace {

using enum Reg;

struct Home {
    Reg host;
    std::uint8_t guest;
};

// Guest registers that live in host registers.
constexpr std::array kHomes = {Home{Rax, 0}, Home{Rcx, 1},  Home{Rdx, 2},  Home{Rbx, 3},
                               Home{R9, 4},  Home{Rbp, 5},  Home{Rsi, 6},  Home{Rdi, 7},
                               Home{R8, 8},  Home{R12, 12}, Home{R13, 13}, Home{R14, 14},
                               Home{R15, 15}};
// Those that a C++ function may change, or call_helper().
constexpr std::array kChanged = {Home{Rax, 0}, Home{Rcx, 1}, Home{Rdx, 2}, Home{R9, 4},
                                 Home{Rbp, 5}, Home{Rsi, 6}, Home{Rdi, 7}, Home{R8, 8}};
constexpr std::array kCalleeSaved = {Rbx, Rbp, R12, R13, R14, R15};
constexpr std::int32_t kPage = 4096;

void store_homes(Assembler& a) {
    for (const Home& home : kHomes) {
        a.store(layout::gpr(home.guest), home.host);
    }
}

void load_homes(Assembler& a) {
    for (const Home& home : kHomes) {
        a.load(home.host, layout::gpr(home.guest));
    }
}

// rdi = CpuState: the gs base itself. RDGSBASE needs CR4.FSGSBASE, so a copy of the pointer is kept
// in spill[3].
void load_self(Assembler& a) {
    a.load(Rdi, layout::spill(3));
}

void restore_host_and_return(Assembler& a) {
    a.load(Rsp, Mem::gs_at(layout::kHostRsp));
    for (auto reg = kCalleeSaved.rbegin(); reg != kCalleeSaved.rend(); ++reg) {
        a.pop(*reg);
    }
    a.ret();
}

// The pairs of the return stack that are pushed from here on are good as long as the epoch stays.
void begin_returns(Assembler& a) {
    a.load(Rsp, Mem::gs_at(layout::kReturnBase));
    a.load(Rax, Mem::gs_at(layout::kFetchEpoch));
    a.store(Mem::gs_at(layout::kReturnEpoch), Rax);
}

void leave(Assembler& a, std::uint64_t reason) {
    a.store_imm32(OpSize::Bits64, Mem::gs_at(layout::kExitReason),
                  static_cast<std::int32_t>(reason));
    store_homes(a);
    restore_host_and_return(a);
}

void save_flags(Assembler& a) {
    a.pushfq();
    a.pop(layout::flags());
}

void load_flags(Assembler& a) {
    a.push(layout::flags());
    a.popfq();
}

// Calls a C++ function on the host's own stack; guest registers were stored. rbp is free then.
void call_helper(Assembler& a, std::uint64_t function) {
    a.mov(Rbp, Rsp);
    a.load(Rsp, Mem::gs_at(layout::kHostRsp));
    a.alu_imm(Alu::And, OpSize::Bits64, Rsp, -16);
    a.mov_imm(Rax, function);
    a.call(Rax);
    a.mov(Rsp, Rbp);
}

// Returns to ten bytes behind the return address with r10 = TranslatorState::bounce.
void return_to_copy(Assembler& a) {
    a.load(R10, layout::spill(3));
    a.lea(R10, Mem::at(R10, static_cast<std::int32_t>(layout::kBounce)));
    a.pop(R11);
    a.lea(R11, Mem::at(R11, 10));
    a.jmp(R11);
}

// Returns to five bytes behind the return address, flags untouched.
void return_behind(Assembler& a) {
    a.pop(R10);
    a.lea(R10, Mem::at(R10, 5));
    a.jmp(R10);
}

template <typename F>
std::uint64_t address_of(F* function) {
    return reinterpret_cast<std::uint64_t>(function);
}

void emit_enter(Assembler& a) {
    for (const Reg reg : kCalleeSaved) {
        a.push(reg);
    }
    a.store(Mem::gs_at(layout::kHostRsp), Rsp);
    a.mov(R11, Rsi);
    begin_returns(a);
    load_flags(a);
    load_homes(a);
    a.jmp(R11);
}

// Guest registers are in memory: takes them and goes on at cpu.rip. Mode or address space may be
// others: pairs of the return stack do not hold any more.
void emit_go_on(Assembler& a, std::uint64_t indirect) {
    const Label miss = a.label();
    begin_returns(a);
    load_homes(a);
    a.load(R10, Mem::gs_at(layout::kRip));
    emit_jump_lookup(a, miss);
    a.bind(miss);
    a.jmp_to(indirect);
}

void emit_slow(Assembler& a, const GlueHelpers& helpers, std::uint64_t indirect) {
    const Label done = a.label();
    const Label stop = a.label();
    const Label copy = a.label();
    const Label go_on = a.label();
    store_homes(a);
    load_self(a);
    a.mov(Rsi, R10);
    a.mov(Rdx, R11);
    a.load(Rcx, Mem::at(Rsp));
    call_helper(a, address_of(helpers.slow_access));
    a.alu_imm(Alu::Cmp, OpSize::Bits64, Rax, 1);
    a.jcc(Cond::B, done);
    a.jcc(Cond::E, stop);
    a.alu_imm(Alu::Cmp, OpSize::Bits64, Rax, static_cast<std::int32_t>(GlueHelpers::kCopyOut));
    a.jcc(Cond::E, copy);
    a.alu_imm(Alu::Cmp, OpSize::Bits64, Rax, static_cast<std::int32_t>(GlueHelpers::kGoOn));
    a.jcc(Cond::E, go_on);
    a.mov(R10, Rax);
    load_homes(a);
    a.ret();
    a.bind(go_on);
    emit_go_on(a, indirect);
    a.bind(copy);
    load_homes(a);
    return_to_copy(a);
    a.bind(done);
    load_flags(a);
    load_homes(a);
    return_behind(a);
    a.bind(stop);
    a.pop(Mem::gs_at(layout::kExitPc));
    restore_host_and_return(a);
}

void emit_indirect(Assembler& a, const GlueHelpers& helpers) {
    const Label stop = a.label();
    a.store(Mem::gs_at(layout::kRip), R10);
    store_homes(a);
    load_self(a);
    call_helper(a, address_of(helpers.find_target));
    a.alu_imm(Alu::Cmp, OpSize::Bits64, Rax, 0);
    a.jcc(Cond::E, stop);
    a.mov(R11, Rax);
    load_homes(a);
    a.load(R10, Mem::gs_at(layout::kRip));
    a.jmp(R11);
    a.bind(stop);
    a.store_imm32(OpSize::Bits64, Mem::gs_at(layout::kExitReason),
                  static_cast<std::int32_t>(ExitReasonCode::kIndirect));
    restore_host_and_return(a);
}

void emit_store(Assembler& a, const GlueHelpers& helpers) {
    store_homes(a);
    load_self(a);
    call_helper(a, address_of(helpers.finish_store));
    load_flags(a);
    load_homes(a);
    a.ret();
}

void emit_stack_lookup(Assembler& a, Label miss, Label fail) {
    // r10 = linear. A hit needs both tags; the range must end within the page.
    a.rorx(OpSize::Bits32, R11, R10, 7);
    a.alu_imm(Alu::And, OpSize::Bits32, R11, layout::kTlbMask);
    a.alu(Alu::Add, OpSize::Bits64, R11, Mem::gs_at(layout::kTlb));
    a.alu_imm(Alu::And, OpSize::Bits64, R10, -kPage);
    a.alu(Alu::Cmp, OpSize::Bits64, R10, Mem::at(R11, layout::kTagWrite));
    a.jcc(Cond::Ne, miss);
    a.alu(Alu::Cmp, OpSize::Bits64, R10, Mem::at(R11, layout::kTagRead));
    a.jcc(Cond::Ne, miss);
    a.store(Mem::gs_at(layout::kStackTag), R10);
    a.load(R11, Mem::at(R11, layout::kHostPage));
    a.alu(Alu::Sub, OpSize::Bits64, R11, R10);
    a.store(Mem::gs_at(layout::kStackHost), R11);
    a.ret();
    a.bind(fail);
    return_behind(a);
}

void emit_stack(Assembler& a, const GlueHelpers& helpers) {
    const Label miss = a.label();
    const Label fail = a.label();
    const Label again_fails = a.label();
    a.store(layout::spill(1), R10);
    // Does the range cross its page? (r10 & 4095) + bytes > 4096.
    a.alu_imm(Alu::And, OpSize::Bits32, R10, kPage - 1);
    a.alu(Alu::Add, OpSize::Bits32, R10, R11);
    a.alu_imm(Alu::Cmp, OpSize::Bits32, R10, kPage);
    a.jcc(Cond::A, fail);
    a.load(R10, layout::spill(1));
    emit_stack_lookup(a, miss, fail);
    a.bind(miss);
    store_homes(a);
    load_self(a);
    a.load(Rsi, layout::spill(1));
    call_helper(a, address_of(helpers.fill_stack));
    load_homes(a);
    a.load(R10, layout::spill(1));
    emit_stack_lookup(a, again_fails, again_fails);
}

// Back to the block after a helper that looked pages up: to the call if it answered other than 0,
// else behind it (return_behind()).
void return_by_answer(Assembler& a) {
    const Label fail = a.label();
    a.alu_imm(Alu::Cmp, OpSize::Bits64, Rax, 0);
    a.jcc(Cond::E, fail);
    load_homes(a);
    a.ret();
    a.bind(fail);
    load_homes(a);
    return_behind(a);
}

void emit_run(Assembler& a, const GlueHelpers& helpers) {
    store_homes(a);
    load_self(a);
    a.mov(Rsi, R10);
    a.mov32(Rdx, R11);
    call_helper(a, address_of(helpers.fill_run));
    return_by_answer(a);
}

void emit_loop(Assembler& a, const GlueHelpers& helpers) {
    store_homes(a);
    load_self(a);
    a.mov(Rsi, R11);
    call_helper(a, address_of(helpers.fill_loop));
    return_by_answer(a);
}

void emit_interpret(Assembler& a, const GlueHelpers& helpers) {
    const Label stop = a.label();
    a.store(Mem::gs_at(layout::kRip), R11);
    store_homes(a);
    load_self(a);
    a.mov(Rsi, R10);
    call_helper(a, address_of(helpers.interpret));
    a.alu_imm(Alu::Cmp, OpSize::Bits64, Rax, 0);
    a.jcc(Cond::Ne, stop);
    load_flags(a);
    load_homes(a);
    a.ret();
    a.bind(stop);
    a.pop(Mem::gs_at(layout::kExitPc));
    restore_host_and_return(a);
}

// As emit_interpret(), but flags stay in memory.
void emit_system(Assembler& a, const GlueHelpers& helpers) {
    const Label stop = a.label();
    a.store(Mem::gs_at(layout::kRip), R11);
    store_homes(a);
    load_self(a);
    a.mov(Rsi, R10);
    call_helper(a, address_of(helpers.system));
    a.alu_imm(Alu::Cmp, OpSize::Bits64, Rax, 0);
    a.jcc(Cond::Ne, stop);
    // The block's own page is as it was. Pairs of other pages may not hold any more.
    const Label kept = a.label();
    a.load(Rax, Mem::gs_at(layout::kFetchEpoch));
    a.alu(Alu::Cmp, OpSize::Bits64, Rax, Mem::gs_at(layout::kReturnEpoch));
    a.jcc(Cond::E, kept);
    a.pop(R11);
    begin_returns(a);
    a.push(R11);
    a.bind(kept);
    load_homes(a);
    a.ret();
    a.bind(stop);
    restore_host_and_return(a);
}

void emit_transfer(Assembler& a, const GlueHelpers& helpers, std::uint64_t indirect) {
    const Label stop = a.label();
    a.store(Mem::gs_at(layout::kRip), R11);
    store_homes(a);
    load_self(a);
    a.mov(Rsi, R10);
    call_helper(a, address_of(helpers.transfer));
    a.alu_imm(Alu::Cmp, OpSize::Bits64, Rax, 0);
    a.jcc(Cond::Ne, stop);
    emit_go_on(a, indirect);
    a.bind(stop);
    restore_host_and_return(a);
}

// For general registers only, and nobody looks at the others.
void emit_forget_page(Assembler& a, const GlueHelpers& helpers) {
    for (const Home& home : kChanged) {
        a.store(layout::gpr(home.guest), home.host);
    }
    load_self(a);
    a.mov(Rsi, R10);
    call_helper(a, address_of(helpers.forget_page));
    a.mov(R11, Rax);
    for (const Home& home : kChanged) {
        a.load(home.host, layout::gpr(home.guest));
    }
    a.ret();
}

void emit_vector(Assembler& a, const GlueHelpers& helpers) {
    store_homes(a);
    load_self(a);
    call_helper(a, address_of(helpers.load_vectors));
    load_homes(a);
    a.ret();
}

}  // namespace

void emit_flags_place(Assembler& a, Label memory) {
    a.mov(R11, Rcx);
    a.load(Rcx, Mem::gs_at(layout::kFlagsInHost));
    a.jrcxz(memory);
    a.mov(Rcx, R11);
}

void take_flags_place(Assembler& a) {
    a.mov(Rcx, R11);
}

void emit_jump_lookup(Assembler& a, Label miss, bool call) {
    static_assert(sizeof(TranslatorState::JumpEntry) == 16 &&
                  layout::jump_slot(0xABCDE123) == ((0xABCDE ^ 0xABCDE123) & 0x3FFF));
    a.rorx(OpSize::Bits64, R11, R10, 12);
    a.alu(Alu::Xor, OpSize::Bits32, R11, R10);
    a.alu_imm(Alu::And, OpSize::Bits32, R11, TranslatorState::kJumpEntries - 1);
    a.shl_imm(OpSize::Bits32, R11, 4);
    a.alu(Alu::Cmp, OpSize::Bits64, R10, Mem::gs_at(R11, layout::kJumps));
    a.jcc(Cond::Ne, miss);
    const Mem host = Mem::gs_at(R11, layout::kJumps + 8);
    if (call) {
        a.call(host);
    } else {
        a.jmp(host);
    }
}

// NOLINTNEXTLINE(readability-function-size): a list of its entries
Glue make_glue(CodeMemory& memory, const GlueHelpers& helpers) {
    std::array<std::uint8_t, 8192> buffer{};
    Assembler a(buffer, memory.next());
    Glue glue;
    // SAFETY: the code at this address is an ordinary C function of this type.
    glue.enter = reinterpret_cast<void (*)(CpuState*, std::uint64_t)>(a.here());
    emit_enter(a);
    a.align(16);
    glue.exit_host = a.here();
    a.pop(Mem::gs_at(layout::kExitPc));
    save_flags(a);
    leave(a, ExitReasonCode::kSite);
    a.align(16);
    glue.exit_memory = a.here();
    a.pop(Mem::gs_at(layout::kExitPc));
    leave(a, ExitReasonCode::kSite);
    a.align(16);
    glue.indirect = a.here();
    emit_indirect(a, helpers);
    a.align(16);
    glue.fault = a.here();
    leave(a, ExitReasonCode::kFault);
    a.align(16);
    glue.slow = a.here();
    emit_slow(a, helpers, glue.indirect);
    a.align(16);
    glue.store = a.here();
    emit_store(a, helpers);
    a.align(16);
    glue.stack = a.here();
    emit_stack(a, helpers);
    a.align(16);
    glue.vector = a.here();
    emit_vector(a, helpers);
    a.align(16);
    glue.run = a.here();
    emit_run(a, helpers);
    a.align(16);
    glue.loop = a.here();
    emit_loop(a, helpers);
    a.align(16);
    glue.forget_page = a.here();
    emit_forget_page(a, helpers);
    a.align(16);
    glue.interpret = a.here();
    emit_interpret(a, helpers);
    a.align(16);
    glue.system = a.here();
    emit_system(a, helpers);
    a.align(16);
    glue.transfer = a.here();
    emit_transfer(a, helpers, glue.indirect);
    a.align(16);
    glue.return_end = a.here();
    const Label ended = a.label();
    a.load(Rsp, Mem::gs_at(layout::kReturnBase));
    emit_flags_place(a, ended);
    save_flags(a);
    a.jmp_to(glue.indirect);
    a.bind(ended);
    take_flags_place(a);
    a.jmp_to(glue.indirect);
    a.align(16);
    glue.exit_either = a.here();
    const Label in_memory = a.label();
    emit_flags_place(a, in_memory);
    a.jmp_to(glue.exit_host);
    a.bind(in_memory);
    take_flags_place(a);
    a.jmp_to(glue.exit_memory);
    STRATA_CHECK(!a.overflowed(), "glue does not fit");
    (void)memory.write(a.code());
    return glue;
}

}  // namespace strata::engine::soft
