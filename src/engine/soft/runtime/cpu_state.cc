// CpuState: the mode word, and moving vector values between host registers and the XSAVE image.
//
// Compiled for general registers only (the vector moves are assembly): callable from translated
// code's helpers.
#include "engine/soft/runtime/cpu_state.h"

#include "arch/x86/registers.h"
#include "engine/soft/runtime/vector_state.h"

namespace strata::engine::soft {
namespace {

namespace x86 = arch::x86;

constexpr std::uint16_t kAttributeL = 1U << 13, kAttributeDb = 1U << 14;

bool flat(const Segment& segment) {
    return !segment.unusable && segment.base == 0 && segment.limit == 0xffffffffU;
}

bool has_breakpoints(std::uint64_t dr7) {
    return (dr7 & 0xff) != 0;
}

}  // namespace

void update_mode(CpuState& cpu) noexcept {
    const Segment& cs = cpu.segments[x86::Cs];
    const Segment& ss = cpu.segments[x86::Ss];
    const bool protected_mode = (cpu.cr0 & x86::cr0::kPe) != 0;
    const bool v8086 = protected_mode && (cpu.rflags & x86::rflags::kVm) != 0;
    const bool long_mode = (cpu.efer & x86::efer::kLma) != 0;
    const bool cs64 = long_mode && (cs.attributes & kAttributeL) != 0;
    std::uint32_t cpl = 0;
    if (v8086) {
        cpl = 3;
    } else if (protected_mode) {
        cpl = (ss.attributes >> 5) & 3;  // SS.DPL is the CPL, SDM 3A 5.5
        if (cs64 || ss.unusable) {
            cpl = cs.selector & 3;
        }
    }
    std::uint32_t mode = cpl;
    const auto put = [&mode](bool condition, std::uint32_t bit) { mode |= condition ? bit : 0; };
    put(long_mode, ModeBits::kLong);
    put(cs64, ModeBits::kCs64);
    put(!cs64 && (cs.attributes & kAttributeDb) != 0, ModeBits::kCs32);
    // 64-bit code has no use for SS.B, and interrupts load a null SS where SYSCALL does not: one
    // translation is enough.
    put(!cs64 && (ss.attributes & kAttributeDb) != 0, ModeBits::kSs32);
    put(protected_mode, ModeBits::kProtected);
    put(v8086, ModeBits::kV8086);
    put((cpu.cr0 & x86::cr0::kPg) != 0, ModeBits::kPaging);
    put(cs64 ||
            (flat(cs) && flat(ss) && flat(cpu.segments[x86::Ds]) && flat(cpu.segments[x86::Es])),
        ModeBits::kFlat);
    put((cpu.cr0 & (x86::cr0::kTs | x86::cr0::kEm)) != 0, ModeBits::kFpuBlocked);
    put((cpu.cr4 & x86::cr4::kOsfxsr) != 0, ModeBits::kSse);
    put((cpu.cr4 & x86::cr4::kOsxsave) != 0, ModeBits::kXsave);
    put(cpl == 3 && (cpu.cr0 & x86::cr0::kAm) != 0 && (cpu.rflags & x86::rflags::kAc) != 0,
        ModeBits::kAlignCheck);
    put((cpu.rflags & x86::rflags::kTf) != 0 || has_breakpoints(cpu.dr7), ModeBits::kTrap);
    const auto xcr0 = static_cast<std::uint32_t>(cpu.xcr0);
    mode |= (((xcr0 >> 1) & 3) | (((xcr0 >> 5) & 7) << 2)) << ModeBits::kXcr0Shift;
    cpu.mode = mode;
    cpu.cpl = cpl;
}

std::uint64_t host_vector_mask() noexcept {
    static const std::uint64_t kMask = [] {
        std::uint32_t low = 0, high = 0;
        __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        return low & 0xe7U;  // x87, SSE, AVX, AVX-512
    }();
    return kMask;
}

void save_vector_state(CpuState& cpu) noexcept {
    if (cpu.vector_live == 0) {
        return;
    }
    const std::uint64_t mask = host_vector_mask();
    const std::uint32_t host_mxcsr = 0x1f80;
    // Afterwards the host's own settings: C++ code relies on them, whatever the guest's were.
    __asm__ volatile("xsave64 %0"
                     : "+m"(cpu.xsave)
                     : "a"(static_cast<std::uint32_t>(mask)), "d"(0)
                     : "memory");
    __asm__ volatile("fninit\n\tldmxcsr %0" : : "m"(host_mxcsr));
    if ((mask & 4) != 0) {
        __asm__ volatile("vzeroupper");
    }
    cpu.vector_live = 0;
}

void load_vector_state(CpuState& cpu) noexcept {
    if (cpu.vector_live != 0) {
        return;
    }
    const std::uint64_t mask = host_vector_mask();
    __asm__ volatile("xrstor64 %0"
                     :
                     : "m"(cpu.xsave), "a"(static_cast<std::uint32_t>(mask)), "d"(0)
                     : "memory");
    cpu.vector_live = 1;
}

}  // namespace strata::engine::soft
