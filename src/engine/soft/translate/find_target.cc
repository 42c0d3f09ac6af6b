// FindTarget: the way of an indirect branch that its vCPU's jump table does not know. Compiled for
// general registers only, as a whole: it runs while guest vector values are in host registers, and
// without a lock.
#include "engine/soft/mmu/mmu.h"
#include "engine/soft/translate/layout.h"
#include "engine/soft/translate/translator.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kPage = 4096;

}  // namespace

bool Translator::locate_code(CpuState& cpu, std::uint64_t linear, std::uint64_t& ram_offset) const {
    const std::uint32_t side = cpu.cpl == 3 ? 1 : 0;
    const std::uint64_t slot =
        cpu.translator.code_pages[side][(linear >> 12) & (TranslatorState::kCodePages - 1)];
    const auto canonical =
        static_cast<std::uint64_t>(static_cast<std::int64_t>(linear << 16) >> 16);
    if (slot != 0 && canonical == linear &&
        (slot >> 28) == (layout::code_page_key(linear, 0) >> 28)) {
        ram_offset = ((slot & TranslatorState::kRamPage) << 12) | (linear & (kPage - 1));
        cpu.translator.note_home(side, slot);  // another page may have had its place
        return true;
    }
    std::uint64_t physical = 0;
    if (!translate_linear(cpu, linear, MemAccess::Execute, Privilege::Current, physical)) {
        cpu.exception = {};  // the interpreter's fetch raises it again
        return false;
    }
    const auto offset = vm_.ram->ram_offset(memory::GuestAddress(physical));
    if (!offset) {
        return false;
    }
    ram_offset = *offset;
    const std::uint64_t key = layout::code_page_key(linear, ram_offset);
    cpu.translator.note_code_page(side, linear, key);
    return key != 0;
}

std::uint64_t Translator::locate_next_page(CpuState& cpu) const {
    constexpr std::uint64_t kLongest = 15;
    std::uint64_t offset = 0;
    if ((cpu.rip & (kPage - 1)) <= kPage - kLongest ||
        !locate_code(cpu, (cpu.rip | (kPage - 1)) + 1, offset)) {
        return 0;
    }
    return offset;
}

std::uint64_t Translator::find_target(CpuState& cpu) noexcept {
    std::uint64_t ram_offset = 0;
    if (cpu.request.load(std::memory_order_acquire) != 0 || cpu.interrupt_shadow ||
        !layout::mode_translatable(cpu.mode) || !locate_code(cpu, cpu.rip, ram_offset)) {
        return 0;
    }
    const bool floating = floats(cpu, ram_offset);
    const Block* block = index_.find(ram_offset, floating ? cpu.rip & (kPage - 1) : cpu.rip,
                                     cpu.mode | (floating ? Block::kFloating : 0));
    if (block != nullptr && block->second_offset != 0) {
        // The block itself compares. The second page's home may have taken the place of the
        // first's, which whoever enters compares: so that one is noted last.
        (void)locate_next_page(cpu);
        (void)locate_code(cpu, cpu.rip, ram_offset);
    }
    const std::uint32_t entry =
        block != nullptr ? block->indirect_entry.load(std::memory_order_acquire) : 0;
    if (entry == 0) {
        return 0;
    }
    TranslatorCounters::bump(counters_.lookups);
    const std::uint64_t host = memory_->base() + entry;
    cpu.translator.jumps[layout::jump_slot(cpu.rip)] = {cpu.rip, host};
    return host;
}

}  // namespace strata::engine::soft
