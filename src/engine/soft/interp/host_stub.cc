// StubArena: see host_stub.h.
#include "engine/soft/interp/host_stub.h"

#include <sys/mman.h>

extern "C" void strata_soft_run_stub(strata::engine::soft::HostFrame* frame,
                                     const void* code) noexcept;
// NOLINTNEXTLINE(readability-identifier-naming): a symbol of assembly
extern "C" const char strata_soft_stub_fault[];

namespace strata::engine::soft {
namespace {

constexpr std::size_t kArenaBytes = 512U << 10U;
constexpr std::size_t kStubBytes = 32;
static_assert(sizeof(HostEncoding::bytes) + 1 <= kStubBytes);
static_assert(offsetof(HostFrame, flags) == 128 && offsetof(HostFrame, trap) == 136);

// In the stub: [rsp] return address, [rsp+8] code, [rsp+16] frame (host_stub_glue.S).
bool on_stub_fault(void* /*argument*/, HostFault& fault) noexcept {
    // SAFETY: only run_stub() enters the arena, and stubs do not touch rsp.
    auto* frame = *reinterpret_cast<HostFrame**>(fault.sp + 16);
    frame->trap = 1 + static_cast<std::uint64_t>(fault.trap);
    frame->trap_address = fault.address;
    fault.pc = reinterpret_cast<std::uint64_t>(strata_soft_stub_fault);
    return true;
}

}  // namespace

Result<std::unique_ptr<StubArena>> StubArena::create() {
    UniqueFd fd(memfd_create("strata-stubs", MFD_CLOEXEC));
    if (!fd.valid()) {
        return Error::from_errno("creating the interpreter's code memory");
    }
    if (ftruncate(fd.get(), static_cast<off_t>(kArenaBytes)) != 0) {
        return Error::from_errno("sizing the interpreter's code memory");
    }
    MmapRegion writable =
        STRATA_TRY(MmapRegion::map(kArenaBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get()));
    MmapRegion executable =
        STRATA_TRY(MmapRegion::map(kArenaBytes, PROT_READ | PROT_EXEC, MAP_SHARED, fd.get()));
    std::unique_ptr<StubArena> arena(
        new StubArena(std::move(fd), std::move(writable), std::move(executable)));
    STRATA_TRY_VOID(
        arena->faults_.add(arena->executable_.data(), kArenaBytes, on_stub_fault, nullptr));
    return arena;
}

bool StubArena::make(const Instruction& insn, HostStub& stub) noexcept {
    HostEncoding encoding;
    if (!encode_for_host(insn, encoding)) {
        return false;
    }
    if (used_ + kStubBytes > kArenaBytes) {
        used_ = 0;
        ++generation_;
    }
    auto* out = reinterpret_cast<std::uint8_t*>(writable_.data() + used_);
    for (unsigned i = 0; i < encoding.length; ++i) {
        out[i] = encoding.bytes[i];
    }
    out[encoding.length] = 0xc3;
    stub.code = executable_.data() + used_;
    stub.generation = generation_;
    stub.base = encoding.base;
    stub.rsp_alias = encoding.rsp_alias;
    used_ += kStubBytes;
    return true;
}

void run_stub(HostFrame& frame, const void* code) noexcept {
    strata_soft_run_stub(&frame, code);
}

}  // namespace strata::engine::soft
