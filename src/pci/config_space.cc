// ConfigSpace: masks, BARs, capability list.
#include "pci/config_space.h"

#include <bit>

namespace strata::pci {

ConfigSpace::ConfigSpace(const Identity& identity) {
    set<std::uint16_t>(Register::kVendor, identity.vendor);
    set<std::uint16_t>(Register::kVendor + 2, identity.device);
    set<std::uint32_t>(Register::kRevision, identity.class_code << 8 | identity.revision);
    set<std::uint16_t>(Register::kSubsystemVendor, identity.subsystem_vendor);
    set<std::uint16_t>(Register::kSubsystemVendor + 2, identity.subsystem);
    set<std::uint8_t>(Register::kInterruptPin, identity.interrupt_pin ? 1 : 0);
    make_writable<std::uint8_t>(Register::kCacheLine, 0xff);
    make_writable<std::uint8_t>(Register::kInterruptLine, 0xff);
    make_writable<std::uint16_t>(Register::kCommand, Command::kBusMaster | Command::kIntxDisable);
    seal();
}

void ConfigSpace::read(unsigned offset, std::span<std::byte> data) const {
    for (std::byte& out : data) {
        out = offset < kConfigSize ? bytes_[offset] : std::byte{0xff};
        ++offset;
    }
}

void ConfigSpace::write(unsigned offset, std::span<const std::byte> data) {
    for (const std::byte in : data) {
        if (offset < kConfigSize) {
            const std::byte mask = writable_[offset];
            bytes_[offset] = (bytes_[offset] & ~mask) | (in & mask);
        }
        ++offset;
    }
}

void ConfigSpace::define_bar(unsigned index, const Bar& bar) {
    const bool wide = bar.kind == BarKind::Memory64;
    STRATA_CHECK(index + (wide ? 1 : 0) < kBarCount, "no such BAR");
    STRATA_CHECK(std::has_single_bit(bar.size) && bar.size >= (bar.kind == BarKind::Io ? 4 : 16),
                 "bad BAR size");
    bars_[index] = bar;
    const unsigned at = Register::kBar0 + index * 4;
    const std::uint64_t mask = ~(bar.size - 1);
    std::uint32_t flags = bar.kind == BarKind::Io ? 1 : 0;
    flags |= wide ? 4U : 0U;
    flags |= bar.prefetchable ? 8U : 0U;
    set<std::uint32_t>(at, flags);
    make_writable<std::uint32_t>(at, static_cast<std::uint32_t>(mask));
    if (wide) {
        make_writable<std::uint32_t>(at + 4, static_cast<std::uint32_t>(mask >> 32));
    }
    std::uint16_t command = Command::kBusMaster | Command::kIntxDisable;
    for (const Bar& each : bars_) {
        if (each.kind != BarKind::None) {
            command |= each.kind == BarKind::Io ? Command::kIo : Command::kMemory;
        }
    }
    make_writable<std::uint16_t>(Register::kCommand, command);
}

std::uint64_t ConfigSpace::bar_address(unsigned index) const {
    const unsigned at = Register::kBar0 + index * 4;
    std::uint64_t address = get<std::uint32_t>(at);
    if (bars_[index].kind == BarKind::Memory64) {
        address |= static_cast<std::uint64_t>(get<std::uint32_t>(at + 4)) << 32;
    }
    return bars_[index].size == 0 ? 0 : address & ~(bars_[index].size - 1);
}

void ConfigSpace::set_bar_address(unsigned index, std::uint64_t address) {
    const unsigned at = Register::kBar0 + index * 4;
    const Le32 low(static_cast<std::uint32_t>(address));
    write(at, std::as_bytes(std::span(&low, 1)));
    if (bars_[index].kind == BarKind::Memory64) {
        const Le32 high(static_cast<std::uint32_t>(address >> 32));
        write(at + 4, std::as_bytes(std::span(&high, 1)));
    }
}

std::optional<std::uint64_t> ConfigSpace::decoded_bar(unsigned index) const {
    if (bars_[index].kind == BarKind::None) {
        return std::nullopt;
    }
    const auto needed = bars_[index].kind == BarKind::Io ? Command::kIo : Command::kMemory;
    const std::uint64_t address = bar_address(index);
    if ((get<std::uint16_t>(Register::kCommand) & needed) == 0 || address == 0) {
        return std::nullopt;
    }
    return address;
}

unsigned ConfigSpace::add_capability(std::uint8_t id, std::span<const std::byte> body) {
    const unsigned at = next_capability_;
    STRATA_CHECK(at + 2 + body.size() <= 0x100, "the capabilities do not fit into 256 bytes");
    set<std::uint8_t>(at, id);
    std::copy(body.begin(), body.end(), bytes_.begin() + at + 2);
    set<std::uint8_t>(last_capability_, static_cast<std::uint8_t>(at));
    last_capability_ = at + 1;
    next_capability_ = static_cast<unsigned>(at + 2 + body.size() + 3) & ~3U;
    set<std::uint16_t>(Register::kStatus,
                       get<std::uint16_t>(Register::kStatus) | Status::kCapabilityList);
    return at;
}

void ConfigSpace::save(state::StateWriter& writer) const {
    writer.raw(std::span(bytes_).first(kSavedBytes));
}

void ConfigSpace::load(state::StateReader& reader) {
    std::array<std::byte, kSavedBytes> saved{};
    reader.raw(saved);
    for (unsigned at = 0; at < kSavedBytes; ++at) {
        // The interrupt status bit is ours but changes; everything else read-only must be equal.
        const std::byte mutable_bits =
            writable_[at] | std::byte(at == Register::kStatus ? Status::kInterrupt : 0);
        if (((saved[at] ^ initial_[at]) & ~mutable_bits) != std::byte{0}) {
            reader.reject("its PCI configuration is another device's");
            return;
        }
    }
    std::copy(saved.begin(), saved.end(), bytes_.begin());
}

}  // namespace strata::pci
