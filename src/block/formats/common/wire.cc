// Wire helpers: texts, CRC-32C and identifiers.
#include "block/formats/common/wire.h"

#include <array>
#include <cerrno>

#include <fmt/format.h>
#include <sys/random.h>

#include "block/wording.h"

namespace strata::block {
namespace {

constexpr std::array<std::uint32_t, 256> make_crc_table() {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t i = 0; i < table.size(); ++i) {
        std::uint32_t crc = i;
        for (int bit = 0; bit < 8; ++bit) {
            crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78U : 0U);
        }
        table[i] = crc;
    }
    return table;
}
constexpr auto kCrcTable = make_crc_table();

void append_utf8(std::string& out, std::uint32_t point) {
    const auto add = [&out](std::uint32_t byte) { out += static_cast<char>(byte); };
    if (point < 0x80) {
        add(point);
    } else if (point < 0x800) {
        add(0xC0 | point >> 6);
        add(0x80 | (point & 0x3F));
    } else if (point < 0x10000) {
        add(0xE0 | point >> 12);
        add(0x80 | (point >> 6 & 0x3F));
        add(0x80 | (point & 0x3F));
    } else {
        add(0xF0 | point >> 18);
        add(0x80 | (point >> 12 & 0x3F));
        add(0x80 | (point >> 6 & 0x3F));
        add(0x80 | (point & 0x3F));
    }
}

/// The code point that starts at text[at]; moves `at` behind it.
std::uint32_t next_point(std::string_view text, std::size_t& at) {
    const auto byte = [&text](std::size_t i) {
        return static_cast<std::uint32_t>(static_cast<unsigned char>(text[i]));
    };
    const std::uint32_t first = byte(at++);
    if (first < 0x80) {
        return first;
    }
    const unsigned more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : first >= 0xC0 ? 1 : 0;
    if (more == 0 || first > 0xF4) {
        return 0xFFFD;
    }
    std::uint32_t point = first & (0x3FU >> more);
    for (unsigned i = 0; i < more; ++i) {
        if (at >= text.size() || (byte(at) & 0xC0) != 0x80) {
            return 0xFFFD;
        }
        point = point << 6 | (byte(at++) & 0x3F);
    }
    return point > 0x10FFFF ? 0xFFFD : point;
}

}  // namespace

Error broken_image(std::string_view format, std::string_view name, std::string_view what) {
    return {ErrorKind::Failed, fmt::format("{} image '{}': {}", format, name, what), EINVAL};
}

Error broken_image(std::string_view format, std::string_view name, std::string_view what,
                   std::string theirs) {
    return wording() == Wording::Qemu ? Error{ErrorKind::Failed, std::move(theirs), EINVAL}
                                      : broken_image(format, name, what);
}

Error unsupported_image(std::string_view format, std::string_view name, std::string_view what) {
    return {ErrorKind::NotSupported, fmt::format("{} image '{}': {}", format, name, what), ENOTSUP};
}

std::string text_until_nul(std::span<const std::byte> bytes) {
    std::string text;
    for (const std::byte each : bytes) {
        if (each == std::byte{0}) {
            break;
        }
        text += static_cast<char>(each);
    }
    return text;
}

std::string utf8_of_utf16(std::span<const std::byte> bytes, bool big_endian) {
    const auto unit = [&](std::size_t i) {
        const auto a = static_cast<std::uint32_t>(bytes[i]);
        const auto b = static_cast<std::uint32_t>(bytes[i + 1]);
        return big_endian ? a << 8 | b : b << 8 | a;
    };
    std::string out;
    for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) {
        std::uint32_t point = unit(i);
        if (point == 0) {
            break;
        }
        if (point >= 0xD800 && point < 0xE000) {
            const bool pair = point < 0xDC00 && i + 3 < bytes.size() && unit(i + 2) >= 0xDC00 &&
                              unit(i + 2) < 0xE000;
            point = pair ? 0x10000 + ((point - 0xD800) << 10) + (unit(i + 2) - 0xDC00) : 0xFFFD;
            i += pair ? 2 : 0;
        }
        append_utf8(out, point);
    }
    return out;
}

std::vector<std::byte> utf16_of_utf8(std::string_view text, bool big_endian) {
    std::vector<std::byte> out;
    const auto add = [&](std::uint32_t unit) {
        out.push_back(static_cast<std::byte>(big_endian ? unit >> 8 : unit & 0xFF));
        out.push_back(static_cast<std::byte>(big_endian ? unit & 0xFF : unit >> 8));
    };
    for (std::size_t at = 0; at < text.size();) {
        const std::uint32_t point = next_point(text, at);
        if (point < 0x10000) {
            add(point);
        } else {
            add(0xD800 + ((point - 0x10000) >> 10));
            add(0xDC00 + ((point - 0x10000) & 0x3FF));
        }
    }
    return out;
}

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t before) {
    std::uint32_t crc = ~before;
    for (const std::byte each : bytes) {
        crc = kCrcTable[(crc ^ static_cast<std::uint32_t>(each)) & 0xFF] ^ (crc >> 8);
    }
    return ~crc;
}

RawUuid random_uuid() {
    RawUuid uuid{};
    STRATA_CHECK(::getrandom(uuid.data(), uuid.size(), 0) == static_cast<ssize_t>(uuid.size()),
                 "the kernel has no random bytes");
    uuid[6] = (uuid[6] & std::byte{0x0F}) | std::byte{0x40};
    uuid[8] = (uuid[8] & std::byte{0x3F}) | std::byte{0x80};
    return uuid;
}

std::string format_uuid(const RawUuid& uuid, bool mixed) {
    constexpr std::array<std::uint8_t, 16> kMixed = {3, 2, 1,  0,  5,  4,  7,  6,
                                                     8, 9, 10, 11, 12, 13, 14, 15};
    std::string out;
    for (std::size_t i = 0; i < uuid.size(); ++i) {
        out += fmt::format("{}{:02x}", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                           static_cast<unsigned>(uuid[mixed ? kMixed[i] : i]));
    }
    return out;
}

}  // namespace strata::block
