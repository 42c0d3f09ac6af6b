// ApicRegisters: numbers and bits of the local APIC's registers (register N lies at byte N * 16).
// SDM 3A, table 11-1.
#pragma once

#include <cstdint>

namespace strata::engine::soft::apic {

inline constexpr std::uint32_t kId = 0x02, kVersion = 0x03, kTpr = 0x08, kApr = 0x09, kPpr = 0x0a,
                               kEoi = 0x0b, kRrd = 0x0c, kLdr = 0x0d, kDfr = 0x0e, kSpurious = 0x0f,
                               kIsr = 0x10, kTmr = 0x18, kIrr = 0x20, kEsr = 0x28, kIcrLow = 0x30,
                               kIcrHigh = 0x31, kLvtTimer = 0x32, kLvtThermal = 0x33,
                               kLvtPerformance = 0x34, kLvtLint0 = 0x35, kLvtLint1 = 0x36,
                               kLvtError = 0x37, kInitialCount = 0x38, kCurrentCount = 0x39,
                               kDivide = 0x3e, kSelfIpi = 0x3f;

inline constexpr std::uint32_t kLvtMasked = 1U << 16, kSoftwareEnable = 1U << 8;
inline constexpr std::uint32_t kErrorSendIllegal = 1U << 5, kErrorReceiveIllegal = 1U << 6,
                               kErrorIllegalRegister = 1U << 7;
inline constexpr std::uint64_t kBaseBootstrap = 1U << 8, kBaseX2apic = 1U << 10,
                               kBaseEnable = 1U << 11;
/// Six LVT entries, integrated APIC.
inline constexpr std::uint32_t kVersionValue = 0x00050014;

}  // namespace strata::engine::soft::apic
