// Translator: killing blocks whose bytes change, and evicting those of a whole region.
#include "engine/soft/translate/translator.h"

namespace strata::engine::soft {
namespace {

constexpr std::size_t kMostSystemOps = 1U << 14U;  // a guest can make up any number of encodings
constexpr std::size_t kManyLoops = 1U << 16U;

}  // namespace

void Translator::kill(Block& block) {
    counters_.killed.fetch_add(1, std::memory_order_relaxed);
    unlink_incoming(block);
    if (block.indirect_entry != 0) {
        // jmp glue.indirect: r10 holds the target there, which is this block's address.
        const std::uint64_t at = memory_->base() + block.indirect_entry;
        const auto distance = static_cast<std::uint32_t>(glue_.indirect - (at + 5));
        memory_->patch64(at, 0x90909000000000E9ULL | (static_cast<std::uint64_t>(distance) << 8));
    }
}

void Translator::retire(Block& block, bool settled) {
    if (block.dead) {
        return;  // another vCPU was first
    }
    table_.remove(block);
    kill(block);
    if (settled) {
        rewritten_.forget(block.ram_offset, block.guest_length);
    }
}

void Translator::invalidate(CpuState* cpu, std::uint64_t ram_offset,
                            std::uint64_t length) noexcept {
    if (length == 0 || ram_offset >= vm_.ram->size()) {
        return;
    }
    counters_.invalidations.fetch_add(1, std::memory_order_relaxed);
    const MutexLock lock(mutex_);
    kill_range(ram_offset, length);
    // After a small store of a vCPU more are to come, and new code: making it a page of code again
    // would cost more than they do.
    constexpr std::uint64_t kLarge = 512, kSmall = 64;
    if (cpu != nullptr && length <= kSmall && !killed_.empty()) {
        rewritten_.note(ram_offset, length);
    }
    if (cpu != nullptr && length < kLarge) {
        return;
    }
    for (std::uint64_t page = ram_offset >> 12; page <= (ram_offset + length - 1) >> 12; ++page) {
        if (!table_.page_has_blocks(page)) {
            vm_.ram->page_flags(page).fetch_and(
                static_cast<std::uint8_t>(~memory::PageFlags::kCode), std::memory_order_release);
        }
    }
}

void Translator::kill_range(std::uint64_t ram_offset, std::uint64_t length) {
    killed_.clear();
    table_.remove(ram_offset, length, killed_);
    for (Block* block : killed_) {
        kill(*block);
    }
}

bool Translator::kill_before_store(std::uint64_t ram_offset, std::uint64_t length,
                                   std::uint64_t pc) noexcept {
    counters_.invalidations.fetch_add(1, std::memory_order_relaxed);
    const MutexLock lock(mutex_);
    kill_range(ram_offset, length);
    if (!killed_.empty()) {
        rewritten_.note(ram_offset, length);
    }
    const Block* running = locate(static_cast<std::uint32_t>(pc - 1 - memory_->base()));
    STRATA_CHECK(running != nullptr, "a store of no block");
    return !running->dead;
}

void Translator::release_page(std::uint64_t ram_page) noexcept {
    const MutexLock lock(mutex_);
    if (!table_.page_has_blocks(ram_page)) {
        vm_.ram->page_flags(ram_page).fetch_and(
            static_cast<std::uint8_t>(~memory::PageFlags::kCode), std::memory_order_release);
    }
}

bool Translator::settled(const CpuState& cpu, const Block& block) const {
    for (const CpuState* other : vm_.cpus()) {
        const std::uint64_t stored = other->translator.stored_page.load(std::memory_order_seq_cst);
        if (other != &cpu && stored != 0 &&
            (stored - 1 == block.ram_offset >> 12 ||
             (block.second_offset != 0 && stored - 1 == block.second_offset >> 12))) {
            return false;
        }
    }
    return true;
}

// A vCPU that is at a safe point has done the stores that it was given an address for.
void Translator::settle(CpuState& cpu) {
    vm_.run_exclusive(&cpu, [this] {
        for (CpuState* other : vm_.cpus()) {
            other->translator.stored_page.store(0, std::memory_order_relaxed);
        }
    });
}

void Translator::flatten_loop(CpuState& cpu, const LoopWindows& loop) noexcept {
    {
        const MutexLock lock(mutex_);
        if (flat_loops_.size() >= kManyLoops) {
            flat_loops_.clear();
        }
        flat_loops_.insert(loop.ram_offset);
    }
    invalidate(&cpu, loop.ram_offset, 1);
}

// Every vCPU is at a safe point: nobody is in the code, and none holds a pointer to a block but
// this thread, which forgets it.
void Translator::make_room(CpuState& cpu) {
    vm_.run_exclusive(&cpu, [this] {
        const MutexLock lock(mutex_);
        if (memory_->free() > kSpare) {
            return;  // another vCPU was first
        }
        generation_.fetch_add(1, std::memory_order_release);
        std::uint32_t region = (memory_->current_region() + 1) % memory_->regions();
        if (system_ops_.size() <= kMostSystemOps) {
            evict(region);
        } else {
            for (region = memory_->regions(); region-- > 0;) {
                evict(region);
            }
            region = 0;
            system_ops_.clear();
        }
        memory_->begin_region(region);
    });
}

void Translator::evict(std::uint32_t region) {
    const std::vector<std::unique_ptr<Block>> blocks = table_.take(region);
    if (blocks.empty()) {
        return;
    }
    counters_.evictions.fetch_add(1, std::memory_order_relaxed);
    for (const auto& block : blocks) {
        for (const std::uint64_t page : {block->ram_offset >> 12, block->second_offset >> 12}) {
            if (!table_.page_has_blocks(page)) {
                vm_.ram->page_flags(page).fetch_and(
                    static_cast<std::uint8_t>(~memory::PageFlags::kCode),
                    std::memory_order_release);
            }
        }
        if (options_.profile_fd >= 0) {
            evicted_.add(*block);
        }
        unlink_incoming(*block);
        for (const Exit& exit : block->parts.exits()) {
            if (exit.linked != nullptr) {
                forget_incoming(*exit.linked, region);
            }
        }
    }
    // Their thunks may lie in any region.
    for (CpuState* cpu : vm_.cpus()) {
        reset_jumps(*cpu);
    }
}

}  // namespace strata::engine::soft
