// Ps2Keyboard, Ps2Mouse: their commands.
#include "devices/input/ps2_device.h"

#include <algorithm>

namespace strata::devices {
namespace {

constexpr std::uint8_t kResend = 0xfe;
constexpr std::uint8_t kSelfTestPassed = 0xaa;

// Keyboard commands.
constexpr std::uint8_t kSetLeds = 0xed;
constexpr std::uint8_t kEcho = 0xee;
constexpr std::uint8_t kScanCodeSet = 0xf0;
// Of both, or alike.
constexpr std::uint8_t kIdentify = 0xf2;
constexpr std::uint8_t kSetRate = 0xf3;
constexpr std::uint8_t kEnable = 0xf4;
constexpr std::uint8_t kDisable = 0xf5;
constexpr std::uint8_t kDefaults = 0xf6;
constexpr std::uint8_t kReset = 0xff;
// Mouse commands.
constexpr std::uint8_t kScaling1 = 0xe6;
constexpr std::uint8_t kScaling2 = 0xe7;
constexpr std::uint8_t kResolution = 0xe8;
constexpr std::uint8_t kStatus = 0xe9;
constexpr std::uint8_t kStreamMode = 0xea;
constexpr std::uint8_t kReadData = 0xeb;
constexpr std::uint8_t kWrapOff = 0xec;
constexpr std::uint8_t kWrapOn = 0xee;
constexpr std::uint8_t kRemoteMode = 0xf0;

}  // namespace

std::uint8_t Ps2Device::take() {
    STRATA_CHECK(!output_.empty(), "take() without output");
    last_sent_ = output_.front();
    output_.pop_front();
    return last_sent_;
}

/// Answers to commands: the oldest bytes go if a guest never reads.
void Ps2Device::reply(std::initializer_list<std::uint8_t> bytes) {
    for (const std::uint8_t byte : bytes) {
        if (output_.size() == kQueueLimit) {
            output_.pop_front();
        }
        output_.push_back(byte);
    }
}

void Ps2Device::save(state::StateWriter& writer) const {
    writer.u16(static_cast<std::uint16_t>(output_.size()));
    for (const std::uint8_t byte : output_) {
        writer.u8(byte);
    }
    writer.u8(awaiting_);
    writer.u8(last_sent_);
    writer.boolean(enabled_);
    save_more(writer);
}

void Ps2Device::load(state::StateReader& reader) {
    const std::size_t size = reader.u16();
    if (size > kQueueLimit) {
        reader.reject("a PS/2 queue is longer than it can be");
        return;
    }
    output_.resize(size);
    std::generate(output_.begin(), output_.end(), [&] { return reader.u8(); });
    awaiting_ = reader.u8();
    last_sent_ = reader.u8();
    enabled_ = reader.boolean();
    load_more(reader);
}

void Ps2Keyboard::defaults() {
    set_ = 2;
    rate_ = 0x2b;
}

void Ps2Keyboard::command(std::uint8_t value) {
    if (awaiting_ != 0 && value < 0x80) {
        parameter(awaiting_, value);
        return;
    }
    awaiting_ = 0;  // a command instead of a parameter is a command
    switch (value) {
        case kSetLeds:
        case kScanCodeSet:
        case kSetRate:
            awaiting_ = value;
            reply({kAck});
            break;
        case kEcho:
            reply({kEcho});
            break;
        case kIdentify:
            reply({kAck, 0xab, 0x83});
            break;
        case kEnable:
            clear_output();
            enabled_ = true;
            reply({kAck});
            break;
        case kDisable:
        case kDefaults:
            enabled_ = value == kDefaults;
            defaults();
            reply({kAck});
            break;
        case 0xf7:
        case 0xf8:
        case 0xf9:
        case 0xfa:
        case 0xfb:
        case 0xfc:
        case 0xfd:
            reply({kAck});  // key types of set 3, which no operating system uses
            break;
        case kResend:
            reply({last_sent_});
            break;
        case kReset:
            clear_output();
            defaults();
            leds_ = 0;
            enabled_ = true;
            reply({kAck, kSelfTestPassed});
            break;
        default:
            reply({kResend});
            break;
    }
}

void Ps2Keyboard::parameter(std::uint8_t command, std::uint8_t value) {
    awaiting_ = 0;
    switch (command) {
        case kSetLeds:
            leds_ = value & 7;
            break;
        case kSetRate:
            rate_ = value;
            break;
        default:
            if (value == 0) {
                reply({kAck, set_});
                return;
            }
            if (value > 2) {
                reply({kResend});  // sets 1 and 2 only
                return;
            }
            set_ = value;
            break;
    }
    reply({kAck});
}

void Ps2Keyboard::send_codes(std::span<const std::uint8_t> codes) {
    if (enabled_ && room(codes.size())) {
        output_.insert(output_.end(), codes.begin(), codes.end());
    }
}

void Ps2Keyboard::save_more(state::StateWriter& writer) const {
    writer.u8(set_);
    writer.u8(leds_);
    writer.u8(rate_);
}

void Ps2Keyboard::load_more(state::StateReader& reader) {
    set_ = reader.u8();
    leds_ = reader.u8();
    rate_ = reader.u8();
}

void Ps2Mouse::defaults() {
    rate_ = 100;
    resolution_ = 2;
    scaling_ = false;
    remote_ = false;
    enabled_ = false;
}

std::uint8_t Ps2Mouse::status() const {
    const unsigned swapped =
        (buttons_ & 1U) << 2 | (buttons_ >> 1 & 1U) | (buttons_ >> 2 & 1U) << 1;
    return static_cast<std::uint8_t>((remote_ ? 0x40 : 0) | (enabled_ ? 0x20 : 0) |
                                     (scaling_ ? 0x10 : 0) | swapped);
}

/// What takes no more than an acknowledgement. False: not such a command.
bool Ps2Mouse::change_mode(std::uint8_t value) {
    switch (value) {
        case kScaling1:
        case kScaling2:
            scaling_ = value == kScaling2;
            return true;
        case kStreamMode:
        case kRemoteMode:
            remote_ = value == kRemoteMode;
            return true;
        case kWrapOff:
        case kWrapOn:
            wrap_ = value == kWrapOn;
            return true;
        case kEnable:
        case kDisable:
            enabled_ = value == kEnable;
            return true;
        case kDefaults:
            defaults();
            return true;
        default:
            return false;
    }
}

void Ps2Mouse::command(std::uint8_t value) {
    if (awaiting_ != 0) {
        parameter(awaiting_, value);
        return;
    }
    if (wrap_ && value != kWrapOff && value != kReset) {
        reply({value});
        return;
    }
    if (change_mode(value)) {
        reply({kAck});
        return;
    }
    switch (value) {
        case kResolution:
        case kSetRate:
            awaiting_ = value;
            reply({kAck});
            return;
        case kStatus:
            reply({kAck, status(), resolution_, rate_});
            return;
        case kReadData:
            reply({kAck});
            report();
            return;
        case kIdentify:
            reply({kAck, 0x00});
            return;
        case kResend:
            reply({last_sent_});
            return;
        case kReset:
            clear_output();
            defaults();
            wrap_ = false;
            dx_ = dy_ = 0;
            reply({kAck, kSelfTestPassed, 0x00});
            return;
        default:
            reply({kResend});
            return;
    }
}

void Ps2Mouse::parameter(std::uint8_t command, std::uint8_t value) {
    awaiting_ = 0;
    if (command == kResolution) {
        resolution_ = value & 3;
    } else {
        rate_ = value;
    }
    reply({kAck});
}

/// A three-byte packet with as much movement as it can carry; the rest waits for the next.
void Ps2Mouse::report() {
    const int dx = std::clamp(dx_, -255, 255);
    const int dy = std::clamp(dy_, -255, 255);
    dx_ -= dx;
    dy_ -= dy;
    const unsigned flags = 0x08U | buttons_ | (dx < 0 ? 0x10U : 0U) | (dy < 0 ? 0x20U : 0U);
    reply({static_cast<std::uint8_t>(flags), static_cast<std::uint8_t>(dx),
           static_cast<std::uint8_t>(dy)});
}

void Ps2Mouse::move(int dx, int dy, unsigned buttons) {
    constexpr int kFar = 4096;
    dx_ = std::clamp(dx_ + std::clamp(dx, -kFar, kFar), -kFar, kFar);
    dy_ = std::clamp(dy_ + std::clamp(dy, -kFar, kFar), -kFar, kFar);
    bool changed = buttons_ != (buttons & 7);
    buttons_ = buttons & 7;
    while (enabled_ && !remote_ && (changed || dx_ != 0 || dy_ != 0) && room(3)) {
        report();
        changed = false;
    }
}

void Ps2Mouse::save_more(state::StateWriter& writer) const {
    writer.u8(rate_);
    writer.u8(resolution_);
    writer.boolean(scaling_);
    writer.boolean(remote_);
    writer.boolean(wrap_);
    writer.u8(buttons_);
    writer.u16(static_cast<std::uint16_t>(dx_));
    writer.u16(static_cast<std::uint16_t>(dy_));
}

void Ps2Mouse::load_more(state::StateReader& reader) {
    rate_ = reader.u8();
    resolution_ = reader.u8() & 3;
    scaling_ = reader.boolean();
    remote_ = reader.boolean();
    wrap_ = reader.boolean();
    buttons_ = reader.u8() & 7;
    dx_ = static_cast<std::int16_t>(reader.u16());
    dy_ = static_cast<std::int16_t>(reader.u16());
}

}  // namespace strata::devices
