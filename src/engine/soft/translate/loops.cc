// Loops: registers by how they change, then accesses by what they are sums of.
#include "engine/soft/translate/loops.h"

#include <algorithm>
#include <optional>

#include <Zydis/Zydis.h>

namespace strata::engine::soft {
namespace {

constexpr std::int32_t kMaxSpan = 2048;
constexpr std::int64_t kFarDisplacement = 1 << 20;
constexpr std::uint64_t kPageMask = 0xfff;
constexpr std::uint16_t kInMemory = 0x0E00;  // guest r9 to r11
constexpr unsigned kRsp = 4;
constexpr std::uint8_t kFs = 4;

bool is(std::uint16_t set, unsigned reg) {
    return ((set >> reg) & 1U) != 0;
}

// Which unit the branch at the end leads back to, if only instructions whose code calls nothing
// stand between; else the number of units.
std::size_t loop_head(const std::vector<Unit>& units) {
    const Unit& last = units.back();
    const std::uint64_t target =
        last.rip + last.insn.length + static_cast<std::uint64_t>(last.insn.imm[0]);
    if (last.insn.cls != InsnClass::Jcc) {
        return units.size();
    }
    const auto plain = [](const Unit& unit) {
        switch (unit.insn.cls) {
            case InsnClass::Copy:
            case InsnClass::CopyVector:
            case InsnClass::Special:
            case InsnClass::Lea:
            case InsnClass::Nop:
            case InsnClass::Fence:
            case InsnClass::Jcc:
                return !unit.interpreted && !unit.inlined && unit.op == nullptr;
            default:
                return false;
        }
    };
    for (std::size_t i = units.size(); i > 0 && plain(units[i - 1]); --i) {
        if (units[i - 1].rip == target) {
            return i - 1;
        }
    }
    return units.size();
}

class Finder {
  public:
    Finder(std::vector<Unit>& units, LoopWindows& loop, bool floating)
        : units_(units), loop_(loop), floating_(floating) {}

    bool find() {
        if (!plain() || !classify_registers()) {
            return false;
        }
        std::array<std::int64_t, 16> moved{};
        for (Unit& unit : units_) {
            const bool accesses =
                unit.insn.mem.present && (unit.insn.mem.read || unit.insn.mem.write);
            if (accesses && unit.insn.cls != InsnClass::Lea && unit.insn.cls != InsnClass::Nop) {
                ++(place(unit, moved) ? hoisted_ : others_);
            }
            for (unsigned reg = 0; reg < 16; ++reg) {
                moved[reg] += is(stepping_, reg) ? constant_step(unit.insn, reg).value_or(0) : 0;
            }
        }
        loop_.accesses = hoisted_;
        return loop_.stepper_count != 0 && hoisted_ != 0 && hoisted_ >= others_;
    }

  private:
    // Only classes whose code calls nothing, and a branch back to the start, where no flags are
    // awaited.
    bool plain() const {
        return loop_head(units_) == 0 && units_.front().need_before == FlagsNeed::None;
    }

    bool classify_registers() {
        for (const Unit& unit : units_) {
            written_ = static_cast<std::uint16_t>(written_ | unit.insn.gpr_write);
        }
        for (unsigned reg = 0; reg < 16; ++reg) {
            if (is(written_, reg) && !is(kInMemory, reg) && reg != kRsp && steps(reg)) {
                stepping_ = static_cast<std::uint16_t>(stepping_ | (1U << reg));
            }
        }
        return stepping_ != 0;
    }

    // Each instruction that writes it adds a constant, and so does the whole loop.
    bool steps(unsigned reg) {
        std::int64_t sum = 0, way = 0;
        for (const Unit& unit : units_) {
            if (!is(unit.insn.gpr_write, reg)) {
                continue;
            }
            const auto step = constant_step(unit.insn, reg);
            if (!step) {
                return false;
            }
            sum += *step;
            way += *step < 0 ? -*step : *step;
        }
        step_[reg] = static_cast<std::int32_t>(sum);
        return sum != 0 && way < kFarDisplacement;
    }

    std::int8_t stepper(unsigned reg) {
        for (std::uint32_t i = 0; i < loop_.stepper_count; ++i) {
            if (loop_.steppers[i].reg == static_cast<std::int8_t>(reg)) {
                return static_cast<std::int8_t>(i);
            }
        }
        if (loop_.stepper_count == LoopWindows::kSteppers) {
            return LoopWindows::kNone;
        }
        loop_.steppers[loop_.stepper_count] = {static_cast<std::int8_t>(reg), step_[reg]};
        return static_cast<std::int8_t>(loop_.stepper_count++);
    }

