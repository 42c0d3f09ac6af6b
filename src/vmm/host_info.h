// Host info: what `strata info` says about the host itself, as JSON.
#pragma once

#include "api/json.h"

namespace strata::vmm {

/// {"cpu", "cpu_level", "cpus", "memory_bytes", "memory_available_bytes", "kernel"}.
api::Json host_info();

}  // namespace strata::vmm
