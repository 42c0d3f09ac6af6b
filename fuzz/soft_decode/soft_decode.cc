// SoftDecode: the software CPU's decoder in every mode, what the translator asks of an instruction,
// and the scan of pages that are to run natively.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/check.h"
#include "engine/soft/decode/classify.h"
#include "engine/soft/decode/instruction.h"
#include "engine/soft/direct/page_scan.h"
#include "engine/soft/translate/block_emitter.h"

namespace {

using namespace strata::engine::soft;  // NOLINT(google-build-using-namespace): a fuzz target

bool inside(std::uint8_t offset, std::size_t bytes, const Instruction& insn) {
    return offset == kNoOffset || offset + bytes <= insn.length;
}

/// What those who copy and rewrite instructions rely on.
void check(const Instruction& insn) {
    STRATA_CHECK(insn.length != 0 && insn.length <= 15, "a length that cannot be");
    STRATA_CHECK(insn.opcode_offset < insn.length, "an opcode outside of its instruction");
    STRATA_CHECK(inside(insn.modrm_offset, 1, insn) && inside(insn.sib_offset, 1, insn) &&
                     inside(insn.rex_offset, 1, insn) &&
                     inside(insn.vex_offset, insn.vex_length, insn) &&
                     inside(insn.disp_offset, insn.disp_size, insn),
                 "a field outside of its instruction");
    STRATA_CHECK(insn.imm_count <= 2, "too many immediates");
    for (std::size_t i = 0; i < insn.imm_count; ++i) {
        STRATA_CHECK(inside(insn.imm_offset[i], insn.imm_size[i], insn),
                     "an immediate outside of its instruction");
    }
    STRATA_CHECK(insn.mem.base <= kRipRegister && insn.mem.segment < 6, "no such register");
}

void decode_all(std::span<const std::uint8_t> bytes, CodeMode mode) {
    static const IsaSupport kIsa = IsaSupport::everything();
    for (std::size_t at = 0; at < bytes.size();) {
        // A copy of its own, so that a byte too many is seen.
        const std::vector<std::uint8_t> rest(
            bytes.begin() + static_cast<std::ptrdiff_t>(at),
            bytes.begin() + static_cast<std::ptrdiff_t>(std::min(at + 15, bytes.size())));
        Instruction insn;
        const auto status =
            decode(rest.data(), static_cast<std::uint32_t>(rest.size()), mode, kIsa, insn);
        if (status != DecodeStatus::Ok) {
            ++at;
            continue;
        }
        check(insn);
        STRATA_CHECK(insn.length <= rest.size(), "an instruction longer than what there is");
        if (mode == CodeMode::Bits64) {
            (void)can_translate(insn, ~0U >> 1U);
        }
        (void)mnemonic_name(insn);
        at += insn.length;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    const std::span<const std::uint8_t> bytes(data + 1, size - 1);
    decode_all(bytes.first(std::min<std::size_t>(bytes.size(), 512)),
               static_cast<CodeMode>(data[0] % 4));
    // The input across the start and the end of a page, with what the neighbours have of it.
    const std::size_t before = (data[0] & 4U) != 0 ? kScanBefore : 0;
    const std::size_t behind = (data[0] & 8U) != 0 ? kScanReach : 0;
    std::vector<std::uint8_t> page(before + kPageBytes + behind, 0x90);
    const std::size_t part = std::min(bytes.size(), page.size());
    std::copy_n(bytes.begin(), part, page.begin());
    std::copy_n(bytes.begin(), part, page.end() - static_cast<std::ptrdiff_t>(part));
    (void)page_runs_natively(page, before, foreign_components(data[0], 7));
    return 0;
}
