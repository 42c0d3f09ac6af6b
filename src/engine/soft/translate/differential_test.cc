// Differential tests: random instruction sequences under the translator and under the interpreter
// end in the same state.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include <Zydis/Zydis.h>
#include <gtest/gtest.h>

#include "engine/soft/translate/translate_test_machine.h"

namespace strata::engine::soft {
namespace {

using Machine = TranslateTestMachine;
using Random = std::mt19937_64;

constexpr std::uint64_t kArithmetic = arch::x86::rflags::kArithmetic;

std::uint64_t pick(Random& random, std::uint64_t below) {
    return random() % below;
}

std::uint64_t random_value(Random& random) {
    switch (pick(random, 16)) {
        case 0:
            return Machine::kData + 4096 - pick(random, 70);  // crosses into the second page
        case 1:
            return Machine::kData + 8192 - pick(random, 70);  // crosses into nothing
        case 2:
            return Machine::kReadOnly + pick(random, 4000);
        case 3:
            return 0x8000000000000000ULL + pick(random, 1U << 20U);  // not canonical
        case 4:
            return 0x00007FFFFFFFFFF0ULL + pick(random, 32);  // around the canonical border
        case 5:
            return ~0ULL - pick(random, 64);  // wraps around
        case 6:
            return random();
        case 7:
        case 8:
            return pick(random, 256);
        case 9:
            return Machine::kCode + 0x3000 + pick(random, 64);  // a page of code that is not run
        case 10:
            return Machine::kStack + 4096 + pick(random, 64);
        default:
            return Machine::kData + 1024 + pick(random, 32) * 64 +
                   (pick(random, 2) != 0 ? pick(random, 64) : 0);
    }
}

void random_bytes(Random& random, std::uint8_t* out, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        out[i] = static_cast<std::uint8_t>(random());
    }
}

// Sixteen bytes that may be an instruction.
void random_encoding(Random& random, std::uint8_t* out) {
    random_bytes(random, out, 16);
    std::size_t at = 0;
    if (pick(random, 8) == 0) {
        out[at++] = static_cast<std::uint8_t>(
            std::array{0x66, 0xF2, 0xF3, 0xF0, 0x67, 0x64, 0x65, 0x2E}[pick(random, 8)]);
    }
    if (pick(random, 8) == 0) {
        out[at++] = 0x66;
    }
    switch (pick(random, 10)) {
        case 0:
        case 1:
            out[at] = 0xC5;
            break;
        case 2:
            out[at] = 0xC4;
            out[at + 1] = static_cast<std::uint8_t>((out[at + 1] & 0xE0) | (1 + pick(random, 3)));
            break;
        case 3:
            out[at] = 0x62;
            out[at + 1] = static_cast<std::uint8_t>((out[at + 1] & 0xF0) | (1 + pick(random, 3)));
            out[at + 3] &= static_cast<std::uint8_t>(pick(random, 3) != 0 ? 0xFF : 0xF8);
            break;
        default:
            if (pick(random, 2) != 0) {
                out[at++] = static_cast<std::uint8_t>(0x40 | pick(random, 16));
            }
            if (pick(random, 2) != 0) {
                out[at++] = 0x0F;
                if (pick(random, 4) == 0) {
                    out[at] = pick(random, 2) != 0 ? 0x38 : 0x3A;
                }
            }
            break;
    }
}

bool wanted(const Instruction& insn) {
    // Random numbers differ, and whether SHA wants alignment differs between processors.
    switch (insn.isa_set) {
        case ZYDIS_ISA_SET_RDRAND:
        case ZYDIS_ISA_SET_RDSEED:
        case ZYDIS_ISA_SET_SHA:
            return false;
        default:
            break;
    }
    switch (insn.cls) {
        case InsnClass::Copy:
        case InsnClass::CopyVector:
        case InsnClass::Lea:
        case InsnClass::Stack:
        case InsnClass::Nop:
            return true;
        default:
            return masked_copy(insn);
    }
}

// Appends one random instruction that will stand at linear address `at`.
Instruction append_random(Random& random, const IsaSupport& isa, std::uint64_t at,
                          std::vector<std::uint8_t>& code) {
    for (;;) {
        std::uint8_t bytes[16];
        random_encoding(random, bytes);
        Instruction insn;
        if (decode(bytes, 15, CodeMode::Bits64, isa, insn) != DecodeStatus::Ok || !wanted(insn)) {
            continue;
        }
        if (insn.mem.present && insn.disp_size >= 4) {
            std::uint64_t target = pick(random, 4) == 0 ? pick(random, 128) : 0 - pick(random, 128);
            if (insn.mem.base == kRipRegister) {
                target = Machine::kData + pick(random, 0x2040) - (at + insn.length);
            } else if (insn.mem.base == kNoRegister || insn.disp_size == 8) {
                target = Machine::kData + pick(random, 0x2040);
            }
            std::memcpy(bytes + insn.disp_offset, &target, insn.disp_size);
            if (decode(bytes, 15, CodeMode::Bits64, isa, insn) != DecodeStatus::Ok) {
                continue;
            }
        }
        code.insert(code.end(), bytes, bytes + insn.length);
        return insn;
    }
}

std::vector<std::byte> component(const CpuState& cpu, unsigned bit) {
    std::uint32_t size = 0;
    std::uint32_t offset = 0;
    std::uint32_t ignored = 0;
    __cpuid_count(0xD, bit, size, offset, ignored, ignored);
    std::uint64_t present = 0;
    std::memcpy(&present, cpu.xsave + 512, 8);
    std::vector<std::byte> result(size);
    if (((present >> bit) & 1) != 0 && size != 0) {
        std::memcpy(result.data(), cpu.xsave + offset, size);
    }
    return result;
}

// Everything that counts as the vector state; not the x87's last instruction and operand pointers.
std::vector<std::byte> vector_state(const CpuState& cpu) {
    std::uint64_t present = 0;
    std::memcpy(&present, cpu.xsave + 512, 8);
    std::vector<std::byte> result(416);
    const std::uint16_t initial_fcw = 0x37f;
    std::memcpy(result.data(), &initial_fcw, 2);
    if ((present & 1) != 0) {
        std::memcpy(result.data(), cpu.xsave, 5);
        for (unsigned i = 0; i < 8; ++i) {
            std::memcpy(result.data() + 32 + 16 * i, cpu.xsave + 32 + 16 * i, 10);
        }
    }
    std::memcpy(result.data() + 24, cpu.xsave + 24, 4);
    if ((present & 2) != 0) {
        std::memcpy(result.data() + 160, cpu.xsave + 160, 256);
    }
    for (const unsigned bit : {2U, 5U, 6U, 7U}) {
        const auto part = component(cpu, bit);
        result.insert(result.end(), part.begin(), part.end());
    }
    return result;
}

std::string hex(const std::vector<std::uint8_t>& bytes) {
    std::string text;
    char part[4];
    for (const std::uint8_t value : bytes) {
        std::snprintf(part, sizeof part, "%02x ", value);
        text += part;
    }
    return text;
}

class Pair {
  public:
    explicit Pair(const TranslateOptions& options)
        : translated_(options), exact_flags_(!options.track_flags), floating_(options.float_all) {}

