// BlockTable: the indexes.
#include "engine/soft/cache/block_table.h"

#include <algorithm>

namespace strata::engine::soft {

namespace {

constexpr std::uint64_t kPage = 4096;

bool overlap(std::uint64_t a, std::uint64_t a_length, std::uint64_t b, std::uint64_t b_length) {
    return a < b + b_length && b < a + a_length;
}

}  // namespace

std::uint64_t Block::bytes_in_first() const {
    constexpr std::uint64_t kLongest = 15;
    const std::uint64_t bytes = guest_length == 0 ? kLongest : guest_length;
    return second_offset == 0 ? bytes : std::min(bytes, kPage - (ram_offset & (kPage - 1)));
}

std::uint64_t Block::bytes_in_second() const {
    return second_offset == 0 ? 0 : guest_length - bytes_in_first();
}

bool Block::made_from(std::uint64_t offset, std::uint64_t length) const {
    return overlap(ram_offset, bytes_in_first(), offset, length) ||
           (second_offset != 0 && overlap(second_offset, bytes_in_second(), offset, length));
}

std::uint64_t Block::lines_in(std::uint64_t page) const {
    std::uint64_t lines = 0;
    if (ram_offset >> 12 == page) {
        lines |= CodeLines::mask(ram_offset,
                                 std::min(bytes_in_first(), kPage - (ram_offset & (kPage - 1))));
    }
    if (second_offset != 0 && second_offset >> 12 == page) {
        lines |= CodeLines::mask(second_offset, bytes_in_second());
    }
    return lines;
}

InsnMark Block::mark_at(std::uint32_t at) const {
    const std::uint32_t host = at - code <= code_size ? at - code : code_size + (at - cold);
    const std::span<const InsnMark> marks = parts.marks();
    const auto after = std::upper_bound(
        marks.begin(), marks.end(), host,
        [](std::uint32_t value, const InsnMark& mark) { return value < mark.host; });
    return after == marks.begin() ? InsnMark{} : *std::prev(after);
}

Exit* Block::exit_at(std::uint32_t at) {
    for (Exit& exit : parts.exits()) {
        if (exit.stub + Exit::kStubBytes == at) {
            return &exit;
        }
    }
    return nullptr;
}

void BlockIndex::insert(Block& block) {
    std::atomic<Block*>& head = buckets_[bucket(block.ram_offset, block.rip)];
    block.next_in_bucket.store(head.load(std::memory_order_relaxed), std::memory_order_relaxed);
    head.store(&block, std::memory_order_release);
}

void BlockIndex::remove(const Block& block) {
    std::atomic<Block*>* link = &buckets_[bucket(block.ram_offset, block.rip)];
    while (link->load(std::memory_order_relaxed) != &block) {
        link = &link->load(std::memory_order_relaxed)->next_in_bucket;
    }
    link->store(block.next_in_bucket.load(std::memory_order_relaxed), std::memory_order_release);
}

BlockTable::BlockTable(CodeLines lines) : lines_(std::move(lines)) {}
BlockTable::~BlockTable() = default;

Block& BlockTable::insert(std::unique_ptr<Block> owned, std::uint32_t region) {
    Block& block = *owned;
    if (region >= regions_.size()) {
        regions_.resize(region + 1);
        starts_.resize(region + 1);
    }
    starts_[region][0].push_back(block.code);
    starts_[region][1].push_back(block.cold);
    regions_[region].push_back(std::move(owned));
    index_.insert(block);
    if (block.checked) {
        return block;
    }
    link(block, block.ram_offset >> 12);
    lines_.add(block.ram_offset,
               std::min(block.bytes_in_first(), kPage - (block.ram_offset & (kPage - 1))));
    if (block.second_offset != 0) {
        lines_.add(block.second_offset, block.bytes_in_second());
    }
    if (block.in_two_pages()) {
        link(block, block.second_offset >> 12);
    }
    return block;
}

Block* BlockTable::locate(std::uint32_t region, std::uint32_t at, bool cold) const {
    if (empty(region)) {
        return nullptr;
    }
    const std::vector<std::uint32_t>& starts = starts_[region][cold ? 1 : 0];
    const auto after = std::upper_bound(starts.begin(), starts.end(), at);
    if (after == starts.begin()) {
        return nullptr;
    }
    const auto index = static_cast<std::size_t>(after - starts.begin() - 1);
    Block* block = regions_[region][index].get();
    return at - starts[index] <= (cold ? block->cold_size : block->code_size) ? block : nullptr;
}

void BlockTable::detach(Block& block) {
    index_.remove(block);
    if (block.checked) {
        return;
    }
    unlink(block, block.ram_offset >> 12);
    if (block.in_two_pages()) {
        unlink(block, block.second_offset >> 12);
    }
}

void BlockTable::remove(Block& block) {
    detach(block);
    block.dead = true;
}

std::vector<std::unique_ptr<Block>> BlockTable::take(std::uint32_t region) {
    std::vector<std::unique_ptr<Block>> taken;
    if (!empty(region)) {
        taken = std::move(regions_[region]);
        regions_[region].clear();
        starts_[region] = {};
    }
    for (const auto& block : taken) {
        if (!block->dead) {
            detach(*block);
        }
    }
    return taken;
}

void BlockTable::remove(std::uint64_t offset, std::uint64_t length, std::vector<Block*>& killed) {
    if (length == 0) {
        return;
    }
    for (std::uint64_t page = offset >> 12; page <= (offset + length - 1) >> 12; ++page) {
        const auto found = pages_.find(page);
        if (found == pages_.end()) {
            lines_.set(page, 0);
            continue;
        }
        const std::size_t before = killed.size();
        std::uint64_t lines = 0;
        for (Block* block = found->second; block != nullptr; block = place_in(*block, page).next) {
            if (block->made_from(offset, length)) {
                killed.push_back(block);
            } else {
                lines |= block->lines_in(page);
            }
        }
        lines_.set(page, lines);
        for (std::size_t i = before; i < killed.size(); ++i) {
            detach(*killed[i]);
            killed[i]->dead = true;
        }
    }
}

PagePlace& BlockTable::place_in(Block& block, std::uint64_t page) {
    return block.ram_offset >> 12 == page ? block.in_page : block.in_second;
}

void BlockTable::link(Block& block, std::uint64_t page) {
    Block*& first = pages_[page];  // its address stays while the page has blocks
    PagePlace& place = place_in(block, page);
    place = {first, &first};
    if (first != nullptr) {
        place_in(*first, page).link = &place.next;
    }
    first = &block;
}

void BlockTable::unlink(Block& block, std::uint64_t page) {
    PagePlace& place = place_in(block, page);
    *place.link = place.next;
    if (place.next != nullptr) {
        place_in(*place.next, page).link = place.link;
    } else if (const auto found = pages_.find(page); found->second == nullptr) {
        pages_.erase(found);
    }
    place = {};
}

}  // namespace strata::engine::soft
