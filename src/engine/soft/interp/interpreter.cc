// Interpreter: fetch, the cache of decoded instructions, single-step and breakpoints around one
// instruction.
#include "engine/soft/interp/interpreter.h"

#include <Zydis/Mnemonic.h>

#include "base/check.h"
#include "engine/soft/interp/guest_limits.h"
#include "engine/soft/interp/handlers.h"
#include "engine/soft/interp/operands.h"
#include "engine/soft/runtime/host_faults.h"
#include "engine/soft/runtime/soft_vm.h"
#include "engine/soft/runtime/vector_state.h"

namespace strata::engine::soft {

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): one vCPU thread, one context.
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): what each thread owns
thread_local InterpreterContext* t_interpreter = nullptr;

namespace {

constexpr std::uint32_t kMaxLength = 15;
constexpr std::uint64_t kPage = 0x1000;

CodeMode code_mode(const CpuState& cpu) {
    if (code64(cpu)) {
        return CodeMode::Bits64;
    }
    if ((cpu.mode & ModeBits::kCs32) != 0) {
        return CodeMode::Bits32;
    }
    return protected_mode(cpu) ? CodeMode::Bits16 : CodeMode::Real16;
}

StepResult op_too_long(CpuState& cpu, Op& /*op*/) noexcept {
    return raise_gp(cpu);
}

void set_identity(Op& op, const std::uint8_t* bytes, std::uint32_t length, CodeMode mode) {
    std::uint8_t mask[16] = {};
    std::uint8_t kept[16] = {};
    for (std::uint32_t i = 0; i < length; ++i) {
        mask[i] = 0xff;
        kept[i] = bytes[i];
    }
    __builtin_memcpy(op.mask, mask, 16);
    __builtin_memcpy(op.bytes, kept, 16);
    op.key = static_cast<std::uint32_t>(mode);
    op.stub.generation = 0;
}

/// Decodes `available` bytes at `linear` into `op`. False: fetching the rest of the instruction
/// faults.
bool decode_into(CpuState& cpu, InterpreterContext& here, Op& op, std::uint64_t linear,
                 const std::uint8_t* bytes, std::uint32_t available) {
    save_vector_state(cpu);
    const CodeMode mode = code_mode(cpu);
    op.key = ~0U;
    switch (decode(bytes, available, mode, here.isa, op.insn)) {
        case DecodeStatus::Ok:
            op.handler = select_handler(op.insn);
            set_identity(op, bytes, op.insn.length, mode);
            return true;
        case DecodeStatus::Invalid:
            op.handler = op_undefined;
            set_identity(op, bytes, available, mode);
            return true;
        case DecodeStatus::TooLong:
            op.handler = op_too_long;
            set_identity(op, bytes, available, mode);
            return true;
        case DecodeStatus::Truncated:
            break;
    }
    std::uint64_t physical = 0;
    if (translate_linear(cpu, linear + available, MemAccess::Execute, Privilege::Current,
                         physical)) {
        // It became fetchable in between: the guest may simply try again.
        op.handler = op_undefined;
        (void)raise_ud(cpu);
    }
    return false;
}

/// An instruction near the end of its page, or in a device: bytes by fetch_code().
Op* fetch_slowly(CpuState& cpu, InterpreterContext& here, std::uint64_t linear) {
    std::uint8_t bytes[16] = {};
    const std::uint32_t got = fetch_code(cpu, linear, bytes, kMaxLength);
    if (got == 0) {
        return nullptr;
    }
    Op& op = here.straddling;
    std::uint64_t words[2];
    __builtin_memcpy(words, bytes, 16);
    const bool same = op.key == static_cast<std::uint32_t>(code_mode(cpu)) &&
                      (words[0] & op.mask[0]) == op.bytes[0] &&
                      (words[1] & op.mask[1]) == op.bytes[1] && op.insn.length <= got;
    if (!same && !decode_into(cpu, here, op, linear, bytes, got)) {
        return nullptr;
    }
    return &op;
}

bool enter_page(CpuState& cpu, InterpreterContext& here, std::uint64_t linear) {
    here.code_page = 1;
    const std::byte* host = host_pointer(cpu, linear, 1, MemAccess::Execute);
    if (host == nullptr) {
        return false;
    }
    here.code_page = linear & ~(kPage - 1);
    here.code_host = host - (linear & (kPage - 1));
    here.code_epoch = cpu.fetch_epoch;
    here.code_cpl = cpu.cpl;
    return true;
}

/// The instruction at CS:RIP, or null with the exception set.
Op* fetch(CpuState& cpu, InterpreterContext& here) {
    std::uint64_t linear = cpu.rip;
    if (!code64(cpu)) {
        const Segment& cs = cpu.segments[x86::Cs];
        if (cpu.rip > cs.limit) [[unlikely]] {
            (void)raise_gp(cpu);
            return nullptr;
        }
        linear = (cs.base + cpu.rip) & 0xffffffffU;
    }
    const std::uint64_t offset = linear & (kPage - 1);
    if (here.code_page != linear - offset || here.code_epoch != cpu.fetch_epoch ||
        here.code_cpl != cpu.cpl) {
        if (!enter_page(cpu, here, linear)) {
            return cpu.exception.pending ? nullptr : fetch_slowly(cpu, here, linear);
        }
    }
    if (offset > kPage - 16) {
        return fetch_slowly(cpu, here, linear);
    }
    const CodeMode mode = code_mode(cpu);
    // SAFETY: 16 bytes within the page that code_host maps.
    const auto* words = reinterpret_cast<const volatile std::uint64_t*>(here.code_host + offset);
    const std::uint64_t w0 = words[0];
    const std::uint64_t w1 = words[1];
    const std::uint64_t hash = linear ^ (linear >> 12U);
    Op& op = here.ops[hash & (InterpreterContext::kOps - 1)];
    if (op.key == static_cast<std::uint32_t>(mode) &&
        (((w0 & op.mask[0]) ^ op.bytes[0]) | ((w1 & op.mask[1]) ^ op.bytes[1])) == 0) [[likely]] {
        return &op;
    }
    std::uint8_t bytes[16];
    __builtin_memcpy(bytes, &w0, 8);
    __builtin_memcpy(bytes + 8, &w1, 8);
    return decode_into(cpu, here, op, linear, bytes, kMaxLength) ? &op : nullptr;
}

bool beyond_limit(const CpuState& cpu, const Op& op) {
    return !code64(cpu) && op.handler != op_undefined &&
           cpu.rip + op.insn.length - 1 > cpu.segments[x86::Cs].limit;
}

StepResult execute(CpuState& cpu, InterpreterContext& here) {
    Op* op = fetch(cpu, here);
    if (op == nullptr) [[unlikely]] {
        return StepResult::Exception;
    }
    if (beyond_limit(cpu, *op)) [[unlikely]] {
        return raise_gp(cpu);
    }
    const bool shadow = cpu.interrupt_shadow;
    cpu.interrupt_shadow = false;
    const StepResult result = op->handler(cpu, *op);
    ++cpu.instructions;
    // The end of the shadow may open the interrupt window.
    return shadow && result == StepResult::Done ? StepResult::EndBlock : result;
}

/// Bits of DR6 for instruction breakpoints at `linear`.
std::uint64_t instruction_breakpoints(const CpuState& cpu, std::uint64_t linear) {
    std::uint64_t hits = 0;
    for (unsigned i = 0; i < 4; ++i) {
        const bool enabled = ((cpu.dr7 >> (i * 2U)) & 3U) != 0;
        const bool executes = ((cpu.dr7 >> (16U + i * 4U)) & 3U) == 0;
        if (enabled && executes && cpu.dr[i] == linear) {
            hits |= 1ULL << i;
        }
    }
    return hits;
}

bool clears_tf(const Instruction& insn) {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_INT:
        case ZYDIS_MNEMONIC_INT3:
        case ZYDIS_MNEMONIC_INT1:
        case ZYDIS_MNEMONIC_INTO:
        case ZYDIS_MNEMONIC_SYSCALL:
        case ZYDIS_MNEMONIC_SYSRET:
        case ZYDIS_MNEMONIC_SYSENTER:
            return true;
        default:
            return false;
    }
}

