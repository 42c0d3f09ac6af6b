// Fuzz target: an unpacked kernel with its relocations. Whatever it says, only its own bytes change
// and its segments lie inside.
#include <cstring>

#include "base/check.h"
#include "machine/boot/linux_payload.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace strata::machine::boot;
    constexpr std::uint64_t kLoad = 0x1000000, kInitSize = 0x100000, kAlignment = 0x200000,
                            kRandom = 5;
    auto image = strata::MmapRegion::map(size == 0 ? 1 : size, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS);
    if (!image.ok()) {
        return 0;
    }
    if (size != 0) {
        std::memcpy(image->data(), data, size);
    }
    const auto kernel =
        place_kernel(std::move(image).value(), {{}, kLoad, kInitSize, kAlignment}, kRandom);
    if (kernel.ok()) {
        for (const ElfSegment& segment : kernel->elf.segments) {
            STRATA_CHECK(segment.file_offset <= kernel->image.size() &&
                             segment.file_size <= kernel->image.size() - segment.file_offset,
                         "a segment outside the image");
        }
    }
    return 0;
}
