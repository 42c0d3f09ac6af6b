// Helpers: the C++ functions behind the glue (slow_path.cc).
#pragma once

#include "engine/soft/translate/glue.h"

namespace strata::engine::soft {

[[nodiscard]] GlueHelpers glue_helpers();

}  // namespace strata::engine::soft
