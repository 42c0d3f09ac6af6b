// Seal: makes checksums right after mutation, so that the fuzzer gets behind them, and spreads
// small inputs over large layouts.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/endian.h"
#include "block/formats/common/wire.h"

namespace strata::fuzz {

struct Piece {
    std::uint64_t offset = 0;
    std::vector<std::byte> bytes{};
};

inline bool begins(std::span<const std::byte> bytes, std::string_view text) {
    return bytes.size() >= text.size() && std::memcmp(bytes.data(), text.data(), text.size()) == 0;
}

/// VHD: the complement of the sum of the bytes, the field itself being zeros.
inline void seal_vhd(std::span<std::byte> part, std::size_t field) {
    block::put(part, field, Be32(0U));
    std::uint32_t sum = 0;
    for (const std::byte each : part) {
        sum += static_cast<std::uint8_t>(each);
    }
    block::put(part, field, Be32(~sum));
}
inline std::vector<Piece> pieces_vhd(std::span<const std::byte> input) {
    std::vector<std::byte> file(input.begin(), input.end());
    const std::span<std::byte> all(file);
    for (std::size_t at = 0; at + 512 <= all.size(); at += 512) {
        if (begins(all.subspan(at), "conectix")) {
            seal_vhd(all.subspan(at, 512), 64);
        } else if (begins(all.subspan(at), "cxsparse") && all.size() - at >= 1024) {
            seal_vhd(all.subspan(at, 1024), 36);
        }
    }
    if (all.size() >= 512 && begins(all.last(512), "conectix")) {
        seal_vhd(all.last(512), 64);
    }
    return {{0, std::move(file)}};
}

/// VHDX: the CRC-32C of all of `part`, the field at 4 being zeros.
inline void seal_vhdx(std::span<std::byte> part) {
    block::put(part, 4, Le32(0U));
    block::put(part, 4, Le32(block::crc32c(part)));
}
/// The input is, one behind the other: a header, a region table, the metadata's table, its items,
/// the block table, the log.
inline std::vector<Piece> pieces_vhdx(std::span<const std::byte> input) {
    struct Part {
        std::uint64_t offset;
        std::size_t taken, sealed;
    };
    constexpr Part kParts[] = {{64U << 10, 80, 4096}, {192U << 10, 112, 64U << 10},
                               {2U << 20, 512, 0},    {(2U << 20) + (64U << 10), 512, 0},
                               {3U << 20, 512, 0},    {1U << 20, 64U << 10, 0}};
    std::vector<Piece> pieces = {{0, std::vector<std::byte>(8)},
                                 {(6U << 20) - 1, std::vector<std::byte>(1)}};
    std::memcpy(pieces[0].bytes.data(), "vhdxfile", 8);
    for (const Part& part : kParts) {
        const std::size_t length = std::min(part.taken, input.size());
        Piece piece{part.offset, std::vector<std::byte>(std::max(length, part.sealed))};
        std::copy_n(input.begin(), length, piece.bytes.begin());
        input = input.subspan(length);
        if (part.sealed != 0) {
            seal_vhdx(piece.bytes);
        }
        pieces.push_back(std::move(piece));
    }
    const std::span<std::byte> log(pieces.back().bytes);
    for (std::size_t at = 0; at + 4096 <= log.size(); at += 4096) {
        const std::uint32_t length = block::get<Le32>(log, at + 8);
        if (begins(log.subspan(at), "loge") && length >= 64 && length <= log.size() - at) {
            seal_vhdx(log.subspan(at, length));
        }
    }
    return pieces;
}

/// Archives: the sum of a header's bytes, its own eight counted as blanks.
inline std::vector<Piece> pieces_tar(std::span<const std::byte> input) {
    constexpr std::size_t kField = 148;
    std::vector<std::byte> file(input.begin(), input.end());
    for (std::size_t at = 0; at + 512 <= file.size(); at += 512) {
        const auto header = std::span(file).subspan(at, 512);
        if (!begins(header.subspan(257), "ustar")) {
            continue;
        }
        std::fill_n(header.begin() + kField, 8, std::byte{' '});
        unsigned sum = 0;
        for (const std::byte each : header) {
            sum += std::to_integer<unsigned>(each);
        }
        for (std::size_t digit = 6; digit-- != 0; sum /= 8) {
            header[kField + digit] = static_cast<std::byte>('0' + sum % 8);
        }
        header[kField + 6] = std::byte{0};
    }
    return {{0, std::move(file)}};
}

inline std::vector<Piece> pieces_of(std::string_view format, std::span<const std::byte> input) {
    if (format == "vhdx") {
        return pieces_vhdx(input);
    }
    if (format == "vpc") {
        return pieces_vhd(input);
    }
    if (format == "ova" || format == "xva") {
        return pieces_tar(input);
    }
    return {{0, std::vector<std::byte>(input.begin(), input.end())}};
}

}  // namespace strata::fuzz
