// Zydis's decoders: one for each code mode and set of answers to what an old encoding means.
#pragma once

#include <Zydis/Zydis.h>

#include "engine/soft/decode/instruction.h"

namespace strata::engine::soft {

/// Made at the first call, for all; any thread.
const ZydisDecoder& decoder_for(CodeMode mode, const IsaSupport& isa);

}  // namespace strata::engine::soft