    // One sequence from one random state on both; empty, or what differs.
    std::string run(std::uint64_t seed) {
        Random random(seed);
        static const IsaSupport isa(translated_.vm().cpuid_table);
        const std::uint64_t start =
            pick(random, 8) == 0 ? 4096 - 1 - pick(random, 30) : 64 * pick(random, 8);
        std::vector<std::uint8_t> code;
        const std::uint64_t count = 1 + pick(random, 8);
        for (std::uint64_t i = 0; i < count; ++i) {
            (void)append_random(random, isa, Machine::kCode + start + code.size(), code);
        }
        code.push_back(0xF4);
        const std::uint64_t state_seed = random();
        std::string difference = run_both(code, Machine::kCode, start, state_seed);
        if (floating_ && difference.empty()) {
            // The same blocks, at the code's other address.
            difference = run_both({}, Machine::kCodeAlias, start, state_seed);
        }
        if (!difference.empty()) {
            difference =
                "seed " + std::to_string(seed) + ": " + difference + "\n  code " + hex(code);
        }
        return difference;
    }

  private:
    std::string run_both(const std::vector<std::uint8_t>& code, std::uint64_t base,
                         std::uint64_t start, std::uint64_t seed) {
        prepare(translated_, code, base, start, seed);
        prepare(interpreted_, code, base, start, seed);
        const ExecResult left = translated_.run_translated();
        return compare(left, interpreted_.run_interpreted());
    }

