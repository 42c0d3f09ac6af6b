// BlockProfile: adding up and sorting.
#include "engine/soft/translate/profile.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "engine/soft/runtime/cpu_state.h"

namespace strata::engine::soft {
namespace {

// Marks name each instruction's guest offset, some more than once.
std::uint64_t instructions_of(const Block& block) {
    std::uint64_t count = 0;
    std::uint32_t highest = 0;
    for (const InsnMark& mark : block.parts.marks()) {
        const std::uint32_t guest = mark.guest & ~std::uint32_t{InsnMark::kHostFlags};
        if (count == 0 || guest > highest) {
            ++count;
            highest = guest;
        }
    }
    return count;
}

}  // namespace

void BlockProfile::add(const Block& block) {
    if (block.executions == 0) {
        return;
    }
    Entry& entry = entries_[{block.met_at + block.rip, block.key_mode & ModeBits::kCplMask}];
    entry.executions += block.executions;
    entry.guest_instructions += block.executions * instructions_of(block);
    entry.guest_bytes = block.guest_length;
    entry.host_bytes = block.code_size;
    entry.cold_bytes = block.cold_size;
    entry.code = block.code;
    ++entry.blocks;
    if (entries_.size() > kMost) {
        shrink();
    }
}

// Drops the lesser half.
void BlockProfile::shrink() {
    std::vector<std::uint64_t> counts;
    counts.reserve(entries_.size());
    for (const auto& [address, entry] : entries_) {
        counts.push_back(entry.guest_instructions);
    }
    const auto middle = counts.begin() + static_cast<std::ptrdiff_t>(counts.size() / 2);
    std::nth_element(counts.begin(), middle, counts.end());
    std::erase_if(entries_, [&](const auto& item) {
        if (item.second.guest_instructions > *middle) {
            return false;
        }
        others_ += item.second.guest_instructions;
        return true;
    });
}

std::string BlockProfile::text() const {
    std::vector<std::pair<std::pair<std::uint64_t, std::uint32_t>, const Entry*>> sorted;
    std::uint64_t all = others_;
    for (const auto& [address, entry] : entries_) {
        sorted.emplace_back(address, &entry);
        all += entry.guest_instructions;
    }
    std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
        return a.second->guest_instructions > b.second->guest_instructions;
    });
    std::string text =
        "# share rip cpl executions guest_instructions guest_bytes host_bytes cold_bytes blocks "
        "code\n";
    for (const auto& [address, entry] : sorted) {
        const double share =
            100.0 * static_cast<double>(entry->guest_instructions) / static_cast<double>(all);
        text += fmt::format("{:.3f}% {:#x} {} {} {} {} {} {} {} {:#x}\n", share, address.first,
                            address.second, entry->executions, entry->guest_instructions,
                            entry->guest_bytes, entry->host_bytes, entry->cold_bytes, entry->blocks,
                            entry->code);
    }
    return text + fmt::format("# others: {} guest instructions\n", others_);
}

}  // namespace strata::engine::soft
