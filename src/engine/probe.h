// Probe: how fast an engine really runs a guest on this host.
//
// A /dev/kvm that opens is not KVM that works: on some cloud machines it accepts every ioctl and
// then emulates the guest at a millionth of what hardware does. So a long-mode guest that counts is
// run for a fixed time, and its count is read.
#pragma once

#include <chrono>

#include "engine/cpu_engine.h"

namespace strata::engine {

/// Below this an engine counts as emulated by the host: hardware runs the probe at thousands of
/// MIPS, an emulated one at two or so.
inline constexpr double kSaneMips = 200.0;

/// Million instructions a second that a counting loop reaches in `time` of wall clock. Runs a
/// machine of 1 MiB on a thread of its own. An error: the engine could not run even that, with the
/// reason.
Result<double> probe_mips(CpuEngine& engine,
                          std::chrono::milliseconds time = std::chrono::milliseconds(60));

}  // namespace strata::engine
