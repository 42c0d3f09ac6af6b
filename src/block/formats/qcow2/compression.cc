// Compressed clusters: raw deflate by libdeflate (its level 4 is 2.7 times as fast as zlib's
// default and smaller), zstd frames with a bounded window.
#include "block/formats/qcow2/compression.h"

#include <memory>

#include <libdeflate.h>
#include <zstd.h>

namespace strata::block::qcow2 {
namespace {

constexpr int kDeflateLevel = 4, kZstdLevel = 3;
constexpr int kMaxWindowLog = 23;  // 8 MiB: four times the largest cluster

/// A codec's state, made once a thread.
template <typename State, State* (*kMake)(), auto kFree>
State* state_of_thread() {
    struct Free {
        void operator()(State* state) const { (void)kFree(state); }
    };
    thread_local const std::unique_ptr<State, Free> state(kMake());
    return state.get();
}

libdeflate_compressor* make_compressor() {
    return libdeflate_alloc_compressor(kDeflateLevel);
}

bool inflate(std::span<const std::byte> in, std::span<std::byte> out) {
    auto* state = state_of_thread<libdeflate_decompressor, &libdeflate_alloc_decompressor,
                                  &libdeflate_free_decompressor>();
    // No place for the size: anything but a full cluster is an error.
    return state != nullptr &&
           libdeflate_deflate_decompress(state, in.data(), in.size(), out.data(), out.size(),
                                         nullptr) == LIBDEFLATE_SUCCESS;
}

std::size_t deflate(std::span<const std::byte> in, std::span<std::byte> out) {
    auto* state =
        state_of_thread<libdeflate_compressor, &make_compressor, &libdeflate_free_compressor>();
    return state == nullptr
               ? 0
               : libdeflate_deflate_compress(state, in.data(), in.size(), out.data(), out.size());
}

std::size_t zstd(std::span<const std::byte> in, std::span<std::byte> out) {
    ZSTD_CCtx* state = state_of_thread<ZSTD_CCtx, &ZSTD_createCCtx, &ZSTD_freeCCtx>();
    if (state == nullptr) {
        return 0;
    }
    const std::size_t size =
        ZSTD_compressCCtx(state, out.data(), out.size(), in.data(), in.size(), kZstdLevel);
    return ZSTD_isError(size) != 0 ? 0 : size;
}

bool unzstd(std::span<const std::byte> in, std::span<std::byte> out) {
    ZSTD_DCtx* state = state_of_thread<ZSTD_DCtx, &ZSTD_createDCtx, &ZSTD_freeDCtx>();
    if (state == nullptr ||
        ZSTD_isError(ZSTD_DCtx_reset(state, ZSTD_reset_session_and_parameters)) != 0 ||
        ZSTD_isError(ZSTD_DCtx_setParameter(state, ZSTD_d_windowLogMax, kMaxWindowLog)) != 0) {
        return false;
    }
    // One whole frame, as a rule, is unpacked where it belongs; a stream would pass through a
    // window of its own.
    const std::size_t frame = ZSTD_findFrameCompressedSize(in.data(), in.size());
    if (ZSTD_isError(frame) == 0 &&
        ZSTD_decompressDCtx(state, out.data(), out.size(), in.data(), frame) == out.size()) {
        return true;
    }
    ZSTD_inBuffer from{in.data(), in.size(), 0};
    ZSTD_outBuffer to{out.data(), out.size(), 0};
    while (to.pos < to.size) {
        const std::size_t before = from.pos + to.pos;
        const std::size_t left = ZSTD_decompressStream(state, &to, &from);
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

std::size_t compress(Compression method, std::span<const std::byte> in, std::span<std::byte> out) {
    return method == Compression::Zstd ? zstd(in, out) : deflate(in, out);
}

}  // namespace strata::block::qcow2
