// Tar: headers, one after the other.
#include "block/formats/archive/tar.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"

namespace strata::block::archive {
namespace {

constexpr std::uint64_t kMaxText = 64U << 10;  ///< of a long name, or of POSIX' records

struct Wire {
    std::array<std::byte, 100> name{};
    std::array<std::byte, 8> mode{}, owner{}, group{};
    std::array<std::byte, 12> size{}, time{};
    std::array<std::byte, 8> checksum{};
    std::byte type{};
    std::array<std::byte, 100> link{};
    std::array<std::byte, 8> magic{};
    std::array<std::byte, 32> owner_name{}, group_name{};
    std::array<std::byte, 8> major{}, minor{};
    std::array<std::byte, 155> prefix{};
    std::array<std::byte, 12> padding{};
};
static_assert(sizeof(Wire) == kTarBlock);

/// Octal text, or GNU's binary form.
std::optional<std::uint64_t> number(std::span<const std::byte> field) {
    if ((field[0] & std::byte{0x80}) != std::byte{0}) {
        std::uint64_t value = std::to_integer<std::uint64_t>(field[0] & std::byte{0x7F});
        for (const std::byte each : field.subspan(1)) {
            if (value >> 55 != 0) {
                return std::nullopt;
            }
            value = value << 8 | std::to_integer<std::uint64_t>(each);
        }
        return value;
    }
    std::uint64_t value = 0;
    bool any = false;
    for (const std::byte each : field) {
        const char digit = static_cast<char>(each);
        if (digit >= '0' && digit <= '7') {
            value = value * 8 + static_cast<unsigned>(digit - '0');
            any = true;
        } else if (any || digit != ' ') {
            break;
        }
    }
    return any ? std::optional(value) : std::nullopt;
}

bool checksum_right(std::span<const std::byte> header, const Wire& wire) {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < header.size(); ++i) {
        const bool own =
            i >= offsetof(Wire, checksum) && i < offsetof(Wire, checksum) + sizeof wire.checksum;
        sum += own ? ' ' : std::to_integer<unsigned>(header[i]);
    }
    return number(wire.checksum) == sum;
}

/// What stands for `key` in POSIX' records ("LENGTH KEY=VALUE\n" each).
std::optional<std::string> record_of(std::string_view records, std::string_view key) {
    std::optional<std::string> found;
    while (!records.empty()) {
        std::size_t length = 0;
        const auto [end, code] =
            std::from_chars(records.data(), records.data() + records.size(), length);
        const auto digits = static_cast<std::size_t>(end - records.data());
        if (code != std::errc() || length <= digits + 1 || length > records.size()) {
            break;
        }
        const std::string_view text = records.substr(digits + 1, length - digits - 2);
        const std::size_t equals = text.find('=');
        if (equals != std::string_view::npos && text.substr(0, equals) == key) {
            found = text.substr(equals + 1);
        }
        records.remove_prefix(length);
    }
    return found;
}

/// What was said ahead of a member's own header.
struct Ahead {
    std::optional<std::string> name;
    std::optional<std::uint64_t> size;
};

Task<> read_ahead(Node& file, char type, std::uint64_t offset, std::uint64_t size, Ahead& ahead) {
    if (size > kMaxText) {
        co_return broken_image("tar", file.name(), fmt::format("a name of {} bytes", size));
    }
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(file, offset, size));
    // SAFETY: bytes as characters.
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (type == 'L') {
        ahead.name = text_until_nul(bytes);
        co_return ok();
    }
    if (auto path = record_of(text, "path")) {
        ahead.name = std::move(path);
    }
    if (const auto digits = record_of(text, "size")) {
        std::uint64_t value = 0;
        const auto [end, code] =
            std::from_chars(digits->data(), digits->data() + digits->size(), value);
        if (code != std::errc() || end != digits->data() + digits->size()) {
            co_return broken_image("tar", file.name(), "a size that is no number");
        }
        ahead.size = value;
    }
    co_return ok();
}

std::string name_of(const Wire& wire) {
    const std::string name = text_until_nul(wire.name), prefix = text_until_nul(wire.prefix);
    const bool posix = std::memcmp(wire.magic.data(), "ustar\0", 6) == 0;
    return posix && !prefix.empty() ? fmt::format("{}/{}", prefix, name) : name;
}

}  // namespace

std::string name_in_header(std::span<const std::byte> header) {
    if (header.size() < kTarBlock) {
        return {};
    }
    const auto wire = get<Wire>(header, 0);
    return checksum_right(header.first(kTarBlock), wire) ? name_of(wire) : std::string();
}

Task<> walk_tar(Node& file, std::uint64_t most, std::function<Result<>(const Member&)> each) {
    Ahead ahead;
    for (std::uint64_t at = 0, seen = 0; at + kTarBlock <= file.size(); ++seen) {
        STRATA_CO_TRY(const auto header, co_await read_bytes(file, at, kTarBlock));
        if (is_zero(header)) {
            break;
        }
        const auto wire = get<Wire>(header, 0);
        const auto length = number(wire.size);
        if (!checksum_right(header, wire) || !length || seen == most) {
            co_return broken_image("tar", file.name(),
                                   seen == most
                                       ? fmt::format("it has more than {} members", most)
                                       : fmt::format("there is no member's header at {}", at));
        }
        const char type = static_cast<char>(wire.type);
        const bool tells = type == 'L' || type == 'x';
        const std::uint64_t size = tells ? *length : ahead.size.value_or(*length);
        if (!lies_within(at + kTarBlock, size, file.size())) {
            co_return broken_image("tar", file.name(),
                                   fmt::format("the member at {} is cut off", at));
        }
        if (tells) {
            STRATA_CO_TRY_VOID(co_await read_ahead(file, type, at + kTarBlock, size, ahead));
        } else {
            if (type == '0' || type == '\0') {
                STRATA_CO_TRY_VOID(
                    each({ahead.name.value_or(name_of(wire)), at + kTarBlock, size}));
            }
            ahead = {};
        }
        at += kTarBlock + round_up(size, kTarBlock);
    }
    co_return ok();
}

std::vector<std::byte> tar_header(const std::string& name, std::uint64_t size,
                                  std::uint64_t seconds) {
    Wire wire;
    const auto put_text = [](std::span<std::byte> field, const std::string& text) {
        std::memcpy(field.data(), text.data(), std::min(text.size(), field.size()));
    };
    put_text(wire.name, name);
    put_text(wire.mode, "0000644");
    put_text(wire.owner, "0000000");
    put_text(wire.group, "0000000");
    if (size < 1ULL << 33) {
        put_text(wire.size, fmt::format("{:011o}", size));
    } else {
        wire.size[0] = std::byte{0x80};
        for (std::size_t i = 0; i < 8; ++i) {
            wire.size[4 + i] = static_cast<std::byte>(size >> (56 - 8 * i));
        }
    }
    put_text(wire.time, fmt::format("{:011o}", seconds));
    wire.type = std::byte{'0'};
    std::memcpy(wire.magic.data(), "ustar\00000", 8);
    put_text(wire.owner_name, "root");
    put_text(wire.group_name, "root");
    std::vector<std::byte> header(kTarBlock);
    put(header, 0, wire);
    std::uint64_t sum = ' ' * wire.checksum.size();
    for (const std::byte each : header) {
        sum += std::to_integer<unsigned>(each);
    }
    put_text(std::span(header).subspan(offsetof(Wire, checksum), 7), fmt::format("{:06o}", sum));
    header[offsetof(Wire, checksum) + 7] = std::byte{' '};
    return header;
}

}  // namespace strata::block::archive
