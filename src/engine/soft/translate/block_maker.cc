// Translator: finding and making blocks.
#include <algorithm>
#include <cstring>

#include "engine/soft/translate/layout.h"
#include "engine/soft/translate/trace.h"
#include "engine/soft/translate/translator.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint32_t kMaxLength = 15;
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
    source.floating = floats(cpu, source.ram_offset);
    source.page = source.floating ? cpu.rip & ~(kPage - 1) : 0;
    source.rip = cpu.rip - source.page;
    source.ungrouped = next.ungrouped;
    source.key_mode =
        cpu.mode | (next.ungrouped ? kUngrouped : 0) | (source.floating ? Block::kFloating : 0);
    source.next_page = locate_next_page(cpu);
    const bool indirect = next.from == nullptr && !next.ungrouped && options_.jump_cache;
    for (unsigned waits = 0;;) {
        bool wait = false;
        {
            const MutexLock lock(mutex_);
            Block* block = index_.find(source.ram_offset, source.rip, source.key_mode);
            const bool found = block != nullptr;
            if (!found) {
                choose_checked(source);
            }
            if (!found && (source.checked_at != nullptr || pages_are_code(source)) &&
                memory_->free() > kSpare) {
                block = translate(cpu, source, indirect);
                if (block == nullptr && source.second_offset == 0) {
                    return nullptr;
                }
                wait = block != nullptr && !block->checked &&
                       (!settled(cpu, *block) || !unchanged(source));
            }
            if (wait) {
                kill_range(block->ram_offset, 1);
            } else if (block != nullptr) {
                connect(cpu, *block, next);
                const bool elsewhere =
                    block->second_offset != 0 && block->second_offset != source.next_page;
                const bool homeless = block->floating() && block->second_offset >> 12 >=
                                                               TranslatorState::kRamPagesWithHome;
                return block->guest_length == 0 || elsewhere || homeless ? nullptr : block;
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

// A store that another vCPU announced before the block was in the table finds nothing there. If it
// is done by now, and its announcement gone, it shows here.
bool Translator::unchanged(const BlockSource& source) const {
    const std::uint64_t room = kPage - (source.ram_offset & (kPage - 1));
    const volatile std::byte* ram = vm_.ram->base();
    for (const Unit& unit : units_) {
        for (std::uint64_t i = 0; i < unit.insn.length; ++i) {
            const std::uint64_t at = unit.rip - source.rip + i;
            const std::uint64_t place =
                at < room ? source.ram_offset + at : source.second_offset + (at - room);
            if (ram[place] != std::byte{unit.insn.bytes[i]}) {
                return false;
            }
        }
    }
    return true;
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

void Translator::choose_checked(BlockSource& source) const {
    const std::uint64_t room = kPage - (source.ram_offset & (kPage - 1));
    const std::uint64_t first =
        CodeLines::mask(source.ram_offset, std::min<std::uint64_t>(kMaxLength, room));
    const bool checked = options_.check_rewritten && source.second_offset == 0 &&
                         (rewritten_.of_page(source.ram_offset >> 12) & first) != 0;
    source.checked_at = checked ? vm_.ram->base() + source.ram_offset : nullptr;
}

bool Translator::ends_checked(const BlockSource& source, std::uint64_t at,
                              std::uint64_t rewritten) {
    Unit& unit = units_.back();
    if (source.checked_at == nullptr) {
        // What is rewritten becomes a block of its own.
        const bool reached =
            source.second_offset == 0 &&
            (CodeLines::mask(source.ram_offset + at, unit.insn.length) & rewritten) != 0;
        if (reached && units_.size() > 1) {
            units_.pop_back();
            return true;
        }
        return false;
    }
    unit.patched = !unit.interpreted && reads_immediate(unit.insn);
    return may_store(unit) || at + unit.insn.length >= kMostCheckedBytes;
}

void Translator::decode_units(const BlockSource& source, std::uint32_t mode, bool& stop,
                              bool& reaches_on) {
    units_.clear();
    std::uint64_t at = 0;
    const std::uint64_t room = kPage - (source.ram_offset & (kPage - 1));
    stop = false;
    unsigned branches = 0;
    const std::uint64_t rewritten =
        options_.check_rewritten ? rewritten_.of_page(source.ram_offset >> 12) : 0;
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
        if (ends_checked(source, at, rewritten)) {
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

// What the assembler has is to be written to the code memory next.
void Translator::trace(const Block& block, std::uint64_t page) {
    if (options_.trace_blocks) {
        trace_block(block, page);
    }
    if (options_.trace_decode) {
        trace_units(units_, page);
    }
    if (options_.trace_code) {
        trace_code("host", assembler_.hot(), memory_->next());
        trace_code("cold", assembler_.cold(), memory_->next_cold());
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
        const std::uint64_t room = indirect ? thunk_room(source.floating) : 0;
        Assembler& a = assembler_;
        a.restart(memory_->next() + room);
        BlockEmitter emitter(a, glue_, options_, source, units_, stop, memory_->base(),
                             memory_->next_cold(), scratch_);
        block = emitter.emit();
        STRATA_CHECK(!a.overflowed(), "a block is larger than its buffer");
        if (indirect) {
            block->indirect_entry = make_indirect_thunk(*block, true);
        }
        trace(*block, source.page);
        (void)memory_->write(a.hot());
        (void)memory_->write_cold(a.cold());
        counters_.blocks.fetch_add(1, std::memory_order_relaxed);
        counters_.guest_bytes.fetch_add(block->guest_length, std::memory_order_relaxed);
        counters_.host_bytes.fetch_add(a.offset(), std::memory_order_relaxed);
        counters_.checked_blocks.fetch_add(block->checked ? 1 : 0, std::memory_order_relaxed);
    } else if (source.checked_at != nullptr) {
        return nullptr;  // the interpreter's, and nothing would compare it
    } else {
        block = std::make_unique<Block>();
        block->ram_offset = source.ram_offset;
        block->rip = source.rip;
        block->met_at = source.page;
        block->key_mode = source.key_mode;
        block->code = static_cast<std::uint32_t>(memory_->next() - memory_->base());
        block->cold = static_cast<std::uint32_t>(memory_->next_cold() - memory_->base());
    }
    return &table_.insert(std::move(block), memory_->current_region());
}

}  // namespace strata::engine::soft
