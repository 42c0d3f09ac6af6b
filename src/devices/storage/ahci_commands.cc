// AhciController: command lists and tables to tasks, completions to FISes. AHCI 1.3.1, 5.
#include <algorithm>
#include <array>
#include <cstring>

#include "base/log.h"
#include "devices/storage/ahci.h"
#include "devices/storage/ahci_wire.h"

namespace strata::devices {

using namespace ahci;  // NOLINT(google-build-using-namespace): its register names
using memory::GuestAddress;

namespace {

constexpr unsigned kMaxEntries = 1024;  ///< drivers use up to 168; each costs us memory
constexpr std::uint64_t kMaxBytes = 65536ULL * 512;

std::uint64_t wide(std::uint32_t high, std::uint32_t low) {
    return (std::uint64_t{high} << 32) | low;
}

bool queued(std::uint8_t command) {
    return command == 0x60 || command == 0x61;
}

AtaRegisters registers_of(std::span<const std::uint8_t> fis) {
    AtaRegisters registers;
    registers.command = fis[2];
    registers.features = static_cast<std::uint16_t>(fis[3] | (fis[11] << 8));
    registers.device = fis[7];
    registers.count = static_cast<std::uint16_t>(fis[12] | (fis[13] << 8));
    for (const std::size_t at : {10U, 9U, 8U, 6U, 5U, 4U}) {
        registers.lba = (registers.lba << 8) | fis[at];
    }
    return registers;
}

void put_registers(std::span<std::uint8_t> fis, const AtaCompletion& done) {
    const AtaRegisters& registers = done.registers;
    fis[2] = done.status;
    fis[3] = done.error;
    for (std::size_t i = 0; i < 3; ++i) {
        fis[4 + i] = static_cast<std::uint8_t>(registers.lba >> (8 * i));
        fis[8 + i] = static_cast<std::uint8_t>(registers.lba >> (8 * (i + 3)));
    }
    fis[7] = registers.device;
    fis[12] = static_cast<std::uint8_t>(registers.count);
    fis[13] = static_cast<std::uint8_t>(registers.count >> 8);
}

}  // namespace

void AhciController::wake() {
    if (!std::exchange(woken_, true)) {
        loop_.post([this, alive = alive_] {
            if (*alive) {
                work();
            }
        });
    }
}

void AhciController::work() {
    const MutexLock lock(mutex_);
    woken_ = false;
    if (paused_) {
        return;
    }
    for (Port& port : ports_) {
        serve(port);
    }
}

bool AhciController::under_way(const Port& port) {
    return std::any_of(port.slots.begin(), port.slots.end(),
                       [](const Slot& slot) { return slot.busy; });
}

// Queued commands go together, others alone: the task file is one.
void AhciController::serve(Port& port) {
    for (unsigned slot = 0; slot < kSlots; ++slot) {
        const bool waits = (port.issued >> slot & 1) != 0 && !port.slots.at(slot).busy;
        const bool able = (port.command & PortCommand::kStart) != 0 && !port.halted &&
                          !port.reset_pending &&
                          (port.task_file & (AtaStatus::kBusy | AtaStatus::kRequest)) == 0;
        if (waits && able) {
            issue(port, slot);
        }
    }
    port.device->kick();
    reap(port);
}

void AhciController::bus_error(Port& port) {
    port.halted = true;
    raise(port, PortInterrupt::kHostBus);
}

void AhciController::issue(Port& port, unsigned slot) {
    const std::uint64_t place = wide(port.list_high, port.list_low) + slot * sizeof(CommandHeader);
    auto header = memory_.load<CommandHeader>(GuestAddress(place));
    std::array<std::uint8_t, 20> fis{};
    AtaTask task{.slot = slot};
    if (header.ok()) {
        header->table = header->table & ~0x7fULL;
    }
    if (!header.ok() ||
        !memory_.read(GuestAddress(header->table), std::as_writable_bytes(std::span(fis))).ok() ||
        !memory_
             .read(GuestAddress(header->table + kPacketPlace),
                   std::as_writable_bytes(std::span(task.packet)))
             .ok() ||
        header->entries > kMaxEntries) {
        bus_error(port);
        return;
    }
    if (fis[0] != FisType::kHostToDevice) {
        port.issued &= ~(1U << slot);
        return;
    }
    if ((fis[1] & 0x80) == 0) {  // of control, not of a command
        software_reset(port, slot, fis[15]);
        return;
    }
    task.registers = registers_of(fis);
    task.to_device = (header->flags & kHeaderWrite) != 0;
    Slot& taken = port.slots.at(slot);
    if (!queued(task.registers.command) && under_way(port)) {
        return;  // after those; the queue's end serves it
    }
    if (!look_up(port, slot, header->table, header->entries, task).ok()) {
        taken.views.clear();
        bus_error(port);
        return;
    }
    taken.busy = true;
    taken.stale = false;
    taken.header = place;
    port.command = (port.command & ~(0x1fU << 8)) | (slot << 8);
    if (queued(task.registers.command)) {
        port.issued &= ~(1U << slot);  // accepted; SACT says when it is done
    } else {
        port.task_file |= AtaStatus::kBusy;
    }
    port.device->submit(std::move(task));
}

Result<> AhciController::look_up(Port& port, unsigned slot, std::uint64_t table, unsigned entries,
                                 AtaTask& task) {
    std::vector<MemoryEntry> list(entries);
    STRATA_TRY_VOID(
        memory_.read(GuestAddress(table + kEntriesPlace), std::as_writable_bytes(std::span(list))));
    std::uint64_t total = 0;
    const auto access = task.to_device ? memory::Access::Read : memory::Access::Write;
    for (const MemoryEntry& entry : list) {
        const std::uint64_t bytes =
            std::min<std::uint64_t>((entry.length & 0x3fffff) + 1, kMaxBytes - total);
        if (bytes == 0) {
            break;
        }
        auto view = STRATA_TRY(memory_.slices(GuestAddress(entry.address), bytes, access));
        for (const auto part : view.parts()) {
            task.views.push_back({part.data(), part.size()});
        }
        port.slots.at(slot).views.push_back(std::move(view));
        total += bytes;
    }
    return ok();
}

// The first FIS holds the device in reset, the second lets it go. SATA 3.0, 11.4.
void AhciController::software_reset(Port& port, unsigned slot, std::uint8_t control) {
    const bool holds = (control & 0x04) != 0;
    port.issued &= ~(1U << slot);
    if (holds) {
        port.in_reset = true;
    } else if (std::exchange(port.in_reset, false)) {
        port.device->reset();
        come_out_of_reset(port);
    }
}

/// What the device works on will be dropped.
void AhciController::abandon(Port& port) {
    port.issued = port.active = 0;
    for (Slot& slot : port.slots) {
        slot.stale = slot.busy;
    }
    port.device->cancel_all();
    wake();  // what waited for the host ends
}

/// After the last I/O of a port that was stopped or reset.
void AhciController::settle(Port& port) {
    if (under_way(port)) {
        return;
    }
    if ((port.command & PortCommand::kStart) == 0) {
        port.command &= ~(PortCommand::kRunning | (0x1fU << 8));
    }
    if (std::exchange(port.reset_pending, false)) {
        come_out_of_reset(port);
    }
}

void AhciController::come_out_of_reset(Port& port) {
    AtaCompletion done;
    const std::uint32_t signature = port.device->signature();
    done.status = port.device->packet() ? 0 : AtaStatus::kReady | AtaStatus::kSeekDone;
    done.error = 1;  // passed its diagnostics
    done.registers.count = signature & 0xff;
    done.registers.lba = signature >> 8;
    port.task_file = done.status | (std::uint32_t{done.error} << 8);
    if ((port.command & PortCommand::kFisRunning) != 0) {
        port.signature = signature;
        post_registers(port, done, true);
    }
    if (port.issued != 0) {
        wake();  // issued while the port was busy with the reset
    }
}

void AhciController::reap(Port& port) {
    scratch_.clear();
    port.device->reap(scratch_);
    for (const AtaCompletion& done : scratch_) {
        finish(port, done);
    }
    if (!scratch_.empty()) {
        settle(port);
        if (port.issued != 0 && !paused_) {
            wake();
        }
    }
}

void AhciController::finish(Port& port, const AtaCompletion& done) {
    Slot& slot = port.slots.at(done.slot);
    slot.views.clear();  // reports what was written
    slot.busy = false;
    if (std::exchange(slot.stale, false) || done.dropped) {
        return;
    }
    if (done.protocol == AtaProtocol::Queued) {
        finish_queued(port, done);
        return;
    }
    const Le32 moved(static_cast<std::uint32_t>(done.moved));
    if (!memory_.store(GuestAddress(slot.header + offsetof(CommandHeader, moved)), moved).ok()) {
        bus_error(port);
        return;
    }
    port.task_file = done.status | (std::uint32_t{done.error} << 8);
    const bool failed = (done.status & AtaStatus::kError) != 0;
    if (done.overflow) {
        port.halted = true;
        port.status |= PortInterrupt::kOverflow;
    }
    if (failed) {
        port.halted = true;
        port.status |= PortInterrupt::kTaskFile;
    } else {
        port.issued &= ~(1U << done.slot);
    }
    if (done.protocol == AtaProtocol::PioIn && !failed && !done.overflow) {
        post_pio_setup(port, done);
    } else {
        post_registers(port, done, true);
    }
}

void AhciController::finish_queued(Port& port, const AtaCompletion& done) {
    const bool failed = (done.status & AtaStatus::kError) != 0 || done.overflow;
    port.task_file = done.status | (std::uint32_t{done.error} << 8);
    std::uint32_t bits = PortInterrupt::kSetBits;
    if (failed) {
        port.halted = true;
        bits |= done.overflow ? PortInterrupt::kOverflow : PortInterrupt::kTaskFile;
    } else {
        port.active &= ~(1U << done.slot);
    }
    const std::array<std::uint8_t, 8> fis{
        FisType::kSetBits,
        0x40,
        static_cast<std::uint8_t>(done.status & 0x77),
        done.error,
        static_cast<std::uint8_t>(failed ? 0 : 1U << done.slot),
        static_cast<std::uint8_t>(failed ? 0 : 1U << done.slot >> 8),
        static_cast<std::uint8_t>(failed ? 0 : 1U << done.slot >> 16),
        static_cast<std::uint8_t>(failed ? 0 : 1U << done.slot >> 24)};
    post_fis(port, Received::kSetBits, fis);
    raise(port, bits);
}

void AhciController::post_fis(Port& port, std::uint64_t place, std::span<const std::uint8_t> fis) {
    if ((port.command & PortCommand::kFisRunning) == 0) {
        return;
    }
    const GuestAddress where(wide(port.fis_high, port.fis_low) + place);
    if (!memory_.write(where, std::as_bytes(fis)).ok()) {
        bus_error(port);
    }
}

void AhciController::post_registers(Port& port, const AtaCompletion& done, bool interrupt) {
    std::array<std::uint8_t, 20> fis{FisType::kDeviceToHost,
                                     static_cast<std::uint8_t>(interrupt ? 0x40 : 0)};
    put_registers(fis, done);
    post_fis(port, Received::kRegisters, fis);
    raise(port, interrupt ? PortInterrupt::kRegisters : 0);
}

void AhciController::post_pio_setup(Port& port, const AtaCompletion& done) {
    std::array<std::uint8_t, 20> fis{FisType::kPioSetup, 0x60};
    put_registers(fis, done);
    fis[2] |= AtaStatus::kRequest;  // before the data; the status after it stands apart
    fis[15] = done.status;
    fis[16] = static_cast<std::uint8_t>(done.moved);
    fis[17] = static_cast<std::uint8_t>(done.moved >> 8);
    post_fis(port, Received::kPioSetup, fis);
    raise(port, PortInterrupt::kPioSetup);
}

}  // namespace strata::devices
