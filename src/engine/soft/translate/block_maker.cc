// Translator: finding, making, linking and killing blocks.
#include <algorithm>
#include <array>
#include <cstring>

#include "engine/soft/mmu/mmu.h"
#include "engine/soft/translate/layout.h"
#include "engine/soft/translate/trace.h"
#include "engine/soft/translate/translator.h"

namespace strata::engine::soft {
namespace {

using enum Reg;

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kSpare = 64U << 10U;  // room for one block and its thunks
constexpr std::uint64_t kThunkRoom = 64;      // of the thunk before a block
constexpr std::uint32_t kUngrouped = 1U << 30U;
constexpr std::uint32_t kMaxLength = 15;
constexpr std::size_t kMostSystemOps = 1U << 14U;  // a guest can make up any number of encodings
constexpr std::size_t kManyLoops = 1U << 16U;
constexpr unsigned kMostWaits =
    3;  // for stores of other vCPUs before the interpreter is asked instead
constexpr unsigned kMaxBranches = 3;  // that a block may go on behind

bool ends_block(InsnClass cls) {
    switch (cls) {
        case InsnClass::Jcc:
        case InsnClass::Jmp:
        case InsnClass::JmpIndirect:
        case InsnClass::Call:
        case InsnClass::CallIndirect:
        case InsnClass::Ret:
        case InsnClass::Loop:
            return true;
        default:
            return false;
    }
}

}  // namespace

Block* Translator::block_for(CpuState& cpu, const Next& next) {
    BlockSource source;
    if (!layout::mode_translatable(cpu.mode) || !locate_code(cpu, cpu.rip, source.ram_offset)) {
        return nullptr;
    }
    source.rip = cpu.rip;
    source.ungrouped = next.ungrouped;
    source.key_mode = cpu.mode | (next.ungrouped ? kUngrouped : 0);
    source.next_page = locate_next_page(cpu);
    const bool indirect = next.from == nullptr && !next.ungrouped && options_.jump_cache;
    for (unsigned waits = 0;;) {
        bool wait = false;
        {
            const MutexLock lock(mutex_);
            Block* block = index_.find(source.ram_offset, source.rip, source.key_mode);
            const bool found = block != nullptr;
            if (!found && pages_are_code(source) && memory_->free() > kSpare) {
                block = translate(cpu, source, indirect);
                if (block == nullptr && source.second_offset == 0) {
                    return nullptr;
                }
                wait = block != nullptr && !settled(cpu, *block);
            }
            if (wait) {
                kill_range(block->ram_offset, 1);
            } else if (block != nullptr) {
                connect(cpu, *block, next);
                const bool elsewhere =
                    block->second_offset != 0 && block->second_offset != source.next_page;
                return block->guest_length == 0 || elsewhere ? nullptr : block;
            }
        }
        // All of these wait for other vCPUs, which may want the lock.
        if (wait) {
            if (++waits > kMostWaits) {
                return nullptr;  // another vCPU stores beside this code all the time
            }
            settle(cpu);
        } else if (memory_->free() <= kSpare) {
            make_room(cpu);
        } else {
            protect_pages(cpu, source);
        }
    }
}

bool Translator::pages_are_code(const BlockSource& source) const {
    const auto is_code = [this](std::uint64_t offset) {
        return (vm_.ram->page_flags(offset >> 12).load(std::memory_order_acquire) &
                memory::PageFlags::kCode) != 0;
    };
    return is_code(source.ram_offset) &&
           (source.second_offset == 0 || is_code(source.second_offset));
}

void Translator::protect_pages(CpuState& cpu, const BlockSource& source) {
    vm_.protect_code_page(cpu, source.ram_offset >> 12);
    if (source.second_offset != 0) {
        vm_.protect_code_page(cpu, source.second_offset >> 12);
    }
}

void Translator::connect(CpuState& cpu, Block& block, const Next& next) {
    if (block.guest_length == 0) {
        return;
    }
    if (next.from != nullptr) {
        if (options_.chain && next.generation == generation_.load(std::memory_order_relaxed)) {
            link(*next.from, block);
        }
    } else if (options_.jump_cache) {
        remember_jump(cpu, block);
    }
}

void Translator::decode_units(const BlockSource& source, std::uint32_t mode, bool& stop,
                              bool& reaches_on) {
    units_.clear();
    std::uint64_t at = 0;
    const std::uint64_t room = kPage - (source.ram_offset & (kPage - 1));
    stop = false;
    unsigned branches = 0;
    while (units_.size() < options_.max_units && at < room) {
        std::uint8_t bytes[kMaxLength] = {};
        auto available = static_cast<std::uint32_t>(std::min<std::uint64_t>(kMaxLength, room - at));
        std::memcpy(bytes, vm_.ram->base() + source.ram_offset + at, available);
        if (source.second_offset != 0) {
            std::memcpy(bytes + available, vm_.ram->base() + source.second_offset,
                        kMaxLength - available);
            available = kMaxLength;
        }
        Unit& unit = units_.emplace_back();
        unit.rip = source.rip + at;
        const DecodeStatus status = decode(bytes, available, CodeMode::Bits64, *isa_, unit.insn);
        if (status == DecodeStatus::Truncated && available < kMaxLength) {
            reaches_on = true;  // into the next page: a block of its own
            units_.pop_back();
            break;
        }
        const bool good = status == DecodeStatus::Ok && unit.insn.cls != InsnClass::Undefined;
        const bool refused = good &&
                             (unit.insn.cls == InsnClass::CopyVector || masked_copy(unit.insn)) &&
                             !options_.vectors;
        unit.interpreted = good && (refused || !can_translate(unit.insn, mode));
        if (unit.interpreted && options_.direct_system && has_plain_handler(unit.insn)) {
            unit.op = system_ops_.find(unit.insn);
            unit.inlined = options_.inline_system && can_inline(unit.insn, mode);
            unit.interpreted = !unit.inlined;
        }
        if (!good || (unit.interpreted && unit.op == nullptr &&
                      !(options_.interpret_in_place && can_interpret_in_place(unit.insn)))) {
            stop = true;
            units_.pop_back();
            break;
        }
        at += unit.insn.length;
        if (unit.op != nullptr && leaves_block(unit.insn)) {
            break;
        }
        if (!unit.interpreted && ends_block(unit.insn.cls)) {
            // Behind a forward branch that is not taken the block goes on; a backward one usually
            // is.
            const bool on = options_.extend_blocks && unit.insn.cls == InsnClass::Jcc &&
                            unit.insn.imm[0] > 0 && branches < kMaxBranches;
            if (!on) {
                break;
            }
            ++branches;
        }
    }
}

Block* Translator::translate(CpuState& cpu, BlockSource& source, bool indirect) {
    if (isa_ == nullptr) {
        isa_ = std::make_unique<IsaSupport>(vm_.cpuid(cpu));
    }
    bool stop = false;
    bool reaches_on = false;
    decode_units(source, cpu.mode, stop, reaches_on);
    if (units_.empty() && reaches_on) {
        const bool same_page = source.next_page >> 12 == source.ram_offset >> 12;
        source.second_offset = same_page ? 0 : source.next_page;
        return nullptr;
    }
    source.flat = flat_loops_.contains(source.ram_offset);
    std::unique_ptr<Block> block;
    if (!units_.empty()) {
        const std::uint64_t room = indirect ? kThunkRoom : 0;
        Assembler& a = assembler_;
        a.restart(memory_->next() + room);
        BlockEmitter emitter(a, glue_, options_, source, units_, stop, memory_->base(),
                             memory_->next_cold(), scratch_);
        block = emitter.emit();
        STRATA_CHECK(!a.overflowed(), "a block is larger than its buffer");
        if (indirect) {
            block->indirect_entry = make_indirect_thunk(*block, true);
        }
        if (options_.trace_blocks) {
            trace_block(units_, a.hot(), memory_->next(), a.cold(), memory_->next_cold());
        }
        (void)memory_->write(a.hot());
        (void)memory_->write_cold(a.cold());
        counters_.blocks.fetch_add(1, std::memory_order_relaxed);
        counters_.guest_bytes.fetch_add(block->guest_length, std::memory_order_relaxed);
        counters_.host_bytes.fetch_add(a.offset(), std::memory_order_relaxed);
    } else {
        block = std::make_unique<Block>();
        block->ram_offset = source.ram_offset;
        block->rip = source.rip;
        block->key_mode = source.key_mode;
        block->code = static_cast<std::uint32_t>(memory_->next() - memory_->base());
        block->cold = static_cast<std::uint32_t>(memory_->next_cold() - memory_->base());
    }
    return &table_.insert(std::move(block), memory_->current_region());
}

// r10 = the block's address, flags in memory. What does not hold goes to glue.indirect, which looks
// it up.
void Translator::emit_indirect_thunk(Assembler& a, const Block& to) const {
    a.op(OpSize::Bits64, 0x81, 7,
         Mem::gs_at(layout::kMode));  // cmp qword gs:[mode], imm32: request must be 0
    a.u32(to.key_mode & ~kUngrouped);
    a.jcc_to(Cond::Ne, glue_.indirect);
    a.mov_imm(R11, layout::code_page_key(to.rip, to.ram_offset));
    a.alu(Alu::Cmp, OpSize::Bits64, R11,
          Mem::gs_at(layout::code_page_slot(to.rip, to.key_mode & ModeBits::kCplMask)));
    a.jcc_to(Cond::Ne, glue_.indirect);
    if (to.entry_flags == FlagsPlace::Host) {
        a.push(layout::flags());
        a.popfq();
    }
}

// One that falls through ends where the block begins, kThunkRoom bytes from here; it starts as late
// as that allows.
std::uint32_t Translator::make_indirect_thunk(const Block& to, bool falls_through) {
    counters_.thunks.fetch_add(1, std::memory_order_relaxed);
    std::array<std::uint8_t, 2 * kThunkRoom> code;
    Assembler a(code, memory_->next());
    if (falls_through) {
        // Jumps to the glue are relative: where the code will run must be known, so its length is
        // found first.
        emit_indirect_thunk(a, to);
        const std::uint32_t length = (a.offset() + 7) & ~7U;
        STRATA_CHECK(length <= kThunkRoom, "a thunk is larger than its room");
        const auto skip = static_cast<std::uint32_t>(kThunkRoom - length);
        a = Assembler(code, memory_->next());
        a.nop(skip);
        emit_indirect_thunk(a, to);
        a.nop(static_cast<std::uint32_t>(kThunkRoom - a.offset()));
        return static_cast<std::uint32_t>(memory_->write(a.code()) - memory_->base()) + skip;
    }
    emit_indirect_thunk(a, to);
    a.jmp_to(memory_->base() + to.code);
    return static_cast<std::uint32_t>(memory_->write(a.code()) - memory_->base());
}

// A thunk: checks the page, moves flags, jumps to the block. Failing, it leaves with the block's
// own address as target.
std::uint32_t Translator::make_thunk(Block& to, bool check_page, bool host_flags) {
    counters_.thunks.fetch_add(1, std::memory_order_relaxed);
    Assembler a(buffer_, memory_->next());
    const Label miss = a.label();
    const Mem page = Mem::gs_at(layout::code_page_slot(to.rip, to.key_mode & ModeBits::kCplMask));
    const std::uint64_t key = layout::code_page_key(to.rip, to.ram_offset);
    if (check_page && !host_flags) {
        a.mov_imm(R11, key);
        a.alu(Alu::Cmp, OpSize::Bits64, R11, page);
        a.jcc(Cond::Ne, miss);
    } else if (check_page) {
        const Label hit = a.label();
        a.load(R10, page);
        a.mov(R11, Rcx);
        a.mov_imm(Rcx, 0 - key);
        a.lea(Rcx, Mem::at(Rcx, R10, 1, 0));
        a.jrcxz(hit);
        a.mov(Rcx, R11);
        a.pushfq();
        a.pop(layout::flags());
        a.jmp(miss);
        a.bind(hit);
        a.mov(Rcx, R11);
    }
    if (host_flags && to.entry_flags == FlagsPlace::Memory) {
        a.pushfq();
        a.pop(layout::flags());
    } else if (!host_flags && to.entry_flags == FlagsPlace::Host) {
        a.push(layout::flags());
        a.popfq();
    }
    a.jmp_to(memory_->base() + to.code);
    a.bind(miss);
    a.mov_imm(R10, to.rip);
    a.jmp_to(glue_.indirect);
    return static_cast<std::uint32_t>(memory_->write(a.code()) - memory_->base());
}

// Behind a return: brings flags from where they are to where the block wants them.
std::uint32_t Translator::make_return_thunk(const Block& to) {
    counters_.thunks.fetch_add(1, std::memory_order_relaxed);
    Assembler a(buffer_, memory_->next());
    const Label memory = a.label();
    emit_flags_place(a, memory);
    if (to.entry_flags == FlagsPlace::Memory) {
        a.pushfq();
        a.pop(layout::flags());
    }
    a.jmp_to(memory_->base() + to.code);
    a.bind(memory);
    take_flags_place(a);
    if (to.entry_flags == FlagsPlace::Host) {
        a.push(layout::flags());
        a.popfq();
    }
    a.jmp_to(memory_->base() + to.code);
    return static_cast<std::uint32_t>(memory_->write(a.code()) - memory_->base());
}

std::uint32_t Translator::entry_for(const Exit& from, Block& to) {
    const bool host = from.flags == FlagsPlace::Host;
    const bool same_page = (from.owner->rip ^ to.rip) >> 12 == 0 &&
                           (from.owner->ram_offset ^ to.ram_offset) >> 12 == 0;
    if (!same_page) {
        if (!options_.chain_pages || from.flags == FlagsPlace::Either) {
            return 0;
        }
        counters_.page_links.fetch_add(1, std::memory_order_relaxed);
        std::uint32_t& entry = host ? to.host_guard_entry : to.guard_entry;
        if (entry == 0) {
            entry = make_thunk(to, true, host);
        }
        return entry;
    }
    const bool fits = to.entry_flags == FlagsPlace::Dead || to.entry_flags == from.flags ||
                      from.flags == FlagsPlace::Dead;
    if (fits) {
        const bool again = from.owner == &to && !from.ungrouped && to.loop_entry != 0;
        return again ? to.loop_entry : to.code;
    }
    if (from.flags == FlagsPlace::Either) {
        if (to.return_entry == 0) {
            to.return_entry = make_return_thunk(to);
        }
        return to.return_entry;
    }
    std::uint32_t& entry = host ? to.save_entry : to.load_entry;
    if (entry == 0) {
        entry = make_thunk(to, false, host);
    }
    return entry;
}

void Translator::link(Exit& from, Block& to) {
    if (from.patch == 0 || from.linked == &to || from.owner->dead ||
        memory_->free() <= kSpare / 2) {
        return;
    }
    const std::uint32_t entry = entry_for(from, to);
    if (entry == 0) {
        return;
    }
    if (from.linked == nullptr) {
        from.next_incoming = to.incoming;
        to.incoming = &from;
        from.linked = &to;
        memory_->patch32(memory_->base() + from.patch, entry - (from.patch + 4));
        counters_.links.fetch_add(1, std::memory_order_relaxed);
    }
}

void Translator::remember_jump(CpuState& cpu, Block& to) {
    if (to.indirect_entry == 0) {
        if (memory_->free() <= kSpare / 2) {
            return;
        }
        to.indirect_entry.store(make_indirect_thunk(to, false), std::memory_order_release);
    }
    cpu.translator.jumps[layout::jump_slot(to.rip)] = {to.rip, memory_->base() + to.indirect_entry};
}

// Exits that led here go to their stubs again.
void Translator::unlink_incoming(Block& block) const {
    for (Exit* exit = block.incoming; exit != nullptr;) {
        Exit* following = exit->next_incoming;
        memory_->patch32(memory_->base() + exit->patch, exit->stub - (exit->patch + 4));
        exit->linked = nullptr;
        exit->next_incoming = nullptr;
        exit = following;
    }
    block.incoming = nullptr;
}

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
    constexpr std::uint64_t kLarge = 512;
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
        for (const Exit& exit : block->exits) {
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

// Once for each target: the exits that are taken off its list are linked no more.
void Translator::forget_incoming(Block& block, std::uint32_t region) const {
    Exit** link = &block.incoming;
    while (*link != nullptr) {
        Exit& exit = **link;
        if (memory_->region_of(exit.owner->code) != region) {
            link = &exit.next_incoming;
            continue;
        }
        *link = exit.next_incoming;
        exit.linked = nullptr;
        exit.next_incoming = nullptr;
    }
}

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
    return line("blocks", c.blocks) + line("guest_bytes", c.guest_bytes) +
           line("host_bytes", c.host_bytes) + line("links", c.links) +
           line("page_links", c.page_links) + line("thunks", c.thunks) + line("enters", c.enters) +
           line("site_exits", c.site_exits) + line("indirect_exits", c.indirect_exits) +
           line("lookups", c.lookups) + line("interpreted", c.interpreted) +
           line("interpreted_in_block", c.interpreted_in_block) +
           line("interpreted_in_place", c.interpreted_in_place) +
           line("slow_accesses", c.slow_accesses) + line("host_faults", c.host_faults) +
           line("invalidations", c.invalidations) + line("killed", c.killed) +
           line("evictions", c.evictions) + most_interpreted(c);
}

}  // namespace strata::engine::soft
