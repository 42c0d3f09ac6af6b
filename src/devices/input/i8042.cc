// I8042: the controller's registers, commands and the translation of scan codes.
#include "devices/input/i8042.h"

namespace strata::devices {
namespace {

// Status register.
constexpr std::uint8_t kOutputFull = 0x01;
constexpr std::uint8_t kSystem = 0x04;
constexpr std::uint8_t kWasCommand = 0x08;
constexpr std::uint8_t kUnlocked = 0x10;
constexpr std::uint8_t kFromMouse = 0x20;

// Command byte (controller RAM 0).
constexpr std::uint8_t kKeyboardInterrupt = 0x01;
constexpr std::uint8_t kMouseInterrupt = 0x02;
constexpr std::uint8_t kKeyboardOff = 0x10;
constexpr std::uint8_t kMouseOff = 0x20;
constexpr std::uint8_t kTranslate = 0x40;
constexpr std::uint8_t kAtPowerOn = kKeyboardInterrupt | kSystem | kMouseOff | kTranslate;

// Output port (D0h) and port 92h.
constexpr std::uint8_t kNotReset = 0x01;
constexpr std::uint8_t kA20 = 0x02;
constexpr std::uint8_t kKeyboardIrq = 0x10;
constexpr std::uint8_t kMouseIrq = 0x20;

constexpr std::size_t kAnswerLimit = 16;
constexpr std::uint8_t kBreak = 0xf0;

/// Scan codes of set 2 as set 1: the controller's translation table for 00h to 7Fh. Technical
/// Reference, "Scan code translation".
constexpr std::array<std::uint8_t, 128> kSet1{
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58,
    0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,  // 00
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a,
    0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,  // 10
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c,
    0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,  // 20
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e,
    0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,  // 30
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60,
    0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,  // 40
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e,
    0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,  // 50
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b,
    0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,  // 60
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45,
    0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,  // 70
};

std::uint8_t to_set1(std::uint8_t code) {
    if (code < kSet1.size()) {
        return kSet1[code];
    }
    switch (code) {
        case 0x83:
            return 0x41;  // F7
        case 0x84:
            return 0x54;  // Alt+Print
        default:
            return code;  // prefixes and answers stay as they are
    }
}

constexpr std::string_view kSection = "i8042";
constexpr std::uint16_t kVersion = 1;

}  // namespace

I8042::I8042(bus::IrqLine& keyboard_irq, bus::IrqLine& mouse_irq, std::function<void()> reset)
    : keyboard_irq_(keyboard_irq),
      mouse_irq_(mouse_irq),
      reset_(std::move(reset)),
      data_port_(
          "i8042-data", [this](std::uint64_t) { return read_data(); },
          [this](std::uint64_t, std::uint8_t value) { write_data(value); }),
      command_port_(
          "i8042-command", [this](std::uint64_t) { return read_status(); },
          [this](std::uint64_t, std::uint8_t value) { write_command(value); }),
      port_92_(
          "port-92", [this](std::uint64_t) { return read_92(); },
          [this](std::uint64_t, std::uint8_t value) { write_92(value); }) {
    const MutexLock lock(mutex_);
    ram_[0] = kAtPowerOn;
    status_ = kSystem | kUnlocked;
}

Result<> I8042::attach(bus::Bus& ports) {
    STRATA_TRY_VOID(ports.add(0x60, 1, data_port_));
    STRATA_TRY_VOID(ports.add(0x64, 1, command_port_));
    return ports.add(0x92, 1, port_92_);
}

void I8042::send_keys(std::span<const std::uint8_t> codes) {
    const MutexLock lock(mutex_);
    keyboard_.send_codes(codes);
    refill();
}

void I8042::move_mouse(int dx, int dy, unsigned buttons) {
    const MutexLock lock(mutex_);
    mouse_.move(dx, dy, buttons);
    refill();
}

void I8042::update_lines() {
    if (paused_) {
        return;
    }
    const bool full = (status_ & kOutputFull) != 0;
    const bool mouse = (status_ & kFromMouse) != 0;
    keyboard_irq_.set(full && !mouse && (ram_[0] & kKeyboardInterrupt) != 0);
    mouse_irq_.set(full && mouse && (ram_[0] & kMouseInterrupt) != 0);
}

/// Puts a byte into the output buffer.
void I8042::present(std::uint8_t value, bool from_mouse) {
    output_ = value;
    status_ = static_cast<std::uint8_t>((status_ & ~kFromMouse) | kOutputFull |
                                        (from_mouse ? kFromMouse : 0));
}

/// The next byte for the guest, if it has read the last: the controller's own first, then keyboard,
/// then mouse.
void I8042::refill() {
    if ((status_ & kOutputFull) == 0) {
        if (!answers_.empty()) {
            present(answers_.front().first, answers_.front().second);
            answers_.pop_front();
        } else {
            if ((ram_[0] & kKeyboardOff) == 0) {
                fetch_key();
            }
            if ((status_ & kOutputFull) == 0 && (ram_[0] & kMouseOff) == 0 && mouse_.has_output()) {
                present(mouse_.take(), true);
            }
        }
    }
    update_lines();
}

/// With translation F0h and a code become one byte.
void I8042::fetch_key() {
    while ((status_ & kOutputFull) == 0 && keyboard_.has_output()) {
        const std::uint8_t code = keyboard_.take();
        if ((ram_[0] & kTranslate) == 0) {
            present(code, false);
        } else if (code == kBreak) {
            break_prefix_ = true;
        } else {
            present(static_cast<std::uint8_t>(to_set1(code) | (break_prefix_ ? 0x80 : 0)), false);
            break_prefix_ = false;
        }
    }
}

void I8042::answer(std::uint8_t value, bool from_mouse) {
    if (answers_.size() == kAnswerLimit) {
        answers_.pop_front();  // a guest that never reads loses the oldest
    }
    answers_.emplace_back(value, from_mouse);
}

std::uint8_t I8042::read_data() {
    const MutexLock lock(mutex_);
    const std::uint8_t value = output_;
    status_ &= static_cast<std::uint8_t>(~(kOutputFull | kFromMouse));
    update_lines();  // the line falls, so that the next byte is an edge
    refill();
    return value;
}

std::uint8_t I8042::read_status() {
    const MutexLock lock(mutex_);
    return status_;
}

void I8042::write_data(std::uint8_t value) {
    bool reset = false;
    {
        const MutexLock lock(mutex_);
        status_ &= static_cast<std::uint8_t>(~kWasCommand);
        if (awaiting_ != 0) {
            const std::uint8_t command = std::exchange(awaiting_, std::uint8_t{0});
            reset = command_parameter(command, value);
        } else {
            ram_[0] &=
                static_cast<std::uint8_t>(~kKeyboardOff);  // writing to the keyboard enables it
            keyboard_.command(value);
        }
        refill();
    }
    if (reset) {
        reset_();
    }
}

void I8042::write_command(std::uint8_t value) {
    bool reset = false;
    {
        const MutexLock lock(mutex_);
        status_ |= kWasCommand;
        awaiting_ = 0;
        reset = command(value);
        refill();
    }
    if (reset) {
        reset_();
    }
}

void I8042::set_command_byte(std::uint8_t value) {
    ram_[0] = value & 0x77;
    status_ = static_cast<std::uint8_t>((status_ & ~kSystem) | (value & kSystem));
}

std::uint8_t I8042::output_port() const {
    const bool full = (status_ & kOutputFull) != 0;
    const bool mouse = (status_ & kFromMouse) != 0;
    return static_cast<std::uint8_t>(kNotReset | (a20_ ? kA20 : 0) |
                                     (full && !mouse ? kKeyboardIrq : 0) |
                                     (full && mouse ? kMouseIrq : 0) | 0xc0);
}

bool I8042::command(std::uint8_t value) {
    if (value >= 0x20 && value < 0x40) {
        answer(ram_[value & 0x1f]);
        return false;
    }
    if (value >= 0x60 && value < 0x80) {
        awaiting_ = value;
        return false;
    }
    switch (value) {
        case 0xa7:
            ram_[0] |= kMouseOff;
            break;
        case 0xa8:
            ram_[0] &= static_cast<std::uint8_t>(~kMouseOff);
            break;
        case 0xa9:  // mouse port test
        case 0xab:
            answer(0x00);
            break;  // keyboard port test
        case 0xaa:  // self-test
            status_ |= kSystem;
            answer(0x55);
            break;
        case 0xad:
            ram_[0] |= kKeyboardOff;
            break;
        case 0xae:
            ram_[0] &= static_cast<std::uint8_t>(~kKeyboardOff);
            break;
        case 0xc0:
            answer(0x80);
            break;  // input port: not locked
        case 0xd0:
            answer(output_port());
            break;
        case 0xd1:
        case 0xd2:
        case 0xd3:
        case 0xd4:
            awaiting_ = value;
            break;
        case 0xdd:
            a20_ = false;
            break;
        case 0xdf:
            a20_ = true;
            break;
        case 0xe0:
            answer(0x00);
            break;  // test inputs
        default:
            return value >= 0xf0 && (value & 1) == 0;  // pulses of output lines; line 0 is reset
    }
    return false;
}

bool I8042::command_parameter(std::uint8_t command, std::uint8_t value) {
    switch (command) {
        case 0x60:
            set_command_byte(value);
            break;
        case 0xd1:
            a20_ = (value & kA20) != 0;
            return (value & kNotReset) == 0;
        case 0xd2:
            answer(value, false);
            break;
        case 0xd3:
            answer(value, true);
            break;
        case 0xd4:
            mouse_.command(value);
            break;
        default:
            ram_[command & 0x1f] = value;
            break;
    }
    return false;
}

std::uint8_t I8042::read_92() {
    const MutexLock lock(mutex_);
    return a20_ ? kA20 : 0;
}

void I8042::write_92(std::uint8_t value) {
    {
        const MutexLock lock(mutex_);
        a20_ = (value & kA20) != 0;
    }
    if ((value & 1) != 0) {
        reset_();
    }
}

Result<> I8042::pause() {
    const MutexLock lock(mutex_);
    paused_ = true;
    return ok();
}

Result<> I8042::resume() {
    const MutexLock lock(mutex_);
    paused_ = false;
    refill();
    return ok();
}

Result<> I8042::save(state::StateWriter& writer) const {
    const MutexLock lock(mutex_);
    writer.begin(kSection, kVersion);
    keyboard_.save(writer);
    mouse_.save(writer);
    writer.raw(std::as_bytes(std::span(ram_)));
    writer.u8(status_);
    writer.u8(output_);
    writer.u8(awaiting_);
    writer.boolean(break_prefix_);
    writer.boolean(a20_);
    writer.u8(static_cast<std::uint8_t>(answers_.size()));
    for (const auto& [value, from_mouse] : answers_) {
        writer.u8(value);
        writer.boolean(from_mouse);
    }
    writer.end();
    return ok();
}

Result<> I8042::load(state::StateReader& reader) {
    const MutexLock lock(mutex_);
    (void)STRATA_TRY(reader.begin(kSection, kVersion));
    keyboard_.load(reader);
    mouse_.load(reader);
    reader.raw(std::as_writable_bytes(std::span(ram_)));
    status_ = reader.u8();
    output_ = reader.u8();
    awaiting_ = reader.u8();
    break_prefix_ = reader.boolean();
    a20_ = reader.boolean();
    const std::size_t count = reader.u8();
    if (count > kAnswerLimit) {
        reader.reject("more answers than the controller can hold");
        return reader.end();
    }
    answers_.clear();
    for (std::size_t index = 0; index < count; ++index) {
        const std::uint8_t value = reader.u8();
        answers_.emplace_back(value, reader.boolean());
    }
    return reader.end();
}

}  // namespace strata::devices
