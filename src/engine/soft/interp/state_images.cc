// State images: FXSAVE, FXRSTOR, XSAVE and its kin, FNSAVE, FNSTENV and their loads.
//
// The guest's registers are taken from, put into CpuState::xsave. Instruction and data pointers of
// the x87 (FIP, FDP, FOP) would show host addresses: they are zero, as AMD processors leave them
// while no exception is pending. SDM 1, 10.5 and 13.
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp/handlers.h"
#include "engine/soft/interp/operands.h"
#include "engine/soft/interp/xsave_image.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint32_t kMxcsrAt = 24, kMaskAt = 28;
constexpr unsigned kPkru = 9, kXsaveComponents = 10;
constexpr std::uint32_t kPkruBytes = 8;

// The host's string instructions: these files have no vector copies, and images are long.
void copy_out(std::byte* to, const std::byte* from, std::uint64_t bytes) {
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}
void zero_out(std::byte* at, std::uint64_t bytes) {
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(0) : "memory");
}
std::uint64_t word_at(const std::byte* at) {
    std::uint64_t value = 0;
    __builtin_memcpy(&value, at, 8);
    return value;
}
std::uint32_t mxcsr_at(const std::byte* image) {
    std::uint32_t value = 0;
    __builtin_memcpy(&value, image + kMxcsrAt, 4);
    return value;
}

/// XMM registers visible outside 64-bit mode: eight.
std::uint32_t xmm_bytes(const CpuState& cpu) {
    return code64(cpu) ? 256 : 128;
}

void clear_pointers(std::byte* fxsave) {
    zero_out(fxsave + 6, 2);
    zero_out(fxsave + 8, 16);
}

/// Address of the image, after alignment and segmentation.
bool image_address(CpuState& cpu, const Instruction& insn, std::uint32_t bytes,
                   std::uint32_t alignment, bool write, std::uint64_t& linear) {
    if (!segment_linear(cpu, insn.mem.segment, effective_address(cpu, insn), bytes, write,
                        linear)) {
        return false;
    }
    if ((linear & (alignment - 1)) != 0) {
        (void)raise_gp(cpu);
        return false;
    }
    return true;
}

bool read_image(CpuState& cpu, const Instruction& insn, std::uint64_t linear, std::byte* out,
                std::uint32_t bytes) {
    return read_linear(cpu, linear, out, bytes) || memory_fault(cpu, insn.mem.segment);
}
bool write_image(CpuState& cpu, const Instruction& insn, std::uint64_t linear,
                 const std::byte* data, std::uint32_t bytes) {
    return write_linear(cpu, linear, data, bytes) || memory_fault(cpu, insn.mem.segment);
}

StepResult op_fxsave(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    if (!vector_allowed(cpu, insn)) {
        return StepResult::Exception;
    }
    std::uint64_t linear = 0;
    if (!image_address(cpu, insn, 512, 16, true, linear)) {
        return StepResult::Exception;
    }
    save_vector_state(cpu);
    materialize(cpu, 3);
    std::byte* image = context(cpu).scratch;
    copy_out(image, cpu.xsave, 160 + xmm_bytes(cpu));
    clear_pointers(image);
    const std::uint32_t mask = ~kMxcsrReserved;
    __builtin_memcpy(image + kMaskAt, &mask, 4);
    return write_image(cpu, insn, linear, image, 160 + xmm_bytes(cpu)) ? done(cpu, insn)
                                                                       : StepResult::Exception;
}

StepResult op_fxrstor(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    if (!vector_allowed(cpu, insn)) {
        return StepResult::Exception;
    }
    std::uint64_t linear = 0;
    std::byte* image = context(cpu).scratch;
    if (!image_address(cpu, insn, 512, 16, false, linear) ||
        !read_image(cpu, insn, linear, image, 512)) {
        return StepResult::Exception;
    }
    if ((mxcsr_at(image) & kMxcsrReserved) != 0) {
        return raise_gp(cpu);
    }
    save_vector_state(cpu);
    materialize(cpu, 3);
    clear_pointers(image);
    copy_out(cpu.xsave, image, 28);
    copy_out(cpu.xsave + 32, image + 32, 128 + xmm_bytes(cpu));
    return done(cpu, insn);
}

// The XSAVE family.

enum class Form : std::uint8_t { Standard, Optimized, Compacted };

