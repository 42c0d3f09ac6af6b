// CpuModel, Topology: the processor a guest is shown, and build_cpuid(), which turns it into CPUID
// leaves.
//
// A model is `host` (all that the engine offers) or one of the psABI levels `x86-64-v1` …
// `x86-64-v4` (exactly the features that level names for programs, and what the engine offers for
// kernels), with `+flag` and `-flag` after it. What the engine does not offer is never shown:
// asking for it is an error that names it.
//
// The vendor is the engine's: KVM shows the host's. The software CPU shows itself as AuthenticAMD
// on every host, because (a) its SYSCALL, SYSRET and null selector loads are AMD's, and (b) Linux
// then needs no mitigation: with AutoIBRS, SRSO_NO, TSA_*_NO, SSB_NO and BTC_NO everything reads
// "Not affected" or "Automatic IBRS". An Intel identity with eIBRS always gets the branch-history
// clearing loop on each system call, and the swapgs barriers (Linux 6.1, cpu_set_bug_bits()).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "arch/x86/cpu_features.h"
#include "arch/x86/cpuid.h"
#include "base/result.h"

namespace strata::arch::x86 {

/// Sockets of cores of hardware threads. vCPU n is thread n % threads of core n / threads % cores
/// of its socket.
struct Topology {
    std::uint32_t sockets = 1;
    std::uint32_t cores = 1;    ///< per socket
    std::uint32_t threads = 1;  ///< per core
    bool operator==(const Topology&) const = default;

    /// "4" (one socket of 4 cores) or "sockets=2,cores=4,threads=2" (what is missing is 1).
    /// InvalidArgument for zero, for what needs an APIC ID above 254, and for anything else.
    static Result<Topology> parse(std::string_view text);

    [[nodiscard]] std::uint32_t total() const { return sockets * cores * threads; }
    /// The APIC ID of vCPU `index`: socket, core and thread in bit fields of their own. SDM
    /// 3A, 9.9.3.
    [[nodiscard]] std::uint32_t apic_id(std::uint32_t index) const;
    /// How many low bits of the APIC ID number the thread; the thread and the core.
    [[nodiscard]] std::uint32_t thread_bits() const;
    [[nodiscard]] std::uint32_t socket_shift() const;
};

/// The frequency of both engines' local APIC timers, in kHz (divide configuration 1).
inline constexpr std::uint32_t kApicBusKhz = 1000000;

struct CpuModel {
    std::string name = "host";
    std::vector<const CpuFeature*> added;
    std::vector<const CpuFeature*> removed;

    /// "MODEL[,+flag][,-flag]…". InvalidArgument with the nearest name for an unknown model or
    /// flag, and for a flag both ways.
    static Result<CpuModel> parse(std::string_view text);
};

/// The names `--cpu` takes, for help and completion.
[[nodiscard]] std::vector<std::string_view> cpu_model_names();

/// The CPUID table of vCPU `vcpu_index`. `supported` is what the engine offers
/// (Capabilities::supported_cpuid). NotSupported names each feature that the model or a +flag
/// demands and the engine lacks. `tsc_khz` 0: unknown, the leaves about it are zero.
Result<CpuidTable> build_cpuid(const CpuModel& model, const Topology& topology,
                               std::uint32_t vcpu_index, const CpuidTable& supported,
                               std::uint64_t tsc_khz);

/// Every leaf of the CPU this runs on, as far as Strata reads any.
[[nodiscard]] CpuidTable host_cpuid();

/// What the software CPU can show on a host with these leaves: the host's bits that it runs
/// natively, its own ones (see SoftSupport), vendor and family of the class comment, the XSAVE
/// layout of the host, and the paravirtual leaves.
[[nodiscard]] CpuidTable software_cpuid(const CpuidTable& host);

}  // namespace strata::arch::x86
