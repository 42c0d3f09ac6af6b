// Inflate and deflate: libdeflate, one state a thread.
#include "block/formats/common/inflate.h"

#include <cerrno>
#include <memory>

#include <libdeflate.h>

namespace strata::block {
namespace {

struct Free {
    void operator()(libdeflate_decompressor* each) const { libdeflate_free_decompressor(each); }
};

using Function = decltype(&libdeflate_zlib_decompress_ex);

Result<> run(Function function, std::span<const std::byte> from, std::span<std::byte> into) {
    thread_local const std::unique_ptr<libdeflate_decompressor, Free> kInflater(
        libdeflate_alloc_decompressor());
    std::size_t used = 0, made = 0;
    if (kInflater == nullptr ||
        function(kInflater.get(), from.data(), from.size(), into.data(), into.size(), &used,
                 &made) != LIBDEFLATE_SUCCESS ||
        made != into.size()) {
        return Error{ErrorKind::Failed, "a compressed block is damaged", EIO};
    }
    return ok();
}

struct FreeCompressor {
    void operator()(libdeflate_compressor* each) const { libdeflate_free_compressor(each); }
};
constexpr int kLevel = 6;

}  // namespace

std::size_t deflate_raw(std::span<const std::byte> from, std::span<std::byte> into) {
    thread_local const std::unique_ptr<libdeflate_compressor, FreeCompressor> kDeflater(
        libdeflate_alloc_compressor(kLevel));
    return kDeflater == nullptr
               ? 0
               : libdeflate_deflate_compress(kDeflater.get(), from.data(), from.size(), into.data(),
                                             into.size());
}

Result<> inflate_raw(std::span<const std::byte> from, std::span<std::byte> into) {
    return run(&libdeflate_deflate_decompress_ex, from, into);
}
Result<> inflate_zlib(std::span<const std::byte> from, std::span<std::byte> into) {
    return run(&libdeflate_zlib_decompress_ex, from, into);
}

}  // namespace strata::block