    // Puts the operand's address together; false if it is no sum of the wanted form.
    bool sum(const Unit& unit, LoopWindows::Base& wanted, std::int8_t& stepping) const {
        const MemoryOperand& mem = unit.insn.mem;
        stepping = kNoRegister;
        wanted.low = static_cast<std::int32_t>(mem.displacement);
        if (mem.base == kRipRegister) {
            const std::uint64_t linear =
                unit.rip + unit.insn.length + static_cast<std::uint64_t>(mem.displacement);
            wanted.constant = linear & ~kPageMask;
            wanted.anchored = floating_;
            wanted.low = static_cast<std::int32_t>(linear & kPageMask);
        } else if (mem.base >= 0) {
            const auto base = static_cast<unsigned>(mem.base);
            if (is(stepping_, base)) {
                stepping = mem.base;
            } else if (!is(written_, base)) {
                wanted.base = mem.base;
            } else {
                return false;
            }
        }
        if (mem.index < 0) {
            return true;
        }
        const auto index = static_cast<unsigned>(mem.index);
        if (is(stepping_, index)) {
            const bool alone = stepping == kNoRegister;
            stepping = mem.index;
            wanted.shift = static_cast<std::uint8_t>(__builtin_ctz(mem.scale));
            return alone;
        }
        wanted.index = mem.index;
        wanted.index_scale = mem.scale;
        return !is(written_, index);
    }

    bool place(Unit& unit, const std::array<std::int64_t, 16>& moved) {
        const Instruction& insn = unit.insn;
        const MemoryOperand& mem = insn.mem;
        const bool form =
            !mem.vsib && insn.address_size == 8 && mem.segment < kFs && !insn.uses_high_byte &&
            (mem.base == kRipRegister ||
             (mem.displacement > -kFarDisplacement && mem.displacement < kFarDisplacement));
        LoopWindows::Base wanted;
        std::int8_t stepping = kNoRegister;
        if (!form || !sum(unit, wanted, stepping)) {
            return false;
        }
        const std::int32_t displacement = wanted.low;
        if (stepping != kNoRegister) {
            const auto reg = static_cast<unsigned>(stepping);
            wanted.stepper = stepper(reg);
            if (wanted.stepper == LoopWindows::kNone) {
                return false;
            }
            wanted.low += static_cast<std::int32_t>(moved[reg] * (1LL << wanted.shift));
        }
        wanted.bytes = static_cast<std::int32_t>(access_bytes(insn));
        wanted.write = mem.write;
        const std::int8_t slot = join(wanted);
        if (slot == LoopWindows::kNone) {
            return false;
        }
        unit.slot = slot;
        unit.hoisted = true;
        unit.stepping = stepping;
        unit.displacement = displacement;
        return true;
    }

    // The base that covers `wanted`, widened or made.
    std::int8_t join(const LoopWindows::Base& wanted) {
        for (std::uint32_t i = 0; i < loop_.base_count; ++i) {
            LoopWindows::Base& base = loop_.bases[i];
            const std::int32_t low = std::min(base.low, wanted.low);
            const std::int32_t high = std::max(base.low + base.bytes, wanted.low + wanted.bytes);
            if (base.constant == wanted.constant && base.anchored == wanted.anchored &&
                base.base == wanted.base && base.index == wanted.index &&
                base.index_scale == wanted.index_scale && base.stepper == wanted.stepper &&
                base.shift == wanted.shift && high - low <= kMaxSpan) {
                base.low = low;
                base.bytes = high - low;
                base.write = base.write || wanted.write;
                return static_cast<std::int8_t>(i);
            }
        }
        if (loop_.base_count == LoopWindows::kBases) {
            return LoopWindows::kNone;
        }
        loop_.bases[loop_.base_count] = wanted;
        return static_cast<std::int8_t>(loop_.base_count++);
    }

    std::vector<Unit>& units_;
    LoopWindows& loop_;
    bool floating_;
    std::uint16_t written_ = 0, stepping_ = 0;
    std::array<std::int32_t, 16> step_{};
    unsigned hoisted_ = 0, others_ = 0;
};

}  // namespace

std::unique_ptr<LoopWindows> find_loop(std::vector<Unit>& units, std::uint64_t ram_offset,
                                       bool floating) {
    auto loop = std::make_unique<LoopWindows>();
    loop->ram_offset = ram_offset;
    if (Finder(units, *loop, floating).find()) {
        return loop;
    }
    for (Unit& unit : units) {
        unit.slot = Unit::kNoSlot;
        unit.hoisted = false;
    }
    return nullptr;
}

bool unroll_loop(std::vector<Unit>& units) {
    constexpr std::size_t kMostIterations = 4, kMostUnits = 64;
    const std::size_t first = loop_head(units), end = units.size(), once = end - first;
    if (once == 0 || end + once > kMostUnits) {
        return false;
    }
    const std::size_t more = std::min(kMostIterations - 1, (kMostUnits - end) / once) * once;
    units.reserve(end + more);
    for (std::size_t i = first; i < first + more; ++i) {
        units.push_back(units[i]);
        units[i].goes_back = (i - first + 1) % once == 0;
    }
    return true;
}

}  // namespace strata::engine::soft
