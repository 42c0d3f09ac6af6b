// vmm_main: the strata-vmm program: serves one machine, or probes the host.
#pragma once

#include <span>
#include <string_view>

namespace strata::vmm {

/// `--control-fd N`: a Vmm on the inherited socket N. `--probe`: what engines the host offers, as
/// JSON on standard output.
int vmm_main(std::span<const std::string_view> words);

}  // namespace strata::vmm
