// FatBoot: structures of the FAT specification, section 3; partitions as PCs have them.
#include "block/protocols/fat/boot.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string_view>

#include "base/endian.h"
#include "block/formats/common/wire.h"

namespace strata::block::fat {
namespace {

constexpr std::size_t kSector = 512;
constexpr std::size_t kInformation = 1, kCopies = 6;  ///< sectors of FAT32
constexpr std::uint32_t kRoot = 2;                    ///< FAT32's root folder's cluster

void put_text(std::span<std::byte> out, std::size_t at, std::string_view text) {
    std::memcpy(out.subspan(at, text.size()).data(), text.data(), text.size());
}

/// A sector as cylinder, head and sector, as a partition table has it.
std::array<std::byte, 3> place_of(std::uint64_t sector, const Geometry& geometry) {
    const std::uint64_t track = sector / geometry.per_track;
    const std::uint64_t cylinder = track / geometry.heads;
    if (cylinder > 1023) {
        return {std::byte{254}, std::byte{0xff}, std::byte{0xff}};
    }
    return {static_cast<std::byte>(track % geometry.heads),
            static_cast<std::byte>((sector % geometry.per_track + 1) | (cylinder >> 8 << 6)),
            static_cast<std::byte>(cylinder)};
}

std::uint8_t partition_kind(const Geometry& geometry) {
    const bool far = geometry.sectors > 1024ULL * geometry.heads * geometry.per_track;
    switch (geometry.bits) {
        case 12:
            return 0x01;
        case 16:
            return far ? 0x0e : 0x06;
        default:
            return far ? 0x0c : 0x0b;
    }
}

/// The block of parameters, and the part behind it that FAT32 has elsewhere.
std::array<std::byte, kSector> boot_sector(const Geometry& geometry, const ShortName& label,
                                           std::uint32_t id) {
    std::array<std::byte, kSector> out{};
    const bool wide = geometry.bits == 32;
    const std::uint64_t sectors = geometry.sectors - geometry.start;
    put(std::span(out), 0, std::array<std::uint8_t, 3>{0xeb, 0x58, 0x90});
    put_text(out, 3, "MSWIN4.1");  // what readers trust most
    put(std::span(out), 11, Le16(kSector));
    put(std::span(out), 13, static_cast<std::uint8_t>(geometry.per_cluster));
    put(std::span(out), 14, Le16(static_cast<std::uint16_t>(geometry.reserved)));
    put(std::span(out), 16, std::uint8_t{2});
    put(std::span(out), 17, Le16(static_cast<std::uint16_t>(geometry.root_entries)));
    const bool small = sectors < 0x10000 && !wide;
    put(std::span(out), 19, Le16(static_cast<std::uint16_t>(small ? sectors : 0)));
    put(std::span(out), 21, geometry.medium);
    put(std::span(out), 22, Le16(static_cast<std::uint16_t>(wide ? 0 : geometry.table_sectors)));
    put(std::span(out), 24, Le16(static_cast<std::uint16_t>(geometry.per_track)));
    put(std::span(out), 26, Le16(static_cast<std::uint16_t>(geometry.heads)));
    put(std::span(out), 28, Le32(geometry.start));
    put(std::span(out), 32, Le32(static_cast<std::uint32_t>(small ? 0 : sectors)));
    if (wide) {
        put(std::span(out), 36, Le32(geometry.table_sectors));
        put(std::span(out), 44, Le32(kRoot));
        put(std::span(out), 48, Le16(kInformation));
        put(std::span(out), 50, Le16(kCopies));
    }
    const std::size_t more = wide ? 64 : 36;
    put(std::span(out), more, static_cast<std::uint8_t>(geometry.start != 0 ? 0x80 : 0));
    put(std::span(out), more + 2, std::uint8_t{0x29});
    put(std::span(out), more + 3, Le32(id));
    put_text(out, more + 7, {label.data(), label.size()});
    put_text(out, more + 18, geometry.bits == 12 ? "FAT12   " : wide ? "FAT32   " : "FAT16   ");
    // Whoever starts from it asks the firmware for the next disk: INT 18h.
    put(std::span(out), 0x5a, std::array<std::uint8_t, 5>{0xcd, 0x18, 0xf4, 0xeb, 0xfd});
    put(std::span(out), 510, Le16(0xaa55));
    return out;
}

}  // namespace

std::vector<std::byte> partition_table(const Geometry& geometry, std::uint32_t id) {
    std::vector<std::byte> out(kSector);
    const std::span<std::byte> bytes(out);
    put(bytes, 0, std::array<std::uint8_t, 5>{0xcd, 0x18, 0xf4, 0xeb, 0xfd});
    put(bytes, 440, Le32(~id));
    constexpr std::size_t kFirst = 446;
    put(bytes, kFirst, std::uint8_t{0x80});
    put(bytes, kFirst + 1, place_of(geometry.start, geometry));
    put(bytes, kFirst + 4, partition_kind(geometry));
    put(bytes, kFirst + 5, place_of(geometry.sectors - 1, geometry));
    put(bytes, kFirst + 8, Le32(geometry.start));
    put(bytes, kFirst + 12, Le32(static_cast<std::uint32_t>(geometry.sectors - geometry.start)));
    put(bytes, 510, Le16(0xaa55));
    return out;
}

std::vector<std::byte> reserved_sectors(const Geometry& geometry, const ShortName& label,
                                        std::uint32_t id, std::uint32_t next) {
    std::vector<std::byte> out(geometry.reserved * kSector);
    const std::span<std::byte> bytes(out);
    const auto boot = boot_sector(geometry, label, id);
    put(bytes, 0, boot);
    if (geometry.bits == 32) {
        std::array<std::byte, kSector> information{};
        put(std::span(information), 0, Le32(0x41615252));
        put(std::span(information), 484, Le32(0x61417272));
        put(std::span(information), 488, Le32(geometry.clusters + 2 - next));
        put(std::span(information), 492, Le32(next));
        put(std::span(information), 508, Le32(0xaa550000));
        put(bytes, kInformation * kSector, information);
        put(bytes, kCopies * kSector, boot);
        put(bytes, (kCopies + kInformation) * kSector, information);
    }
    return out;
}

}  // namespace strata::block::fat
