// IoApic: redirection entries, delivery and end of interrupt.
#include "devices/irqchip/io_apic.h"

#include <utility>

#include "devices/core/windows.h"

namespace strata::devices {
namespace {

// Memory-mapped registers: 82093AA, 3.1; the EOI register of version 20h.
constexpr std::uint64_t kSelect = 0x00;
constexpr std::uint64_t kWindow = 0x10;
constexpr std::uint64_t kEoi = 0x40;

// Indirect registers: 3.2.
constexpr std::uint8_t kId = 0x00;
constexpr std::uint8_t kVersionRegister = 0x01;
constexpr std::uint8_t kArbitration = 0x02;
constexpr std::uint8_t kEntries = 0x10;
constexpr std::uint32_t kVersionValue = 0x20 | ((IoApic::kPins - 1) << 16);

// A redirection entry: 3.2.4. Delivery status reads 0: a message is always accepted at once.
constexpr std::uint64_t kVectorMask = 0xff;
constexpr std::uint64_t kModeShift = 8;
constexpr std::uint64_t kLogical = 1U << 11;
constexpr std::uint64_t kRemoteIrr = 1U << 14;
constexpr std::uint64_t kLevel = 1U << 15;
constexpr std::uint64_t kMasked = 1U << 16;
constexpr unsigned kDestinationShift = 56;
/// What a guest may write. Bits 55-49 are the extended destination of KVM_FEATURE_MSI_EXT_DEST_ID.
constexpr std::uint64_t kWritable = 0xfffe'0000'0001'afff;
constexpr unsigned kExtendedShift = 49;

constexpr unsigned kModeSmi = 2;
constexpr unsigned kModeNmi = 4;
constexpr unsigned kModeInit = 5;
constexpr unsigned kModeExtInt = 7;

constexpr std::string_view kSection = "ioapic";
constexpr std::uint16_t kVersion = 1;

unsigned mode_of(std::uint64_t entry) {
    return static_cast<unsigned>(entry >> kModeShift) & 7;
}

/// SMI, NMI, INIT and ExtINT are edges whatever the trigger bit says (3.2.4, delivery mode).
bool is_level(std::uint64_t entry) {
    const unsigned mode = mode_of(entry);
    return (entry & kLevel) != 0 && mode != kModeSmi && mode != kModeNmi && mode != kModeInit &&
           mode != kModeExtInt;
}

}  // namespace

class IoApic::Pin final : public bus::IrqLine {
  public:
    Pin(IoApic& chip, unsigned index) : chip_(chip), index_(index) {}
    void set(bool asserted) override { chip_.set_pin(index_, asserted); }

