// Pic: the two cascaded 8259A interrupt controllers of a PC, with their ELCR.
//
// Intel 8259A datasheet (231468); ELCR: 82371FB (PIIX) datasheet, 2.3.5. Inputs 0 to 7 are the
// master's, 8 to 15 the slave's; the slave hangs on the master's input 2. The output (INTR) is the
// engine's external interrupt; acknowledge() is the INTA cycle. Threads: everything from any
// thread; the output function is called with the lock held (so that levels arrive in order) and
// must not call back.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "bus/bus.h"
#include "bus/interrupt.h"
#include "devices/core/windows.h"
#include "state/snapshottable.h"

namespace strata::devices {

class Pic final : public bus::ExtIntSource, public state::Pausable, public state::Snapshottable {
  public:
    static constexpr unsigned kInputs = 16;

    /// `output` is told the level of INTR whenever it changes.
    explicit Pic(std::function<void(bool)> output);
    ~Pic() override;

    /// Input `irq` (0 to 15; 2 is the cascade and ignores its line).
    bus::IrqLine& line(unsigned irq);
    /// Claims ports 20h-21h, A0h-A1h and 4D0h-4D1h.
    Result<> attach(bus::Bus& ports);
    /// The level of INTR.
    [[nodiscard]] bool output() const;

    std::uint8_t acknowledge() override;

    Result<> pause() override { return ok(); }
    Result<> resume() override;
    Result<> save(state::StateWriter& writer) const override;
    Result<> load(state::StateReader& reader) override;

  private:
    class Input;
    /// One 8259A.
    struct Chip {
        std::uint8_t irr = 0;     ///< requests (latched edges and asserted levels)
        std::uint8_t imr = 0xff;  ///< nothing gets through before the first ICW1: without firmware
                                  ///< there are no handlers yet
        std::uint8_t isr = 0;
        std::uint8_t level = 0;      ///< lines as they are now
        std::uint8_t elcr = 0;       ///< 1: this input is level-triggered
        std::uint8_t lowest = 7;     ///< the input with lowest priority
        std::uint8_t base = 0;       ///< ICW2
        std::uint8_t init_step = 0;  ///< 0: initialised; 1 to 3: awaits ICW2, 3, 4
        bool icw4_wanted = false;
        bool single = false;
        bool all_level = false;  ///< ICW1.LTIM
        bool auto_eoi = false;
        bool rotate_on_auto_eoi = false;
        bool special_fully_nested = false;
        bool special_mask = false;
        bool read_isr = false;
        bool poll = false;
    };

    void set_input(unsigned irq, bool asserted);
    std::uint8_t read_port(unsigned chip, std::uint64_t offset);
    void write_port(unsigned chip, std::uint64_t offset, std::uint8_t value);
    void write_command(unsigned chip, std::uint8_t value) STRATA_REQUIRES(mutex_);
    void write_data(unsigned chip, std::uint8_t value) STRATA_REQUIRES(mutex_);
    void initialise(unsigned chip, std::uint8_t icw1) STRATA_REQUIRES(mutex_);
    void end_of_interrupt(unsigned chip, std::uint8_t ocw2) STRATA_REQUIRES(mutex_);
    std::uint8_t read_elcr(std::uint64_t offset);
    void write_elcr(std::uint64_t offset, std::uint8_t value);
    static void set_line(Chip& chip, unsigned input, bool asserted);
    [[nodiscard]] static int priority_of(const Chip& chip, std::uint8_t mask);
    [[nodiscard]] static int pending(const Chip& chip, bool is_master);
    static void take(Chip& chip, unsigned input);
    std::uint8_t poll(unsigned chip) STRATA_REQUIRES(mutex_);
    std::uint8_t intack() STRATA_REQUIRES(mutex_);
    void update() STRATA_REQUIRES(mutex_);

    const std::function<void(bool)> output_;
    mutable Mutex mutex_;
    std::array<Chip, 2> chips_ STRATA_GUARDED_BY(mutex_);
    bool intr_ STRATA_GUARDED_BY(mutex_) = false;
    std::vector<std::unique_ptr<Input>> inputs_;
    ByteWindow master_;
    ByteWindow slave_;
    ByteWindow elcr_;
};

}  // namespace strata::devices
