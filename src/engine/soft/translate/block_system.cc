// BlockEmitter: system instructions: calls of their handlers, and those that are done in place.
#include <Zydis/Zydis.h>

#include "arch/x86/registers.h"
#include "engine/soft/translate/block_emitter.h"
#include "engine/soft/translate/layout.h"
#include "engine/soft/translate/rewrite.h"

namespace strata::engine::soft {
namespace {

using enum Reg;

constexpr std::uint32_t kArithmetic = static_cast<std::uint32_t>(arch::x86::rflags::kArithmetic);
constexpr std::uint16_t kInMemory = 0x0E00;
constexpr std::uint8_t kGs = 5;
bool in_memory(unsigned guest) {
    return ((kInMemory >> guest) & 1U) != 0;
}

// Offset of a control register in CpuState; 0: there is none of that number.
std::size_t control_register(unsigned number) {
    switch (number) {
        case 0:
            return layout::kCr0;
        case 2:
            return layout::kCr2;
        case 3:
            return layout::kCr3;
        case 4:
            return layout::kCr4;
        case 8:
            return layout::kCr8;
        default:
            return 0;
    }
}

}  // namespace

bool can_inline(const Instruction& insn, std::uint32_t mode) {
    const bool supervisor = (mode & ModeBits::kCplMask) == 0;
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_CLI:
        case ZYDIS_MNEMONIC_STI:
        case ZYDIS_MNEMONIC_SWAPGS:
        case ZYDIS_MNEMONIC_CLAC:
        case ZYDIS_MNEMONIC_STAC:
            return supervisor;
        case ZYDIS_MNEMONIC_INVLPG:
            return supervisor && insn.address_size >= 4;
        case ZYDIS_MNEMONIC_CLD:
        case ZYDIS_MNEMONIC_RDTSC:
        case ZYDIS_MNEMONIC_RDTSCP:
            return true;
        case ZYDIS_MNEMONIC_PUSHFQ:
            return insn.stack_size == 8;
        case ZYDIS_MNEMONIC_MOV:
            return insn.cls == InsnClass::System && insn.opcode == 0x20 && supervisor &&
                   !insn.lock && control_register(insn.reg) != 0;
        default:
            return can_inline_string(insn);
    }
}

bool leaves_block(const Instruction& insn) {
    return insn.cls == InsnClass::FarFlow || insn.mnemonic == ZYDIS_MNEMONIC_HLT;
}

// The helper has left if the instruction did anything that the rest of the block could depend on.
void BlockEmitter::emit_system(const Unit& unit) {
    if (unit.need_before != FlagsNeed::None) {
        put_away_flags();
    }
    const bool last = current_ + 1 == units_.size();
    load_linear(R11, unit.rip);
    a_.mov_imm(R10, reinterpret_cast<std::uint64_t>(unit.op) | (last ? SystemWord::kLast : 0));
    if (leaves_block(unit.insn)) {
        a_.jmp_to(glue_.transfer);
        ended_ = true;
        return;
    }
    a_.call_to(glue_.system);
    host_valid_ = false;
    memory_valid_ = true;
    reload_flags(unit);
}

void BlockEmitter::emit_inlined(const Unit& unit) {
    switch (unit.insn.mnemonic) {
        case ZYDIS_MNEMONIC_CLI:
            emit_interrupt_flag(unit, false);
            break;
        case ZYDIS_MNEMONIC_STI:
            // Its shadow covers the next instruction: that must be in the block too.
            if (current_ + 1 == units_.size()) {
                emit_system(unit);
            } else {
                emit_interrupt_flag(unit, true);
            }
            break;
        case ZYDIS_MNEMONIC_SWAPGS:
            emit_swapgs();
            break;
        case ZYDIS_MNEMONIC_CLAC:
            emit_access_flag(unit, false);
            break;
        case ZYDIS_MNEMONIC_STAC:
            emit_access_flag(unit, true);
            break;
        case ZYDIS_MNEMONIC_CLD: {
            const bool live = begin_clobber(unit);
            a_.alu_imm(Alu::And, OpSize::Bits32, Mem::gs_at(layout::kRflags),
                       ~static_cast<std::int32_t>(arch::x86::rflags::kDf));
            end_clobber(live);
            break;
        }
        case ZYDIS_MNEMONIC_PUSHFQ:
            emit_pushfq(unit);
            break;
        case ZYDIS_MNEMONIC_MOV:
            emit_read_control(unit);
            break;
        case ZYDIS_MNEMONIC_INVLPG:
            emit_invlpg(unit);
            break;
        case ZYDIS_MNEMONIC_RDTSC:
        case ZYDIS_MNEMONIC_RDTSCP:
            emit_rdtsc(unit);
            break;
        default:
            emit_string(unit);
            break;
    }
}

