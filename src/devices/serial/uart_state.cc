// Uart: its state section.
#include <algorithm>
#include <vector>

#include "devices/serial/uart.h"

namespace strata::devices {
namespace {

constexpr std::string_view kSection = "uart";
constexpr std::uint16_t kVersion = 1;

void save_fifo(state::StateWriter& writer, const std::deque<std::uint8_t>& fifo) {
    writer.u8(static_cast<std::uint8_t>(fifo.size()));
    for (const std::uint8_t byte : fifo) {
        writer.u8(byte);
    }
}

void load_fifo(state::StateReader& reader, std::deque<std::uint8_t>& fifo, std::size_t limit) {
    const std::size_t size = reader.u8();
    if (size > limit) {
        reader.reject("a FIFO holds more than it can");
        return;
    }
    fifo.resize(size);
    std::generate(fifo.begin(), fifo.end(), [&] { return reader.u8(); });
}

}  // namespace

Result<> Uart::save(state::StateWriter& writer) const {
    const MutexLock lock(mutex_);
    writer.begin(kSection, kVersion);
    for (const std::uint8_t value : {ier_, fcr_, lcr_, mcr_, msr_, lsr_errors_, scratch_}) {
        writer.u8(value);
    }
    writer.u16(divisor_);
    writer.boolean(thre_pending_);
    writer.boolean(timeout_pending_);
    writer.u64(timeout_at_);
    save_fifo(writer, rx_);
    save_fifo(writer, tx_);
    writer.end();
    return ok();
}

Result<> Uart::load(state::StateReader& reader) {
    const MutexLock lock(mutex_);
    (void)STRATA_TRY(reader.begin(kSection, kVersion));
    ier_ = reader.u8() & 0x0f;
    fcr_ = reader.u8() & 0xc9;
    lcr_ = reader.u8();
    mcr_ = reader.u8() & 0x1f;
    msr_ = reader.u8();
    lsr_errors_ = reader.u8() & 0x1e;
    scratch_ = reader.u8();
    divisor_ = reader.u16();
    thre_pending_ = reader.boolean();
    timeout_pending_ = reader.boolean();
    timeout_at_ = reader.u64();
    load_fifo(reader, rx_, depth());
    load_fifo(reader, tx_, depth());
    input_waits_ = true;  // whoever is plugged in now may have something
    update_line();
    return reader.end();
}

}  // namespace strata::devices
