// Pic: 8259A registers, priorities and the cascade.
#include "devices/irqchip/pic.h"

#include <bit>
#include <utility>

namespace strata::devices {
namespace {

// 8259A datasheet: ICW1, ICW4, OCW2 and OCW3.
constexpr std::uint8_t kIcw1 = 0x10;
constexpr std::uint8_t kIcw1NeedsIcw4 = 0x01;
constexpr std::uint8_t kIcw1Single = 0x02;
constexpr std::uint8_t kIcw1Level = 0x08;
constexpr std::uint8_t kIcw4AutoEoi = 0x02;
constexpr std::uint8_t kIcw4FullyNested = 0x10;
constexpr std::uint8_t kOcw3 = 0x08;
constexpr std::uint8_t kOcw3ReadIsr = 0x01;
constexpr std::uint8_t kOcw3ReadRegister = 0x02;
constexpr std::uint8_t kOcw3Poll = 0x04;
constexpr std::uint8_t kOcw3SpecialMask = 0x20;
constexpr std::uint8_t kOcw3SetSpecialMask = 0x40;

constexpr unsigned kCascade = 2;
constexpr std::array<std::uint8_t, 2> kElcrWritable{
    0xf8, 0xde};  // IRQ 0, 1, 2, 8 and 13 are always edges

constexpr std::string_view kSection = "pic";
constexpr std::uint16_t kVersion = 1;

std::uint8_t bit(unsigned input) {
    return static_cast<std::uint8_t>(1U << input);
}

void set_bits(std::uint8_t& value, std::uint8_t bits, bool on) {
    value = static_cast<std::uint8_t>(on ? value | bits : value & ~bits);
}

}  // namespace

class Pic::Input final : public bus::IrqLine {
  public:
    Input(Pic& pic, unsigned irq) : pic_(pic), irq_(irq) {}
    void set(bool asserted) override { pic_.set_input(irq_, asserted); }