Form form_of(const Instruction& insn) {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_XSAVEC:
        case ZYDIS_MNEMONIC_XSAVEC64:
        case ZYDIS_MNEMONIC_XSAVES:
        case ZYDIS_MNEMONIC_XSAVES64:
            return Form::Compacted;
        case ZYDIS_MNEMONIC_XSAVEOPT:
        case ZYDIS_MNEMONIC_XSAVEOPT64:
            return Form::Optimized;
        default:
            return Form::Standard;
    }
}

bool xsave_allowed(CpuState& cpu, const Instruction& insn) {
    if ((cpu.cr4 & x86::cr4::kOsxsave) == 0 || insn.lock || !insn.mem.present) {
        (void)raise_ud(cpu);
        return false;
    }
    if ((cpu.cr0 & x86::cr0::kTs) != 0) {
        (void)raise(cpu, vec::kNm);
        return false;
    }
    const bool supervisor =
        insn.mnemonic == ZYDIS_MNEMONIC_XSAVES || insn.mnemonic == ZYDIS_MNEMONIC_XSAVES64 ||
        insn.mnemonic == ZYDIS_MNEMONIC_XRSTORS || insn.mnemonic == ZYDIS_MNEMONIC_XRSTORS64;
    if (supervisor && cpu.cpl != 0) {
        (void)raise_gp(cpu);
        return false;
    }
    return true;
}

std::uint64_t requested(const CpuState& cpu) {
    return cpu.xcr0 & ((cpu.gpr[x86::Rdx] << 32U) | (cpu.gpr[x86::Rax] & 0xffffffffU));
}

/// Offsets of each component in an image whose layout holds `components`.
struct ImageLayout {
    std::uint32_t offset[kXsaveComponents] = {};
    std::uint32_t size = kXsaveHeaderEnd;
};

/// The components of the host's image, and PKRU, which CpuState holds apart.
XsaveComponent component(CpuState& cpu, unsigned i) {
    if (i == kPkru) {
        const std::uint32_t offset = context(cpu).pkru_offset;
        return {offset, offset != 0 ? kPkruBytes : 0, false};
    }
    return i < 8 ? xsave_component(i) : XsaveComponent{};
}

/// XINUSE. SDM 1, 13.6.
std::uint64_t components_in_use(const CpuState& cpu) {
    return xstate_bv(cpu) | (cpu.pkru != 0 ? 1ULL << kPkru : 0U);
}

ImageLayout image_layout(CpuState& cpu, std::uint64_t components, bool compacted) {
    ImageLayout l;
    for (unsigned i = 2; i < kXsaveComponents; ++i) {
        const XsaveComponent part = component(cpu, i);
        if (((components >> i) & 1U) == 0 || part.size == 0) {
            continue;
        }
        l.offset[i] = part.offset;
        if (compacted) {
            l.offset[i] = part.aligned ? (l.size + 63U) & ~63U : l.size;
        }
        const std::uint32_t end = l.offset[i] + part.size;
        l.size = end > l.size ? end : l.size;
    }
    return l;
}

/// Copies the components in `bits` from the guest's registers into `image`.
void fill_image(const CpuState& cpu, std::byte* image, std::uint64_t bits, const ImageLayout& l) {
    if ((bits & 1U) != 0) {
        copy_out(image, cpu.xsave, 24);
        clear_pointers(image);
        copy_out(image + 32, cpu.xsave + 32, 128);
    }
    if ((bits & 2U) != 0) {
        copy_out(image + 160, cpu.xsave + 160, xmm_bytes(cpu));
    }
    for (unsigned i = 2; i < 8; ++i) {
        if (((bits >> i) & 1U) != 0) {
            copy_out(image + l.offset[i], cpu.xsave + xsave_component(i).offset,
                     xsave_component(i).size);
        }
    }
    if (((bits >> kPkru) & 1U) != 0 && l.offset[kPkru] != 0) {
        zero_out(image + l.offset[kPkru], kPkruBytes);
        __builtin_memcpy(image + l.offset[kPkru], &cpu.pkru, 4);
    }
}

