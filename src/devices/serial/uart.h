// Uart: the 16550A serial port.
//
// National Semiconductor NS16550D datasheet (PC16550D). Output goes to the backend at once, however
// slow the programmed line would be; while the backend is full, the bytes stay in the transmit FIFO
// and LSR.THRE stays 0, so a guest waits and nothing is lost. Input is taken only while the receive
// FIFO has room. The interrupt reaches the line only with MCR.OUT2 set, as on a PC. Threads:
// everything from any thread; the line is driven with the lock held, the backend is called without.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "base/mutex.h"
#include "bus/bus_device.h"
#include "bus/interrupt.h"
#include "devices/core/alarm.h"
#include "devices/serial/serial_backend.h"
#include "state/snapshottable.h"

namespace strata::devices {

class Uart final : public bus::BusDevice,
                   public SerialPeer,
                   public state::Pausable,
                   public state::Snapshottable {
  public:
    static constexpr std::uint64_t kSize = 8;  ///< ports
    static constexpr std::size_t kFifo = 16;

    /// Counted since creation.
    struct Counters {
        std::uint64_t received = 0;     ///< bytes from the host
        std::uint64_t transmitted = 0;  ///< bytes to the host
        std::uint64_t overruns = 0;     ///< bytes lost in the guest's receiver (loopback only)
    };

    /// `label`: "serial0". Connects itself to `backend`. All outlive this.
    Uart(std::string label, io::EventLoop& loop, const io::MachineClock& clock, bus::IrqLine& irq,
         SerialBackend& backend);
    ~Uart() override;

    [[nodiscard]] std::string_view label() const override { return label_; }
    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

    std::size_t receive(std::span<const std::byte> data) override;
    void output_ready() override;
    /// Raises the character timeout if it is due; the alarm calls this.
    void advance();
    [[nodiscard]] Counters counters() const;

    Result<> pause() override;
    Result<> resume() override;
    Result<> save(state::StateWriter& writer) const override;
    Result<> load(state::StateReader& reader) override;

  private:
    std::uint8_t read_register(unsigned index);
    void write_register(unsigned index, std::uint8_t value);
    std::uint8_t read_data() STRATA_REQUIRES(mutex_);
    std::uint8_t read_iir() STRATA_REQUIRES(mutex_);
    [[nodiscard]] std::uint8_t lsr() const STRATA_REQUIRES(mutex_);
    [[nodiscard]] std::uint8_t msr_lines() const STRATA_REQUIRES(mutex_);
    void write_data(std::uint8_t value) STRATA_REQUIRES(mutex_);
    void write_ier(std::uint8_t value) STRATA_REQUIRES(mutex_);
    void write_fcr(std::uint8_t value) STRATA_REQUIRES(mutex_);
    void write_mcr(std::uint8_t value) STRATA_REQUIRES(mutex_);
    void take_input(std::uint8_t value) STRATA_REQUIRES(mutex_);
    void update_modem() STRATA_REQUIRES(mutex_);
    [[nodiscard]] std::uint8_t pending() const STRATA_REQUIRES(mutex_);
    [[nodiscard]] std::size_t depth() const STRATA_REQUIRES(mutex_);
    [[nodiscard]] std::size_t trigger() const STRATA_REQUIRES(mutex_);
    [[nodiscard]] std::uint64_t character_time() const STRATA_REQUIRES(mutex_);
    void restart_timeout() STRATA_REQUIRES(mutex_);
    bool take_input_wish() STRATA_REQUIRES(mutex_);
    void update_line() STRATA_REQUIRES(mutex_);
    /// Offers the transmit FIFO to the backend.
    void transmit() STRATA_EXCLUDES(mutex_);

    const std::string label_;
    const io::MachineClock& clock_;
    bus::IrqLine& irq_;
    SerialBackend& backend_;
    Mutex transmit_mutex_;  ///< held while the backend is offered bytes, so that they arrive in
                            ///< order; before mutex_
    mutable Mutex mutex_;
    std::deque<std::uint8_t> rx_ STRATA_GUARDED_BY(mutex_);
    std::deque<std::uint8_t> tx_ STRATA_GUARDED_BY(mutex_);
    std::uint64_t tx_clears_ STRATA_GUARDED_BY(mutex_) =
        0;  ///< how often tx_ was emptied without being sent
    std::uint8_t ier_ STRATA_GUARDED_BY(mutex_) = 0;
    std::uint8_t fcr_ STRATA_GUARDED_BY(mutex_) = 0;
    std::uint8_t lcr_ STRATA_GUARDED_BY(mutex_) = 0;
    std::uint8_t mcr_ STRATA_GUARDED_BY(mutex_) = 0;
    std::uint8_t msr_ STRATA_GUARDED_BY(mutex_) = 0;
    std::uint8_t lsr_errors_ STRATA_GUARDED_BY(mutex_) = 0;
    std::uint8_t scratch_ STRATA_GUARDED_BY(mutex_) = 0;
    std::uint16_t divisor_ STRATA_GUARDED_BY(mutex_) = 12;
    bool thre_pending_ STRATA_GUARDED_BY(mutex_) = false;
    bool timeout_pending_ STRATA_GUARDED_BY(mutex_) = false;
    bool input_waits_ STRATA_GUARDED_BY(mutex_) =
        false;  ///< the backend had more than there was room for
    bool paused_ STRATA_GUARDED_BY(mutex_) = false;
    std::uint64_t timeout_at_ STRATA_GUARDED_BY(mutex_) = 0;  ///< 0: no timeout runs
    Counters counters_ STRATA_GUARDED_BY(mutex_);
    Alarm alarm_;
};

}  // namespace strata::devices
