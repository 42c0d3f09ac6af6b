// Trace: Zydis's formatter over both sides.
#include "engine/soft/translate/trace.h"

#include <cstdio>

#include <Zydis/Zydis.h>

namespace strata::engine::soft {
namespace {

constexpr std::size_t kText = 160;

// Prints one instruction and answers its length; 1 for a byte that is none.
std::size_t print_one(const char* side, const std::uint8_t* bytes, std::size_t left,
                      std::uint64_t address) {
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    char text[kText] = "(bad)";
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, left, &insn, operands))) {
        std::fprintf(stderr, "%s %016lx %02x %s\n", side, address, bytes[0], text);
        return 1;
    }
    (void)ZydisFormatterFormatInstruction(&formatter, &insn, operands, insn.operand_count_visible,
                                          text, sizeof text, address, nullptr);
    std::fprintf(stderr, "%s %016lx %s\n", side, address, text);
    return insn.length;
}

}  // namespace

void trace_block(const std::vector<Unit>& units, std::uint64_t page,
                 std::span<const std::uint8_t> code, std::uint64_t address,
                 std::span<const std::uint8_t> cold, std::uint64_t cold_address) {
    std::fprintf(stderr, "block %016lx%s\n", page + units.front().rip,
                 page != 0 ? " floating" : "");
    for (const Unit& unit : units) {
        (void)print_one("  guest", unit.insn.bytes, unit.insn.length, page + unit.rip);
    }
    for (std::size_t at = 0; at < code.size();) {
        at += print_one("    host", code.data() + at, code.size() - at, address + at);
    }
    for (std::size_t at = 0; at < cold.size();) {
        at += print_one("    cold", cold.data() + at, cold.size() - at, cold_address + at);
    }
}

}  // namespace strata::engine::soft