// Nobody looks for interrupts here: with one waiting, STI is the handler's. What comes later sets
// `request`.
void BlockEmitter::emit_interrupt_flag(const Unit& unit, bool set) {
    constexpr auto kIf = static_cast<std::int32_t>(arch::x86::rflags::kIf);
    const Mem flags = Mem::gs_at(layout::kRflags);
    const bool live = begin_clobber(unit);
    if (!set) {
        a_.alu_imm(Alu::And, OpSize::Bits32, flags, ~kIf);
        end_clobber(live);
        return;
    }
    const SystemSite site{a_.label(), a_.label(), current_, live};
    a_.alu_imm(Alu::Cmp, OpSize::Bits32, Mem::gs_at(layout::kInterruptWindow), 0);
    a_.jcc(Cond::Ne, site.entry);
    a_.alu_imm(Alu::Or, OpSize::Bits32, flags, kIf);
    end_clobber(live);
    a_.bind(site.back);
    system_.push_back(site);
}

void BlockEmitter::emit_swapgs() {
    const Mem active = layout::segment_base(kGs);
    const Mem other = Mem::gs_at(layout::kKernelGsBase);
    a_.load(R10, active);
    a_.load(R11, other);
    a_.store(active, R11);
    a_.store(other, R10);
}

// At CPL 0 the flag says which bank of the TLB counts, and nothing else. What may be reached
// without it may be reached with it.
void BlockEmitter::emit_access_flag(const Unit& unit, bool set) {
    constexpr auto kAc = static_cast<std::int32_t>(arch::x86::rflags::kAc);
    const bool live = begin_clobber(unit);
    a_.alu_imm(set ? Alu::Or : Alu::And, OpSize::Bits32, Mem::gs_at(layout::kRflags),
               set ? kAc : ~kAc);
    end_clobber(live);
    a_.load(R10, Mem::gs_at(set ? layout::kTlbOpen : layout::kTlbStrict));
    a_.store(Mem::gs_at(layout::kTlb), R10);
    if (!set) {
        a_.store_imm32(OpSize::Bits64, Mem::gs_at(layout::kStackTag),
                       static_cast<std::int32_t>(TranslatorState::kNoStack));
        a_.mov_imm(R10, TranslatorState::kNoStackHost);
        a_.store(Mem::gs_at(layout::kStackHost), R10);
    }
}

void BlockEmitter::emit_rdtsc(const Unit& unit) {
    const bool user = (source_.key_mode & ModeBits::kCplMask) != 0;
    const bool ordered = unit.insn.mnemonic == ZYDIS_MNEMONIC_RDTSCP;
    if (unit.need_before != FlagsNeed::None) {
        put_away_flags();
    }
    drop_host_flags();
    const SystemSite site{a_.label(), a_.label(), current_, false};
    if (user) {
        a_.load32(R10, Mem::gs_at(layout::kCr4));
        a_.alu_imm(Alu::And, OpSize::Bits32, R10, static_cast<std::int32_t>(arch::x86::cr4::kTsd));
        a_.jcc(Cond::Ne, site.entry);
        system_.push_back(site);
    }
    if (ordered) {
        a_.byte(0x0F);  // lfence
        a_.byte(0xAE);
        a_.byte(0xE8);
    }
    a_.byte(0x0F);  // rdtsc
    a_.byte(0x31);
    a_.shl_imm(OpSize::Bits64, Rdx, 32);
    a_.alu(Alu::Or, OpSize::Bits64, Rax, Rdx);
    a_.alu(Alu::Add, OpSize::Bits64, Rax, Mem::gs_at(layout::kTscOffset));
    a_.mov(Rdx, Rax);
    a_.shr_imm(OpSize::Bits64, Rdx, 32);
    a_.mov32(Rax, Rax);
    if (ordered) {
        a_.load32(Rcx, Mem::gs_at(layout::kTscAux));
    }
    a_.bind(site.back);
    reload_flags(unit);
}

