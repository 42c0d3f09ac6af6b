// Compare: registers, flags, vector state by component, exception, memory.
#include "differential/compare.h"

#include <cstring>

#include <Zydis/Zydis.h>
#include <cpuid.h>
#include <fmt/format.h>

#include "arch/x86/registers.h"

namespace strata::differential {
namespace {

constexpr std::uint64_t kUserEnd =
    0x7ffffffff000;  // Linux's TASK_SIZE_MAX with four-level page tables
constexpr std::uint64_t kUpperHalf = 0xffff800000000000;
constexpr const char* kNames[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                    "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

class Differ {
  public:
    Differ(const char* left, const char* right) : left_(left), right_(right) {}
    void number(std::string_view what, std::uint64_t left, std::uint64_t right) {
        if (left != right) {
            lines.push_back(
                fmt::format("{}: {} {:#x}, {} {:#x}", what, left_, left, right_, right));
        }
    }
    void bytes(const std::string& what, const std::byte* left, const std::byte* right,
               std::size_t size, std::size_t unit) {
        for (std::size_t at = 0; at < size && lines.size() < 24; at += unit) {
            if (std::memcmp(left + at, right + at, unit) != 0) {
                lines.push_back(fmt::format("{} + {}: {} {}, {} {}", what, at, left_,
                                            hex(left + at, unit), right_, hex(right + at, unit)));
            }
        }
    }
    std::vector<std::string> lines;

  private:
    static std::string hex(const std::byte* at, std::size_t size) {
        std::string text;
        for (std::size_t i = size; i > 0; --i) {
            text += fmt::format("{:02x}", static_cast<unsigned>(at[i - 1]));
        }
        return text;
    }
    const char* left_;
    const char* right_;
};

using Image = std::array<std::byte, arch::x86::kXsaveBytes>;

// The image with every component that is marked as initial filled with its initial value.
Image explicit_image(const Image& image) {
    Image full = image;
    std::uint64_t present = 0;
    std::memcpy(&present, image.data() + 512, 8);
    if ((present & 1) == 0) {
        std::memset(full.data(), 0, 24);
        full[0] = std::byte{0x7f};
        full[1] = std::byte{0x03};
        std::memset(full.data() + 32, 0, 128);
    }
    if ((present & 2) == 0) {
        std::memset(full.data() + 160, 0, 256);
    }
    for (const unsigned component : {2U, 5U, 6U, 7U}) {
        const XsaveComponent place = xsave_component(component);
        if ((present >> component & 1) == 0 && place.size != 0) {
            std::memset(full.data() + place.offset, 0, place.size);
        }
    }
    return full;
}

void compare_vectors(Differ& differ, const Image& left_image, const Image& right_image) {
    const Image left = explicit_image(left_image);
    const Image right = explicit_image(right_image);
    differ.bytes("fcw", left.data(), right.data(), 2, 2);
    differ.bytes("fsw", left.data() + 2, right.data() + 2, 2, 2);
    differ.bytes("ftw", left.data() + 4, right.data() + 4, 1, 1);
    differ.bytes("mxcsr", left.data() + 24, right.data() + 24, 4, 4);
    for (std::size_t reg = 0; reg < 8; ++reg) {
        differ.bytes(fmt::format("st{}", reg), left.data() + 32 + 16 * reg,
                     right.data() + 32 + 16 * reg, 10, 10);
    }
    differ.bytes("xmm", left.data() + 160, right.data() + 160, 256, 16);
    constexpr std::pair<unsigned, const char*> kParts[] = {
        {2, "ymm high"}, {5, "k"}, {6, "zmm high"}, {7, "zmm16-31"}};
    for (const auto& [component, name] : kParts) {
        const XsaveComponent place = xsave_component(component);
        differ.bytes(name, left.data() + place.offset, right.data() + place.offset, place.size,
                     component == 5 ? 8 : 16);
    }
}

// The index of the instruction before which the run ended; past the last for the end and for every
// place outside the case.
std::size_t ended_at(const TestCase& test, const Outcome& outcome) {
    std::uint64_t at = test.start.rip;
    std::size_t i = 0;
    for (; i < test.lengths.size() && at != outcome.end.rip; ++i) {
        at += test.lengths[i];
    }
    return i;
}

LooseFlags loose_flags(const TestCase& test, const Outcome& outcome) {
    const std::size_t index = ended_at(test, outcome);
    LooseFlags loose = test.loose_flags[index];
    if (index == test.lengths.size() && outcome.vector != arch::x86::vector::kBp) {
        for (const LooseFlags& any : test.loose_flags) {  // it jumped away from somewhere
            loose.undefined |= any.undefined;
        }
    }
    return loose;
}

bool memory_fault(const Outcome& outcome) {
    namespace vec = arch::x86::vector;
    return outcome.vector == vec::kPf || outcome.vector == vec::kGp || outcome.vector == vec::kSs;
}

// Whether both ended in a fault of one instruction that processors report differently: see Traits,
// and gs bases: AMD processors want the offset canonical too (#GP), Intel's and Strata only the
// sum, which then is at most a gs base above the hole.
bool may_fault_otherwise(const TestCase& test, const Outcome& left, const Outcome& right) {
    const std::size_t index = ended_at(test, left);
    if (index == test.traits.size() || left.end.rip != right.end.rip || !memory_fault(left) ||
        !memory_fault(right)) {
        return false;
    }
    const TestCase::Traits* traits = &test.traits[index];
    if (traits->two_parts && left.vector != right.vector) {
        return true;
    }
    return traits->either_operand || (traits->gs && left.vector == arch::x86::vector::kPf &&
                                      right.vector == arch::x86::vector::kGp &&
                                      left.fault_address - kUpperHalf < test.gs_base);
}

}  // namespace

XsaveComponent xsave_component(unsigned number) {
    std::uint32_t eax = 0;
    std::uint32_t ebx = 0;
    std::uint32_t ecx = 0;
    std::uint32_t edx = 0;
    static std::array<XsaveComponent, 8> known{};
    if (known[number].size == 0 && __get_cpuid_count(0xd, number, &eax, &ebx, &ecx, &edx) != 0) {
        known[number] = {ebx, eax};
    }
    return known[number];
}

std::vector<std::string> differences(const TestCase& test, const Outcome& left,
                                     const Outcome& right, const char* left_name,
                                     const char* right_name, bool dead_flags) {
    Differ differ(left_name, right_name);
    const bool same_fault = !may_fault_otherwise(test, left, right);
    if (same_fault) {
        differ.number("vector", left.vector, right.vector);
    }
    differ.number("rip", left.end.rip, right.end.rip);
    for (std::size_t reg = 0; reg < 16; ++reg) {
        differ.number(kNames[reg], left.end.gpr[reg], right.end.gpr[reg]);
    }
    const LooseFlags loose = loose_flags(test, right);
    const std::uint64_t compared = ~(loose.undefined | (dead_flags ? 0 : loose.dead));
    differ.number("rflags", left.end.rflags & compared, right.end.rflags & compared);
    if (left.vector == right.vector && same_fault) {
        // Host kernels keep the error code of an earlier exception for vectors without one.
        if (left.vector == arch::x86::vector::kPf || left.vector == arch::x86::vector::kGp ||
            left.vector == arch::x86::vector::kSs) {
            // For addresses past user space, Linux reports every page as present to user programs,
            // to hide its own mappings.
            const std::uint64_t hidden =
                left.vector == arch::x86::vector::kPf && left.fault_address >= kUserEnd ? 1 : 0;
            differ.number("error", left.error | hidden, right.error | hidden);
        }
        if (left.vector == arch::x86::vector::kPf) {
            differ.number("cr2", left.fault_address, right.fault_address);
        }
    }
    compare_vectors(differ, left.end.xsave, right.end.xsave);
    for (std::size_t page = 0; page < kDataPages; ++page) {
        differ.bytes(fmt::format("memory {:#x}", kDataPageAddress[page]), left.data[page].data(),
                     right.data[page].data(), kPage, 8);
    }
    return differ.lines;
}

std::string describe(const TestCase& test) {
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    std::string text = fmt::format("seed {}, gs base {:#x}, rflags {:#x}\n", test.seed,
                                   test.gs_base, test.start.rflags);
    std::size_t at = 0;
    for (const std::uint8_t length : test.lengths) {
        ZydisDecodedInstruction insn;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        char line[160] = "?";
        if (ZYAN_SUCCESS(
                ZydisDecoderDecodeFull(&decoder, test.code.data() + at, length, &insn, operands))) {
            ZydisFormatterFormatInstruction(&formatter, &insn, operands, insn.operand_count_visible,
                                            line, sizeof(line), test.start.rip + at, nullptr);
        }
        std::string raw;
        for (std::size_t i = 0; i < length; ++i) {
            raw += fmt::format("{:02x}", test.code[at + i]);
        }
        text += fmt::format("  {:#x}: {:<30} {}\n", test.start.rip + at, raw, line);
        at += length;
    }
    for (std::size_t reg = 0; reg < 16; ++reg) {
        text +=
            fmt::format("  {}={:#x}{}", kNames[reg], test.start.gpr[reg], reg % 4 == 3 ? "\n" : "");
    }
    return text;
}

}  // namespace strata::differential