StepResult op_xsave(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    if (!xsave_allowed(cpu, insn)) {
        return StepResult::Exception;
    }
    const Form form = form_of(insn);
    const std::uint64_t wanted = requested(cpu);
    const ImageLayout l = image_layout(cpu, wanted, form == Form::Compacted);
    std::uint64_t linear = 0;
    std::byte* image = context(cpu).scratch;
    // What is not written keeps its bytes: the image is read, changed and written whole.
    if (!image_address(cpu, insn, l.size, 64, true, linear) || !probe_write(cpu, linear, l.size) ||
        !read_image(cpu, insn, linear, image, l.size)) {
        return StepResult::Exception;
    }
    save_vector_state(cpu);
    const std::uint64_t in_use = components_in_use(cpu) & wanted;
    if (form == Form::Standard) {
        materialize(cpu, wanted);
        fill_image(cpu, image, wanted, l);
        // Materializing must not make components look used that were not.
        set_xstate_bv(cpu, ((xstate_bv(cpu) & ~wanted) | in_use) & ~(1ULL << kPkru));
    } else {
        fill_image(cpu, image, in_use, l);
    }
    if ((wanted & 6U) != 0 && (form != Form::Compacted || (wanted & 2U) != 0)) {
        copy_out(image + kMxcsrAt, cpu.xsave + kMxcsrAt, 4);
        const std::uint32_t mask = ~kMxcsrReserved;
        __builtin_memcpy(image + kMaskAt, &mask, 4);
    }
    std::uint64_t header = (word_at(image + 512) & ~wanted) | in_use;
    if (form == Form::Compacted) {
        header = in_use;
        zero_out(image + 512, 64);
        const std::uint64_t compact = (1ULL << 63U) | wanted;
        __builtin_memcpy(image + 520, &compact, 8);
    }
    __builtin_memcpy(image + 512, &header, 8);
    return write_image(cpu, insn, linear, image, l.size) ? done(cpu, insn) : StepResult::Exception;
}

/// SDM 1, 13.8.1 and 13.8.2: what makes XRSTOR raise #GP(0).
bool header_allowed(const CpuState& cpu, const std::byte* image, bool supervisor) {
    const std::uint64_t present = word_at(image + 512);
    const std::uint64_t compact = word_at(image + 520);
    if ((compact >> 63U) != 0) {
        const std::uint64_t components = compact & ~(1ULL << 63U);
        bool rest_clear = true;
        for (unsigned i = 528; i < kXsaveHeaderEnd; ++i) {
            rest_clear = rest_clear && image[i] == std::byte{0};
        }
        return (components & ~cpu.xcr0) == 0 && (present & ~components) == 0 && rest_clear;
    }
    return !supervisor && (present & ~cpu.xcr0) == 0 && compact == 0 && word_at(image + 528) == 0;
}

void take_component(CpuState& cpu, const std::byte* image, unsigned i, const ImageLayout& l) {
    if (i == 0) {
        copy_out(cpu.xsave, image, 24);
        clear_pointers(cpu.xsave);
        copy_out(cpu.xsave + 32, image + 32, 128);
    } else if (i == 1) {
        copy_out(cpu.xsave + 160, image + 160, xmm_bytes(cpu));
    } else {
        copy_out(cpu.xsave + xsave_component(i).offset, image + l.offset[i],
                 xsave_component(i).size);
    }
}

StepResult op_xrstor(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    if (!xsave_allowed(cpu, insn)) {
        return StepResult::Exception;
    }
    const bool supervisor =
        insn.mnemonic == ZYDIS_MNEMONIC_XRSTORS || insn.mnemonic == ZYDIS_MNEMONIC_XRSTORS64;
    std::uint64_t linear = 0;
    std::byte* image = context(cpu).scratch;
    if (!image_address(cpu, insn, kXsaveHeaderEnd, 64, false, linear) ||
        !read_image(cpu, insn, linear, image, kXsaveHeaderEnd)) {
        return StepResult::Exception;
    }
    if (!header_allowed(cpu, image, supervisor)) {
        return raise_gp(cpu);
    }
    const bool compacted = (word_at(image + 520) >> 63U) != 0;
    const std::uint64_t wanted = requested(cpu);
    const std::uint64_t loaded = word_at(image + 512) & wanted;
    const ImageLayout l =
        image_layout(cpu, compacted ? word_at(image + 520) & ~(1ULL << 63U) : loaded, compacted);
    if (l.size > kXsaveHeaderEnd && (loaded & ~3ULL) != 0 &&
        !read_image(cpu, insn, linear + kXsaveHeaderEnd, image + kXsaveHeaderEnd,
                    l.size - kXsaveHeaderEnd)) {
        return StepResult::Exception;
    }
    const bool takes_mxcsr = compacted ? (loaded & 2U) != 0 : (wanted & 6U) != 0;
    if (takes_mxcsr && (mxcsr_at(image) & kMxcsrReserved) != 0) {
        return raise_gp(cpu);
    }
    save_vector_state(cpu);
    if (code64(cpu)) {
        // All of a component is replaced: no need to know what it held.
    } else {
        materialize(cpu, loaded & 2U);  // XMM8 to XMM15 stay
    }
    for (unsigned i = 0; i < 8; ++i) {
        if (((loaded >> i) & 1U) != 0) {
            take_component(cpu, image, i, l);
        }
    }
    set_xstate_bv(cpu, ((xstate_bv(cpu) & ~wanted) | loaded) & ~(1ULL << kPkru));
    if (((wanted >> kPkru) & 1U) != 0) {
        std::uint32_t pkru = 0;
        if (((loaded >> kPkru) & 1U) != 0) {
            __builtin_memcpy(&pkru, image + l.offset[kPkru], 4);
        }
        write_pkru(cpu, pkru);
    }
    if (takes_mxcsr) {
        copy_out(cpu.xsave + kMxcsrAt, image + kMxcsrAt, 4);
    } else if (compacted && (wanted & 2U) != 0) {
        __builtin_memcpy(cpu.xsave + kMxcsrAt, &kMxcsrInitial, 4);
    }
    return done(cpu, insn);
}

