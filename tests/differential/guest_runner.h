// GuestRunner: runs TestCases as ring-3 code of a tiny long-mode guest on a CPU engine.
//
// The guest has no kernel but 256 exception handlers, each of which writes a port and halts: the
// port ends run(), the handler's address tells the vector, and the exception frame on its stack the
// rest. Threads: one.
#pragma once

#include <memory>

#include "base/result.h"
#include "differential/case.h"
#include "engine/cpu_engine.h"
#include "memory/guest_ram.h"

namespace strata::differential {

class GuestRunner {
  public:
    static Result<std::unique_ptr<GuestRunner>> create(engine::CpuEngine& engine);
    ~GuestRunner();
    Result<Outcome> run(const TestCase& test);

  private:
    class Io;
    GuestRunner() = default;
    Result<> build_tables();
    Result<> map(std::uint64_t linear, std::uint64_t physical, std::uint64_t flags);
    Result<> place(const TestCase& test);
    Result<Outcome> collect(const arch::x86::ArchState& state);

    std::unique_ptr<memory::GuestRam> ram_;
    std::unique_ptr<Io> io_;
    std::unique_ptr<engine::EngineVm> vm_;
    std::unique_ptr<engine::Vcpu> vcpu_;
    arch::x86::ArchState base_;
    std::uint64_t next_table_ = 0x10000;
};

}  // namespace strata::differential
