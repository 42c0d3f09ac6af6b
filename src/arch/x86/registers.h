// Registers: bit names of RFLAGS, control registers, EFER and the MSR numbers both engines know.
// SDM 3A 2.5, SDM 4, AMD APM 2.
#pragma once

#include <cstdint>

namespace strata::arch::x86 {

namespace rflags {
inline constexpr std::uint64_t kCf = 1U << 0, kFixed = 1U << 1, kPf = 1U << 2, kAf = 1U << 4,
                               kZf = 1U << 6, kSf = 1U << 7, kTf = 1U << 8, kIf = 1U << 9,
                               kDf = 1U << 10, kOf = 1U << 11, kIopl = 3U << 12, kNt = 1U << 14,
                               kRf = 1U << 16, kVm = 1U << 17, kAc = 1U << 18, kVif = 1U << 19,
                               kVip = 1U << 20, kId = 1U << 21;
inline constexpr std::uint64_t kArithmetic = kCf | kPf | kAf | kZf | kSf | kOf;
}  // namespace rflags

namespace cr0 {
inline constexpr std::uint64_t kPe = 1U << 0, kMp = 1U << 1, kEm = 1U << 2, kTs = 1U << 3,
                               kEt = 1U << 4, kNe = 1U << 5, kWp = 1U << 16, kAm = 1U << 18,
                               kNw = 1U << 29, kCd = 1U << 30, kPg = 1U << 31;
}  // namespace cr0

namespace cr4 {
inline constexpr std::uint64_t kVme = 1U << 0, kPvi = 1U << 1, kTsd = 1U << 2, kDe = 1U << 3,
                               kPse = 1U << 4, kPae = 1U << 5, kMce = 1U << 6, kPge = 1U << 7,
                               kPce = 1U << 8, kOsfxsr = 1U << 9, kOsxmmexcpt = 1U << 10,
                               kUmip = 1U << 11, kLa57 = 1U << 12, kFsgsbase = 1U << 16,
                               kPcide = 1U << 17, kOsxsave = 1U << 18, kSmep = 1U << 20,
                               kSmap = 1U << 21, kPke = 1U << 22;
}  // namespace cr4

namespace efer {
inline constexpr std::uint64_t kSce = 1U << 0, kLme = 1U << 8, kLma = 1U << 10, kNxe = 1U << 11,
                               kFfxsr = 1U << 14;
}  // namespace efer

/// Exception vectors. SDM 3A, 6.3.1.
namespace vector {
inline constexpr std::uint8_t kDe = 0, kDb = 1, kNmi = 2, kBp = 3, kOf = 4, kBr = 5, kUd = 6,
                              kNm = 7, kDf = 8, kTs = 10, kNp = 11, kSs = 12, kGp = 13, kPf = 14,
                              kMf = 16, kAc = 17, kMc = 18, kXm = 19;
}  // namespace vector

namespace msr {
inline constexpr std::uint32_t kTsc = 0x10, kPlatformId = 0x17, kApicBase = 0x1b,
                               kFeatureControl = 0x3a, kTscAdjust = 0x3b, kSpecCtrl = 0x48,
                               kPredCmd = 0x49, kBiosSignId = 0x8b, kMtrrCap = 0xfe,
                               kArchCapabilities = 0x10a, kFlushCmd = 0x10b, kSysenterCs = 0x174,
                               kSysenterEsp = 0x175, kSysenterEip = 0x176, kMcgCap = 0x179,
                               kMcgStatus = 0x17a, kMcgCtl = 0x17b, kMiscEnable = 0x1a0,
                               kDebugCtl = 0x1d9, kMtrrPhysBase0 = 0x200, kMtrrFix64k = 0x250,
                               kMtrrFix16k8 = 0x258, kMtrrFix16kA = 0x259, kMtrrFix4k0 = 0x268,
                               kPat = 0x277, kMtrrDefType = 0x2ff, kMc0Ctl = 0x400,
                               kTscDeadline = 0x6e0, kX2apicFirst = 0x800, kX2apicLast = 0x8ff,
                               kXss = 0xda0, kEfer = 0xc0000080, kStar = 0xc0000081,
                               kLstar = 0xc0000082, kCstar = 0xc0000083, kSfmask = 0xc0000084,
                               kFsBase = 0xc0000100, kGsBase = 0xc0000101,
                               kKernelGsBase = 0xc0000102, kTscAux = 0xc0000103,
                               kKvmWallClock = 0x4b564d00, kKvmSystemTime = 0x4b564d01,
                               kKvmAsyncPf = 0x4b564d02, kKvmStealTime = 0x4b564d03,
                               kKvmPvEoi = 0x4b564d04, kKvmPollControl = 0x4b564d05;
}  // namespace msr

}  // namespace strata::arch::x86
