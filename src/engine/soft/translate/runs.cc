// Analysis: runs of accesses off the same registers, which share one check.
#include <algorithm>
#include <array>

#include <Zydis/Zydis.h>

#include "engine/soft/translate/analysis.h"

namespace strata::engine::soft {
namespace {

constexpr unsigned kRsp = 4;  // has groups of its own
constexpr std::uint8_t kDs = 3, kSs = 2;
constexpr std::int32_t kMostBytes = 2048;
constexpr std::int64_t kFarDisplacement = 1 << 20;
constexpr std::int8_t kRunSlots = 8;  // of TranslatorState::deltas
constexpr std::size_t kMostUnits = 64;

// Accesses off base + index * scale, where both registers change by known constants only.
struct Run {
    std::uint64_t members = 0;  // units; none: not in use
    std::int8_t base = kNoRegister, index = kNoRegister;
    std::uint8_t scale = 1;
    bool write = false;
    std::int64_t moved = 0;  // since the first member
    std::int32_t low = 0, high = 0;
};

class Runs {
  public:
    explicit Runs(std::vector<Unit>& units) : units_(units) {}

    bool find() {
        const bool loop = std::any_of(units_.begin(), units_.end(),
                                      [](const Unit& unit) { return unit.goes_back; });
        for (std::size_t i = 0; i < std::min(units_.size(), kMostUnits); ++i) {
            const Unit& unit = units_[i];
            if (is_member(unit)) {
                add(i);
            }
            // Behind a branch other things hold, but for a loop's.
            const bool all = ends_checks(unit) || (unit.insn.cls == InsnClass::Jcc && !loop);
            for (Run& run : runs_) {
                if (run.members != 0 && (all || !follow(run, unit.insn))) {
                    close(run);
                }
            }
        }
        for (Run& run : runs_) {
            close(run);
        }
        return slots_ != 0;
    }

  private:
    static bool is_member(const Unit& unit) {
        const Instruction& insn = unit.insn;
        const MemoryOperand& mem = insn.mem;
        const bool copy = insn.cls == InsnClass::Copy || insn.cls == InsnClass::CopyVector;
        return copy && !unit.interpreted && mem.present && (mem.read || mem.write) && !mem.vsib &&
               mem.base >= 0 && mem.base < 16 && mem.base != kRsp && insn.address_size == 8 &&
               (mem.segment == kDs || mem.segment == kSs) && !insn.uses_high_byte &&
               mem.displacement > -kFarDisplacement && mem.displacement < kFarDisplacement;
    }

    void add(std::size_t number) {
        Unit& unit = units_[number];
        const MemoryOperand& mem = unit.insn.mem;
        const auto same = [&mem](const Run& run) {
            return run.members != 0 && run.base == mem.base && run.index == mem.index &&
                   (mem.index == kNoRegister || run.scale == mem.scale);
        };
        auto* run = std::find_if(runs_.begin(), runs_.end(), same);
        const auto bytes = static_cast<std::int32_t>(access_bytes(unit.insn));
        if (run != runs_.end()) {
            const auto low = static_cast<std::int32_t>(mem.displacement + run->moved);
            if (std::max(run->high, low + bytes) - std::min(run->low, low) > kMostBytes) {
                close(*run);
            }
        } else {
            run = std::find_if(runs_.begin(), runs_.end(),
                               [](const Run& any) { return any.members == 0; });
            if (run == runs_.end()) {
                return;
            }
        }
        if (run->members == 0) {
            const auto low = static_cast<std::int32_t>(mem.displacement);
            *run = {0, mem.base, mem.index, mem.scale, false, 0, low, low};
        }
        const auto low = static_cast<std::int32_t>(mem.displacement + run->moved);
        run->members |= 1ULL << number;
        run->low = std::min(run->low, low);
        run->high = std::max(run->high, low + bytes);
        run->write = run->write || mem.write;
        unit.displacement = low;
    }

    // Notes what an instruction does to the run's registers; false: something else than adding a
    // constant.
    static bool follow(Run& run, const Instruction& insn) {
        const auto written = [&insn](std::int8_t reg) {
            return reg >= 0 && ((insn.gpr_write >> reg) & 1) != 0;
        };
        const auto move = [&](std::int8_t reg, std::int64_t scale) {
            const auto step = constant_step(insn, static_cast<unsigned>(reg));
            if (!step || *step <= -kFarDisplacement || *step >= kFarDisplacement) {
                return false;
            }
            run.moved += *step * scale;
            return run.moved > -kFarDisplacement && run.moved < kFarDisplacement;
        };
        return (!written(run.base) || move(run.base, 1)) &&
               (!written(run.index) || move(run.index, run.scale));
    }

    void close(Run& run) {
        if (__builtin_popcountll(run.members) >= 2 && slots_ < kRunSlots) {
            Unit& first = units_[static_cast<std::size_t>(__builtin_ctzll(run.members))];
            first.run_start = true;
            first.run_write = run.write;
            first.run_low = run.low;
            first.run_bytes = run.high - run.low;
            for (std::uint64_t left = run.members; left != 0; left &= left - 1) {
                Unit& unit = units_[static_cast<std::size_t>(__builtin_ctzll(left))];
                unit.slot = slots_;
                unit.displacement -= run.low;
            }
            ++slots_;
        }
        run.members = 0;
    }

    std::vector<Unit>& units_;
    std::array<Run, 12> runs_;
    std::int8_t slots_ = 0;
};

}  // namespace

std::optional<std::int64_t> constant_step(const Instruction& insn, unsigned reg) {
    const MemoryOperand& mem = insn.mem;
    if (insn.operand_size != 8 || insn.gpr_write != (1U << reg)) {
        return std::nullopt;
    }
    if (insn.cls == InsnClass::Lea) {
        const bool plain = insn.address_size == 8 && mem.base == static_cast<std::int8_t>(reg) &&
                           mem.index == kNoRegister;
        return plain ? std::optional(mem.displacement) : std::nullopt;
    }
    if (insn.cls != InsnClass::Copy || mem.present || insn.opcode_map != 0 ||
        insn.encoding != Encoding::Legacy) {
        return std::nullopt;
    }
    const bool group = insn.mod == 3 && insn.rm == reg &&
                       (insn.opcode == 0x81 || insn.opcode == 0x83 || insn.opcode == 0xFF);
    const bool accumulator = (insn.opcode == 0x05 || insn.opcode == 0x2D) && reg == 0;
    if (!group && !accumulator) {
        return std::nullopt;
    }
    switch (insn.mnemonic) {
        case ZYDIS_MNEMONIC_ADD:
            return insn.imm[0];
        case ZYDIS_MNEMONIC_SUB:
            return -insn.imm[0];
        case ZYDIS_MNEMONIC_INC:
            return 1;
        case ZYDIS_MNEMONIC_DEC:
            return -1;
        default:
            return std::nullopt;
    }
}

bool group_base_accesses(std::vector<Unit>& units) {
    return Runs(units).find();
}

}  // namespace strata::engine::soft
