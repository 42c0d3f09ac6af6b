// Trace: Zydis's formatter over both sides.
#include "engine/soft/translate/trace.h"

#include <cstdio>

#include <Zydis/Zydis.h>

#include "engine/soft/translate/glue.h"

namespace strata::engine::soft {
namespace {

constexpr std::size_t kText = 160;

// Prints one instruction and answers its length; 1 for a byte that is none.
std::size_t print_one(const char* side, const std::uint8_t* bytes, std::size_t left,
                      std::uint64_t address, const char* remark) {
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    char text[kText] = "(bad)";
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, left, &insn, operands))) {
        std::fprintf(stderr, "    %s %016lx %02x %s\n", side, address, bytes[0], text);
        return 1;
    }
    (void)ZydisFormatterFormatInstruction(&formatter, &insn, operands, insn.operand_count_visible,
                                          text, sizeof text, address, nullptr);
    std::fprintf(stderr, "    %s %016lx %s%s\n", side, address, text, remark);
    return insn.length;
}

const char* executor_of(const Unit& unit) {
    return unit.inlined                          ? "  ; in place"
           : unit.op != nullptr                  ? "  ; by its handler"
           : unit.interpreted                    ? "  ; by the interpreter"
           : unit.patched                        ? "  ; immediate as it stands"
           : unit.need_before == FlagsNeed::Host ? "  ; flags live"
                                                 : "";
}

}  // namespace

void trace_units(const std::vector<Unit>& units, std::uint64_t page) {
    for (const Unit& unit : units) {
        (void)print_one("guest", unit.insn.bytes, unit.insn.length, page + unit.rip,
                        executor_of(unit));
    }
}

void trace_block(const Block& block, std::uint64_t page) {
    std::fprintf(stderr, "block %016lx ram %lx mode %x guest %u host %u cold %u exits %zu%s%s%s\n",
                 page + block.rip, block.ram_offset, block.key_mode, block.guest_length,
                 block.code_size, block.cold_size, block.parts.exits().size(),
                 block.floating() ? " floating" : "", block.checked ? " checked" : "",
                 block.loop != nullptr ? " loop" : "");
}

void trace_code(const char* side, std::span<const std::uint8_t> code, std::uint64_t address) {
    for (std::size_t at = 0; at < code.size();) {
        at += print_one(side, code.data() + at, code.size() - at, address + at, "");
    }
}

void trace_exit(std::uint64_t reason, std::uint64_t rip) {
    const char* why = reason == ExitReasonCode::kSite        ? "site"
                      : reason == ExitReasonCode::kIndirect  ? "indirect"
                      : reason == ExitReasonCode::kResume    ? "resume"
                      : reason == ExitReasonCode::kException ? "exception"
                                                             : "fault";
    std::fprintf(stderr, "exit %016lx %s\n", rip, why);
}

}  // namespace strata::engine::soft
