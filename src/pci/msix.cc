// Msix: table and pending bits as the guest sees them, and delivery.
#include "pci/msix.h"

#include <array>

namespace strata::pci {
namespace {

constexpr std::uint16_t kEnable = 1U << 15;
constexpr std::uint16_t kFunctionMask = 1U << 14;

template <typename T>
void set_byte(T& value, unsigned index, std::byte byte) {
    value &= ~(static_cast<T>(0xff) << (index * 8));
    value |= static_cast<T>(byte) << (index * 8);
}

}  // namespace

Msix::Msix(unsigned vectors, unsigned bar, std::uint32_t table_offset, std::uint32_t pba_offset)
    : vectors_(vectors),
      bar_(bar),
      table_offset_(table_offset),
      pba_offset_(pba_offset),
      entries_(vectors) {
    STRATA_CHECK(vectors >= 1 && vectors <= kMaxVectors, "bad number of MSI-X vectors");
    STRATA_CHECK(table_offset % 8 == 0 && pba_offset % 8 == 0 && bar < kBarCount,
                 "misplaced MSI-X table");
}

void Msix::describe(ConfigSpace& config) {
    struct Body {
        Le16 control;
        Le32 table;
        Le32 pba;
    };
    static_assert(sizeof(Body) == 10);
    const Body body{static_cast<std::uint16_t>(vectors_ - 1), table_offset_ | bar_,
                    pba_offset_ | bar_};
    capability_ = config.add_capability(kCapabilityId, std::as_bytes(std::span(&body, 1)));
    config.make_writable<std::uint16_t>(capability_ + 2, kEnable | kFunctionMask);
}

void Msix::config_written(const ConfigSpace& config, unsigned offset, std::size_t size) {
    const unsigned control = capability_ + 2;
    if (capability_ == 0 || offset >= control + 2 || offset + size <= control) {
        return;
    }
    const auto value = config.get<std::uint16_t>(control);
    std::vector<bus::MsiMessage> messages;
    {
        const MutexLock lock(mutex_);
        enabled_ = (value & kEnable) != 0;
        function_masked_ = (value & kFunctionMask) != 0;
        messages = take_deliverable();
    }
    send(messages);
}

bool Msix::enabled() const {
    const MutexLock lock(mutex_);
    return enabled_;
}

void Msix::raise(unsigned vector) {
    bus::MsiMessage message;
    {
        const MutexLock lock(mutex_);
        if (!enabled_ || vector >= entries_.size()) {
            return;
        }
        Entry& entry = entries_[vector];
        if (function_masked_ || (entry.control & 1) != 0) {
            entry.pending = true;
            return;
        }
        message = {entry.address, entry.data};
    }
    if (sink_ != nullptr) {
        sink_->send(message);
    }
}

std::vector<bus::MsiMessage> Msix::take_deliverable() {
    std::vector<bus::MsiMessage> messages;
    if (!enabled_ || function_masked_) {
        return messages;
    }
    for (Entry& entry : entries_) {
        if (entry.pending && (entry.control & 1) == 0) {
            entry.pending = false;
            messages.push_back({entry.address, entry.data});
        }
    }
    return messages;
}

void Msix::send(const std::vector<bus::MsiMessage>& messages) const {
    if (sink_ != nullptr) {
        for (const auto& message : messages) {
            sink_->send(message);
        }
    }
}

bool Msix::in_table(std::uint64_t offset) const {
    return offset >= table_offset_ && offset - table_offset_ < vectors_ * kEntrySize;
}

bool Msix::in_pba(std::uint64_t offset) const {
    return offset >= pba_offset_ && offset - pba_offset_ < (vectors_ + 63) / 64 * 8;
}

std::byte Msix::table_byte(std::uint64_t offset) const {
    const std::uint64_t relative = offset - table_offset_;
    const Entry& entry = entries_[relative / kEntrySize];
    const auto byte = static_cast<unsigned>(relative % kEntrySize);
    if (byte < 8) {
        return static_cast<std::byte>(entry.address >> (byte * 8));
    }
    return static_cast<std::byte>((byte < 12 ? entry.data : entry.control) >> (byte % 4 * 8));
}

void Msix::set_table_byte(std::uint64_t offset, std::byte value) {
    const std::uint64_t relative = offset - table_offset_;
    Entry& entry = entries_[relative / kEntrySize];
    const auto byte = static_cast<unsigned>(relative % kEntrySize);
    if (byte < 8) {
        set_byte(entry.address, byte, byte == 0 ? value & std::byte{0xfc} : value);
    } else if (byte < 12) {
        set_byte(entry.data, byte % 4, value);
    } else if (byte == 12) {
        entry.control = static_cast<std::uint32_t>(value) & 1;  // the other bits are reserved
    }
}

bool Msix::read(std::uint64_t offset, std::span<std::byte> data) const {
    if (!in_table(offset) && !in_pba(offset)) {
        return false;
    }
    const MutexLock lock(mutex_);
    for (std::byte& out : data) {
        out = std::byte{0};
        if (in_table(offset)) {
            out = table_byte(offset);
        } else if (in_pba(offset)) {
            const std::uint64_t first = (offset - pba_offset_) * 8;
            for (unsigned bit = 0; bit < 8; ++bit) {
                if (first + bit < entries_.size() && entries_[first + bit].pending) {
                    out |= static_cast<std::byte>(1U << bit);
                }
            }
        }
        ++offset;
    }
    return true;
}

bool Msix::write(std::uint64_t offset, std::span<const std::byte> data) {
    if (!in_table(offset)) {
        return in_pba(offset);  // read-only
    }
    std::vector<bus::MsiMessage> messages;
    {
        const MutexLock lock(mutex_);
        for (const std::byte in : data) {
            if (in_table(offset)) {
                set_table_byte(offset, in);
            }
            ++offset;
        }
        messages = take_deliverable();
    }
    send(messages);
    return true;
}

void Msix::reset() {
    const MutexLock lock(mutex_);
    enabled_ = false;
    function_masked_ = false;
    std::fill(entries_.begin(), entries_.end(), Entry{});
}

void Msix::save(state::StateWriter& writer) const {
    const MutexLock lock(mutex_);
    writer.u16(static_cast<std::uint16_t>(entries_.size()));
    for (const Entry& entry : entries_) {
        writer.u64(entry.address);
        writer.u32(entry.data);
        writer.u8(static_cast<std::uint8_t>(entry.control));
        writer.boolean(entry.pending);
    }
}

void Msix::load(state::StateReader& reader) {
    const MutexLock lock(mutex_);
    if (reader.u16() != entries_.size()) {
        reader.reject("it has another number of MSI-X vectors");
        return;
    }
    for (Entry& entry : entries_) {
        entry.address = reader.u64() & ~3ULL;
        entry.data = reader.u32();
        entry.control = reader.u8() & 1;
        entry.pending = reader.boolean();
    }
}

}  // namespace strata::pci