// The image: what CpuState holds, with the arithmetic flags of now, without RF and VM.
void BlockEmitter::emit_pushfq(const Unit& unit) {
    constexpr auto kHidden =
        static_cast<std::uint32_t>(arch::x86::rflags::kRf | arch::x86::rflags::kVm);
    put_away_flags();
    drop_host_flags();
    Mem slot = Mem::at(R10);
    if (unit.grouped) {
        a_.load(R10, Mem::gs_at(layout::kStackHost));
        slot = Mem::at(R10, R9, 1, -8);
    } else {
        check(unit, {Address::Kind::Stack, -8}, 8, true);
    }
    a_.load(R11, layout::flags());
    a_.alu_imm(Alu::And, OpSize::Bits32, R11, static_cast<std::int32_t>(kArithmetic));
    a_.store(layout::spill(1), R11);
    a_.load32(R11, Mem::gs_at(layout::kRflags));
    a_.alu_imm(Alu::And, OpSize::Bits32, R11, static_cast<std::int32_t>(~(kArithmetic | kHidden)));
    a_.alu(Alu::Or, OpSize::Bits64, R11, layout::spill(1));
    a_.store(slot, R11);
    a_.lea(R9, Mem::at(R9, -8));
    reload_flags(unit);
}

void BlockEmitter::emit_read_control(const Unit& unit) {
    const unsigned to = unit.insn.rm & 15U;
    const Reg home = in_memory(to) ? R11 : Rewrite{}.home[to];
    a_.load(home, Mem::gs_at(control_register(unit.insn.reg)));
    if (in_memory(to)) {
        a_.store(layout::gpr(to), home);
    }
}

// The address goes first: keeping the flags borrows rax.
void BlockEmitter::emit_invlpg(const Unit& unit) {
    address_of_operand(unit);
    const SystemSite site{a_.label(), a_.label(), current_, begin_clobber(unit)};
    a_.call_to(glue_.forget_page);
    a_.alu_imm(Alu::Cmp, OpSize::Bits32, R11, 0);
    a_.jcc(Cond::E, site.entry);
    end_clobber(site.live);
    a_.bind(site.back);
    system_.push_back(site);
}

// Behind code that lost the host's flags after putting them away.
void BlockEmitter::reload_flags(const Unit& unit) {
    if (unit.need_after == FlagsNeed::Host) {
        a_.push(layout::flags());
        a_.popfq();
        host_valid_ = true;
    }
}

void BlockEmitter::emit_system_sites() {
    for (const SystemSite& site : system_) {
        const Unit& unit = units_[site.unit];
        mark(site.unit);
        a_.bind(site.entry);
        if (site.live) {
            end_clobber(true);
            a_.pushfq();
            a_.pop(layout::flags());
        }
        load_linear(R11, unit.rip);
        a_.mov_imm(R10, reinterpret_cast<std::uint64_t>(unit.op) |
                            (site.unit + 1 == units_.size() ? SystemWord::kLast : 0));
        a_.call_to(glue_.system);
        if (site.live) {
            a_.push(layout::flags());
            a_.popfq();
        }
        a_.jmp(site.back);
    }
}

}  // namespace strata::engine::soft
