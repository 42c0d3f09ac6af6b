// ArchRegisters: the registers that ArchState and CpuState hold under the same names.
#pragma once

#include <algorithm>
#include <iterator>

namespace strata::engine::soft {

/// Moves them, in either direction, by one list so that none is forgotten on one side. Not MSRs,
/// events, the APIC or the mode word.
template <typename From, typename To>
void copy_registers(const From& from, To& to) {
    std::copy(std::begin(from.gpr), std::end(from.gpr), std::begin(to.gpr));
    std::copy(std::begin(from.segments), std::end(from.segments), std::begin(to.segments));
    std::copy(std::begin(from.dr), std::end(from.dr), std::begin(to.dr));
    to.rip = from.rip;
    to.rflags = from.rflags;
    to.ldtr = from.ldtr;
    to.tr = from.tr;
    to.gdtr = from.gdtr;
    to.idtr = from.idtr;
    to.cr0 = from.cr0;
    to.cr2 = from.cr2;
    to.cr3 = from.cr3;
    to.cr4 = from.cr4;
    to.cr8 = from.cr8;
    to.efer = from.efer;
    to.xcr0 = from.xcr0;
    to.dr6 = from.dr6;
    to.dr7 = from.dr7;
    std::copy(std::begin(from.xsave), std::end(from.xsave), std::begin(to.xsave));
}

}  // namespace strata::engine::soft
