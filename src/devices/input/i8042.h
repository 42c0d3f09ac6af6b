// I8042: the keyboard controller with a PS/2 keyboard and mouse, and port 92h.
//
// IBM PS/2 Hardware Interface Technical Reference, keyboard and auxiliary device controller. IRQ 1
// for the keyboard, IRQ 12 for the mouse. Command FEh and port 92h bit 0 reset the machine; the A20
// bits are kept and read back but change nothing: A20 is always open. Threads: everything from any
// thread; lines are driven with the lock held, the reset function is called without, on the vCPU
// thread.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <utility>

#include "base/mutex.h"
#include "bus/bus.h"
#include "bus/interrupt.h"
#include "devices/core/windows.h"
#include "devices/input/ps2_device.h"
#include "state/snapshottable.h"

namespace strata::devices {

class I8042 final : public state::Pausable, public state::Snapshottable {
  public:
    /// `reset` is called when the guest pulses the reset line.
    I8042(bus::IrqLine& keyboard_irq, bus::IrqLine& mouse_irq, std::function<void()> reset);

    /// Claims ports 60h, 64h and 92h.
    Result<> attach(bus::Bus& ports);
    /// Types: raw scan codes of set 2, translated to set 1 by the controller if the guest has that
    /// on.
    void send_keys(std::span<const std::uint8_t> codes);
    void move_mouse(int dx, int dy, unsigned buttons);

    Result<> pause() override;
    Result<> resume() override;
    Result<> save(state::StateWriter& writer) const override;
    Result<> load(state::StateReader& reader) override;

  private:
    std::uint8_t read_data();
    std::uint8_t read_status();
    void write_data(std::uint8_t value);
    void write_command(std::uint8_t value);
    std::uint8_t read_92();
    void write_92(std::uint8_t value);
    /// True if the machine is to be reset.
    bool command(std::uint8_t value) STRATA_REQUIRES(mutex_);
    bool command_parameter(std::uint8_t command, std::uint8_t value) STRATA_REQUIRES(mutex_);
    void answer(std::uint8_t value, bool from_mouse = false) STRATA_REQUIRES(mutex_);
    void present(std::uint8_t value, bool from_mouse) STRATA_REQUIRES(mutex_);
    void refill() STRATA_REQUIRES(mutex_);
    void fetch_key() STRATA_REQUIRES(mutex_);
    void set_command_byte(std::uint8_t value) STRATA_REQUIRES(mutex_);
    void update_lines() STRATA_REQUIRES(mutex_);
    [[nodiscard]] std::uint8_t output_port() const STRATA_REQUIRES(mutex_);

    bus::IrqLine& keyboard_irq_;
    bus::IrqLine& mouse_irq_;
    const std::function<void()> reset_;
    mutable Mutex mutex_;
    Ps2Keyboard keyboard_ STRATA_GUARDED_BY(mutex_);
    Ps2Mouse mouse_ STRATA_GUARDED_BY(mutex_);
    std::array<std::uint8_t, 32> ram_
        STRATA_GUARDED_BY(mutex_) = {};  ///< byte 0 is the command byte
    std::uint8_t status_ STRATA_GUARDED_BY(mutex_) = 0;
    std::deque<std::pair<std::uint8_t, bool>> answers_
        STRATA_GUARDED_BY(mutex_);  ///< the controller's own; true: as from the mouse
    std::uint8_t output_ STRATA_GUARDED_BY(mutex_) = 0;  ///< the output buffer
    std::uint8_t awaiting_ STRATA_GUARDED_BY(mutex_) =
        0;  ///< the command whose parameter comes next, or 0
    bool break_prefix_ STRATA_GUARDED_BY(mutex_) = false;  ///< translation: F0h was seen
    bool a20_ STRATA_GUARDED_BY(mutex_) = true;
    bool paused_ STRATA_GUARDED_BY(mutex_) = false;
    ByteWindow data_port_;
    ByteWindow command_port_;
    ByteWindow port_92_;
};

}  // namespace strata::devices
