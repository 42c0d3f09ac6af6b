// AhciController: the guest's accesses to registers, and the interrupt.
#include <algorithm>
#include <cstring>

#include "devices/storage/ahci.h"
#include "devices/storage/ahci_wire.h"

namespace strata::devices {

using namespace ahci;  // NOLINT(google-build-using-namespace): its register names

namespace {

constexpr std::uint32_t kLinkUp = 0x123;  ///< a device, 3 Gb/s, active
constexpr std::uint32_t kVersion13 = 0x00010301;
// 64-bit addresses, queued commands, override of BSY, AHCI only, 3 Gb/s, 32 slots.
constexpr std::uint32_t kCapabilityBits =
    (1U << 31) | (1U << 30) | (1U << 24) | (1U << 18) | (2U << 20) | (31U << 8);

}  // namespace

// Accesses of any size: registers are of 32 bits; parts of one are cut out of it.
void AhciController::bar_read(unsigned bar, std::uint64_t offset, std::span<std::byte> data) {
    if (bar != kBar) {
        return;
    }
    const MutexLock lock(mutex_);
    for (std::size_t done = 0; done < data.size();) {
        const std::uint64_t place = offset + done;
        const Le32 value(read_register(place & ~3ULL));
        const std::size_t skip = place & 3, part = std::min(data.size() - done, 4 - skip);
        std::memcpy(data.data() + done,
                    std::as_bytes(std::span(&value, 1)).subspan(skip, part).data(), part);
        done += part;
    }
}

// Writes of parts of a register make no sense here and are dropped (bytes of one would need what
// the rest of it was).
void AhciController::bar_write(unsigned bar, std::uint64_t offset,
                               std::span<const std::byte> data) {
    if (bar != kBar || (offset & 3) != 0) {
        return;
    }
    const MutexLock lock(mutex_);
    for (std::size_t done = 0; done + 4 <= data.size(); done += 4) {
        Le32 value;
        std::memcpy(&value, data.data() + done, sizeof(value));
        write_register(offset + done, value);
    }
}

std::uint32_t AhciController::read_register(std::uint64_t offset) const {
    switch (offset) {
        case Global::kCapabilities:
            return kCapabilityBits | static_cast<std::uint32_t>(ports_.size() - 1);
        case Global::kControl:
            return global_control_ | Global::kAhciEnable;
        case Global::kInterrupts:
            return interrupts_;
        case Global::kPorts:
            return static_cast<std::uint32_t>((std::uint64_t{1} << ports_.size()) - 1);
        case Global::kVersion:
            return kVersion13;
        default:
            break;
    }
    if (offset < Global::kFirstPort) {
        return 0;
    }
    const std::uint64_t index = (offset - Global::kFirstPort) / Global::kPortStride;
    return index < ports_.size() ? read_port(ports_[index], offset % Global::kPortStride) : 0;
}

std::uint32_t AhciController::read_port(const Port& port, std::uint64_t offset) const {
    switch (offset) {
        case PortRegister::kListLow:
            return port.list_low;
        case PortRegister::kListHigh:
            return port.list_high;
        case PortRegister::kFisLow:
            return port.fis_low;
        case PortRegister::kFisHigh:
            return port.fis_high;
        case PortRegister::kStatus:
            return port.status;
        case PortRegister::kEnable:
            return port.enable;
        case PortRegister::kCommand:
            return port.command;
        case PortRegister::kTaskFile:
            return port.task_file;
        case PortRegister::kSignature:
            return port.signature;
        case PortRegister::kLinkStatus:
            return (port.control & 0xf) == 0 ? kLinkUp : 0;
        case PortRegister::kLinkControl:
            return port.control;
        case PortRegister::kLinkError:
            return port.error;
        case PortRegister::kActive:
            return port.active;
        case PortRegister::kIssue:
            return port.issued;
        default:
            return 0;
    }
}

void AhciController::write_register(std::uint64_t offset, std::uint32_t value) {
    if (offset == Global::kControl) {
        if ((value & Global::kReset) != 0) {
            reset_controller();
        } else {
            global_control_ = value & Global::kInterruptEnable;
            update_interrupt();
        }
    } else if (offset == Global::kInterrupts) {
        interrupts_ &= ~value;
        update_interrupt();
    } else if (offset >= Global::kFirstPort) {
        const std::uint64_t index = (offset - Global::kFirstPort) / Global::kPortStride;
        if (index < ports_.size()) {
            write_port(ports_[index], offset % Global::kPortStride, value);
        }
    }
}

void AhciController::write_port(Port& port, std::uint64_t offset, std::uint32_t value) {
    switch (offset) {
        case PortRegister::kListLow:
            port.list_low = value & ~0x3ffU;
            break;
        case PortRegister::kListHigh:
            port.list_high = value;
            break;
        case PortRegister::kFisLow:
            port.fis_low = value & ~0xffU;
            break;
        case PortRegister::kFisHigh:
            port.fis_high = value;
            break;
        case PortRegister::kStatus:
            port.status &= ~value;
            update_interrupt();
            break;
        case PortRegister::kEnable:
            port.enable = value & PortInterrupt::kAll;
            update_interrupt();
            break;
        case PortRegister::kCommand:
            write_command(port, value);
            break;
        case PortRegister::kLinkControl:
            write_control(port, value);
            break;
        case PortRegister::kLinkError:
            port.error &= ~value;
            break;
        case PortRegister::kActive:
            if ((port.command & PortCommand::kStart) != 0) {
                port.active |= value;
            }
            break;
        case PortRegister::kIssue:
            if ((port.command & PortCommand::kStart) != 0) {
                port.issued |= value;
                wake();
            }
            break;
        default:
            break;
    }
}

void AhciController::write_command(Port& port, std::uint32_t value) {
    const bool started = (port.command & PortCommand::kStart) != 0;
    port.command = (port.command & ~PortCommand::kWritable) | (value & PortCommand::kWritable);
    if ((value & PortCommand::kFisEnable) != 0) {
        port.command |= PortCommand::kFisRunning;
        if (port.signature == 0xffffffff && !port.reset_pending) {
            come_out_of_reset(port);  // the first FIS waited for its place
        }
    } else {
        port.command &= ~PortCommand::kFisRunning;
    }
    if ((value & PortCommand::kOverride) != 0) {
        port.task_file &= ~std::uint32_t{AtaStatus::kBusy | AtaStatus::kRequest};
        if (port.issued != 0) {
            wake();
        }
    }
    if ((value & PortCommand::kStart) != 0) {
        port.command |= PortCommand::kRunning;
    } else if (started) {
        port.halted = false;
        abandon(port);
        settle(port);
    }
}

void AhciController::write_control(Port& port, std::uint32_t value) {
    const bool was_reset = (port.control & 0xf) == 1;
    port.control = value & 0xfff;
    if ((value & 0xf) == 1 && !was_reset) {
        abandon(port);
        port.task_file = 0x7f;
        port.signature = 0xffffffff;
        port.device->reset();
    } else if ((value & 0xf) == 0 && was_reset) {
        port.error |= 1U << 26;  // exchanged
        port.task_file = AtaStatus::kBusy;
        port.reset_pending = true;
        settle(port);
    }
}

void AhciController::reset_controller() {
    global_control_ = 0;
    interrupts_ = 0;
    for (Port& port : ports_) {
        abandon(port);
        port.list_low = port.list_high = port.fis_low = port.fis_high = 0;
        port.status = port.enable = port.control = port.error = 0;
        port.command = PortCommand::kSpinUp | PortCommand::kPower |
                       (port.device->packet() ? PortCommand::kAtapi : 0);
        port.task_file = AtaStatus::kBusy;
        port.signature = 0xffffffff;
        port.in_reset = port.halted = false;
        port.device->reset();
        port.reset_pending = true;
        settle(port);
    }
    update_interrupt();
}

void AhciController::raise(Port& port, std::uint32_t bits) {
    port.status |= bits;
    update_interrupt();
}

void AhciController::update_interrupt() {
    for (std::size_t index = 0; index < ports_.size(); ++index) {
        if ((ports_[index].status & ports_[index].enable) != 0) {
            interrupts_ |= 1U << index;
        }
    }
    set_intx(interrupts_ != 0 && (global_control_ & Global::kInterruptEnable) != 0);
}

}  // namespace strata::devices