/// RFLAGS.TF or DR7 armed: SDM 3B, 17.3.
StepResult execute_traced(CpuState& cpu, InterpreterContext& here, bool resume) {
    const std::uint64_t linear =
        code64(cpu) ? cpu.rip : (cpu.segments[x86::Cs].base + cpu.rip) & 0xffffffffU;
    if (!resume && (cpu.dr7 & 0xffU) != 0) {
        if (const std::uint64_t hits = instruction_breakpoints(cpu, linear); hits != 0) {
            cpu.dr6 = (cpu.dr6 & ~15ULL) | hits;
            return raise(cpu, vec::kDb);
        }
    }
    Op* op = fetch(cpu, here);
    if (op == nullptr) {
        return StepResult::Exception;
    }
    const bool stepping = (cpu.rflags & x86::rflags::kTf) != 0;
    const bool vanishes = clears_tf(op->insn);
    const bool loads_ss = op->insn.cls == InsnClass::Segment;
    const std::uint64_t held = cpu.interrupt_shadow ? here.held_hits : 0;
    here.held_hits = 0;
    here.watch.dr6 = 0;
    const StepResult result = execute(cpu, here);
    std::uint64_t hits = here.watch.dr6 | held;
    if (result == StepResult::Exception && cpu.exception.trap && cpu.exception.vector == vec::kDb) {
        cpu.dr6 |= hits;  // INT1 and SYSRET: one trap for all reasons
        return result;
    }
    if (result == StepResult::Halted && stepping) {
        cpu.halted = false;  // the trap ends the halt that it comes after
    } else if (result != StepResult::Done && result != StepResult::EndBlock) {
        return result;
    }
    if (loads_ss && cpu.interrupt_shadow) {
        here.held_hits = hits;
        return result;
    }
    if (stepping && !(vanishes && (cpu.rflags & x86::rflags::kTf) == 0)) {
        hits |= 1ULL << 14U;
    }
    if (hits == 0) {
        return result;
    }
    // B0 to B3 say what matched now; the other bits are never cleared.
    cpu.dr6 = (cpu.dr6 & ~15ULL) | hits;
    (void)raise(cpu, vec::kDb);
    cpu.exception.trap = true;
    return StepResult::Exception;
}

}  // namespace

