// BlockTable: the three indexes.
#include "engine/soft/cache/block_table.h"

#include <algorithm>

namespace strata::engine::soft {

InsnMark Block::mark_at(std::uint32_t at) const {
    const std::uint32_t host = at - code;
    const auto after = std::upper_bound(marks.begin(), marks.end(), host,
                                        [](std::uint32_t value, const InsnMark& mark) { return value < mark.host; });
    return after == marks.begin() ? InsnMark{} : *std::prev(after);
}

Exit* Block::exit_at(std::uint32_t at) {
    for (Exit& exit : exits) {
        if (exit.stub_end == at) {
            return &exit;
        }
    }
    return nullptr;
}

BlockTable::BlockTable() : buckets_(kBuckets, nullptr) {}
BlockTable::~BlockTable() = default;

std::size_t BlockTable::bucket(std::uint64_t ram_offset, std::uint64_t rip) {
    return ((ram_offset ^ (rip >> 12) * 0x9e3779b97f4a7c15ULL) * 0x9e3779b97f4a7c15ULL) >> 48;
}

Block* BlockTable::find(std::uint64_t ram_offset, std::uint64_t rip, std::uint32_t key_mode) const {
    for (Block* block = buckets_[bucket(ram_offset, rip)]; block != nullptr; block = block->next_in_bucket) {
        if (block->ram_offset == ram_offset && block->rip == rip && block->key_mode == key_mode) {
            return block;
        }
    }
    return nullptr;
}

Block& BlockTable::insert(std::unique_ptr<Block> owned) {
    Block& block = *owned;
    blocks_.push_back(std::move(owned));
    Block*& head = buckets_[bucket(block.ram_offset, block.rip)];
    block.next_in_bucket = head;
    head = &block;
    Block*& page = pages_[block.ram_offset >> 12];
    block.next_in_page = page;
    page = &block;
    return block;
}

Block* BlockTable::locate(std::uint32_t at) const {
    const auto after = std::upper_bound(blocks_.begin(), blocks_.end(), at,
                                        [](std::uint32_t value, const auto& block) { return value < block->code; });
    if (after == blocks_.begin()) {
        return nullptr;
    }
    Block* block = std::prev(after)->get();
    return at - block->code <= block->code_size ? block : nullptr;
}

void BlockTable::remove(std::uint64_t offset, std::uint64_t length, std::vector<Block*>& killed) {
    if (length == 0) {
        return;
    }
    for (std::uint64_t page = offset >> 12; page <= (offset + length - 1) >> 12; ++page) {
        const auto found = pages_.find(page);
        if (found == pages_.end()) {
            continue;
        }
        Block** link = &found->second;
        while (*link != nullptr) {
            Block* block = *link;
            const std::uint64_t bytes = block->guest_length == 0 ? 15 : block->guest_length;
            if (block->ram_offset < offset + length && offset < block->ram_offset + bytes) {
                *link = block->next_in_page;
                Block** chain = &buckets_[bucket(block->ram_offset, block->rip)];
                while (*chain != block) {
                    chain = &(*chain)->next_in_bucket;
                }
                *chain = block->next_in_bucket;
                block->dead = true;
                killed.push_back(block);
            } else {
                link = &block->next_in_page;
            }
        }
        if (found->second == nullptr) {
            pages_.erase(found);
        }
    }
}

std::vector<std::uint64_t> BlockTable::pages() const {
    std::vector<std::uint64_t> result;
    result.reserve(pages_.size());
    for (const auto& [page, block] : pages_) {
        result.push_back(page);
    }
    return result;
}

void BlockTable::clear() {
    std::fill(buckets_.begin(), buckets_.end(), nullptr);
    pages_.clear();
    blocks_.clear();
}

}  // namespace strata::engine::soft
