// MachineRunner: runs a whole PcMachine for a test: threads for loop and vCPUs, the guest's events,
// its serial output.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "arch/x86/cpu_model.h"
#include "base/mutex.h"
#include "devices/serial/serial_backend.h"
#include "engine/cpu_engine.h"
#include "io/event_loop.h"
#include "machine/machine_events.h"
#include "machine/pc/pc_machine.h"

namespace strata::tests {

/// How a guest's run ended.
enum class Ending { TimedOut, DebugExit, PowerOff, Panic, TripleFault, InternalError };

struct GuestRun {
    std::string kernel;
    std::string initrd;
    std::string append;
    std::uint32_t vcpus = 1;
    std::uint64_t memory_bytes = 16ULL << 20;
    std::chrono::seconds limit{30};
    bool echo = false;  ///< serial output also to standard output
    bool test_devices = true;
    unsigned max_resets = 8;
    std::string wait_for;  ///< ends the run (as DebugExit with value 0) once the serial output
                           ///< contains this
    std::string act_at;    ///< calls `act`, on the loop's thread, once it contains this
    std::function<void(machine::pc::PcMachine&)> act;
    std::string press_at;  ///< presses the power button once the serial output contains this
};

struct GuestResult {
    Ending ending = Ending::TimedOut;
    std::uint32_t value = 0;  ///< DebugExit
    unsigned resets = 0;
    std::string serial;
    std::string detail;  ///< InternalError
    double seconds = 0;
    std::uint64_t instructions = 0;
    std::uint64_t direct_runs = 0;
};

/// Runs to the end or the limit. Errors: the machine could not be built.
Result<GuestResult> run_guest(const GuestRun& run, engine::CpuEngine& engine);

}  // namespace strata::tests
