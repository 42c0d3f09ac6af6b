// Fragments: their code.
#include "engine/soft/translate/fragments.h"

#include "engine/soft/translate/layout.h"

namespace strata::engine::soft {
namespace {

using enum Reg;

void emit_test(Assembler& a, Reg reg) {
    a.op(OpSize::Bits64, 0x85, Assembler::raw(reg), reg);
}

}  // namespace

void emit_page_distance(Assembler& a, Reg to, std::uint32_t cpl, std::uint64_t ram_page,
                        std::uint64_t offset) {
    const std::uint64_t tag = TranslatorState::home_tag(ram_page);
    a.load(to, Mem::gs_at(layout::kHomes + (cpl == 3 ? sizeof(std::uint64_t*) : 0)));
    a.load(to,
           Mem::at(to, static_cast<std::int32_t>(8 * (ram_page % TranslatorState::kCodeHomes))));
    a.lea(to, Mem::at(to, R10, 1, static_cast<std::int32_t>(tag - offset)));
}

void emit_page_check(Assembler& a, std::uint32_t cpl, std::uint64_t ram_page, Label miss) {
    emit_page_distance(a, R11, cpl, ram_page, 0);
    emit_test(a, R11);
    a.jcc(Cond::Ne, miss);
}

void emit_page_check(Assembler& a, std::uint32_t cpl, std::uint64_t ram_page, std::uint64_t offset,
                     std::uint64_t miss) {
    emit_page_distance(a, R11, cpl, ram_page, offset);
    emit_test(a, R11);
    a.jcc_to(Cond::Ne, miss);
}

}  // namespace strata::engine::soft
