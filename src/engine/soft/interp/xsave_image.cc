// XsaveImage: see xsave_image.h. SDM 1, 13.4.
#include "engine/soft/interp/xsave_image.h"

#include <cpuid.h>

namespace strata::engine::soft {
namespace {

struct Layout {
    XsaveComponent parts[8];
    Layout() {
        for (unsigned i = 2; i < 8; ++i) {
            std::uint32_t a = 0, b = 0, c = 0, d = 0;
            if (__get_cpuid_count(0xd, i, &a, &b, &c, &d) != 0 && a != 0 &&
                b + a <= arch::x86::kXsaveBytes) {
                parts[i] = {b, a, (c & 2U) != 0};
            }
        }
    }
};

const Layout& layout() {
    static const Layout made;
    return made;
}

void zero_out(std::byte* at, std::uint32_t bytes) {
    // SAFETY: writes `bytes` bytes from `at`; a loop over bytes takes a thousand turns for the
    // upper halves of ZMM0 to ZMM15.
    std::uint64_t count = bytes;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(count) : "a"(0) : "memory");
}

void copy_out(std::byte* to, const std::byte* from, std::uint32_t bytes) {
    for (std::uint32_t i = 0; i < bytes; ++i) {
        to[i] = from[i];
    }
}

/// The pieces a vector register is stored in: offset in the image, first byte of the register,
/// bytes.
struct Piece {
    std::uint32_t offset, first, bytes;
};

unsigned pieces_of(unsigned number, Piece out[3]) {
    if (number >= 16) {
        out[0] = {layout().parts[7].offset + (number - 16) * 64, 0, 64};
        return layout().parts[7].size != 0 ? 1 : 0;
    }
    unsigned count = 1;
    out[0] = {160 + number * 16, 0, 16};
    if (layout().parts[2].size != 0) {
        out[count++] = {layout().parts[2].offset + number * 16, 16, 16};
    }
    if (layout().parts[6].size != 0) {
        out[count++] = {layout().parts[6].offset + number * 32, 32, 32};
    }
    return count;
}

}  // namespace

const XsaveComponent& xsave_component(unsigned number) noexcept {
    return layout().parts[number & 7U];
}

std::uint64_t xstate_bv(const CpuState& cpu) noexcept {
    std::uint64_t value = 0;
    __builtin_memcpy(&value, cpu.xsave + kXsaveLegacyBytes, 8);
    return value;
}

void set_xstate_bv(CpuState& cpu, std::uint64_t value) noexcept {
    __builtin_memcpy(cpu.xsave + kXsaveLegacyBytes, &value, 8);
}

void materialize(CpuState& cpu, std::uint64_t bits) noexcept {
    const std::uint64_t missing = bits & ~xstate_bv(cpu);
    if ((missing & 1U) != 0) {
        zero_out(cpu.xsave, 24);
        zero_out(cpu.xsave + 32, 128);
        cpu.xsave[0] = std::byte{0x7f};
        cpu.xsave[1] = std::byte{0x03};
    }
    if ((missing & 2U) != 0) {
        zero_out(cpu.xsave + 160, 256);
    }
    for (unsigned i = 2; i < 8; ++i) {
        if (((missing >> i) & 1U) != 0) {
            zero_out(cpu.xsave + layout().parts[i].offset, layout().parts[i].size);
        }
    }
    std::uint64_t present = xstate_bv(cpu) | 3U;
    for (unsigned i = 2; i < 8; ++i) {
        if (((bits >> i) & 1U) != 0 && layout().parts[i].size != 0) {
            present |= 1ULL << i;
        }
    }
    // Bits 0 and 1 only if asked for.
    present &= ~3ULL | xstate_bv(cpu) | bits;
    set_xstate_bv(cpu, present);
}

void read_vector(const CpuState& cpu, unsigned number, void* out, std::uint32_t size) noexcept {
    Piece pieces[3];
    auto* to = static_cast<std::byte*>(out);
    zero_out(to, size);
    const unsigned count = pieces_of(number, pieces);
    for (unsigned i = 0; i < count && pieces[i].first < size; ++i) {
        const std::uint32_t bytes =
            size - pieces[i].first < pieces[i].bytes ? size - pieces[i].first : pieces[i].bytes;
        copy_out(to + pieces[i].first, cpu.xsave + pieces[i].offset, bytes);
    }
}

void write_vector(CpuState& cpu, unsigned number, const void* data, std::uint32_t size,
                  std::uint32_t total) noexcept {
    std::byte image[64] = {};
    copy_out(image, static_cast<const std::byte*>(data), size);
    Piece pieces[3];
    const unsigned count = pieces_of(number, pieces);
    for (unsigned i = 0; i < count && pieces[i].first < total; ++i) {
        copy_out(cpu.xsave + pieces[i].offset, image + pieces[i].first, pieces[i].bytes);
    }
}

std::uint64_t read_opmask(const CpuState& cpu, unsigned number) noexcept {
    std::uint64_t value = 0;
    __builtin_memcpy(&value, cpu.xsave + layout().parts[5].offset + std::size_t{number} * 8, 8);
    return value;
}

void write_opmask(CpuState& cpu, unsigned number, std::uint64_t value) noexcept {
    __builtin_memcpy(cpu.xsave + layout().parts[5].offset + std::size_t{number} * 8, &value, 8);
}

}  // namespace strata::engine::soft
