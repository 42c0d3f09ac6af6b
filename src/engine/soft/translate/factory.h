// Translator factory: what a machine is given so that its vCPUs run translated code.
#pragma once

#include <memory>
#include <string_view>

#include "engine/soft/runtime/executor.h"
#include "engine/soft/translate/block_emitter.h"

namespace strata::engine::soft {

class SoftVm;

/// One translator for all vCPUs of `vm`, which outlives the factory.
Result<std::unique_ptr<ExecutorFactory>> make_translator_factory(SoftVm& vm,
                                                                 const TranslateOptions& options,
                                                                 std::uint64_t cache_bytes);

/// Options from words like "no-chain,no-groups,trace,report" (any of: no-groups, no-runs,
/// no-held, no-extend, no-chain, no-page-chain, no-jump-cache, exact-flags, no-vectors,
/// no-in-place, single, trace, report). Unknown words are an error.
Result<TranslateOptions> parse_translate_options(std::string_view text);

}  // namespace strata::engine::soft
