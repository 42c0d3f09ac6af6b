// VectorState: checking XSAVE images that come from outside. SDM 1, 13.4 and 13.8.
#include "engine/soft/runtime/vector_state.h"

#include <algorithm>
#include <cstring>

namespace strata::engine::soft {
namespace {
constexpr std::size_t kMxcsr = 24, kMxcsrMask = 28, kHeader = 512, kHeaderEnd = 576;
constexpr unsigned kPkruComponent = 9, kPkruBytes = 8;
constexpr std::uint32_t kMxcsrDefault = 0x1f80, kMxcsrBits = 0xffff;
}  // namespace

void sanitize_xsave(std::span<std::byte, arch::x86::kXsaveBytes> image) noexcept {
    std::uint32_t mxcsr = 0;
    std::memcpy(&mxcsr, &image[kMxcsr], sizeof mxcsr);
    mxcsr &= kMxcsrBits;
    std::memcpy(&image[kMxcsr], &mxcsr, sizeof mxcsr);
    std::memcpy(&image[kMxcsrMask], &kMxcsrBits, sizeof kMxcsrBits);
    std::uint64_t present = 0;
    std::memcpy(&present, &image[kHeader], sizeof present);
    present &= host_vector_mask();
    std::fill(image.begin() + kHeader, image.begin() + kHeaderEnd, std::byte{0});
    std::memcpy(&image[kHeader], &present, sizeof present);
}

void reset_xsave(std::span<std::byte, arch::x86::kXsaveBytes> image, std::uint16_t fcw) noexcept {
    std::fill(image.begin(), image.end(), std::byte{0});
    std::memcpy(&image[0], &fcw, sizeof fcw);
    std::memcpy(&image[kMxcsr], &kMxcsrDefault, sizeof kMxcsrDefault);
    std::memcpy(&image[kMxcsrMask], &kMxcsrBits, sizeof kMxcsrBits);
    const std::uint64_t present = 3;  // x87 and SSE as given here, not their XRSTOR defaults
    std::memcpy(&image[kHeader], &present, sizeof present);
}

std::uint32_t pkru_offset(const arch::x86::CpuidTable& cpuid) {
    const arch::x86::CpuidEntry* entry = cpuid.entry(0xd, kPkruComponent);
    const bool fits = entry != nullptr && entry->registers.eax == kPkruBytes &&
                      entry->registers.ebx >= kHeaderEnd &&
                      entry->registers.ebx <= arch::x86::kXsaveBytes - kPkruBytes;
    return fits ? entry->registers.ebx : 0;
}

std::uint32_t pkru_in(std::span<const std::byte, arch::x86::kXsaveBytes> image,
                      std::uint32_t offset) noexcept {
    std::uint64_t present = 0;
    std::memcpy(&present, &image[kHeader], sizeof present);
    std::uint32_t value = 0;
    if (offset != 0 && ((present >> kPkruComponent) & 1) != 0) {
        std::memcpy(&value, &image[offset], sizeof value);
    }
    return value;
}

void put_pkru(std::span<std::byte, arch::x86::kXsaveBytes> image, std::uint32_t offset,
              std::uint32_t value) noexcept {
    if (offset == 0) {
        return;
    }
    std::uint64_t present = 0;
    std::memcpy(&present, &image[kHeader], sizeof present);
    present |= 1ULL << kPkruComponent;
    std::memcpy(&image[kHeader], &present, sizeof present);
    std::fill_n(image.begin() + offset, kPkruBytes, std::byte{0});
    std::memcpy(&image[offset], &value, sizeof value);
}

}  // namespace strata::engine::soft
