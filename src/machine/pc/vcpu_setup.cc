// VcpuSetup: vCPU set-up by firmware.
#include "machine/pc/vcpu_setup.h"

#include <algorithm>
#include <cstring>

#include "arch/x86/registers.h"
#include "base/endian.h"

namespace strata::machine::pc {
namespace {

void set_lapic(arch::x86::ArchState& state, std::size_t reg, std::uint32_t value) {
    const Le32 wire(value);
    // SAFETY: the callers' register numbers are constants below 64, and the page has 64 registers
    // of 16 bytes.
    std::memcpy(state.lapic.data() + reg * 16, &wire, sizeof(wire));
}

}  // namespace

void firmware_vcpu_setup(arch::x86::ArchState& state, bool bootstrap) {
    constexpr std::uint64_t kMtrrsOnWriteBack = 0x806;  // SDM 3A, 12.11.2.1
    constexpr std::uint64_t kFastStrings = 1;
    state.msrs.push_back({arch::x86::msr::kMiscEnable, kFastStrings});
    state.msrs.push_back({arch::x86::msr::kMtrrDefType, kMtrrsOnWriteBack});
    std::sort(state.msrs.begin(), state.msrs.end(),
              [](const auto& a, const auto& b) { return a.index < b.index; });
    if (bootstrap) {
        // MultiProcessor Specification 1.4, 3.6.2.2, virtual wire mode: the 8259's output is LINT0,
        // NMI is LINT1.
        constexpr std::size_t kSpurious = 0x0f, kLint0 = 0x35, kLint1 = 0x36;
        constexpr std::uint32_t kEnabledVectorFf = 0x1ff, kExtInt = 0x700, kNmiLevel = 0x8400;
        set_lapic(state, kSpurious, kEnabledVectorFf);
        set_lapic(state, kLint0, kExtInt);
        set_lapic(state, kLint1, kNmiLevel);
    }
}

}  // namespace strata::machine::pc