InterpreterContext& attach_context(CpuState& cpu) noexcept {
    save_vector_state(cpu);
    thread_local std::unique_ptr<InterpreterContext> owner;
    if (!owner) {
        owner = std::make_unique<InterpreterContext>();
        Result<std::unique_ptr<StubArena>> arena = StubArena::create();
        STRATA_CHECK(arena.ok(), arena.ok() ? "" : arena.error().text());
        owner->arena = std::move(arena).value();
        owner->ops = std::make_unique<Op[]>(InterpreterContext::kOps);
        const Result<> stack = prepare_host_fault_thread();
        STRATA_CHECK(stack.ok(), stack.ok() ? "" : stack.error().text());
        t_interpreter = owner.get();
    }
    InterpreterContext& here = *owner;
    here.cpu = &cpu;
    here.vm = cpu.vm;
    here.code_page = 1;
    const arch::x86::CpuidTable& table = cpu.vm->cpuid(cpu);
    here.physical_mask = reserved_physical_bits(table);
    here.cr4_reserved = reserved_cr4_bits(table);
    here.xcr0_supported = supported_xcr0(table);
    here.pkru_offset = pkru_offset(table);
    const IsaSupport isa(table);
    if (!(isa == here.isa)) {
        here.isa = isa;
        here.straddling.key = ~0U;
        for (std::uint32_t i = 0; i < InterpreterContext::kOps; ++i) {
            here.ops[i].key = ~0U;
        }
    }
    return here;
}

void prepare_interpreter_thread(CpuState& cpu) noexcept {
    (void)attach_context(cpu);
}

