// PageScan: candidates by byte pairs, then the vote of decoders.
#include "engine/soft/direct/page_scan.h"

#include <algorithm>
#include <array>
#include <cstring>

#include <Zydis/Zydis.h>

#include "engine/soft/runtime/vector_state.h"

namespace strata::engine::soft {
namespace {

constexpr std::size_t kBefore = 120;  // how far before a candidate decoding begins
constexpr std::size_t kNear = 40;     // starts closer than that may not have fallen into step
constexpr std::size_t kStride = 9;
constexpr std::size_t kVotes = (kBefore - kNear) / kStride + 1;

constexpr std::array kSensitive = {
    ZYDIS_MNEMONIC_CPUID,    ZYDIS_MNEMONIC_XGETBV,  ZYDIS_MNEMONIC_RDPID,  ZYDIS_MNEMONIC_RDPKRU,
    ZYDIS_MNEMONIC_WRPKRU,   ZYDIS_MNEMONIC_SLDT,    ZYDIS_MNEMONIC_STR,    ZYDIS_MNEMONIC_VERR,
    ZYDIS_MNEMONIC_VERW,     ZYDIS_MNEMONIC_LAR,     ZYDIS_MNEMONIC_LSL,    ZYDIS_MNEMONIC_SGDT,
    ZYDIS_MNEMONIC_SIDT,     ZYDIS_MNEMONIC_SMSW,    ZYDIS_MNEMONIC_RDPMC,  ZYDIS_MNEMONIC_RDPRU,
    ZYDIS_MNEMONIC_VMCALL,   ZYDIS_MNEMONIC_VMMCALL, ZYDIS_MNEMONIC_VMFUNC, ZYDIS_MNEMONIC_SYSENTER,
    ZYDIS_MNEMONIC_MONITORX, ZYDIS_MNEMONIC_MWAITX,  ZYDIS_MNEMONIC_CLZERO, ZYDIS_MNEMONIC_UMONITOR,
    ZYDIS_MNEMONIC_UMWAIT,   ZYDIS_MNEMONIC_TPAUSE,  ZYDIS_MNEMONIC_ENCLU,
};
// Show which components the host has switched on.
constexpr std::array kStateImages = {
    ZYDIS_MNEMONIC_XSAVE,    ZYDIS_MNEMONIC_XSAVE64,  ZYDIS_MNEMONIC_XSAVEC,
    ZYDIS_MNEMONIC_XSAVEC64, ZYDIS_MNEMONIC_XSAVEOPT, ZYDIS_MNEMONIC_XSAVEOPT64,
    ZYDIS_MNEMONIC_XRSTOR,   ZYDIS_MNEMONIC_XRSTOR64,
};

/// Whether 0F `second` `third` may be one of them, whatever stands before.
bool is_candidate(std::uint8_t second, std::uint8_t third) {
    const unsigned reg = (third >> 3U) & 7U;
    const bool memory = third < 0xc0;
    switch (second) {
        case 0x00:
            return reg == 0 || reg == 1 || reg == 4 || reg == 5;
        case 0x01:
            return memory ? reg == 0 || reg == 1 || reg == 4 : true;
        case 0x02:
        case 0x03:
        case 0x33:
        case 0x34:
        case 0xa2:
            return true;
        case 0xae:
            return memory ? reg >= 4 && reg <= 6 : reg == 6;
        case 0xc7:
            return memory ? reg == 4 : reg == 7;
        default:
            return false;
    }
}

const ZydisDecoder& decoder() {
    static const ZydisDecoder kDecoder = [] {
        ZydisDecoder decoder;
        (void)ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64,
                               ZYDIS_STACK_WIDTH_64);  // cannot fail with these
        return decoder;
    }();
    return kDecoder;
}

struct Scan {
    std::span<const std::uint8_t> code;
    std::uint64_t foreign;  ///< components that state images must not have
};

/// What EAX holds where instructions are decoded in turn, as far as it is a constant.
class KnownEax {
  public:
    /// `end`: where the next instruction begins.
    void pass(const ZydisDecodedInstruction& insn, const std::uint8_t* bytes, std::size_t end) {
        constexpr std::uint8_t kMovEax = 0xb8, kStore = 0x89, kRegister = 3;
        const bool clears_edx =
            insn.length == 2 && (bytes[0] == 0x31 || bytes[0] == 0x33) && bytes[1] == 0xd2;
        const bool stores = insn.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && insn.opcode == kStore &&
                            insn.raw.modrm.mod != kRegister;
        if (bytes[0] == kMovEax && insn.length == 5) {
            std::uint32_t value = 0;
            std::memcpy(&value, bytes + 1, sizeof value);
            value_ = value;
            since_ = end;
        } else if (!clears_edx && !stores) {
            value_ = kUnknown;
        }
    }
    /// All bits, if it is not known.
    [[nodiscard]] std::uint64_t value() const { return value_; }
    [[nodiscard]] std::size_t since() const { return since_; }

