// RecordingNode: recording and replaying.
#include "recording_node.h"

#include <algorithm>
#include <cerrno>

namespace strata::block {
namespace {

constexpr std::size_t kSector = 512;

void apply(std::vector<std::byte>& to, std::uint64_t offset, std::span<const std::byte> bytes) {
    if (to.size() < offset + bytes.size()) {
        to.resize(offset + bytes.size());
    }
    std::copy(bytes.begin(), bytes.end(), to.begin() + static_cast<std::ptrdiff_t>(offset));
}

}  // namespace

RecordingNode::RecordingNode(Loop& loop, std::string name, std::vector<std::byte> content,
                             unsigned seed, Clock clock)
    : Node(loop, std::move(name)),
      start_(content),
      content_(std::move(content)),
      clock_(std::move(clock)),
      random_(seed) {
    traits_.zero_initialised = true;
    traits_.discard = true;
    traits_.fast_zeroes = true;
}

// Requests end in an order of their own.
Task<> RecordingNode::some_turns() {
    for (unsigned turns = random_() % 4; turns != 0; --turns) {
        co_await loop().yield();
    }
    co_return ok();
}

Task<> RecordingNode::read(std::uint64_t offset, Buffers into) {
    (void)co_await some_turns();
    const std::size_t part = offset >= content_.size()
                                 ? 0
                                 : std::min<std::size_t>(into.size(), content_.size() - offset);
    into.slice(0, part).copy_from(std::span(content_).subspan(part == 0 ? 0 : offset, part));
    into.from(part).fill(std::byte{0});
    co_return ok();
}

Task<> RecordingNode::change(std::uint64_t offset, std::vector<std::byte> bytes) {
    const bool fails = fail_ != 0 && random_() % fail_ == 0;
    if (fails) {
        bytes.resize(random_() % 2 == 0 ? 0 : bytes.size() / 2 / kSector * kSector);
    }
    apply(content_, offset, bytes);
    const std::size_t index = changes_.size();
    changes_.push_back(Change{.begun = (*clock_)++, .offset = offset, .bytes = std::move(bytes)});
    (void)co_await some_turns();
    changes_[index].ended = (*clock_)++;
    if (fails) {
        co_return Error{ErrorKind::Failed, "the disk is full, or broken",
                        random_() % 2 == 0 ? ENOSPC : EIO};
    }
    co_return ok();
}

Task<> RecordingNode::write(std::uint64_t offset, Buffers from) {
    std::vector<std::byte> bytes(from.size());
    from.copy_to(bytes);
    co_return co_await change(offset, std::move(bytes));
}

Task<> RecordingNode::write_zeroes(std::uint64_t offset, std::uint64_t length,
                                   ZeroOptions /*options*/) {
    co_return co_await change(offset, std::vector<std::byte>(length));
}

// Other bytes than before or zeros: whoever reads them again must not mind.
Task<> RecordingNode::discard(std::uint64_t offset, std::uint64_t length) {
    length =
        offset >= content_.size() ? 0 : std::min<std::uint64_t>(length, content_.size() - offset);
    co_return co_await change(offset, std::vector<std::byte>(length, discarded_));
}

Task<> RecordingNode::flush() {
    const std::size_t begun = (*clock_)++;
    (void)co_await some_turns();
    const std::size_t ended = (*clock_)++;
    for (std::size_t i = settled_; i < changes_.size(); ++i) {
        if (changes_[i].ended < begun) {
            changes_[i].durable = std::min(changes_[i].durable, ended);
        }
    }
    while (settled_ < changes_.size() && changes_[settled_].durable <= ended) {
        ++settled_;
    }
    co_return ok();
}

Task<> RecordingNode::resize(std::uint64_t size, Preallocation /*preallocation*/) {
    if (size < content_.size()) {
        content_.resize(size);
        const std::size_t index = changes_.size();
        changes_.push_back(Change{.begun = (*clock_)++, .offset = size, .bytes = {}, .cut = true});
        (void)co_await some_turns();
        changes_[index].ended = (*clock_)++;
        co_return ok();
    }
    co_return co_await change(content_.size(), std::vector<std::byte>(size - content_.size()));
}

Task<Extent> RecordingNode::status(std::uint64_t offset, std::uint64_t length) {
    co_return Extent{.kind = Extent::Kind::Data,
                     .length = length,
                     .has_offset = true,
                     .offset = offset,
                     .owner = this,
                     .file = this};
}

std::vector<std::byte> RecordingNode::after_crash(std::size_t moment, std::mt19937& random) const {
    std::vector<std::byte> left = start_;
    const unsigned mood = random() % 4;  // nothing of what was not durable, all of it, some, torn
    for (const Change& each : changes_) {
        if (each.begun >= moment) {
            break;
        }
        if (each.cut) {
            if (each.durable <= moment || mood == 1 || (mood > 1 && random() % 2 == 0)) {
                left.resize(std::min<std::size_t>(left.size(), each.offset));
            }
        } else if (each.durable <= moment || mood == 1 || (mood == 2 && random() % 2 == 0)) {
            apply(left, each.offset, each.bytes);
        } else if (mood == 3) {
            for (std::size_t at = 0; at < each.bytes.size();) {
                const std::size_t part =
                    std::min(each.bytes.size() - at, kSector - (each.offset + at) % kSector);
                if (random() % 2 == 0) {
                    apply(left, each.offset + at, std::span(each.bytes).subspan(at, part));
                }
                at += part;
            }
        }
    }
    return left;
}

}  // namespace strata::block
