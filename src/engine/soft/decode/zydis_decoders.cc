// Zydis's decoders: their table.
#include "engine/soft/decode/zydis_decoders.h"

#include "engine/soft/decode/classify.h"

namespace strata::engine::soft {
namespace {

/// One Zydis decoder per code mode and set of "is F3 0F BC a TZCNT" answers.
ZydisDecoder make_decoder(CodeMode mode, bool lzcnt, bool tzcnt, bool cldemote) {
    ZydisDecoder decoder;
    switch (mode) {
        case CodeMode::Real16:
            ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16);
            break;
        case CodeMode::Bits16:
            ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
            break;
        case CodeMode::Bits32:
            ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
            break;
        case CodeMode::Bits64:
            ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
            break;
    }
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_KNC, ZYAN_FALSE);
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_CLDEMOTE,
                           cldemote ? ZYAN_TRUE : ZYAN_FALSE);
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_LZCNT, lzcnt ? ZYAN_TRUE : ZYAN_FALSE);
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_TZCNT, tzcnt ? ZYAN_TRUE : ZYAN_FALSE);
    return decoder;
}

struct Decoders {
    ZydisDecoder table[4][8];
    Decoders() {
        for (unsigned mode = 0; mode < 4; ++mode) {
            for (unsigned bits = 0; bits < 8; ++bits) {
                table[mode][bits] = make_decoder(static_cast<CodeMode>(mode), (bits & 1U) != 0,
                                                 (bits & 2U) != 0, (bits & 4U) != 0);
            }
        }
    }
};

}  // namespace

const ZydisDecoder& decoder_for(CodeMode mode, const IsaSupport& isa) {
    static const Decoders kDecoders;
    const unsigned bits = (isa.has(ZYDIS_ISA_SET_LZCNT) ? 1U : 0U) |
                          (isa.has(ZYDIS_ISA_SET_BMI1) ? 2U : 0U) |
                          (isa.has(ZYDIS_ISA_SET_CLDEMOTE) ? 4U : 0U);
    return kDecoders.table[static_cast<unsigned>(mode)][bits];
}

}  // namespace strata::engine::soft
