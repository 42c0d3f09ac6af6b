// VhdFooter, VhdHeader: field by field.
#include "block/formats/vhd/header.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>

#include "base/byte_reader.h"
#include "base/endian.h"

namespace strata::block::vhd {
namespace {

struct WireFooter {
    std::array<char, 8> cookie{};
    Be32 features, version;
    Be64 data_offset;
    Be32 timestamp;
    std::array<char, 4> creator{};
    Be32 creator_version;
    std::array<char, 4> creator_os{};
    Be64 original_size, current_size;
    Be16 cylinders;
    std::uint8_t heads = 0, sectors = 0;
    Be32 type, checksum;
    RawUuid uuid{};
    std::uint8_t saved_state = 0;
    std::array<std::byte, 427> reserved{};
};
struct WireLocator {
    Be32 platform, space, length, reserved;
    Be64 offset;
};
struct WireHeader {
    std::array<char, 8> cookie{};
    Be64 data_offset, table_offset;
    Be32 version, entries, block, checksum;
    RawUuid parent{};
    Be32 parent_time, reserved;
    std::array<std::byte, 512> parent_name{};
    std::array<WireLocator, 8> locators{};
    std::array<std::byte, 256> reserved2{};
};
static_assert(sizeof(WireFooter) == kFooterBytes && sizeof(WireHeader) == kHeaderBytes);

constexpr std::array<char, 8> kFooterCookie = {'c', 'o', 'n', 'e', 'c', 't', 'i', 'x'};
constexpr std::array<char, 8> kHeaderCookie = {'c', 'x', 's', 'p', 'a', 'r', 's', 'e'};
/// Creators whose current_size is the disk's size, whatever their geometry says.
constexpr std::array<std::string_view, 6> kExactCreators = {
    "win ", "qem2", "d2v ", "CTXS", std::string_view("wa\0\0", 4), std::string_view("tap\0", 4)};

/// Of a structure whose checksum field, at `at`, counts as zeros.
std::uint32_t checksum_of(std::span<const std::byte> bytes, std::size_t at) {
    std::uint32_t sum = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        sum += i >= at && i < at + 4 ? 0U : static_cast<std::uint32_t>(bytes[i]);
    }
    return ~sum;
}
constexpr std::size_t kFooterChecksum = 64, kHeaderChecksum = 36;

}  // namespace

Geometry geometry_of(std::uint64_t bytes) {
    const std::uint64_t total = std::min<std::uint64_t>(bytes, kMaxGeometry) / 512;
    std::uint64_t heads = 16, sectors = 255;
    std::uint64_t tracks = total / sectors;
    if (total < 65535ULL * 16 * 63) {
        sectors = 17;
        tracks = total / sectors;
        heads = std::max<std::uint64_t>((tracks + 1023) / 1024, 4);
        if (tracks >= heads * 1024 || heads > 16) {
            sectors = 31;
            heads = 16;
            tracks = total / sectors;
        }
        if (tracks >= heads * 1024) {
            sectors = 63;
            heads = 16;
            tracks = total / sectors;
        }
    }
    return {static_cast<std::uint16_t>(tracks / heads), static_cast<std::uint8_t>(heads),
            static_cast<std::uint8_t>(sectors)};
}

std::uint64_t Footer::disk_size() const {
    const bool exact = std::find(kExactCreators.begin(), kExactCreators.end(),
                                 std::string_view(creator)) != kExactCreators.end();
    // Beyond the geometry's reach it says nothing.
    return exact || geometry.bytes() == 0 || geometry.bytes() >= kMaxGeometry ? current_size
                                                                              : geometry.bytes();
}

bool is_footer(std::span<const std::byte> bytes) {
    return bytes.size() >= kFooterCookie.size() &&
           std::memcmp(bytes.data(), kFooterCookie.data(), kFooterCookie.size()) == 0;
}

Result<Footer> parse_footer(std::span<const std::byte> bytes, std::string_view name) {
    const auto read = ByteReader(bytes).read<WireFooter>();
    if (!read.ok() || read->cookie != kFooterCookie) {
        return broken_image("VHD", name, "no footer: this is no VHD image, or it is cut off");
    }
    const WireFooter& wire = *read;
    if (wire.checksum != checksum_of(bytes.first(kFooterBytes), kFooterChecksum)) {
        return broken_image("VHD", name, "its footer's checksum is wrong");
    }
    if (wire.version >> 16 != 1) {
        return unsupported_image("VHD", name,
                                 fmt::format("version {:#x} is unknown", wire.version.value()));
    }
    if (wire.type < 2 || wire.type > 4) {
        return unsupported_image("VHD", name,
                                 fmt::format("disk type {} is unknown", wire.type.value()));
    }
    Footer f;
    f.type = static_cast<Type>(wire.type.value());
    f.creator.assign(wire.creator.begin(), wire.creator.end());
    f.timestamp = wire.timestamp;
    f.data_offset = wire.data_offset;
    f.current_size = wire.current_size;
    f.geometry = {wire.cylinders, wire.heads, wire.sectors};
    f.uuid = wire.uuid;
    if (f.current_size > (1ULL << 50) || f.current_size % 512 != 0 ||
        (f.type != Type::Fixed && f.disk_size() > kMaxSize)) {
        return broken_image("VHD", name,
                            fmt::format("a disk of {} bytes cannot be", f.current_size));
    }
    return f;
}

