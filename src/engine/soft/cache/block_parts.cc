// BlockParts: the piece of memory.
#include "engine/soft/cache/block_parts.h"

#include <algorithm>
#include <memory>

#include "base/check.h"

namespace strata::engine::soft {

namespace {

struct Head {
    Block* owner;
};
constexpr std::size_t kHead = sizeof(Head);

}  // namespace

// SAFETY: for all below: memory from new is aligned for any of the three; the constructor has made
// the owner's address, then the exits, then the marks there, none of which needs a destructor.

BlockParts::BlockParts(Block& owner, std::span<const Exit> exits, std::span<const InsnMark> marks)
    : memory_(new std::byte[kHead + exits.size_bytes() + marks.size_bytes()]),
      exits_(static_cast<std::uint16_t>(exits.size())),
      marks_(static_cast<std::uint16_t>(marks.size())) {
    STRATA_CHECK(exits.size() == exits_ && marks.size() == marks_, "a block of tens of KiB");
    std::construct_at(reinterpret_cast<Head*>(memory_.get()), Head{&owner});
    std::uninitialized_copy(exits.begin(), exits.end(),
                            reinterpret_cast<Exit*>(memory_.get() + kHead));
    std::uninitialized_copy(
        marks.begin(), marks.end(),
        reinterpret_cast<InsnMark*>(memory_.get() + kHead + exits.size_bytes()));
    for (std::uint16_t index = 0; index < exits_; ++index) {
        this->exits()[index].index = index;
    }
}

std::span<Exit> BlockParts::exits() {
    if (memory_ == nullptr) {
        return {};
    }
    return {reinterpret_cast<Exit*>(memory_.get() + kHead), exits_};
}

std::span<const Exit> BlockParts::exits() const {
    if (memory_ == nullptr) {
        return {};
    }
    return {reinterpret_cast<const Exit*>(memory_.get() + kHead), exits_};
}

std::span<const InsnMark> BlockParts::marks() const {
    if (memory_ == nullptr) {
        return {};
    }
    const std::size_t at = kHead + std::size_t{exits_} * sizeof(Exit);
    return {reinterpret_cast<const InsnMark*>(memory_.get() + at), marks_};
}

Block& Exit::owner() const {
    const auto* first = reinterpret_cast<const std::byte*>(this - index);
    return *reinterpret_cast<const Head*>(first - kHead)->owner;
}

}  // namespace strata::engine::soft