  private:
    IoApic& chip_;
    const unsigned index_;
};

IoApic::IoApic(bus::MsiSink& sink, RouteListener listener, std::uint32_t first_gsi)
    : sink_(sink), listener_(std::move(listener)), first_gsi_(first_gsi) {
    {
        const MutexLock lock(mutex_);
        entries_.fill(kMasked);
    }
    for (unsigned index = 0; index < kPins; ++index) {
        pins_.push_back(std::make_unique<Pin>(*this, index));
    }
}

IoApic::~IoApic() = default;

bus::IrqLine& IoApic::line(std::uint32_t gsi) {
    STRATA_CHECK(gsi >= first_gsi_ && gsi - first_gsi_ < kPins, "no such pin of this IOAPIC");
    return *pins_[gsi - first_gsi_];
}

void IoApic::send(const Messages& messages) {
    for (const bus::MsiMessage& message : messages) {
        sink_.send(message);
    }
}

/// The interrupt message that an entry stands for. SDM 3A, 11.11.
bus::MsiMessage IoApic::message_of(std::uint64_t entry) {
    bus::MsiMessage message;
    const std::uint64_t destination = entry >> kDestinationShift;
    const std::uint64_t extended = (entry >> kExtendedShift) & 0x7f;
    const bool logical = (entry & kLogical) != 0;
    message.address = 0xfee00000 | (destination << 12) | (extended << 5) | (logical ? 1U << 2 : 0U);
    message.data =
        static_cast<std::uint32_t>((entry & kVectorMask) | (std::uint64_t{mode_of(entry)} << 8));
    if (is_level(entry)) {
        message.data |= (1U << 15) | (1U << 14);  // level, asserted
    }
    return message;
}

std::vector<bus::IrqRoute> IoApic::routes_locked() const {
    std::vector<bus::IrqRoute> routes;
    routes.reserve(kPins);
    for (std::uint32_t pin = 0; pin < kPins; ++pin) {
        const std::uint64_t entry = entries_[pin];
        routes.push_back(
            {first_gsi_ + pin, message_of(entry), is_level(entry), (entry & kMasked) != 0});
    }
    return routes;
}

std::vector<bus::IrqRoute> IoApic::routes() const {
    const MutexLock lock(mutex_);
    return routes_locked();
}

void IoApic::set_pin(unsigned pin, bool asserted) {
    Messages messages;
    {
        const MutexLock lock(mutex_);
        const std::uint32_t bit = 1U << pin;
        const bool rise = asserted && (levels_ & bit) == 0;
        levels_ = asserted ? levels_ | bit : levels_ & ~bit;
        if (rise) {
            deliver(pin, messages);  // an edge at a masked pin is lost: 3.2.4, interrupt mask
        }
    }
    send(messages);
}

/// Sends the entry's message, unless it is masked or its level interrupt is still being served.
void IoApic::deliver(unsigned pin, Messages& out) {
    std::uint64_t& entry = entries_[pin];
    if ((entry & kMasked) != 0) {
        return;
    }
    if (is_level(entry)) {
        if ((entry & kRemoteIrr) != 0) {
            return;
        }
        entry |= kRemoteIrr;
    }
    out.push_back(message_of(entry));
}

void IoApic::end_of_interrupt(std::uint8_t vector) {
    Messages messages;
    {
        const MutexLock lock(mutex_);
        end_vector(vector, messages);
    }
    send(messages);
}

void IoApic::end_vector(std::uint8_t vector, Messages& out) {
    for (unsigned pin = 0; pin < kPins; ++pin) {
        std::uint64_t& entry = entries_[pin];
        if ((entry & kVectorMask) != vector || (entry & kRemoteIrr) == 0) {
            continue;
        }
        entry &= ~kRemoteIrr;
        if ((levels_ >> pin & 1) != 0 && is_level(entry)) {
            deliver(pin, out);
        }
    }
}

std::uint32_t IoApic::read_register() const {
    switch (select_) {
        case kId:
        case kArbitration:
            return static_cast<std::uint32_t>(id_) << 24;
        case kVersionRegister:
            return kVersionValue;
        default:
            break;
    }
    if (select_ < kEntries || select_ >= kEntries + 2 * kPins) {
        return ~0U;
    }
    const std::uint64_t entry = entries_[(select_ - kEntries) / 2];
    return static_cast<std::uint32_t>((select_ & 1) != 0 ? entry >> 32 : entry);
}

void IoApic::write_register(std::uint32_t value, Messages& out) {
    if (select_ == kId) {
        id_ = (value >> 24) & 0x0f;
    } else if (select_ >= kEntries && select_ < kEntries + 2 * kPins) {
        write_entry(select_ - kEntries, value, out);
    }
}

void IoApic::write_entry(unsigned index, std::uint32_t value, Messages& out) {
    std::uint64_t& entry = entries_[index / 2];
    const std::uint64_t old = entry;
    const unsigned shift = (index & 1) * 32;
    const std::uint64_t half = std::uint64_t{0xffffffff} << shift;
    const std::uint64_t wanted = (entry & ~half) | (std::uint64_t{value} << shift);
    entry = (wanted & kWritable) | (entry & ~kWritable & kRemoteIrr);
    if (!is_level(entry)) {
        entry &= ~kRemoteIrr;  // switching to edge is how old kernels end a stuck interrupt
    }
    if (entry != old) {
        listener_(routes_locked());
    }
    if (is_level(entry) && (levels_ >> (index / 2) & 1) != 0) {
        deliver(index / 2, out);  // an asserted level asks as soon as it is unmasked
    }
}

void IoApic::read(std::uint64_t offset, std::span<std::byte> data) {
    const MutexLock lock(mutex_);
    std::uint64_t value = ~std::uint64_t{0};
    if (offset == kSelect) {
        value = select_;
    } else if (offset == kWindow) {
        value = read_register();
    }
    from_integer(value, data);
}

void IoApic::write(std::uint64_t offset, std::span<const std::byte> data) {
    const auto value = static_cast<std::uint32_t>(to_integer(data));
    Messages messages;
    {
        const MutexLock lock(mutex_);
        if (offset == kSelect) {
            select_ = static_cast<std::uint8_t>(value);
        } else if (offset == kWindow) {
            write_register(value, messages);
        } else if (offset == kEoi) {
            end_vector(static_cast<std::uint8_t>(value), messages);
        }
    }
    send(messages);
}

void IoApic::reset() {
    const MutexLock lock(mutex_);
    entries_.fill(kMasked);
    select_ = 0;
    id_ = 0;
    listener_(routes_locked());
}

Result<> IoApic::resume() {
    const MutexLock lock(mutex_);
    listener_(routes_locked());
    return ok();
}

Result<> IoApic::save(state::StateWriter& writer) const {
    const MutexLock lock(mutex_);
    writer.begin(kSection, kVersion);
    writer.u8(select_);
    writer.u8(id_);
    writer.u32(levels_);
    for (const std::uint64_t entry : entries_) {
        writer.u64(entry);
    }
    writer.end();
    return ok();
}

Result<> IoApic::load(state::StateReader& reader) {
    const MutexLock lock(mutex_);
    (void)STRATA_TRY(reader.begin(kSection, kVersion));
    select_ = reader.u8();
    id_ = reader.u8() & 0x0f;
    levels_ = reader.u32() & ((1U << kPins) - 1);
    for (std::uint64_t& entry : entries_) {
        entry = reader.u64() & (kWritable | kRemoteIrr);
    }
    return reader.end();
}

}  // namespace strata::devices