// x87 environments.

std::uint32_t environment_bytes(const Instruction& insn) {
    return insn.operand_size == 2 ? 14 : 28;
}

/// Zeroes FIP, FCS, FOP, FDP, FDS of an environment as FNSTENV lays it out.
void clear_environment(const Instruction& insn, std::byte* image) {
    const std::uint32_t at = insn.operand_size == 2 ? 6 : 12;
    zero_out(image + at, environment_bytes(insn) - at);
}

StepResult op_environment(CpuState& cpu, Op& op) noexcept {
    const Instruction& insn = op.insn;
    if (!vector_allowed(cpu, insn)) {
        return StepResult::Exception;
    }
    const bool store =
        insn.mnemonic == ZYDIS_MNEMONIC_FNSTENV || insn.mnemonic == ZYDIS_MNEMONIC_FNSAVE;
    const bool whole =
        insn.mnemonic == ZYDIS_MNEMONIC_FNSAVE || insn.mnemonic == ZYDIS_MNEMONIC_FRSTOR;
    const std::uint32_t bytes = environment_bytes(insn) + (whole ? 80 : 0);
    if (!store && x87_error_pending(cpu)) {
        return raise(cpu, vec::kMf);
    }
    std::uint64_t linear = 0;
    std::byte* image = context(cpu).scratch;
    if (!image_address(cpu, insn, bytes, 1, store, linear)) {
        return StepResult::Exception;
    }
    if (store ? !probe_write(cpu, linear, bytes) : !read_image(cpu, insn, linear, image, bytes)) {
        (void)memory_fault(cpu, insn.mem.segment);
        return StepResult::Exception;
    }
    clear_environment(insn, image);
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): filled by run_in_frame()
    HostFrame frame;
    if (!run_in_frame(cpu, op, image, frame)) {
        return StepResult::Exception;
    }
    clear_environment(insn, image);
    if (store && !write_image(cpu, insn, linear, image, bytes)) {
        return StepResult::Exception;
    }
    return done(cpu, insn);
}

}  // namespace

Handler select_state_image(const Instruction& insn) noexcept {
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_FXSAVE:
        case ZYDIS_MNEMONIC_FXSAVE64:
            return op_fxsave;
        case ZYDIS_MNEMONIC_FXRSTOR:
        case ZYDIS_MNEMONIC_FXRSTOR64:
            return op_fxrstor;
        case ZYDIS_MNEMONIC_XSAVE:
        case ZYDIS_MNEMONIC_XSAVE64:
        case ZYDIS_MNEMONIC_XSAVEC:
        case ZYDIS_MNEMONIC_XSAVEC64:
        case ZYDIS_MNEMONIC_XSAVEOPT:
        case ZYDIS_MNEMONIC_XSAVEOPT64:
        case ZYDIS_MNEMONIC_XSAVES:
        case ZYDIS_MNEMONIC_XSAVES64:
            return op_xsave;
        case ZYDIS_MNEMONIC_XRSTOR:
        case ZYDIS_MNEMONIC_XRSTOR64:
        case ZYDIS_MNEMONIC_XRSTORS:
        case ZYDIS_MNEMONIC_XRSTORS64:
            return op_xrstor;
        case ZYDIS_MNEMONIC_FLDENV:
        case ZYDIS_MNEMONIC_FNSTENV:
        case ZYDIS_MNEMONIC_FNSAVE:
        case ZYDIS_MNEMONIC_FRSTOR:
            return op_environment;
        default:
            return nullptr;
    }
}

}  // namespace strata::engine::soft
