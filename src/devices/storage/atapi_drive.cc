// AtapiDrive: packets to the unit, its statuses to registers.
#include "devices/storage/atapi_drive.h"

#include <algorithm>

#include "block/buffers.h"
#include "devices/storage/ata_disk.h"

namespace strata::devices {
namespace {

constexpr std::size_t kPacketSize = 12;
constexpr std::uint16_t kReasonDone = 0x03;  ///< the count register after a packet: command, in
constexpr std::uint64_t kSignatureLba = 0xeb1401;

}  // namespace

void AtapiDrive::submit(AtaTask task) {
    const std::uint8_t command = task.registers.command;
    AtaCompletion completion;
    switch (command) {
        case 0xa0:  // PACKET
            packet_task(task);
            return;
        case 0xa1:  // IDENTIFY PACKET DEVICE
            identify(std::move(task));
            return;
        case 0x08:  // DEVICE RESET
            unit_->reset();
            task.registers.count = 1;
            task.registers.lba = kSignatureLba;
            break;
        case 0xef:  // SET FEATURES: transfer mode
            completion.error = (task.registers.features & 0xff) == 0x03 ? 0 : AtaError::kAbort;
            break;
        case 0xe5:  // CHECK POWER MODE
            task.registers.count = 0xff;
            break;
        case 0xe0:  // STANDBY, IDLE, FLUSH CACHE
        case 0xe1:
        case 0xe7:
            break;
        case 0xec:  // IDENTIFY DEVICE: not this way; says who it is
        case 0x20:
            task.registers.count = 1;
            task.registers.lba = kSignatureLba;
            [[fallthrough]];
        default:
            completion.error = AtaError::kAbort;
            break;
    }
    if (completion.error != 0) {
        completion.status |= AtaStatus::kError;
    }
    end(task, completion);
}

void AtapiDrive::packet_task(const AtaTask& task) {
    if (task.packet[0] == scsi::Opcode::kRequestSense && sense_[0] != 0) {
        request_sense(task);
        return;
    }
    sense_ = {};
    scsi::Task packet{.token = task.slot % registers_.size()};
    std::copy_n(task.packet.begin(), kPacketSize, packet.cdb.begin());
    (task.to_device ? packet.out : packet.in) = task.views;
    registers_.at(packet.token) = task.registers;
    unit_->submit(std::move(packet));
}

// A packet that fails brings its sense with the next packet, if that asks for it.
void AtapiDrive::request_sense(const AtaTask& task) {
    const block::Buffers views{std::span<const iovec>(task.views)};
    const std::size_t bytes =
        task.to_device ? 0 : std::min({sense_.size(), std::size_t{task.packet[4]}, views.size()});
    views.slice(0, bytes).copy_from(std::as_bytes(std::span(sense_)).first(bytes));
    sense_ = {};
    AtaCompletion completion{.protocol = AtaProtocol::Packet};
    completion.moved = bytes;
    AtaTask answered = task;
    answered.registers.count = kReasonDone;
    end(answered, completion);
}

void AtapiDrive::save(state::StateWriter& writer) const {
    unit_->save(writer);
    writer.raw(std::as_bytes(std::span(sense_)));
}

void AtapiDrive::load(state::StateReader& reader) {
    unit_->load(reader);
    reader.raw(std::as_writable_bytes(std::span(sense_)));
}

void AtapiDrive::end(const AtaTask& task, AtaCompletion completion) {
    completion.slot = task.slot;
    completion.registers = task.registers;
    finished_.push_back(completion);
}

void AtapiDrive::identify(AtaTask task) {
    const std::vector<std::uint8_t> data = identity();
    const block::Buffers views{std::span<const iovec>(task.views)};
    AtaCompletion completion{.protocol = AtaProtocol::PioIn};
    completion.overflow = task.to_device || views.size() < data.size();
    if (!completion.overflow) {
        views.slice(0, data.size()).copy_from(std::as_bytes(std::span(data)));
        completion.moved = data.size();
    }
    end(task, completion);
}

void AtapiDrive::reap(std::vector<AtaCompletion>& out) {
    scratch_.clear();
    unit_->reap(scratch_);
    for (const scsi::Completion& done : scratch_) {
        AtaCompletion completion{.slot = static_cast<unsigned>(done.token),
                                 .protocol = AtaProtocol::Packet};
        completion.registers = registers_.at(done.token);
        completion.registers.count = kReasonDone;
        completion.moved = done.moved;
        completion.overflow = done.overrun;
        if (done.status != scsi::Status::Good) {
            completion.status |= AtaStatus::kError;
            completion.error = static_cast<std::uint8_t>(done.sense[2] << 4 | AtaError::kAbort);
        }
        finished_.push_back(completion);
        sense_ = done.sense;  // all zeros with good status
    }
    out.insert(out.end(), finished_.begin(), finished_.end());
    finished_.clear();
}

std::vector<std::uint8_t> AtapiDrive::identity() const {
    std::array<std::uint16_t, 256> words{};
    words[0] = 0x85c0;  // packets of 12 bytes, a CD-ROM, removable
    put_identity_text(words, 10, 19, serial_);
    put_identity_text(words, 23, 26, "1.0");
    put_identity_text(words, 27, 46, "STRATA DVD-ROM");
    words[49] = 0x0f00;
    words[50] = 0x4000;
    words[53] = 0x0006;
    words[63] = 0x0007;
    words[64] = 0x0003;
    words[65] = words[66] = words[67] = words[68] = 120;
    words[76] = 0x000e;
    words[80] = 0x01f0;
    words[82] = words[85] = 0x0210;  // packets, DEVICE RESET
    words[83] = 0x4000;
    words[84] = words[87] = 0x4000;
    words[88] = 0x203f;
    return identity_bytes(words);
}

}  // namespace strata::devices