  private:
    static constexpr std::uint64_t kUnknown = ~std::uint64_t{0};
    std::size_t since_ = 0;
    std::uint64_t value_ = kUnknown;
};

template <std::size_t kSize>
bool contains(const std::array<ZydisMnemonic_, kSize>& list, ZydisMnemonic mnemonic) {
    return std::find(list.begin(), list.end(), mnemonic) != list.end();
}

/// Decoding from `start` to somewhat behind `at`: does a branch lead to between `since` and `at`?
/// What is known of a register there does not hold then.
bool is_joined(const Scan& scan, std::size_t start, std::size_t since, std::size_t at) {
    constexpr std::size_t kBehind = 120;
    const std::size_t end = std::min(scan.code.size(), at + kBehind);
    while (start < end) {
        ZydisDecodedInstruction insn;
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(
                &decoder(), nullptr, scan.code.data() + start, scan.code.size() - start, &insn))) {
            ++start;
            continue;
        }
        start += insn.length;
        const std::int64_t target = static_cast<std::int64_t>(start) + insn.raw.imm[0].value.s;
        if (insn.raw.imm[0].is_relative == ZYAN_TRUE &&
            target >= static_cast<std::int64_t>(since) && target <= static_cast<std::int64_t>(at)) {
            return true;
        }
    }
    return false;
}

/// Decoding from `start` on: is the opcode at `at` a sensitive instruction's?
bool reaches(const Scan& scan, std::size_t start, std::size_t at) {
    const std::span<const std::uint8_t> code = scan.code;
    const std::size_t first = start;
    KnownEax eax;
    while (start <= at) {
        ZydisDecodedInstruction insn;
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder(), nullptr, code.data() + start,
                                                        code.size() - start, &insn))) {
            ++start;
            continue;
        }
        if (start + insn.length > at) {
            return contains(kSensitive, insn.mnemonic) ||
                   (scan.foreign != 0 && contains(kStateImages, insn.mnemonic) &&
                    ((scan.foreign & eax.value()) != 0 || is_joined(scan, first, eax.since(), at)));
        }
        eax.pass(insn, code.data() + start, start + insn.length);
        start += insn.length;
    }
    return false;
}

/// The vote of the starting points, of which a real instruction has nearly all, and bytes within
/// another next to none.
bool is_sensitive(const Scan& scan, std::size_t at) {
    if (at < kNear) {
        return reaches(scan, 0, at) ||
               reaches(scan, at, at);  // the page before is not known: nothing to vote with
    }
    std::size_t real = 0, votes = 0;
    for (std::size_t start = at - std::min(at, kBefore); start <= at - kNear; start += kStride) {
        real += reaches(scan, start, at) ? 1U : 0U;
        ++votes;
        if (real * 2 > kVotes || (votes - real) * 2 > kVotes) {
            break;  // the others change nothing any more
        }
    }
    return real * 2 >= votes;
}

}  // namespace

bool page_runs_natively(std::span<const std::uint8_t> code, std::size_t before,
                        std::uint64_t foreign) noexcept {
    const std::size_t end = std::min(code.size(), before + kPageBytes);
    for (std::size_t at = before; at < end; ++at) {
        const void* found = std::memchr(code.data() + at, 0x0f, end - at);
        if (found == nullptr) {
            return true;
        }
        at = static_cast<std::size_t>(static_cast<const std::uint8_t*>(found) - code.data());
        const std::uint8_t second = at + 1 < code.size() ? code[at + 1] : 0x90;
        const std::uint8_t third = at + 2 < code.size() ? code[at + 2] : 0;
        if (is_candidate(second, third) && is_sensitive({code, foreign}, at)) {
            return false;
        }
    }
    return true;
}

std::uint64_t foreign_components(std::uint64_t guest_xcr0, std::uint64_t host_xcr0) noexcept {
    return (guest_xcr0 ^ host_xcr0) | ((guest_xcr0 | host_xcr0) & kXcr0Pkru);
}

}  // namespace strata::engine::soft
