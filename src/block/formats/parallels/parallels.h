// The format "parallels": single expanding images of Parallels Desktop and Virtuozzo.
#pragma once

#include "block/registry.h"

namespace strata::block::parallels {

const FormatDriver& driver();

}  // namespace strata::block::parallels
