// DirectProbe: a stub with a page of memory.
#include "engine/soft/direct/direct_probe.h"

#include <array>
#include <cstring>

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mmap_region.h"
#include "engine/soft/direct/stub_process.h"
#include "engine/soft/direct/zygote.h"
#include "engine/soft/runtime/vector_state.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kBase = 0x234500000000, kCode = 0x400000;
constexpr std::size_t kPage = 4096;
constexpr unsigned char kSystemCall[] = {0x0f, 0x05};

Error refused(const char* what) {
    return Error(ErrorKind::NotSupported, std::string("this host refuses stub processes: ") + what);
}

}  // namespace

Result<> probe_direct_execution() {
    if (!__builtin_cpu_supports("avx2")) {
        return refused("its processor is too old");
    }
    const UniqueFd ram(memfd_create("probe", MFD_CLOEXEC));
    if (!ram || ftruncate(ram.get(), kPage) != 0) {
        return Error::from_errno("making a page of memory");
    }
    auto page = STRATA_TRY(MmapRegion::map(kPage, PROT_READ | PROT_WRITE, MAP_SHARED, ram.get()));
    std::memcpy(page.data(), kSystemCall, sizeof kSystemCall);
    const auto zygote = STRATA_TRY(Zygote::start({}));
    STRATA_TRY_VOID(zygote->set_ram(ram.get()));
    const auto stub = STRATA_TRY(StubProcess::create(*zygote, kBase));
    const StubMap code{kCode, kPage, 0, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED};
    if (!stub->apply({&code, 1})) {
        return refused("memory cannot be mapped");
    }
    StubRegisters registers{};
    registers.rip = kCode;
    registers.rflags = 0x202;
    alignas(64) std::array<std::byte, arch::x86::kXsaveBytes> xsave{};
    reset_xsave(xsave, 0x37f);
    StubExit exit;
    // A stub that was slow to stop was kicked for it, and ends its next run at once.
    bool good = stub->run(registers, xsave, exit);
    for (int i = 0; i < 3 && good && !exit.entered; ++i) {
        good = stub->run(registers, xsave, exit);
    }
    if (!good || !exit.entered || exit.signal != SIGSYS) {
        return refused("a system call is not trapped");
    }
    return ok();
}

}  // namespace strata::engine::soft
