// MsrTable: every model-specific register of the software CPU, one row each.
#include <algorithm>
#include <array>

#include "arch/x86/registers.h"
#include "engine/soft/runtime/msr.h"

namespace strata::engine::soft {
namespace {

namespace m = arch::x86::msr;
using enum MsrKind;

constexpr std::uint64_t kAll = ~0ULL;

// The processor knows none of the speculation flaws: software cannot help there, and the host's
// kernel mends its own. RDCL_NO, IBRS_ALL, SKIP_L1DFL, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO,
// SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO.
constexpr std::uint64_t kArchCapabilities = (1ULL << 0) | (1ULL << 1) | (1ULL << 3) | (1ULL << 4) |
                                            (1ULL << 5) | (1ULL << 6) | (1ULL << 8) | (1ULL << 13) |
                                            (1ULL << 14) | (1ULL << 15) | (1ULL << 20) |
                                            (1ULL << 24) | (1ULL << 26) | (1ULL << 27);
constexpr std::uint64_t kMcgCap = 0x10a;   // ten banks, MCG_CTL
constexpr std::uint64_t kMtrrCap = 0x508;  // eight variable ranges, fixed ranges, write combining
constexpr std::uint64_t kPatDefault = 0x0007040600070406;

constexpr std::array kRows = {
    // first, count, kind, value, mask, field, saved
    MsrRow{0x00000000, 2, Ignored, 0, 0, nullptr, false},  // P5_MC_ADDR, P5_MC_TYPE
    MsrRow{m::kTsc, 1, Special, 0, kAll, nullptr, false},
    MsrRow{0x00000011, 2, Special, 0, kAll, nullptr, false},  // kvmclock, legacy numbers
    MsrRow{m::kPlatformId, 1, Constant, 0, 0, nullptr, false},
    MsrRow{m::kApicBase, 1, Special, 0, kAll, nullptr, false},
    MsrRow{0x0000002a, 1, Ignored, 0, 0, nullptr, false},           // EBL_CR_POWERON
    MsrRow{0x00000034, 1, Constant, 0, 0, nullptr, false},          // SMI_COUNT
    MsrRow{m::kFeatureControl, 1, Constant, 1, 0, nullptr, false},  // locked, nothing enabled
    MsrRow{m::kTscAdjust, 1, Special, 0, kAll, nullptr, true},
    MsrRow{m::kSpecCtrl, 1, Stored, 0, 0x7, nullptr, true},               // IBRS, STIBP, SSBD
    MsrRow{m::kPredCmd, 1, Command, 0, 0x81, nullptr, false},             // IBPB, SBPB
    MsrRow{0x00000079, 1, Ignored, 0, 0, nullptr, false},                 // BIOS_UPDT_TRIG
    MsrRow{m::kBiosSignId, 1, Stored, 0x100000000, kAll, nullptr, true},  // microcode revision
    MsrRow{0x000000ce, 1, Constant, 0, 0, nullptr, false},                // PLATFORM_INFO
    MsrRow{0x000000e7, 2, Ignored, 0, 0, nullptr, false},                 // MPERF, APERF
    MsrRow{m::kMtrrCap, 1, Constant, kMtrrCap, 0, nullptr, false},
    MsrRow{m::kArchCapabilities, 1, Constant, kArchCapabilities, 0, nullptr, false},
    MsrRow{m::kFlushCmd, 1, Command, 0, 1, nullptr, false},
    MsrRow{0x0000011e, 1, Ignored, 0, 0, nullptr, false},  // BBL_CR_CTL3
    MsrRow{m::kSysenterCs, 1, Field, 0, kAll, &CpuState::sysenter_cs, true},
    MsrRow{m::kSysenterEsp, 1, Canonical, 0, kAll, &CpuState::sysenter_esp, true},
    MsrRow{m::kSysenterEip, 1, Canonical, 0, kAll, &CpuState::sysenter_eip, true},
    MsrRow{m::kMcgCap, 1, Constant, kMcgCap, 0, nullptr, false},
    MsrRow{m::kMcgStatus, 1, Stored, 0, kAll, nullptr, true},
    MsrRow{m::kMcgCtl, 1, Special, 0, kAll, nullptr, true},
    MsrRow{0x00000198, 2, Ignored, 0, 0, nullptr, false},  // PERF_STATUS, PERF_CTL
    MsrRow{m::kMiscEnable, 1, Stored, 0x1801, 0x0000000400c51889, nullptr,
           true},  // fast strings; no BTS, no PEBS
    MsrRow{m::kDebugCtl, 1, Stored, 0, 0x3, nullptr, true},
    MsrRow{m::kMtrrPhysBase0, 16, Special, 0, kAll, nullptr, true},
    MsrRow{m::kMtrrFix64k, 1, Special, 0, kAll, nullptr, true},
    MsrRow{m::kMtrrFix16k8, 2, Special, 0, kAll, nullptr, true},
    MsrRow{m::kMtrrFix4k0, 8, Special, 0, kAll, nullptr, true},
    MsrRow{m::kPat, 1, Special, kPatDefault, kAll, nullptr, true},
    MsrRow{m::kMtrrDefType, 1, Special, 0, kAll, nullptr, true},
    MsrRow{m::kMc0Ctl, 40, Special, 0, kAll, nullptr, true},
    MsrRow{0x00000606, 1, Constant, 0, 0, nullptr, false},  // RAPL_POWER_UNIT
    MsrRow{m::kTscDeadline, 1, Special, 0, kAll, nullptr, true},
    MsrRow{m::kX2apicFirst, 256, Special, 0, kAll, nullptr, false},
    MsrRow{m::kKvmWallClock, 6, Special, 0, kAll, nullptr, true},
    MsrRow{m::kEfer, 1, Special, 0, kAll, nullptr, false},
    MsrRow{m::kStar, 1, Field, 0, kAll, &CpuState::star, true},
    MsrRow{m::kLstar, 1, Canonical, 0, kAll, &CpuState::lstar, true},
    MsrRow{m::kCstar, 1, Canonical, 0, kAll, &CpuState::cstar, true},
    MsrRow{m::kSfmask, 1, Field, 0, 0xffffffff, &CpuState::sfmask, true},
    MsrRow{m::kFsBase, 2, Special, 0, kAll, nullptr, false},
    MsrRow{m::kKernelGsBase, 1, Canonical, 0, kAll, &CpuState::kernel_gs_base, true},
    MsrRow{m::kTscAux, 1, Field, 0, 0xffffffff, &CpuState::tsc_aux, true},
    MsrRow{0xc0000104, 1, Constant, 1ULL << 32, 0, nullptr, false},       // TSC_RATIO: 1.0
    MsrRow{0xc0010000, 8, Ignored, 0, 0, nullptr, false},                 // PERF_EVTSEL, PERF_CTR
    MsrRow{0xc0010010, 1, Ignored, 0, 0, nullptr, false},                 // SYSCFG
    MsrRow{0xc0010015, 1, Stored, 0x1000000, 0x41000049, nullptr, true},  // HWCR: TscFreqSel
    MsrRow{0xc001001a, 2, Ignored, 0x20000000, 0, nullptr, false},        // TOP_MEM, CLK_CTL
    MsrRow{0xc001001d, 1, Ignored, 0, 0, nullptr, false},                 // TOP_MEM2
    MsrRow{0xc001001f, 1, Ignored, 0, 0, nullptr, false},                 // NB_CFG
    MsrRow{0xc0010055, 1, Ignored, 0, 0, nullptr, false},                 // INT_PENDING_MSG
    MsrRow{0xc0010058, 1, Ignored, 0, 0, nullptr, false},                 // MMIO_CONF_BASE
    MsrRow{0xc0010061, 3, Ignored, 0, 0, nullptr, false},     // P-state limit, control, status
    MsrRow{0xc0010112, 2, Ignored, 0, 0, nullptr, false},     // TSEG base and mask
    MsrRow{0xc0010114, 1, Ignored, 0x10, 0, nullptr, false},  // VM_CR: SVM disabled
    MsrRow{0xc0010117, 1, Ignored, 0, 0, nullptr, false},     // VM_HSAVE_PA
    MsrRow{0xc001011f, 1, Stored, 0, 4, nullptr, true},       // VIRT_SPEC_CTRL: SSBD
    MsrRow{0xc0010140, 2, Ignored, 0, 0, nullptr, false},     // OSVW
    MsrRow{0xc0011020, 4, Ignored, 0, 0, nullptr, false},     // LS_CFG, IC_CFG, DC_CFG, TW_CFG
    MsrRow{0xc0011029, 1, Ignored, 2, 0, nullptr, false},     // DE_CFG: LFENCE serialises
    MsrRow{0xc001102a, 3, Ignored, 0, 0, nullptr, false},     // BU_CFG2, …, EX_CFG
};

constexpr bool ascending() {
    for (std::size_t i = 1; i < kRows.size(); ++i) {
        if (kRows[i].first < kRows[i - 1].first + kRows[i - 1].count) {
            return false;
        }
    }
    return true;
}
static_assert(ascending(), "rows are searched by halving");

}  // namespace

std::span<const MsrRow> msr_table() noexcept {
    return kRows;
}

const MsrRow* find_msr(std::uint32_t index) noexcept {
    const auto* after = std::upper_bound(
        kRows.begin(), kRows.end(), index,
        [](std::uint32_t wanted, const MsrRow& row) { return wanted < row.first; });
    if (after == kRows.begin()) {
        return nullptr;
    }
    const MsrRow* row = after - 1;
    return index - row->first < row->count ? row : nullptr;
}

}  // namespace strata::engine::soft
