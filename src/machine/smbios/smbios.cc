// SMBIOS 3.0 (DSP0134): the 64-bit entry point, types 0, 1, 3, 16, 17, 19, 32 and 127.
#include "machine/smbios/smbios.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string_view>

#include "base/endian.h"

namespace strata::machine::smbios {
namespace {

using Bytes = std::vector<std::byte>;

struct EntryPoint {
    std::array<char, 5> anchor{};
    std::uint8_t checksum = 0, length = 0, major = 0, minor = 0, revision = 0;
    std::uint8_t entry_revision = 0, reserved = 0;
    Le32 structures_length;
    Le64 structures;
};
static_assert(sizeof(EntryPoint) == 24);

/// Appends structures: a formatted part, then its strings.
class Structures {
  public:
    /// `body` is what follows type, length and handle.
    void add(std::uint8_t type, const std::vector<std::uint8_t>& body,
             const std::vector<std::string_view>& strings) {
        put(type);
        put(static_cast<std::uint8_t>(body.size() + 4));
        put(static_cast<std::uint8_t>(handle_ & 0xff));
        put(static_cast<std::uint8_t>(handle_ >> 8));
        ++handle_;
        for (const std::uint8_t byte : body) {
            put(byte);
        }
        for (const std::string_view text : strings) {
            for (const char c : text) {
                put(static_cast<std::uint8_t>(c));
            }
            put(0);
        }
        put(0);
        if (strings.empty()) {
            put(0);
        }
    }
    Bytes& bytes() { return bytes_; }

  private:
    void put(std::uint8_t byte) { bytes_.push_back(static_cast<std::byte>(byte)); }
    Bytes bytes_;
    unsigned handle_ = 0;
};

void put_le(std::vector<std::uint8_t>& out, std::uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; ++i) {
        out.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
    }
}

void add_firmware(Structures& out, const SmbiosConfig& config) {
    // Type 0: vendor 1, version 2, start segment, date 3, ROM size, characteristics "not supported"
    // and "virtual machine" (7.1).
    out.add(0, {1, 2, 0x00, 0xf0, 3, 0, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0xff, 0xff},
            {"Strata", config.version, "01/01/2026"});
}

void add_system(Structures& out, const SmbiosConfig& config) {
    // Type 1: manufacturer 1, product 2, version 3, no serial, UUID unset (all zeros), wake-up by
    // power switch (7.2).
    std::vector<std::uint8_t> body = {1, 2, 3, 0};
    body.resize(body.size() + 16);
    body.insert(body.end(), {6, 0, 0});
    out.add(1, body, {"Strata", config.product, config.version});
    // Type 3: manufacturer 1, type "other", states "safe" (7.4).
    out.add(3, {1, 1, 0, 0, 0, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0}, {"Strata"});
}

void add_memory(Structures& out, const SmbiosConfig& config) {
    constexpr std::uint64_t kMib = 1 << 20;
    constexpr std::uint16_t kArrayHandle = 3, kSizeIsExtended = 0x7fff;
    // Type 16: system board, system memory, multi-bit ECC; capacity in the extended field, in bytes
    // (7.17).
    std::vector<std::uint8_t> array = {1, 3, 6};
    put_le(array, 0x80000000, 4);
    put_le(array, 0xfffe, 2);
    put_le(array, 1, 2);
    put_le(array, config.memory_bytes, 8);
    out.add(16, array, {});
    // Type 17: one DIMM of RAM (7.18); sizes in MiB, from 32 GiB on in the extended field.
    const std::uint64_t mib = config.memory_bytes / kMib;
    std::vector<std::uint8_t> module;
    put_le(module, kArrayHandle, 2);
    put_le(module, 0xfffe, 2);
    put_le(module, 0xffff, 2);  // widths unknown
    put_le(module, 0xffff, 2);
    put_le(module, mib < kSizeIsExtended ? mib : kSizeIsExtended, 2);
    module.insert(module.end(), {9, 0, 1, 0, 7, 2, 0, 0, 0, 0, 0, 0, 0,
                                 0});  // DIMM, locator 1, type RAM, "other" detail
    put_le(module, mib < kSizeIsExtended ? 0 : mib, 4);
    put_le(module, 0, 2);
    out.add(17, module, {"DIMM 0"});
    // Type 19: the array's range, in the extended (byte) fields (7.20).
    std::vector<std::uint8_t> range;
    put_le(range, 0xffffffff, 4);
    put_le(range, 0xffffffff, 4);
    put_le(range, kArrayHandle, 2);
    range.push_back(1);
    put_le(range, 0, 8);
    put_le(range, config.memory_bytes - 1, 8);
    out.add(19, range, {});
}

}  // namespace

Bytes build_tables(const SmbiosConfig& config, std::uint64_t address) {
    constexpr std::size_t kStructuresOffset = 32;
    Structures structures;
    add_firmware(structures, config);
    add_system(structures, config);
    add_memory(structures, config);
    structures.add(32, {0, 0, 0, 0, 0, 0, 0}, {});
    structures.add(127, {}, {});
    EntryPoint entry{};
    entry.anchor = {'_', 'S', 'M', '3', '_'};
    entry.length = sizeof(EntryPoint);
    entry.major = 3;
    entry.entry_revision = 1;
    entry.structures_length = static_cast<std::uint32_t>(structures.bytes().size());
    entry.structures = address + kStructuresOffset;
    unsigned sum = 0;
    for (const std::byte byte : std::as_bytes(std::span(&entry, 1))) {
        sum += std::to_integer<unsigned>(byte);
    }
    entry.checksum = static_cast<std::uint8_t>(0U - sum);
    Bytes out(kStructuresOffset + structures.bytes().size());
    // SAFETY: the block begins with 32 bytes, EntryPoint has 24.
    std::memcpy(out.data(), &entry, sizeof(entry));
    std::copy(structures.bytes().begin(), structures.bytes().end(),
              out.begin() + kStructuresOffset);
    return out;
}

}  // namespace strata::machine::smbios
