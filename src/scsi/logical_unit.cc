// LogicalUnit: the life of a task: dispatch, disk requests, completion.
#include "scsi/logical_unit.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "block/buffers.h"

namespace strata::scsi {
namespace {

constexpr std::size_t kMaxAttentions = 8;

std::uint64_t total(const std::vector<iovec>& views) {
    std::uint64_t bytes = 0;
    for (const iovec& view : views) {
        bytes += view.iov_len;
    }
    return bytes;
}

Sense sense_of(int error, bool reading) {
    switch (error) {
        case ENOSPC:
        case EDQUOT:
            return sense::kNoSpace;
        case EROFS:
            return sense::kWriteProtected;
        case ENOMEM:
            return sense::kInternalFailure;
        default:
            return reading ? sense::kReadError : sense::kWriteError;
    }
}

}  // namespace

Result<std::unique_ptr<block::PatientQueue>> LogicalUnit::open_queue(block::DiskImage& image,
                                                                     const UnitConfig& config) {
    return std::make_unique<block::PatientQueue>(STRATA_TRY(image.open_queue(config.depth)),
                                                 std::string(image.name()), config.write_errors,
                                                 config.on_wait, config.read_errors);
}

LogicalUnit::LogicalUnit(const UnitConfig& config, std::unique_ptr<block::DiskImage> image,
                         std::unique_ptr<block::PatientQueue> queue)
    : serial_(config.serial.substr(0, kSerialSize)),
      depth_(config.depth),
      image_(std::move(image)),
      queue_(std::move(queue)),
      attentions_{sense::kPowerOn} {}

LogicalUnit::~LogicalUnit() {
    queue_.reset();  // waits for what is under way
}

void LogicalUnit::exchange_image(std::unique_ptr<block::DiskImage> image,
                                 std::unique_ptr<block::DiskQueue> queue) {
    queue_->exchange(std::move(queue));  // the old one goes before its image
    image_ = std::move(image);
}

void LogicalUnit::set_medium(std::unique_ptr<block::DiskImage> image,
                             std::unique_ptr<block::PatientQueue> queue) {
    STRATA_CHECK(under_way_ == 0, "a medium is changed under a task");
    queue_ = std::move(queue);  // the old one goes before its image
    image_ = std::move(image);
}

std::size_t LogicalUnit::length_of(std::uint8_t opcode) {
    constexpr std::array<std::size_t, 8> kByGroup{6, 10, 10, 0, 16, 12, 0, 0};
    return kByGroup.at(opcode >> 5);
}

void LogicalUnit::submit(Task task) {
    if (free_.empty()) {
        free_.push_back(requests_.size());
        requests_.emplace_back();
    }
    const std::size_t at = free_.back();
    free_.pop_back();
    requests_[at] = Request{};
    requests_[at].task = std::move(task);
    requests_[at].busy = true;
    ++under_way_;
    execute(at);
}

const LogicalUnit::Command* LogicalUnit::find(std::uint8_t opcode, int action) const {
    for (const auto table : {common_commands(), commands()}) {
        for (const Command& command : table) {
            if (command.opcode == opcode &&
                (command.action == kNoAction || command.action == action)) {
                return &command;
            }
        }
    }
    return nullptr;
}

void LogicalUnit::execute(std::size_t at) {
    const auto bytes = cdb(at);
    const Command* command = find(bytes[0], bytes[1] & 0x1f);
    if ((command == nullptr || (command->flags & Flag::kAnyAttention) == 0) &&
        !attentions_.empty()) {
        const Sense what = attentions_.front();
        attentions_.erase(attentions_.begin());
        fail(at, what);
        return;
    }
    if (command == nullptr) {
        fail(at, sense::kInvalidOpcode);
        return;
    }
    if ((command->flags & Flag::kMedium) != 0) {
        if (const Sense state = medium_state(); state != sense::kNone) {
            fail(at, state);
            return;
        }
    }
    if ((command->flags & Flag::kWrites) != 0 && image_->traits().read_only) {
        fail(at, sense::kWriteProtected);
        return;
    }
    command->handler(*this, at);
}

Sense LogicalUnit::medium_state() const {
    return image_ ? sense::kNone : sense::kNoMedium;
}

std::uint64_t LogicalUnit::blocks() const {
    return image_ ? image_->traits().size / block_size() : 0;
}

int LogicalUnit::completion_fd() const {
    return queue_ ? queue_->completion_fd() : -1;
}

void LogicalUnit::kick() {
    if (queue_) {
        queue_->kick();
    }
}

bool LogicalUnit::busy() const {
    return queue_ && queue_->in_flight() != 0;
}

void LogicalUnit::wait() {
    if (busy()) {
        queue_->wait();
    }
}

void LogicalUnit::reap(std::vector<Completion>& out) {
    while (queue_) {  // what is submitted for these may have ended at once
        scratch_.clear();
        queue_->reap(scratch_);
        if (scratch_.empty()) {
            break;
        }
        for (const block::DiskCompletion& done : scratch_) {
            Request& ended = requests_[done.token];
            ended.error = ended.error != 0 ? ended.error : done.error;
            if (--ended.outstanding == 0) {
                completed(done.token);
            }
        }
        queue_->kick();
    }
    out.insert(out.end(), finished_.begin(), finished_.end());
    finished_.clear();
}

void LogicalUnit::completed(std::size_t at) {
    Request& ended = requests_[at];
    if (ended.error != 0) {
        fail(at, sense_of(ended.error, ended.reading));
        return;
    }
    const bool more = ended.step == Step::Pattern || ended.step == Step::Compare;
    if (ended.cancelled && more) {
        fail(at, {SenseKey::AbortedCommand, 0, 0});
        return;
    }
    if (ended.step == Step::Pattern && ended.left != 0) {
        write_pattern(at);
    } else if (ended.step == Step::Compare) {
        compared(at);
    } else if (std::exchange(ended.sync_after, false)) {
        sync(at);
    } else {
        good(at, ended.moved);
    }
}

void LogicalUnit::end(std::size_t at, Completion completion) {
    completion.token = requests_[at].task.token;
    finished_.push_back(completion);
    requests_[at] = Request{};
    free_.push_back(at);
    --under_way_;
}

void LogicalUnit::good(std::size_t at, std::uint64_t moved) {
    end(at, {.moved = moved});
}

Completion LogicalUnit::failure(Sense why, std::optional<std::uint64_t> information) {
    Completion completion{.status = Status::CheckCondition};
    std::span<std::uint8_t> bytes(completion.sense);
    bytes[0] = 0x70;  // current, fixed format. SPC-4, 4.5.3
    bytes[2] = static_cast<std::uint8_t>(why.key);
    if (information && *information <= 0xffffffff) {
        bytes[0] |= 0x80;
        put_be(bytes, 3, 4, *information);
    }
    bytes[7] = kSenseSize - 8;
    bytes[12] = why.code;
    bytes[13] = why.qualifier;
    return completion;
}

void LogicalUnit::fail(std::size_t at, Sense why, std::optional<std::uint64_t> information) {
    end(at, failure(why, information));
}

void LogicalUnit::reply(std::size_t at, std::span<const std::uint8_t> data,
                        std::uint64_t allocation) {
    const auto& in = requests_[at].task.in;
    const std::uint64_t bytes = std::min({std::uint64_t{data.size()}, allocation, total(in)});
    if (bytes != 0) {
        block::Buffers{std::span<const iovec>(in)}.slice(0, bytes).copy_from(
            std::as_bytes(data.first(bytes)));
    }
    good(at, bytes);
}

std::vector<std::uint8_t> LogicalUnit::parameters(std::size_t at, std::size_t size) const {
    const auto& out = requests_[at].task.out;
    std::vector<std::uint8_t> data;
    if (total(out) >= size && size != 0) {
        data.resize(size);
        block::Buffers{std::span<const iovec>(out)}.slice(0, size).copy_to(
            std::as_writable_bytes(std::span(data)));
    }
    return data;
}

std::optional<std::vector<std::uint8_t>> LogicalUnit::parameter_list(std::size_t at,
                                                                     std::size_t size) {
    if (size == 0) {
        good(at);
        return std::nullopt;
    }
    if (!holds(at, requests_[at].task.out, size)) {
        return std::nullopt;
    }
    return parameters(at, size);
}

bool LogicalUnit::in_range(std::size_t at, std::uint64_t block, std::uint64_t count) {
    const std::uint64_t end = blocks();
    if (block > end || count > end - block) {
        fail(at, sense::kOutOfRange);
        return false;
    }
    return true;
}

bool LogicalUnit::holds(std::size_t at, const std::vector<iovec>& side, std::uint64_t bytes) {
    if (total(side) < bytes) {
        end(at, {.overrun = true});
        return false;
    }
    return true;
}

void LogicalUnit::transfer(std::size_t at, block::DiskOp op, std::uint64_t block,
                           std::uint64_t count, bool durable) {
    if (!in_range(at, block, count)) {
        return;
    }
    if (count > kMaxBlocks) {
        fail(at, sense::kInvalidField);
        return;
    }
    Request& wanted = requests_[at];
    const std::uint64_t bytes = count * block_size();
    const auto& side = op == block::DiskOp::Read ? wanted.task.in : wanted.task.out;
    if (!holds(at, side, bytes)) {
        return;
    }
    if (bytes == 0) {
        good(at);
        return;
    }
    wanted.moved = bytes;
    wanted.reading = op == block::DiskOp::Read;
    wanted.sync_after = durable && image_->traits().write_cache;
    block::DiskRequest request;
    request.op = op;
    request.offset = block * block_size();
    request.length = bytes;
    block::Buffers{std::span<const iovec>(side)}.slice(0, bytes).append_to(request.buffers);
    disk(at, std::move(request));
}

void LogicalUnit::disk(std::size_t at, block::DiskRequest wanted) {
    ++requests_[at].outstanding;
    wanted.token = at;
    queue_->submit(std::move(wanted));
}

void LogicalUnit::sync(std::size_t at) {
    requests_[at].step = Step::Sync;
    requests_[at].reading = false;
    disk(at, {.op = block::DiskOp::Flush});
}

void LogicalUnit::write_pattern(std::size_t at) {
    Request& wanted = requests_[at];
    wanted.step = Step::Pattern;
    const std::uint64_t bytes = std::min<std::uint64_t>(wanted.left, wanted.own.size());
    block::DiskRequest request{
        .op = block::DiskOp::Write, .offset = wanted.offset, .length = bytes};
    request.buffers.push_back({wanted.own.data(), bytes});
    wanted.offset += bytes;
    wanted.left -= bytes;
    disk(at, std::move(request));
}

void LogicalUnit::compare(std::size_t at) {
    Request& wanted = requests_[at];
    wanted.step = Step::Compare;
    wanted.reading = true;
    wanted.own.resize(std::min<std::uint64_t>(wanted.left, kOwnMemory));
    block::DiskRequest request{
        .op = block::DiskOp::Read, .offset = wanted.offset, .length = wanted.own.size()};
    request.buffers.push_back({wanted.own.data(), wanted.own.size()});
    disk(at, std::move(request));
}

void LogicalUnit::compared(std::size_t at) {
    Request& ended = requests_[at];
    std::vector<std::byte> wanted(ended.own.size());
    block::Buffers{std::span<const iovec>(ended.task.out)}
        .slice(ended.moved, wanted.size())
        .copy_to(wanted);
    const auto differs = std::mismatch(wanted.begin(), wanted.end(), ended.own.begin());
    if (differs.first != wanted.end()) {
        fail(at, sense::kMiscompare,
             ended.moved + static_cast<std::uint64_t>(differs.first - wanted.begin()));
        return;
    }
    ended.moved += wanted.size();
    ended.offset += wanted.size();
    ended.left -= wanted.size();
    if (ended.left != 0) {
        compare(at);
    } else {
        good(at, ended.moved);
    }
}

void LogicalUnit::cancel(std::uint64_t token) {
    for (std::size_t at = 0; at < requests_.size(); ++at) {
        if (requests_[at].busy && requests_[at].task.token == token) {
            requests_[at].cancelled = true;
            if (queue_) {
                queue_->give_up(at);
            }
        }
    }
}

void LogicalUnit::cancel_all() {
    for (Request& each : requests_) {
        each.cancelled = true;
    }
    if (queue_) {
        queue_->give_up_all();
    }
}

void LogicalUnit::reset() {
    attentions_ = {sense::kReset};
    on_reset();
}

void LogicalUnit::attention(Sense what) {
    if (attentions_.size() < kMaxAttentions &&
        std::find(attentions_.begin(), attentions_.end(), what) == attentions_.end()) {
        attentions_.push_back(what);
    }
}

std::optional<block::DiskWait> LogicalUnit::waiting() const {
    return queue_ ? queue_->waiting() : std::nullopt;
}

void LogicalUnit::retry() {
    if (queue_) {
        queue_->retry();
    }
}

void LogicalUnit::save(state::StateWriter& writer) const {
    writer.u8(static_cast<std::uint8_t>(kind()));
    writer.u8(static_cast<std::uint8_t>(attentions_.size()));
    for (const Sense& each : attentions_) {
        writer.u8(static_cast<std::uint8_t>(each.key));
        writer.u8(each.code);
        writer.u8(each.qualifier);
    }
    save_unit(writer);
}

void LogicalUnit::load(state::StateReader& reader) {
    if (reader.u8() != static_cast<std::uint8_t>(kind())) {
        reader.reject("a unit is of another kind");
        return;
    }
    const std::size_t count = reader.u8();
    if (count > kMaxAttentions) {
        reader.reject("too many unit attentions");
        return;
    }
    attentions_.clear();
    for (std::size_t i = 0; i < count; ++i) {
        const auto key = static_cast<SenseKey>(reader.u8() & 0xf);
        const std::uint8_t code = reader.u8();
        attentions_.push_back({key, code, reader.u8()});
    }
    load_unit(reader);
}

}  // namespace strata::scsi
