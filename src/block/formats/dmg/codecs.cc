// The compressions of Apple's disk images: libraries where Debian has them, ADC by hand.
#include "block/formats/dmg/codecs.h"

#include <cerrno>
#include <cstring>

#include <bzlib.h>
#include <fmt/format.h>
#include <lzma.h>

namespace strata::block::dmg {
namespace {

constexpr std::uint64_t kLzmaMemory = 256ULL << 20;

Error damaged(std::string_view what) {
    return {ErrorKind::Failed, fmt::format("a chunk compressed with {} is damaged", what), EIO};
}

}  // namespace

bool copy_match(std::span<std::byte> out, std::size_t at, std::size_t distance,
                std::size_t length) {
    if (distance == 0 || distance > at || length > out.size() - at) {
        return false;
    }
    if (distance >= length) {
        std::memcpy(out.data() + at, out.data() + at - distance, length);
        return true;
    }
    for (std::size_t i = 0; i < length; ++i) {
        out[at + i] = out[at + i - distance];
    }
    return true;
}

Result<> unpack_bzip2(std::span<const std::byte> from, std::span<std::byte> into) {
    auto made = static_cast<unsigned>(into.size());
    // SAFETY: the library's interface is of char, and it only reads the source.
    auto* source = const_cast<char*>(reinterpret_cast<const char*>(from.data()));
    if (BZ2_bzBuffToBuffDecompress(reinterpret_cast<char*>(into.data()), &made, source,
                                   static_cast<unsigned>(from.size()), 0, 0) != BZ_OK ||
        made != into.size()) {
        return damaged("bzip2");
    }
    return ok();
}

Result<> unpack_lzma(std::span<const std::byte> from, std::span<std::byte> into) {
    std::uint64_t memory = kLzmaMemory;
    std::size_t used = 0, made = 0;
    // SAFETY: bytes as the library's bytes.
    if (lzma_stream_buffer_decode(&memory, 0, nullptr,
                                  reinterpret_cast<const std::uint8_t*>(from.data()), &used,
                                  from.size(), reinterpret_cast<std::uint8_t*>(into.data()), &made,
                                  into.size()) != LZMA_OK ||
        made != into.size()) {
        return damaged("LZMA");
    }
    return ok();
}

Result<> unpack_adc(std::span<const std::byte> from, std::span<std::byte> into) {
    std::size_t in = 0, out = 0;
    const auto byte = [&from](std::size_t i) { return static_cast<std::size_t>(from[i]); };
    while (out < into.size()) {
        if (in >= from.size()) {
            return damaged("ADC");
        }
        const std::size_t code = byte(in);
        if ((code & 0x80) != 0) {
            const std::size_t length = (code & 0x7F) + 1;
            if (length > from.size() - in - 1 || length > into.size() - out) {
                return damaged("ADC");
            }
            std::memcpy(into.data() + out, from.data() + in + 1, length);
            in += 1 + length;
            out += length;
            continue;
        }
        const bool wide = (code & 0x40) != 0;
        if (from.size() - in < (wide ? 3U : 2U)) {
            return damaged("ADC");
        }
        const std::size_t length = wide ? (code & 0x3F) + 4 : (code >> 2 & 0x0F) + 3;
        const std::size_t distance =
            (wide ? byte(in + 1) << 8 | byte(in + 2) : (code & 3) << 8 | byte(in + 1)) + 1;
        if (!copy_match(into, out, distance, length)) {
            return damaged("ADC");
        }
        in += wide ? 3 : 2;
        out += length;
    }
    return ok();
}

}  // namespace strata::block::dmg
