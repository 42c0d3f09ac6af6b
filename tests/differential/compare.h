// Compare: finds and words the differences between two Outcomes of one TestCase.
#pragma once

#include <string>
#include <vector>

#include "differential/case.h"

namespace strata::differential {

/// One line per difference, e.g. "rbx: guest 0x1, host 0x2"; empty if the outcomes agree. Undefined
/// flags are not compared; `dead_flags`: those that later instructions replace are.
std::vector<std::string> differences(const TestCase& test, const Outcome& left,
                                     const Outcome& right, const char* left_name,
                                     const char* right_name, bool dead_flags);

/// The case for people: seed, disassembly with addresses, registers that address memory.
std::string describe(const TestCase& test);

}  // namespace strata::differential
