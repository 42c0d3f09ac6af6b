// Host info: from CPUID, sysconf and uname.
#include "vmm/host_info.h"

#include <array>
#include <cstring>
#include <string>

#include <sys/utsname.h>
#include <unistd.h>

#include "arch/x86/cpu_model.h"

namespace strata::vmm {
namespace {

// Leaves 80000002h to 80000004h: 48 characters. SDM 2A, CPUID.
std::string brand(const arch::x86::CpuidTable& table) {
    std::string text;
    for (std::uint32_t leaf = 0x80000002; leaf <= 0x80000004; ++leaf) {
        const arch::x86::CpuidRegisters registers = table.find(leaf, 0);
        for (const std::uint32_t word :
             {registers.eax, registers.ebx, registers.ecx, registers.edx}) {
            std::array<char, 4> bytes{};
            std::memcpy(bytes.data(), &word, sizeof word);
            text.append(bytes.data(), bytes.size());
        }
    }
    text.resize(std::strlen(text.c_str()));
    const auto start = text.find_first_not_of(' ');
    return start == std::string::npos ? "unknown" : text.substr(start);
}

// The highest psABI level all of whose features this CPU has.
std::string level(const arch::x86::CpuidTable& table) {
    for (const char* name : {"x86-64-v4", "x86-64-v3", "x86-64-v2"}) {
        auto model = arch::x86::CpuModel::parse(name);
        if (model && arch::x86::build_cpuid(*model, {}, 0, table, 0).ok()) {
            return name;
        }
    }
    return "x86-64-v1";
}

}  // namespace

api::Json host_info() {
    const arch::x86::CpuidTable table = arch::x86::host_cpuid();
    utsname system{};
    (void)uname(&system);  // cannot fail with a valid buffer
    const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
    return api::Json{
        {"cpu", brand(table)},
        {"cpu_level", level(table)},
        {"cpus", sysconf(_SC_NPROCESSORS_ONLN)},
        {"memory_bytes", static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) * page},
        {"memory_available_bytes", static_cast<std::uint64_t>(sysconf(_SC_AVPHYS_PAGES)) * page},
        {"kernel", std::string(system.release)}};
}

}  // namespace strata::vmm