  private:
    Pic& pic_;
    const unsigned irq_;
};

Pic::Pic(std::function<void(bool)> output)
    : output_(std::move(output)),
      master_(
          "pic-master", [this](std::uint64_t offset) { return read_port(0, offset); },
          [this](std::uint64_t offset, std::uint8_t value) { write_port(0, offset, value); }),
      slave_(
          "pic-slave", [this](std::uint64_t offset) { return read_port(1, offset); },
          [this](std::uint64_t offset, std::uint8_t value) { write_port(1, offset, value); }),
      elcr_(
          "pic-elcr", [this](std::uint64_t offset) { return read_elcr(offset); },
          [this](std::uint64_t offset, std::uint8_t value) { write_elcr(offset, value); }) {
    for (unsigned irq = 0; irq < kInputs; ++irq) {
        inputs_.push_back(std::make_unique<Input>(*this, irq));
    }
}

Pic::~Pic() = default;

bus::IrqLine& Pic::line(unsigned irq) {
    STRATA_CHECK(irq < kInputs, "the 8259 pair has 16 inputs");
    return *inputs_[irq];
}

Result<> Pic::attach(bus::Bus& ports) {
    STRATA_TRY_VOID(ports.add(0x20, 2, master_));
    STRATA_TRY_VOID(ports.add(0xa0, 2, slave_));
    return ports.add(0x4d0, 2, elcr_);
}

bool Pic::output() const {
    const MutexLock lock(mutex_);
    return intr_;
}

void Pic::set_input(unsigned irq, bool asserted) {
    if (irq == kCascade) {
        return;
    }
    const MutexLock lock(mutex_);
    set_line(chips_[irq / 8], irq % 8, asserted);
    update();
}

/// An edge latches a request until INTA, also if the line falls again before (the chip would answer
/// with a spurious interrupt then; PC chipsets and guests count on the latch). A level is a request
/// while it lasts.
void Pic::set_line(Chip& chip, unsigned input, bool asserted) {
    const std::uint8_t mask = bit(input);
    const bool rise = asserted && (chip.level & mask) == 0;
    const bool by_level = chip.all_level || (chip.elcr & mask) != 0;
    set_bits(chip.level, mask, asserted);
    if (by_level) {
        set_bits(chip.irr, mask, asserted);
    } else if (rise) {
        chip.irr |= mask;
    }
}

/// How far the highest of `mask`'s inputs is from the top priority (0 to 7), or 8.
int Pic::priority_of(const Chip& chip, std::uint8_t mask) {
    const int top = (chip.lowest + 1) & 7;
    return mask == 0 ? 8 : std::countr_zero(std::rotr(mask, top));
}

/// The input that is to interrupt, or -1.
int Pic::pending(const Chip& chip, bool is_master) {
    const int request = priority_of(chip, static_cast<std::uint8_t>(chip.irr & ~chip.imr));
    std::uint8_t in_service = chip.isr;
    if (chip.special_mask) {
        in_service &= static_cast<std::uint8_t>(~chip.imr);
    }
    if (chip.special_fully_nested && is_master) {
        in_service &= static_cast<std::uint8_t>(
            ~bit(kCascade));  // the slave's higher inputs may interrupt its lower
    }
    return request < priority_of(chip, in_service) ? (request + chip.lowest + 1) & 7 : -1;
}

/// Drives the cascade and INTR.
void Pic::update() {
    set_line(chips_[0], kCascade, pending(chips_[1], false) >= 0);
    if (pending(chips_[1], false) < 0) {
        chips_[0].irr &=
            static_cast<std::uint8_t>(~bit(kCascade));  // the slave took its request back
    }
    const bool level = pending(chips_[0], true) >= 0;
    if (level != intr_) {
        intr_ = level;
        output_(level);
    }
}

/// INTA for `input`: requested becomes in service.
void Pic::take(Chip& chip, unsigned input) {
    const std::uint8_t mask = bit(input);
    if (!chip.auto_eoi) {
        chip.isr |= mask;
    } else if (chip.rotate_on_auto_eoi) {
        chip.lowest = static_cast<std::uint8_t>(input);
    }
    if (!chip.all_level && (chip.elcr & mask) == 0) {
        chip.irr &= static_cast<std::uint8_t>(~mask);
    }
}

std::uint8_t Pic::acknowledge() {
    const MutexLock lock(mutex_);
    const std::uint8_t vector = intack();
    update();
    return vector;
}

/// Without a request both chips answer as if input 7 had asked, but nothing is in service: a
/// spurious interrupt.
std::uint8_t Pic::intack() {
    Chip& master = chips_[0];
    const int input = pending(master, true);
    if (input < 0) {
        return static_cast<std::uint8_t>(master.base + 7);
    }
    if (input != kCascade) {
        take(master, static_cast<unsigned>(input));
        return static_cast<std::uint8_t>(master.base + input);
    }
    Chip& slave = chips_[1];
    const int below = pending(slave, false);
    take(master, kCascade);
    if (below < 0) {
        return static_cast<std::uint8_t>(slave.base + 7);
    }
    take(slave, static_cast<unsigned>(below));
    set_line(master, kCascade,
             false);  // each INTA ends the slave's request; a further one is a new edge
    return static_cast<std::uint8_t>(slave.base + below);
}

/// A read in poll mode is the INTA of one chip.
std::uint8_t Pic::poll(unsigned index) {
    Chip& chip = chips_[index];
    chip.poll = false;
    const int input = pending(chip, index == 0);
    if (input < 0) {
        return 0;
    }
    take(chip, static_cast<unsigned>(input));
    if (index == 1) {
        set_line(chips_[0], kCascade, false);
    }
    return static_cast<std::uint8_t>(0x80 | input);
}

std::uint8_t Pic::read_port(unsigned index, std::uint64_t offset) {
    const MutexLock lock(mutex_);
    Chip& chip = chips_[index];
    std::uint8_t value = 0;
    if (chip.poll) {
        value = poll(index);
        update();
    } else if ((offset & 1) != 0) {
        value = chip.imr;
    } else {
        value = chip.read_isr ? chip.isr : chip.irr;
    }
    return value;
}

void Pic::write_port(unsigned chip, std::uint64_t offset, std::uint8_t value) {
    const MutexLock lock(mutex_);
    if ((offset & 1) != 0) {
        write_data(chip, value);
    } else {
        write_command(chip, value);
    }
    update();
}

void Pic::write_command(unsigned index, std::uint8_t value) {
    Chip& chip = chips_[index];
    if ((value & kIcw1) != 0) {
        initialise(index, value);
    } else if ((value & kOcw3) != 0) {
        chip.poll = (value & kOcw3Poll) != 0;
        if ((value & kOcw3ReadRegister) != 0) {
            chip.read_isr = (value & kOcw3ReadIsr) != 0;
        }
        if ((value & kOcw3SetSpecialMask) != 0) {
            chip.special_mask = (value & kOcw3SpecialMask) != 0;
        }
    } else {
        end_of_interrupt(index, value);
    }
}

/// ICW1: edges must rise again, mask and modes are cleared, input 7 has the lowest priority.
void Pic::initialise(unsigned index, std::uint8_t icw1) {
    Chip& chip = chips_[index];
    const Chip old = chip;
    chip = Chip{};
    chip.elcr = old.elcr;
    chip.level = old.level;
    chip.base = old.base;
    chip.all_level = (icw1 & kIcw1Level) != 0;
    chip.single = (icw1 & kIcw1Single) != 0;
    chip.icw4_wanted = (icw1 & kIcw1NeedsIcw4) != 0;
    chip.imr = 0;
    chip.init_step = 1;
    chip.irr = chip.all_level ? chip.level : static_cast<std::uint8_t>(chip.level & chip.elcr);
}

/// OCW2: bits 7-5 say what, bits 2-0 which input.
void Pic::end_of_interrupt(unsigned index, std::uint8_t ocw2) {
    Chip& chip = chips_[index];
    const unsigned action = ocw2 >> 5;
    const bool rotate = (action & 4) != 0;
    const bool specific = (action & 2) != 0;
    const bool eoi = (action & 1) != 0;
    if (!eoi) {
        if (!specific) {
            chip.rotate_on_auto_eoi = rotate;
        } else if (rotate) {
            chip.lowest = ocw2 & 7;  // set priority
        }
        return;
    }
    std::uint8_t candidates = chip.isr;
    if (chip.special_mask) {
        candidates &= static_cast<std::uint8_t>(
            ~chip.imr);  // a non-specific EOI does not clear a masked ISR bit
    }
    const int place = priority_of(chip, candidates);
    if (!specific && place == 8) {
        return;
    }
    const unsigned input =
        specific ? ocw2 & 7U : (static_cast<unsigned>(place) + chip.lowest + 1U) & 7U;
    chip.isr &= static_cast<std::uint8_t>(~bit(input));
    if (rotate) {
        chip.lowest = static_cast<std::uint8_t>(input);
    }
}

void Pic::write_data(unsigned index, std::uint8_t value) {
    Chip& chip = chips_[index];
    switch (chip.init_step) {
        case 1:
            chip.base = value & 0xf8;
            chip.init_step = chip.single ? (chip.icw4_wanted ? 3 : 0) : 2;
            break;
        case 2:  // ICW3: the cascade is wired, whatever is said here
            chip.init_step = chip.icw4_wanted ? 3 : 0;
            break;
        case 3:
            chip.special_fully_nested = (value & kIcw4FullyNested) != 0;
            chip.auto_eoi = (value & kIcw4AutoEoi) != 0;
            chip.init_step = 0;
            break;
        default:
            chip.imr = value;
            break;
    }
}

std::uint8_t Pic::read_elcr(std::uint64_t offset) {
    const MutexLock lock(mutex_);
    return chips_[offset & 1].elcr;
}

void Pic::write_elcr(std::uint64_t offset, std::uint8_t value) {
    const MutexLock lock(mutex_);
    Chip& chip = chips_[offset & 1];
    chip.elcr = value & kElcrWritable[offset & 1];
    // An input that is level-triggered now asks as its line says.
    chip.irr = static_cast<std::uint8_t>((chip.irr & ~chip.elcr) | (chip.level & chip.elcr));
    update();
}

Result<> Pic::resume() {
    const MutexLock lock(mutex_);
    output_(intr_);
    return ok();
}

Result<> Pic::save(state::StateWriter& writer) const {
    const MutexLock lock(mutex_);
    writer.begin(kSection, kVersion);
    for (const Chip& chip : chips_) {
        for (const std::uint8_t value : {chip.irr, chip.imr, chip.isr, chip.level, chip.elcr,
                                         chip.lowest, chip.base, chip.init_step}) {
            writer.u8(value);
        }
        for (const bool value :
             {chip.icw4_wanted, chip.single, chip.all_level, chip.auto_eoi, chip.rotate_on_auto_eoi,
              chip.special_fully_nested, chip.special_mask, chip.read_isr, chip.poll}) {
            writer.boolean(value);
        }
    }
    writer.boolean(intr_);
    writer.end();
    return ok();
}

Result<> Pic::load(state::StateReader& reader) {
    const MutexLock lock(mutex_);
    (void)STRATA_TRY(reader.begin(kSection, kVersion));
    for (Chip& chip : chips_) {
        for (std::uint8_t* value : {&chip.irr, &chip.imr, &chip.isr, &chip.level, &chip.elcr,
                                    &chip.lowest, &chip.base, &chip.init_step}) {
            *value = reader.u8();
        }
        for (bool* value : {&chip.icw4_wanted, &chip.single, &chip.all_level, &chip.auto_eoi,
                            &chip.rotate_on_auto_eoi, &chip.special_fully_nested,
                            &chip.special_mask, &chip.read_isr, &chip.poll}) {
            *value = reader.boolean();
        }
        if (chip.lowest > 7 || chip.init_step > 3) {
            reader.reject("a priority or initialisation step that cannot be");
            chip.lowest &= 7;
            chip.init_step &= 3;
        }
    }
    (void)reader.boolean();  // the output follows from the chips, whatever the stream says
    intr_ = pending(chips_[0], true) >= 0;
    return reader.end();
}

}  // namespace strata::devices
