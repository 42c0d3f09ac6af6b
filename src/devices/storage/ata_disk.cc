// AtaDisk: the commands.
#include "devices/storage/ata_disk.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

#include "block/buffers.h"

namespace strata::devices {
namespace {

constexpr std::size_t kSector = 512;
constexpr std::size_t kTrimBlocks = 8;
constexpr std::size_t kMaxSerial = 20;

std::uint64_t total(const std::vector<iovec>& views) {
    std::uint64_t bytes = 0;
    for (const iovec& view : views) {
        bytes += view.iov_len;
    }
    return bytes;
}

}  // namespace

void put_identity_text(std::array<std::uint16_t, 256>& words, std::size_t first, std::size_t last,
                       std::string_view text) {
    const auto character = [text](std::size_t at) -> unsigned {
        return at < text.size() ? static_cast<unsigned char>(text[at]) : ' ';
    };
    for (std::size_t word = first; word <= last; ++word) {
        const std::size_t at = (word - first) * 2;
        words.at(word) = static_cast<std::uint16_t>((character(at) << 8) | character(at + 1));
    }
}

std::vector<std::uint8_t> identity_bytes(std::array<std::uint16_t, 256> words) {
    words[255] = 0x00a5;  // the checksum's mark
    std::vector<std::uint8_t> bytes;
    for (const std::uint16_t word : words) {
        bytes.push_back(static_cast<std::uint8_t>(word));
        bytes.push_back(static_cast<std::uint8_t>(word >> 8));
    }
    unsigned sum = 0;
    for (const std::uint8_t byte : bytes) {
        sum += byte;
    }
    bytes.back() = static_cast<std::uint8_t>(0U - sum);
    return bytes;
}

AtaDisk::AtaDisk(const AtaDiskConfig& config, std::unique_ptr<block::DiskImage> image,
                 std::unique_ptr<block::PatientQueue> queue)
    : serial_(config.serial.substr(0, kMaxSerial)),
      image_(std::move(image)),
      queue_(std::move(queue)) {}

AtaDisk::~AtaDisk() {
    queue_.reset();  // waits for what is under way
}

Result<std::unique_ptr<AtaDisk>> AtaDisk::create(const AtaDiskConfig& config,
                                                 std::unique_ptr<block::DiskImage> image) {
    auto queue = std::make_unique<block::PatientQueue>(
        STRATA_TRY(image->open_queue(kSlots * 2)), std::string(image->name()), config.write_errors,
        config.on_wait, config.read_errors);
    return std::unique_ptr<AtaDisk>(new AtaDisk(config, std::move(image), std::move(queue)));
}

void AtaDisk::exchange_image(std::unique_ptr<block::DiskImage> image,
                             std::unique_ptr<block::DiskQueue> queue) {
    queue_->exchange(std::move(queue));  // the old one goes before its image
    image_ = std::move(image);
}

void AtaDisk::reset() {
    write_cache_ = true;
    failed_ = {};
}

void AtaDisk::submit(AtaTask task) {
    const unsigned slot = task.slot % kSlots;
    requests_.at(slot) = Request{.task = std::move(task)};
    execute(slot);
}

void AtaDisk::refuse(unsigned slot) {
    const std::uint8_t command = requests_.at(slot).task.registers.command;
    if (command == 0x60 || command == 0x61) {
        end(slot, {.protocol = AtaProtocol::Queued, .dropped = true});
    } else {
        fail(slot, AtaError::kAbort);
    }
}

// ATA8-ACS, 7.
// NOLINTNEXTLINE(readability-function-size): a table
void AtaDisk::execute(unsigned slot) {
    // SATA 3.0, 13.6.4: after an error nothing but the question which command it was.
    if (queue_broken() && !reads_error_log(slot)) {
        refuse(slot);
        return;
    }
    switch (requests_.at(slot).task.registers.command) {
        case 0xec:  // IDENTIFY DEVICE
            send(slot, identity());
            break;
        case 0x20:  // READ SECTORS
        case 0x24:
            transfer(slot, AtaProtocol::PioIn, false,
                     requests_.at(slot).task.registers.command == 0x24, false);
            break;
        case 0x30:  // WRITE SECTORS
        case 0x34:
            transfer(slot, AtaProtocol::PioOut, true,
                     requests_.at(slot).task.registers.command == 0x34, false);
            break;
        case 0xc8:  // READ DMA
        case 0x25:
            transfer(slot, AtaProtocol::Dma, false,
                     requests_.at(slot).task.registers.command == 0x25, false);
            break;
        case 0xca:  // WRITE DMA
        case 0x35:
            transfer(slot, AtaProtocol::Dma, true,
                     requests_.at(slot).task.registers.command == 0x35, false);
            break;
        case 0x3d:  // WRITE DMA FUA EXT
            transfer(slot, AtaProtocol::Dma, true, true, true);
            break;
        case 0x60:  // READ FPDMA QUEUED
            queued(slot, false);
            break;
        case 0x61:  // WRITE FPDMA QUEUED
            queued(slot, true);
            break;
        case 0x40:  // READ VERIFY SECTORS
        case 0x42:
            verify(slot, requests_.at(slot).task.registers.command == 0x42);
            break;
        case 0x06:  // DATA SET MANAGEMENT
            trim(slot);
            break;
        case 0xe7:  // FLUSH CACHE
        case 0xea:
            flush(slot);
            break;
        case 0xef:
            set_features(slot);
            break;
        case 0x2f:  // READ LOG EXT
        case 0x47:  // READ LOG DMA EXT
            read_log(slot);
            break;
        case 0xe5:  // CHECK POWER MODE: active
            requests_.at(slot).task.registers.count = 0xff;
            good(slot);
            break;
        case 0x70:  // SEEK
        case 0x91:  // INITIALIZE DEVICE PARAMETERS
        case 0xe1:  // IDLE: nothing turns
        case 0xe3:
            good(slot);
            break;
        case 0xe0:  // STANDBY and SLEEP: what is cached goes to the medium first
        case 0xe2:
        case 0xe6:
            flush(slot);
            break;
        default:
            fail(slot, AtaError::kAbort);
            break;
    }
}

void AtaDisk::transfer(unsigned slot, AtaProtocol protocol, bool writing, bool extended,
                       bool durable) {
    Request& request = requests_.at(slot);
    const AtaRegisters& registers = request.task.registers;
    request.protocol = protocol;
    if ((registers.device & 0x40) == 0) {  // not by block number
        fail(slot, AtaError::kAbort);
        return;
    }
    std::uint64_t sector = registers.lba;
    std::uint64_t count = registers.count;
    if (extended) {
        count = count == 0 ? 65536 : count;
    } else {
        sector = (sector & 0xffffff) | (std::uint64_t{registers.device & 0x0fU} << 24);
        count = (count & 0xff) == 0 ? 256 : count & 0xff;
    }
    move(slot, writing, sector, count, durable);
}

void AtaDisk::queued(unsigned slot, bool writing) {
    Request& request = requests_.at(slot);
    const AtaRegisters& registers = request.task.registers;
    request.protocol = AtaProtocol::Queued;
    const std::uint64_t count = registers.features == 0 ? 65536 : registers.features;
    if ((registers.device & 0x40) == 0 || (registers.count >> 3 & 0x1f) != slot) {
        fail(slot, AtaError::kAbort);
        return;
    }
    move(slot, writing, registers.lba, count, writing && (registers.device & 0x80) != 0);
}

void AtaDisk::move(unsigned slot, bool writing, std::uint64_t sector, std::uint64_t count,
                   bool durable) {
    Request& request = requests_.at(slot);
    if (sector > sectors() || count > sectors() - sector) {
        fail(slot, AtaError::kNoId | AtaError::kAbort);
        return;
    }
    const std::uint64_t bytes = count * kSector;
    if (writing != request.task.to_device || total(request.task.views) < bytes) {
        end(slot, {.protocol = request.protocol, .overflow = true});
        return;
    }
    if (writing && image_->traits().read_only) {
        fail(slot, AtaError::kAbort);
        return;
    }
    request.moved = bytes;
    request.sync_after = writing && (durable || !write_cache_) && image_->traits().write_cache;
    block::DiskRequest wanted;
    wanted.op = writing ? block::DiskOp::Write : block::DiskOp::Read;
    wanted.offset = sector * kSector;
    wanted.length = bytes;
    block::Buffers{std::span<const iovec>(request.task.views)}.slice(0, bytes).append_to(
        wanted.buffers);
    disk(slot, std::move(wanted));
}

void AtaDisk::verify(unsigned slot, bool extended) {
    const AtaRegisters& registers = requests_.at(slot).task.registers;
    const std::uint64_t sector =
        extended ? registers.lba
                 : (registers.lba & 0xffffff) | (std::uint64_t{registers.device & 0x0fU} << 24);
    const std::uint64_t count =
        extended ? (registers.count == 0 ? 65536U : registers.count)
                 : ((registers.count & 0xff) == 0 ? 256U : registers.count & 0xffU);
    if (sector > sectors() || count > sectors() - sector) {
        fail(slot, AtaError::kNoId | AtaError::kAbort);
    } else {
        good(slot);
    }
}

void AtaDisk::trim(unsigned slot) {
    Request& request = requests_.at(slot);
    request.protocol = AtaProtocol::Dma;
    const AtaRegisters& registers = request.task.registers;
    const std::size_t bytes = std::size_t{registers.count} * kSector;
    if ((registers.features & 1) == 0 || registers.count == 0 || registers.count > kTrimBlocks ||
        !image_->traits().discard) {
        fail(slot, AtaError::kAbort);
        return;
    }
    if (!request.task.to_device || total(request.task.views) < bytes) {
        end(slot, {.protocol = request.protocol, .overflow = true});
        return;
    }
    std::vector<std::byte> list(bytes);
    block::Buffers{std::span<const iovec>(request.task.views)}.slice(0, bytes).copy_to(list);
    std::vector<block::DiskRequest> wanted;
    for (std::size_t at = 0; at < bytes; at += 8) {
        std::uint64_t range = 0;
        for (std::size_t i = 8; i-- != 0;) {
            range = (range << 8) | static_cast<std::uint8_t>(list[at + i]);
        }
        const std::uint64_t sector = range & 0xffffffffffff, count = range >> 48;
        if (count == 0) {
            continue;
        }
        if (sector > sectors() || count > sectors() - sector) {
            fail(slot, AtaError::kNoId | AtaError::kAbort);
            return;
        }
        wanted.push_back(
            {.op = block::DiskOp::Discard, .offset = sector * kSector, .length = count * kSector});
    }
    request.moved = bytes;
    if (wanted.empty()) {
        good(slot, bytes);
        return;
    }
    for (block::DiskRequest& each : wanted) {
        disk(slot, std::move(each));
    }
}

void AtaDisk::flush(unsigned slot) {
    if (image_->traits().write_cache && !image_->traits().read_only) {
        disk(slot, {.op = block::DiskOp::Flush});
    } else {
        good(slot);
    }
}

void AtaDisk::set_features(unsigned slot) {
    switch (requests_.at(slot).task.registers.features & 0xff) {
        case 0x02:
            write_cache_ = true;
            good(slot);
            break;
        case 0x82:
            write_cache_ = false;
            flush(slot);
            break;
        case 0x03:  // transfer mode
        case 0x55:  // read ahead off and on
        case 0xaa:
            good(slot);
            break;
        default:
            fail(slot, AtaError::kAbort);
            break;
    }
}

// The directory, and what the last queued command failed with. ATA8-ACS, A.12.
bool AtaDisk::reads_error_log(unsigned slot) const {
    const AtaRegisters& registers = requests_.at(slot).task.registers;
    return (registers.command == 0x2f || registers.command == 0x47) &&
           (registers.lba & 0xff) == 0x10;
}

void AtaDisk::read_log(unsigned slot) {
    const AtaRegisters& registers = requests_.at(slot).task.registers;
    const unsigned log = registers.lba & 0xff;
    const std::uint64_t page = (registers.lba >> 8 & 0xff) | (registers.lba >> 24 & 0xff00);
    if (registers.count != 1 || page != 0 || (log != 0x00 && log != 0x10)) {
        fail(slot, AtaError::kAbort);
        return;
    }
    std::vector<std::uint8_t> data(kSector);
    if (log == 0x00) {
        data[0] = 1;
        data[0x10 * 2] = 1;
    } else {
        std::copy(failed_.begin(), failed_.end(), data.begin());
        unsigned sum = 0;
        for (const std::uint8_t byte : data) {
            sum += byte;
        }
        data.back() = static_cast<std::uint8_t>(0U - sum);
        failed_ = {};
    }
    send(slot, std::move(data));
    if (registers.command == 0x47) {
        finished_.back().protocol = AtaProtocol::Dma;
    }
}

void AtaDisk::send(unsigned slot, std::vector<std::uint8_t> data) {
    const auto& views = requests_.at(slot).task.views;
    requests_.at(slot).protocol = AtaProtocol::PioIn;
    if (requests_.at(slot).task.to_device || total(views) < data.size()) {
        end(slot, {.protocol = AtaProtocol::PioIn, .overflow = true});
        return;
    }
    block::Buffers{std::span<const iovec>(views)}
        .slice(0, data.size())
        .copy_from(std::as_bytes(std::span(data)));
    good(slot, data.size());
}

void AtaDisk::disk(unsigned slot, block::DiskRequest request) {
    ++requests_.at(slot).outstanding;
    request.token = slot;
    queue_->submit(std::move(request));
}

void AtaDisk::reap(std::vector<AtaCompletion>& out) {
    do {  // what is submitted for these may have ended at once
        scratch_.clear();
        queue_->reap(scratch_);
        for (const block::DiskCompletion& done : scratch_) {
            Request& request = requests_.at(done.token);
            request.error = request.error != 0 ? request.error : done.error;
            if (--request.outstanding == 0) {
                completed(static_cast<unsigned>(done.token));
            }
        }
        if (!scratch_.empty()) {
            queue_->kick();
        }
    } while (!scratch_.empty());
    out.insert(out.end(), finished_.begin(), finished_.end());
    finished_.clear();
}

void AtaDisk::completed(unsigned slot) {
    Request& request = requests_.at(slot);
    if (request.protocol == AtaProtocol::Queued && queue_broken()) {
        end(slot, {.protocol = AtaProtocol::Queued, .dropped = true});
    } else if (request.error != 0) {
        fail(slot, request.task.to_device ? AtaError::kAbort : AtaError::kUncorrectable);
    } else if (std::exchange(request.sync_after, false)) {
        disk(slot, {.op = block::DiskOp::Flush});
    } else {
        good(slot, request.moved);
    }
}

void AtaDisk::good(unsigned slot, std::uint64_t moved) {
    end(slot, {.protocol = requests_.at(slot).protocol, .moved = moved});
}

void AtaDisk::fail(unsigned slot, std::uint8_t error) {
    AtaCompletion completion{.protocol = requests_.at(slot).protocol};
    completion.status |= AtaStatus::kError;
    completion.error = error;
    if (completion.protocol == AtaProtocol::Queued && !queue_broken()) {
        const std::uint64_t lba = requests_.at(slot).task.registers.lba;
        failed_ = {static_cast<std::uint8_t>(slot), 0, completion.status, error};
        for (std::size_t i = 0; i < 3; ++i) {
            failed_.at(4 + i) = static_cast<std::uint8_t>(lba >> (8 * i));
            failed_.at(8 + i) = static_cast<std::uint8_t>(lba >> (8 * (i + 3)));
        }
        failed_[7] = requests_.at(slot).task.registers.device;
    }
    end(slot, completion);
}

void AtaDisk::end(unsigned slot, AtaCompletion completion) {
    completion.slot = slot;
    completion.registers = requests_.at(slot).task.registers;
    finished_.push_back(completion);
    requests_.at(slot) = Request{};
}

// ATA8-ACS, 7.16.
std::vector<std::uint8_t> AtaDisk::identity() const {
    const block::DiskTraits& traits = image_->traits();
    std::array<std::uint16_t, 256> words{};
    const auto put = [&words](std::size_t at, std::size_t count, std::uint64_t value) {
        for (std::size_t i = 0; i < count; ++i, value >>= 16) {
            words.at(at + i) = static_cast<std::uint16_t>(value);
        }
    };
    words[0] = 0x0040;
    words[1] = static_cast<std::uint16_t>(std::min<std::uint64_t>(sectors() / 16 / 63, 16383));
    words[3] = 16;
    words[6] = 63;
    put_identity_text(words, 10, 19, serial_);
    put_identity_text(words, 23, 26, "1.0");
    put_identity_text(words, 27, 46, "STRATA DISK");
    words[47] = 0x8000;
    words[49] = 0x0f00;  // LBA, DMA, IORDY
    words[50] = 0x4000;
    words[53] = 0x0006;  // words 64 to 70 and 88
    put(60, 2, std::min<std::uint64_t>(sectors(), 0x0fffffff));
    words[63] = 0x0007;
    words[64] = 0x0003;
    words[65] = words[66] = words[67] = words[68] = 120;  // ns
    words[75] = kSlots - 1;
    words[76] = 0x010e;  // queued commands, three speeds
    words[80] = 0x01f0;
    words[82] = 0x0020;  // write cache
    words[83] = 0x7400;  // flushes, 48 bits
    words[84] = 0x4060;  // FUA, general logging
    words[85] = write_cache_ && traits.write_cache ? 0x0020 : 0;
    words[86] = 0x3400;
    words[87] = 0x4060;
    words[88] = 0x203f;
    put(100, 4, sectors());
    words[105] = traits.discard ? kTrimBlocks : 0;
    const auto ratio = traits.physical_block / static_cast<std::uint32_t>(kSector);
    words[106] = std::has_single_bit(ratio) && ratio > 1
                     ? static_cast<std::uint16_t>(0x6000 | std::countr_zero(ratio))
                     : 0x4000;
    words[169] = traits.discard ? 1 : 0;
    words[217] = 1;  // does not rotate
    return identity_bytes(words);
}

void AtaDisk::save(state::StateWriter& writer) const {
    writer.boolean(write_cache_);
    writer.raw(std::as_bytes(std::span(failed_)));
}

void AtaDisk::load(state::StateReader& reader) {
    write_cache_ = reader.boolean();
    reader.raw(std::as_writable_bytes(std::span(failed_)));
}

}  // namespace strata::devices
