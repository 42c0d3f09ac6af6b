// Uart: the registers and interrupts of the 16550A. Section numbers are the NS16550D datasheet's.
#include "devices/serial/uart.h"

#include <algorithm>
#include <array>
#include <utility>

namespace strata::devices {
namespace {

// Registers by offset; 0 and 1 are the divisor latch while LCR.DLAB is set. Table 1.
enum Register : unsigned {
    kData = 0,
    kIer = 1,
    kIirFcr = 2,
    kLcr = 3,
    kMcr = 4,
    kLsr = 5,
    kMsr = 6,
    kScratch = 7
};

constexpr std::uint8_t kIerReceive = 0x01;
constexpr std::uint8_t kIerTransmit = 0x02;
constexpr std::uint8_t kIerLineStatus = 0x04;
constexpr std::uint8_t kIerModem = 0x08;

constexpr std::uint8_t kIirNone = 0x01;
constexpr std::uint8_t kIirModem = 0x00;
constexpr std::uint8_t kIirTransmit = 0x02;
constexpr std::uint8_t kIirReceive = 0x04;
constexpr std::uint8_t kIirLineStatus = 0x06;
constexpr std::uint8_t kIirTimeout = 0x0c;
constexpr std::uint8_t kIirFifos = 0xc0;

constexpr std::uint8_t kFcrEnable = 0x01;
constexpr std::uint8_t kFcrClearReceive = 0x02;
constexpr std::uint8_t kFcrClearTransmit = 0x04;

constexpr std::uint8_t kLcrDivisor = 0x80;

constexpr std::uint8_t kMcrDtr = 0x01;
constexpr std::uint8_t kMcrRts = 0x02;
constexpr std::uint8_t kMcrOut1 = 0x04;
constexpr std::uint8_t kMcrOut2 = 0x08;
constexpr std::uint8_t kMcrLoop = 0x10;

constexpr std::uint8_t kLsrData = 0x01;
constexpr std::uint8_t kLsrOverrun = 0x02;
constexpr std::uint8_t kLsrHoldingEmpty = 0x20;
constexpr std::uint8_t kLsrAllEmpty = 0x40;

constexpr std::uint8_t kMsrCts = 0x10;
constexpr std::uint8_t kMsrDsr = 0x20;
constexpr std::uint8_t kMsrRing = 0x40;
constexpr std::uint8_t kMsrCarrier = 0x80;
constexpr std::uint8_t kMsrLines = 0xf0;
constexpr std::uint8_t kMsrDeltas = 0x0f;

constexpr std::uint64_t kInputClock = 115'200;  ///< baud with divisor 1
constexpr std::uint64_t kNanoseconds = 1'000'000'000;

}  // namespace

Uart::Uart(std::string label, io::EventLoop& loop, const io::MachineClock& clock, bus::IrqLine& irq,
           SerialBackend& backend)
    : label_(std::move(label)),
      clock_(clock),
      irq_(irq),
      backend_(backend),
      msr_(kMsrCarrier | kMsrDsr | kMsrCts),
      alarm_(loop, clock, [this] { advance(); }) {
    backend_.connect(this);
}

Uart::~Uart() {
    backend_.connect(nullptr);
}

void Uart::read(std::uint64_t offset, std::span<std::byte> data) {
    for (std::byte& byte : data) {
        byte = static_cast<std::byte>(offset < kSize ? read_register(static_cast<unsigned>(offset))
                                                     : 0xff);
        ++offset;
    }
}

void Uart::write(std::uint64_t offset, std::span<const std::byte> data) {
    for (const std::byte byte : data) {
        if (offset < kSize) {
            write_register(static_cast<unsigned>(offset), static_cast<std::uint8_t>(byte));
        }
        ++offset;
    }
}

std::uint8_t Uart::read_register(unsigned index) {
    std::uint8_t value = 0;
    bool wants_input = false;
    {
        const MutexLock lock(mutex_);
        const bool divisor = (lcr_ & kLcrDivisor) != 0;
        switch (index) {
            case kData:
                value = divisor ? static_cast<std::uint8_t>(divisor_) : read_data();
                break;
            case kIer:
                value = divisor ? static_cast<std::uint8_t>(divisor_ >> 8) : ier_;
                break;
            case kIirFcr:
                value = read_iir();
                break;
            case kLcr:
                value = lcr_;
                break;
            case kMcr:
                value = mcr_;
                break;
            case kLsr:
                value = lsr();
                lsr_errors_ = 0;  // 8.6.3: reading clears the error bits
                break;
            case kMsr:
                value = msr_;
                msr_ &= kMsrLines;
                break;
            default:
                value = scratch_;
                break;
        }
        update_line();
        wants_input = take_input_wish();
    }
    if (wants_input) {
        backend_.input_ready();
    }
    return value;
}

void Uart::write_register(unsigned index, std::uint8_t value) {
    bool send = false;
    bool wants_input = false;
    {
        const MutexLock lock(mutex_);
        const bool divisor = (lcr_ & kLcrDivisor) != 0;
        switch (index) {
            case kData:
                if (divisor) {
                    divisor_ = static_cast<std::uint16_t>((divisor_ & 0xff00) | value);
                } else {
                    write_data(value);
                }
                break;
            case kIer:
                if (divisor) {
                    divisor_ = static_cast<std::uint16_t>((divisor_ & 0x00ff) | (value << 8));
                } else {
                    write_ier(value);
                }
                break;
            case kIirFcr:
                write_fcr(value);
                break;
            case kLcr:
                lcr_ = value;
                break;
            case kMcr:
                write_mcr(value);
                break;
            case kScratch:
                scratch_ = value;
                break;
            default:
                break;  // LSR and MSR are for the factory: 8.6.3, 8.6.8
        }
        update_line();
        send = !tx_.empty();
        wants_input = take_input_wish();
    }
    if (send) {
        transmit();
    }
    if (wants_input) {
        backend_.input_ready();
    }
}

std::uint8_t Uart::read_data() {
    timeout_pending_ = false;
    if (rx_.empty()) {
        return 0;
    }
    const std::uint8_t value = rx_.front();
    rx_.pop_front();
    restart_timeout();
    return value;
}

/// The interrupt with the highest priority (table 4), or kIirNone.
std::uint8_t Uart::pending() const {
    if ((ier_ & kIerLineStatus) != 0 && lsr_errors_ != 0) {
        return kIirLineStatus;
    }
    if ((ier_ & kIerReceive) != 0 && rx_.size() >= trigger()) {
        return kIirReceive;
    }
    if ((ier_ & kIerReceive) != 0 && timeout_pending_) {
        return kIirTimeout;
    }
    if ((ier_ & kIerTransmit) != 0 && thre_pending_) {
        return kIirTransmit;
    }
    if ((ier_ & kIerModem) != 0 && (msr_ & kMsrDeltas) != 0) {
        return kIirModem;
    }
    return kIirNone;
}

std::uint8_t Uart::read_iir() {
    const std::uint8_t source = pending();
    if (source == kIirTransmit) {
        thre_pending_ = false;  // 8.6.5: reading IIR resets it, if it is the source
    }
    return static_cast<std::uint8_t>(source | ((fcr_ & kFcrEnable) != 0 ? kIirFifos : 0));
}

std::uint8_t Uart::lsr() const {
    const unsigned receive = rx_.empty() ? 0U : kLsrData;
    const unsigned transmit = tx_.empty() ? kLsrHoldingEmpty | kLsrAllEmpty : 0U;
    return static_cast<std::uint8_t>(lsr_errors_ | receive | transmit);
}

void Uart::write_data(std::uint8_t value) {
    thre_pending_ = false;
    if ((mcr_ & kMcrLoop) != 0) {
        take_input(value);
        thre_pending_ = true;
        return;
    }
    if (tx_.size() < depth()) {
        tx_.push_back(value);
    } else if ((fcr_ & kFcrEnable) == 0) {
        tx_.back() = value;  // the holding register is overwritten; a full FIFO ignores the byte
    }
}

void Uart::write_ier(std::uint8_t value) {
    const std::uint8_t risen = static_cast<std::uint8_t>(value & ~ier_);
    ier_ = value & 0x0f;
    if ((risen & kIerTransmit) != 0 && tx_.empty()) {
        thre_pending_ = true;  // enabling it while the register is empty raises it at once
    }
    if ((risen & kIerReceive) != 0) {
        restart_timeout();
    }
}

void Uart::write_fcr(std::uint8_t value) {
    const bool switched = ((value ^ fcr_) & kFcrEnable) != 0;
    const bool enabled =
        (value & kFcrEnable) != 0;  // 8.6.4: bit 0 must be set for the others to be programmed
    if (switched || (enabled && (value & kFcrClearReceive) != 0)) {
        rx_.clear();
        timeout_pending_ = false;
        lsr_errors_ = 0;
    }
    if (switched || (enabled && (value & kFcrClearTransmit) != 0)) {
        thre_pending_ = thre_pending_ || !tx_.empty();
        tx_.clear();
        ++tx_clears_;
    }
    fcr_ = enabled ? value & 0xc9 : 0;
}

void Uart::write_mcr(std::uint8_t value) {
    mcr_ = value & 0x1f;
    update_modem();
}

/// A byte arrives at the receiver.
void Uart::take_input(std::uint8_t value) {
    if (rx_.size() >= depth()) {
        lsr_errors_ |= kLsrOverrun;
        ++counters_.overruns;
        if ((fcr_ & kFcrEnable) == 0) {
            rx_.back() =
                value;  // 8.6.3: the buffer register is overwritten, a FIFO keeps what it has
        }
        return;
    }
    rx_.push_back(value);
    restart_timeout();
}

/// The input lines: in loopback the outputs (8.6.7), else a peer that is always there.
std::uint8_t Uart::msr_lines() const {
    if ((mcr_ & kMcrLoop) == 0) {
        return kMsrCarrier | kMsrDsr | kMsrCts;
    }
    std::uint8_t lines = 0;
    lines |= (mcr_ & kMcrDtr) != 0 ? kMsrDsr : 0;
    lines |= (mcr_ & kMcrRts) != 0 ? kMsrCts : 0;
    lines |= (mcr_ & kMcrOut1) != 0 ? kMsrRing : 0;
    lines |= (mcr_ & kMcrOut2) != 0 ? kMsrCarrier : 0;
    return lines;
}

void Uart::update_modem() {
    const std::uint8_t lines = msr_lines();
    std::uint8_t changed = static_cast<std::uint8_t>((lines ^ msr_) & kMsrLines);
    if ((lines & kMsrRing) != 0) {
        changed &= static_cast<std::uint8_t>(~kMsrRing);  // TERI: only the ring's end counts
    }
    msr_ = static_cast<std::uint8_t>(lines | (msr_ & kMsrDeltas) | (changed >> 4));
}

std::size_t Uart::depth() const {
    return (fcr_ & kFcrEnable) != 0 ? kFifo : 1;
}

std::size_t Uart::trigger() const {
    static constexpr std::array<std::size_t, 4> kLevels{1, 4, 8, 14};
    return (fcr_ & kFcrEnable) != 0 ? kLevels[fcr_ >> 6] : 1;
}

/// Nanoseconds that a character takes on the programmed line.
std::uint64_t Uart::character_time() const {
    const unsigned bits =
        1 + 5 + (lcr_ & 3) + ((lcr_ & 0x08) != 0 ? 1 : 0) + ((lcr_ & 0x04) != 0 ? 2 : 1);
    return bits * std::max<std::uint64_t>(divisor_, 1) * kNanoseconds / kInputClock;
}

/// The character timeout: four characters' time without a byte in or out while the FIFO holds
/// some. 8.4.2.
void Uart::restart_timeout() {
    timeout_at_ = rx_.empty() ? 0 : clock_.now() + 4 * character_time();
}

/// Whether the backend is to be told that there is room now; the caller tells it without the lock.
bool Uart::take_input_wish() {
    const bool wish =
        input_waits_ && !paused_ && (mcr_ & kMcrLoop) == 0 && rx_.size() <= depth() / 2;
    input_waits_ = input_waits_ && !wish;
    return wish;
}

void Uart::update_line() {
    if (paused_) {
        return;
    }
    const bool waits = (fcr_ & kFcrEnable) != 0 && (ier_ & kIerReceive) != 0 && !timeout_pending_ &&
                       timeout_at_ != 0 && rx_.size() < trigger();
    alarm_.set(waits ? std::optional(timeout_at_) : std::nullopt);
    // The PC wires INTR through a gate that OUT2 opens. In loopback the interrupts stay operational
    // (8.6.7).
    const bool open = (mcr_ & (kMcrOut2 | kMcrLoop)) != 0;
    irq_.set(open && pending() != kIirNone);
}

void Uart::advance() {
    const MutexLock lock(mutex_);
    if (paused_) {
        return;
    }
    if (timeout_at_ != 0 && clock_.now() >= timeout_at_ && (fcr_ & kFcrEnable) != 0 &&
        !rx_.empty()) {
        timeout_pending_ = true;
    }
    update_line();
}

std::size_t Uart::receive(std::span<const std::byte> data) {
    const MutexLock lock(mutex_);
    const bool closed = paused_ || (mcr_ & kMcrLoop) != 0;
    const std::size_t room = closed || rx_.size() >= depth() ? 0 : depth() - rx_.size();
    const std::size_t count = std::min(room, data.size());
    for (const std::byte byte : data.first(count)) {
        take_input(static_cast<std::uint8_t>(byte));
    }
    counters_.received += count;
    input_waits_ = input_waits_ || count < data.size();
    update_line();
    return count;
}

void Uart::output_ready() {
    transmit();
}

void Uart::transmit() {
    const MutexLock order(transmit_mutex_);
    for (;;) {
        std::array<std::byte, kFifo> bytes{};
        std::size_t size = 0;
        std::uint64_t clears = 0;
        {
            const MutexLock lock(mutex_);
            if (paused_) {
                return;
            }
            clears = tx_clears_;
            for (const std::uint8_t byte : tx_) {
                bytes[size++] = static_cast<std::byte>(byte);
            }
        }
        const std::size_t taken = size == 0 ? 0 : backend_.write(std::span(bytes).first(size));
        if (taken == 0) {
            return;
        }
        const MutexLock lock(mutex_);
        // The guest may have cleared the FIFO meanwhile: what was taken is on its way all the same,
        // and what is there now is new.
        if (tx_clears_ == clears) {
            tx_.erase(tx_.begin(),
                      tx_.begin() + static_cast<std::ptrdiff_t>(std::min(taken, tx_.size())));
        }
        counters_.transmitted += taken;
        thre_pending_ = thre_pending_ || tx_.empty();
        update_line();
    }
}

Uart::Counters Uart::counters() const {
    const MutexLock lock(mutex_);
    return counters_;
}

Result<> Uart::pause() {
    const MutexLock order(transmit_mutex_);
    const MutexLock lock(mutex_);
    paused_ = true;
    alarm_.clear();
    return ok();
}

Result<> Uart::resume() {
    bool wants_input = false;
    {
        const MutexLock lock(mutex_);
        paused_ = false;
        update_line();
        wants_input = take_input_wish();
    }
    transmit();
    if (wants_input) {
        backend_.input_ready();
    }
    return ok();
}

}  // namespace strata::devices
