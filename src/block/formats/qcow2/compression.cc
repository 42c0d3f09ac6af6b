// Compressed clusters: raw deflate by libdeflate, zstd frames with a bounded window.
#include "block/formats/qcow2/compression.h"

#include <libdeflate.h>
#include <zstd.h>

#include <memory>

namespace strata::block::qcow2 {
namespace {

constexpr int kMaxWindowLog = 23;  // 8 MiB: four times the largest cluster

bool inflate(std::span<const std::byte> in, std::span<std::byte> out) {
    const std::unique_ptr<libdeflate_decompressor, void (*)(libdeflate_decompressor*)> state(libdeflate_alloc_decompressor(),
                                                                                             &libdeflate_free_decompressor);
    // No place for the size: anything but a full cluster is an error.
    return state != nullptr &&
           libdeflate_deflate_decompress(state.get(), in.data(), in.size(), out.data(), out.size(), nullptr) == LIBDEFLATE_SUCCESS;
}

bool unzstd(std::span<const std::byte> in, std::span<std::byte> out) {
    const std::unique_ptr<ZSTD_DCtx, std::size_t (*)(ZSTD_DCtx*)> state(ZSTD_createDCtx(), &ZSTD_freeDCtx);
    if (state == nullptr || ZSTD_isError(ZSTD_DCtx_setParameter(state.get(), ZSTD_d_windowLogMax, kMaxWindowLog)) != 0) {
        return false;
    }
    ZSTD_inBuffer from{in.data(), in.size(), 0};
    ZSTD_outBuffer to{out.data(), out.size(), 0};
    while (to.pos < to.size) {
        const std::size_t before = from.pos + to.pos;
        const std::size_t left = ZSTD_decompressStream(state.get(), &to, &from);
        if (ZSTD_isError(left) != 0 || left == 0 || from.pos + to.pos == before) {
            break;
        }
    }
    return to.pos == to.size;
}

}  // namespace

bool decompress(Compression method, std::span<const std::byte> in, std::span<std::byte> out) {
    return method == Compression::Zstd ? unzstd(in, out) : inflate(in, out);
}

}  // namespace strata::block::qcow2
