// Ps2Device, Ps2Keyboard, Ps2Mouse: what is plugged into the two ports of the keyboard controller.
//
// IBM PS/2 Hardware Interface Technical Reference, keyboard and mouse sections. A device takes
// command bytes and queues answer bytes; the controller (i8042.h) fetches them and holds the lock.
// The keyboard speaks scan code sets 1 and 2; the mouse answers all standard commands and reports
// what move() tells it. Queues are bounded.
#pragma once

#include <cstdint>
#include <deque>
#include <span>

#include "state/snapshottable.h"

namespace strata::devices {

class Ps2Device {
  public:
    virtual ~Ps2Device() = default;
    /// A byte from the host (the controller).
    virtual void command(std::uint8_t value) = 0;
    [[nodiscard]] bool has_output() const { return !output_.empty(); }
    /// The next byte for the host; has_output() must hold.
    std::uint8_t take();
    void save(state::StateWriter& writer) const;
    void load(state::StateReader& reader);

  protected:
    static constexpr std::size_t kQueueLimit = 256;
    static constexpr std::uint8_t kAck = 0xfa;
    void reply(std::initializer_list<std::uint8_t> bytes);
    void clear_output() { output_.clear(); }
    /// Room for `count` bytes of unasked-for data.
    [[nodiscard]] bool room(std::size_t count) const {
        return output_.size() + count <= kQueueLimit;
    }

    std::deque<std::uint8_t> output_;
    std::uint8_t awaiting_ = 0;   ///< the command whose parameter comes next, or 0
    std::uint8_t last_sent_ = 0;  ///< for Resend
    bool enabled_ = false;        ///< reports keys or movement

  private:
    virtual void save_more(state::StateWriter& writer) const = 0;
    virtual void load_more(state::StateReader& reader) = 0;
};

class Ps2Keyboard final : public Ps2Device {
  public:
    Ps2Keyboard() { enabled_ = true; }
    void command(std::uint8_t value) override;
    /// A key's scan codes in the set that the guest chose are sent as they are; dropped whole if
    /// disabled or the queue is full.
    void send_codes(std::span<const std::uint8_t> codes);
    [[nodiscard]] std::uint8_t leds() const { return leds_; }

  private:
    void parameter(std::uint8_t command, std::uint8_t value);
    void defaults();
    void save_more(state::StateWriter& writer) const override;
    void load_more(state::StateReader& reader) override;
    std::uint8_t set_ = 2;
    std::uint8_t leds_ = 0;
    std::uint8_t rate_ = 0x2b;
};

class Ps2Mouse final : public Ps2Device {
  public:
    void command(std::uint8_t value) override;
    /// Movement since the last call (positive: right, up) and the buttons that are down (bit 0
    /// left, 1 right, 2 middle).
    void move(int dx, int dy, unsigned buttons);

  private:
    bool change_mode(std::uint8_t value);
    void parameter(std::uint8_t command, std::uint8_t value);
    void defaults();
    void report();
    [[nodiscard]] std::uint8_t status() const;
    void save_more(state::StateWriter& writer) const override;
    void load_more(state::StateReader& reader) override;
    std::uint8_t rate_ = 100;
    std::uint8_t resolution_ = 2;
    bool scaling_ = false;
    bool remote_ = false;
    bool wrap_ = false;
    std::uint8_t buttons_ = 0;
    int dx_ = 0;
    int dy_ = 0;
};

}  // namespace strata::devices
