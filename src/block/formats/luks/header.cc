// LuksHeader: field by field.
#include "block/formats/luks/header.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "base/byte_reader.h"
#include "base/endian.h"
#include "block/formats/common/wire.h"

namespace strata::block::luks {
namespace {

struct WireSlot {
    Be32 active, iterations;
    std::array<std::byte, kSaltBytes> salt{};
    Be32 offset, stripes;
};
struct Wire {
    std::array<char, 6> magic{};
    Be16 version;
    std::array<std::byte, 32> cipher{}, mode{}, hash{};
    Be32 payload, key_bytes;
    std::array<std::byte, kDigestBytes> digest{};
    std::array<std::byte, kSaltBytes> digest_salt{};
    Be32 digest_iterations;
    std::array<std::byte, 40> uuid{};
    std::array<WireSlot, 8> slots{};
};
static_assert(sizeof(Wire) == kHeaderBytes);
constexpr std::array<char, 6> kMagic = {'L', 'U', 'K', 'S', '\xBA', '\xBE'};
constexpr std::uint32_t kActive = 0x00AC71F3, kInactive = 0x0000DEAD;

Result<Slot> take_slot(const WireSlot& wire, const Header& h, std::uint64_t file_size,
                       std::string_view name) {
    Slot slot{.active = wire.active == kActive,
              .iterations = wire.iterations,
              .stripes = wire.stripes,
              .salt = wire.salt,
              .offset = wire.offset * 512ULL};
    if (!slot.active && wire.active != kInactive) {
        return broken_image("LUKS", name,
                            fmt::format("a key slot in the state {:#x}", wire.active.value()));
    }
    if (slot.active &&
        (slot.iterations == 0 || slot.iterations > kMaxIterations || slot.stripes == 0 ||
         slot.stripes > kMaxStripes || slot.offset < kHeaderBytes ||
         !lies_within(slot.offset, std::uint64_t{slot.stripes} * h.key_bytes, file_size))) {
        return broken_image(
            "LUKS", name,
            fmt::format("a key slot of {} stripes at {} with {} iterations cannot be", slot.stripes,
                        slot.offset, slot.iterations));
    }
    return slot;
}

}  // namespace

bool is_image(std::span<const std::byte> bytes) {
    return bytes.size() >= 8 && std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) == 0;
}

Result<Header> parse_header(std::span<const std::byte> bytes, std::uint64_t file_size,
                            std::string_view name) {
    const auto read = ByteReader(bytes).read<Wire>();
    if (!read.ok() || !is_image(bytes)) {
        return broken_image("LUKS", name, "this is no LUKS volume");
    }
    const Wire& wire = *read;
    if (wire.version != 1) {
        return unsupported_image(
            "LUKS", name,
            fmt::format("version {} is not read; version 1 is", wire.version.value()));
    }
    Header h;
    h.cipher = text_until_nul(wire.cipher);
    h.mode = text_until_nul(wire.mode);
    h.hash = text_until_nul(wire.hash);
    h.payload = wire.payload * 512ULL;
    h.key_bytes = wire.key_bytes;
    h.digest = wire.digest;
    h.digest_salt = wire.digest_salt;
    h.digest_iterations = wire.digest_iterations;
    h.uuid = text_until_nul(wire.uuid);
    if (h.key_bytes < 16 || h.key_bytes > 64 || h.digest_iterations == 0 ||
        h.digest_iterations > kMaxIterations) {
        return broken_image("LUKS", name,
                            fmt::format("a key of {} bytes with {} iterations cannot be",
                                        h.key_bytes, h.digest_iterations));
    }
    if (h.payload < kHeaderBytes || h.payload > file_size) {
        return broken_image("LUKS", name,
                            fmt::format("its payload at {} lies outside the file", h.payload));
    }
    for (std::size_t i = 0; i < h.slots.size(); ++i) {
        h.slots[i] = STRATA_TRY(take_slot(wire.slots[i], h, file_size, name));
    }
    return h;
}

std::vector<std::byte> serialise_header(const Header& h) {
    const auto put = [](std::span<std::byte> place, std::string_view text) {
        std::transform(
            text.begin(),
            text.begin() + static_cast<std::ptrdiff_t>(std::min(text.size(), place.size())),
            place.begin(), [](char c) { return static_cast<std::byte>(c); });
    };
    Wire wire{};
    wire.magic = kMagic;
    wire.version = std::uint16_t{1};
    put(wire.cipher, h.cipher);
    put(wire.mode, h.mode);
    put(wire.hash, h.hash);
    put(wire.uuid, h.uuid);
    wire.payload = static_cast<std::uint32_t>(h.payload / 512);
    wire.key_bytes = h.key_bytes;
    wire.digest = h.digest;
    wire.digest_salt = h.digest_salt;
    wire.digest_iterations = h.digest_iterations;
    for (std::size_t i = 0; i < h.slots.size(); ++i) {
        const Slot& slot = h.slots.at(i);
        wire.slots.at(i) = {slot.active ? kActive : kInactive, slot.iterations, slot.salt,
                            static_cast<std::uint32_t>(slot.offset / 512), slot.stripes};
    }
    std::vector<std::byte> bytes(sizeof wire);
    std::memcpy(bytes.data(), &wire, sizeof wire);
    return bytes;
}

}  // namespace strata::block::luks