std::vector<std::byte> serialise_footer(const Footer& f) {
    WireFooter wire{};
    wire.cookie = kFooterCookie;
    wire.features = 2U;
    wire.version = 0x00010000U;
    wire.data_offset = f.data_offset;
    wire.timestamp = f.timestamp;
    std::copy_n(f.creator.begin(), std::min<std::size_t>(f.creator.size(), 4),
                wire.creator.begin());
    wire.creator_version = 0x00010000U;
    wire.creator_os = {'W', 'i', '2', 'k'};
    wire.original_size = f.current_size;
    wire.current_size = f.current_size;
    wire.cylinders = f.geometry.cylinders;
    wire.heads = f.geometry.heads;
    wire.sectors = f.geometry.sectors;
    wire.type = static_cast<std::uint32_t>(f.type);
    wire.uuid = f.uuid;
    std::vector<std::byte> out(kFooterBytes);
    put(out, 0, wire);
    put(out, kFooterChecksum, Be32(checksum_of(out, kFooterChecksum)));
    return out;
}

Result<Header> parse_header(std::span<const std::byte> bytes, std::uint64_t size,
                            std::string_view name) {
    const auto read = ByteReader(bytes).read<WireHeader>();
    if (!read.ok() || read->cookie != kHeaderCookie) {
        return broken_image("VHD", name, "it has no dynamic header where its footer says");
    }
    const WireHeader& wire = *read;
    if (wire.entries > kMaxTableBytes / 4) {
        return broken_image("VHD", name,
                            fmt::format("a table of {} blocks is too large", wire.entries.value()),
                            fmt::format("Max Table Entries too large ({})", wire.entries.value()));
    }
    if (wire.checksum != checksum_of(bytes.first(kHeaderBytes), kHeaderChecksum)) {
        return broken_image("VHD", name, "its dynamic header's checksum is wrong");
    }
    Header h;
    h.table_offset = wire.table_offset;
    h.entries = wire.entries;
    h.block = wire.block;
    h.parent = wire.parent;
    h.parent_time = wire.parent_time;
    h.parent_name = utf8_of_utf16(wire.parent_name, true);
    if (!std::has_single_bit(h.block) || h.block < 4096 || h.block > (256U << 20)) {
        return broken_image("VHD", name, fmt::format("blocks of {} bytes cannot be", h.block));
    }
    if (h.entries < divide_up(size, h.block)) {
        return broken_image(
            "VHD", name,
            fmt::format("a table of {} blocks of {} bytes does not fit a disk of {}", h.entries,
                        h.block, size));
    }
    if (h.table_offset < kFooterBytes || h.table_offset >= (1ULL << 48) ||
        h.table_offset % 512 != 0) {
        return broken_image(
            "VHD", name,
            fmt::format("its block table lies at {}, where none can be", h.table_offset));
    }
    for (std::size_t i = 0; i < h.locators.size(); ++i) {
        const WireLocator& from = wire.locators[i];
        h.locators[i] = {from.platform, from.space, from.length, from.offset};
    }
    return h;
}

Result<std::vector<std::byte>> serialise_header(const Header& h) {
    WireHeader wire{};
    wire.cookie = kHeaderCookie;
    wire.data_offset = ~0ULL;
    wire.table_offset = h.table_offset;
    wire.version = 0x00010000U;
    wire.entries = h.entries;
    wire.block = h.block;
    wire.parent = h.parent;
    wire.parent_time = h.parent_time;
    const auto parent = utf16_of_utf8(h.parent_name, true);
    if (parent.size() > wire.parent_name.size()) {
        return Error{
            ErrorKind::InvalidArgument,
            fmt::format("the parent's name '{}' is too long for a VHD image", h.parent_name)};
    }
    std::copy(parent.begin(), parent.end(), wire.parent_name.begin());
    for (std::size_t i = 0; i < h.locators.size(); ++i) {
        const Locator& from = h.locators[i];
        wire.locators[i].platform = from.platform;
        wire.locators[i].space = from.space;
        wire.locators[i].length = from.length;
        wire.locators[i].offset = from.offset;
    }
    std::vector<std::byte> out(kHeaderBytes);
    put(out, 0, wire);
    put(out, kHeaderChecksum, Be32(checksum_of(out, kHeaderChecksum)));
    return out;
}

}  // namespace strata::block::vhd
