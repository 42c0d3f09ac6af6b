// Translator: what it tells about itself: counters and the profile.
#include <algorithm>

#include "engine/soft/translate/translator.h"

namespace strata::engine::soft {
namespace {

// The mnemonics that blocks called the interpreter for most often.
std::string most_interpreted(const TranslatorCounters& counters) {
    std::vector<std::pair<std::uint64_t, std::uint32_t>> counts;
    for (std::uint32_t i = 0; i < TranslatorCounters::kMnemonics; ++i) {
        if (const std::uint64_t count = counters.by_mnemonic[i].load(std::memory_order_relaxed);
            count != 0) {
            counts.emplace_back(count, i);
        }
    }
    std::sort(counts.rbegin(), counts.rend());
    std::string text;
    for (std::size_t i = 0; i < counts.size() && i < 30; ++i) {
        Instruction insn;
        insn.mnemonic = static_cast<std::uint16_t>(counts[i].second);
        text +=
            "  " + std::string(mnemonic_name(insn)) + " " + std::to_string(counts[i].first) + "\n";
    }
    return text;
}

}  // namespace

std::string Translator::profile() {
    const MutexLock lock(mutex_);
    for (const auto& region : table_.regions()) {
        for (const auto& block : region) {
            evicted_.add(*block);
            block->executions = 0;
        }
    }
    return evicted_.text();
}

std::string Translator::report() const {
    const auto line = [](const char* name, const std::atomic<std::uint64_t>& value) {
        return std::string(name) + " " + std::to_string(value.load(std::memory_order_relaxed)) +
               "\n";
    };
    const TranslatorCounters& c = counters_;
    return line("blocks", c.blocks) + line("checked_blocks", c.checked_blocks) +
           line("guest_bytes", c.guest_bytes) + line("host_bytes", c.host_bytes) +
           line("links", c.links) + line("page_links", c.page_links) + line("thunks", c.thunks) +
           line("enters", c.enters) + line("site_exits", c.site_exits) +
           line("indirect_exits", c.indirect_exits) + line("lookups", c.lookups) +
           line("interpreted", c.interpreted) +
           line("interpreted_in_block", c.interpreted_in_block) +
           line("interpreted_in_place", c.interpreted_in_place) +
           line("slow_accesses", c.slow_accesses) + line("loop_fills", c.loop_fills) +
           line("host_faults", c.host_faults) + line("invalidations", c.invalidations) +
           line("killed", c.killed) + line("evictions", c.evictions) + most_interpreted(c);
}

}  // namespace strata::engine::soft