StepResult interpret_one(CpuState& cpu) noexcept {
    InterpreterContext& here = context(cpu);
    const std::uint64_t resume = cpu.rflags & x86::rflags::kRf;
    if ((cpu.mode & ModeBits::kTrap) == 0 && resume == 0) [[likely]] {
        return execute(cpu, here);
    }
    // RF is good for one whole instruction; IRET and the like load it anew.
    const std::uint64_t start = cpu.rip;
    cpu.rflags &= ~x86::rflags::kRf;
    const StepResult result = (cpu.mode & ModeBits::kTrap) != 0
                                  ? execute_traced(cpu, here, resume != 0)
                                  : execute(cpu, here);
    if ((result == StepResult::Exception && !cpu.exception.trap) ||
        (result == StepResult::Done && cpu.rip == start)) {
        cpu.rflags |= resume;
    }
    return result;
}

namespace {

bool special_without_stub(const Instruction& insn) {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_BT:
        case ZYDIS_MNEMONIC_BTS:
        case ZYDIS_MNEMONIC_BTR:
        case ZYDIS_MNEMONIC_BTC:
        case ZYDIS_MNEMONIC_XSAVE:
        case ZYDIS_MNEMONIC_XSAVE64:
        case ZYDIS_MNEMONIC_XSAVEC:
        case ZYDIS_MNEMONIC_XSAVEC64:
        case ZYDIS_MNEMONIC_XRSTOR:
        case ZYDIS_MNEMONIC_XRSTOR64:
            return true;
        default:
            return false;
    }
}

}  // namespace

bool has_plain_handler(const Instruction& insn) noexcept {
    switch (insn.cls) {
        case InsnClass::FarFlow:
        case InsnClass::Stack:
        case InsnClass::Segment:
        case InsnClass::String:
        case InsnClass::System:
            return true;
        case InsnClass::Io:
            return insn.mnemonic == ZYDIS_MNEMONIC_IN || insn.mnemonic == ZYDIS_MNEMONIC_OUT;
        case InsnClass::Special:
            return special_without_stub(insn);
        default:
            return false;
    }
}

void prepare_decoded(const Instruction& insn, Op& op) noexcept {
    op.insn = insn;
    op.handler = select_handler(insn);
}

StepResult execute_decoded(CpuState& cpu, Op& op) noexcept {
    if ((cpu.mode & ModeBits::kTrap) != 0 || (cpu.rflags & x86::rflags::kRf) != 0) [[unlikely]] {
        return interpret_one(cpu);
    }
    const bool shadow = cpu.interrupt_shadow;
    cpu.interrupt_shadow = false;
    const StepResult result = op.handler(cpu, op);
    ++cpu.instructions;
    return shadow && result == StepResult::Done ? StepResult::EndBlock : result;
}

StepResult op_undefined(CpuState& cpu, Op& /*op*/) noexcept {
    return raise_ud(cpu);
}
StepResult op_nop(CpuState& cpu, Op& op) noexcept {
    return done(cpu, op.insn);
}

Handler select_handler(const Instruction& insn) noexcept {
    Handler found = nullptr;
    switch (insn.cls) {
        case InsnClass::Undefined:
            return op_undefined;
        case InsnClass::Copy:
            found = select_fast(insn);
            return found != nullptr ? found : op_on_host;
        case InsnClass::CopyVector:
            return op_on_host;
        case InsnClass::Lea:
            found = select_fast(insn);
            break;
        case InsnClass::Special:
            found = select_special(insn);
            break;
        case InsnClass::Nop:
            return op_nop;
        case InsnClass::Fence:
            found = select_fast(insn);
            break;
        case InsnClass::Jcc:
        case InsnClass::Jmp:
        case InsnClass::JmpIndirect:
        case InsnClass::Call:
        case InsnClass::CallIndirect:
        case InsnClass::Ret:
        case InsnClass::Loop:
            found = select_flow(insn);
            break;
        case InsnClass::FarFlow:
            found = select_far(insn);
            break;
        case InsnClass::String:
            found = select_string(insn);
            break;
        case InsnClass::Stack:
            found = select_stack(insn);
            break;
        case InsnClass::Segment:
            found = select_segment(insn);
            break;
        case InsnClass::System:
            found = select_system(insn);
            break;
        case InsnClass::Io:
            found = select_io(insn);
            break;
    }
    return found != nullptr ? found : op_undefined;
}

}  // namespace strata::engine::soft