    // No `code`: what is loaded stays.
    static void prepare(Machine& machine, const std::vector<std::uint8_t>& code, std::uint64_t base,
                        std::uint64_t start, std::uint64_t seed) {
        Random random(seed);
        machine.reset();
        if (!code.empty()) {
            machine.load(code, start);
        }
        CpuState& cpu = machine.cpu();
        cpu.rip = base + start;
        for (unsigned i = 0; i < 16; ++i) {
            const std::uint64_t value = random_value(random);
            if (i != 4) {
                cpu.gpr[i] = value;
            }
        }
        cpu.gpr[4] = Machine::kStack + (pick(random, 8) == 0 ? 4096 - pick(random, 40)
                                                             : 4096 + 8 * pick(random, 100));
        cpu.rflags = 2 | (random() & kArithmetic);
        Random content(seed);
        for (std::size_t i = 0; i < machine.data().size(); i += 8) {
            const std::uint64_t value = content();
            std::memcpy(&machine.data()[i], &value, 8);
        }
        for (std::size_t i = 32; i < 416; i += 8) {
            const std::uint64_t value = content();
            std::memcpy(&cpu.xsave[i], &value, 8);
        }
    }

    std::string compare(ExecResult left, ExecResult right) {
        const CpuState& a = translated_.cpu();
        const CpuState& b = interpreted_.cpu();
        std::string text;
        const auto differ = [&](const std::string& name, std::uint64_t x, std::uint64_t y) {
            if (x != y) {
                char part[96];
                std::snprintf(part, sizeof part, "%s %lx, interpreter %lx; ", name.c_str(), x, y);
                text += part;
            }
        };
        differ("result", static_cast<std::uint64_t>(left), static_cast<std::uint64_t>(right));
        differ("rip", a.rip, b.rip);
        for (unsigned i = 0; i < 16; ++i) {
            differ("gpr" + std::to_string(i), a.gpr[i], b.gpr[i]);
        }
        if (left == ExecResult::Halted || exact_flags_) {
            differ("rflags", a.rflags, b.rflags);
        }
        differ("pending", a.exception.pending, b.exception.pending);
        if (a.exception.pending && b.exception.pending) {
            differ("vector", a.exception.vector, b.exception.vector);
            differ("error", a.exception.error, b.exception.error);
            differ("address", a.exception.fault_address, b.exception.fault_address);
        }
        if (std::memcmp(translated_.data().data(), interpreted_.data().data(),
                        translated_.data().size()) != 0) {
            text += "memory differs; ";
        }
        if (vector_state(a) != vector_state(b)) {
            text += "vector state differs; ";
        }
        return text;
    }

    Machine translated_, interpreted_;
    bool exact_flags_, floating_;
};

void run_many(TranslateOptions options, std::uint64_t first, std::uint64_t count) {
    const char* more = std::getenv("STRATA_FUZZ_ROUNDS");
    const char* only = std::getenv("STRATA_FUZZ_SEED");
    if (only != nullptr) {
        options.trace_blocks = options.trace_decode = options.trace_code = true;
        first = std::strtoull(only, nullptr, 0);
        count = 1;
    }
    Pair pair(options);
    unsigned failures = 0;
    for (std::uint64_t seed = first;
         seed < first + (more != nullptr ? std::strtoull(more, nullptr, 0) : count); ++seed) {
        const std::string difference = pair.run(seed);
        if (!difference.empty()) {
            ADD_FAILURE() << difference;
            if (++failures == 20) {
                return;
            }
        }
    }
}

TEST(DifferentialTest, RandomSequences) {
    run_many({}, 1, 6000);
}

TEST(DifferentialTest, RandomSequencesWithoutGroups) {
    TranslateOptions options;
    options.group_stack = false;
    run_many(options, 1000000, 3000);
}

TEST(DifferentialTest, RandomSequencesOfFloatingBlocks) {
    TranslateOptions options;
    options.float_all = true;
    run_many(options, 3000000, 6000);
}

TEST(DifferentialTest, RandomSequencesWithExactFlags) {
    TranslateOptions options;
    options.track_flags = false;
    run_many(options, 2000000, 3000);
}

}  // namespace
}  // namespace strata::engine::soft
