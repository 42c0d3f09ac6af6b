// MachineRunner: threads and events of one test machine.
#include "machine_runner.h"

#include <cstdio>
#include <thread>

#include <fmt/core.h>

namespace strata::tests {
namespace {

using Clock = std::chrono::steady_clock;

/// Keeps what the guest writes; acts when an awaited text appears.
class RecordedSerial final : public devices::SerialBackend {
  public:
    /// `action` is called once when `text` appears (not for an empty text), on the writing vCPU's
    /// thread.
    struct Trigger {
        std::string text;
        std::function<void()> action;
        bool fired = false;
    };
    RecordedSerial(bool echo, std::vector<Trigger> triggers)
        : echo_(echo), triggers_(std::move(triggers)) {}
    void connect(devices::SerialPeer* /*peer*/) override {}
    std::size_t write(std::span<const std::byte> data) override {
        const MutexLock lock(mutex_);
        for (const std::byte byte : data) {
            text_ += static_cast<char>(byte);
        }
        if (echo_) {
            (void)std::fwrite(data.data(), 1, data.size(), stdout);  // echo for people
            (void)std::fflush(stdout);                               // echo for people
        }
        for (Trigger& trigger : triggers_) {
            const std::size_t reach = trigger.text.size() + data.size();
            const std::size_t from = text_.size() < reach ? 0 : text_.size() - reach;
            if (!trigger.fired && !trigger.text.empty() &&
                text_.find(trigger.text, from) != std::string::npos) {
                trigger.fired = true;
                trigger.action();
            }
        }
        return data.size();
    }
    void input_ready() override {}
    void flush(std::chrono::milliseconds /*limit*/) override {}
    std::string text() {
        const MutexLock lock(mutex_);
        return text_;
    }

  private:
    const bool echo_;
    Mutex mutex_;
    std::vector<Trigger> triggers_ STRATA_GUARDED_BY(mutex_);
    std::string text_ STRATA_GUARDED_BY(mutex_);
};

/// What happened first; wakes the test's thread.
class Events final : public machine::MachineEvents {
  public:
    enum class Kind { None, PowerOff, Reset, Panic, DebugExit, TripleFault, InternalError };
    void power_off() override { note(Kind::PowerOff, 0); }
    void reset() override { note(Kind::Reset, 0); }
    void guest_crash(devices::GuestCrash) override { note(Kind::Panic, 0); }
    void debug_exit(std::uint32_t value) override { note(Kind::DebugExit, value); }
    void note(Kind kind, std::uint32_t value, std::string detail = {}) {
        const MutexLock lock(mutex_);
        if (kind_ == Kind::None) {
            kind_ = kind;
            value_ = value;
            detail_ = std::move(detail);
        }
        condition_.notify_all();
    }
    Kind wait(Clock::time_point deadline, GuestResult& result) {
        const MutexLock lock(mutex_);
        while (kind_ == Kind::None && condition_.wait_until(mutex_, deadline)) {
        }
        result.value = value_;
        result.detail = detail_;
        return std::exchange(kind_, Kind::None);
    }
    /// Forgets what arrived while the vCPUs were being stopped.
    void clear() {
        const MutexLock lock(mutex_);
        kind_ = Kind::None;
    }

  private:
    Mutex mutex_;
    CondVar condition_;
    Kind kind_ STRATA_GUARDED_BY(mutex_) = Kind::None;
    std::uint32_t value_ STRATA_GUARDED_BY(mutex_) = 0;
    std::string detail_ STRATA_GUARDED_BY(mutex_);
};

/// The vCPU threads of one stretch of running.
class Threads {
  public:
    Threads(machine::pc::PcMachine& pc, Events& events) : pc_(pc) {
        for (const auto& vcpu : pc.vcpus()) {
            threads_.emplace_back([this, &events, raw = vcpu.get()] { run(*raw, events); });
        }
    }
    ~Threads() {
        stopping_.store(true, std::memory_order_seq_cst);
        for (const auto& vcpu : pc_.vcpus()) {
            vcpu->request_exit();
        }
        for (std::thread& thread : threads_) {
            thread.join();
        }
    }

  private:
    void run(engine::Vcpu& vcpu, Events& events) {
        while (!stopping_.load(std::memory_order_seq_cst)) {
            const engine::VcpuExit exit = vcpu.run();
            if (exit.reason == engine::ExitReason::TripleFault) {
                events.note(Events::Kind::TripleFault, 0);
                return;
            }
            if (exit.reason == engine::ExitReason::InternalError) {
                events.note(Events::Kind::InternalError, 0, exit.detail);
                return;
            }
        }
    }
    machine::pc::PcMachine& pc_;
    std::atomic<bool> stopping_{false};
    std::vector<std::thread> threads_;
};

/// The loop's thread.
class LoopThread {
  public:
    explicit LoopThread(io::EventLoop& loop) : loop_(loop), thread_([&loop] { loop.run(); }) {}
    ~LoopThread() { stop(); }
    void stop() {
        if (thread_.joinable()) {
            loop_.stop();
            thread_.join();
        }
    }

  private:
    io::EventLoop& loop_;
    std::thread thread_;
};

Result<machine::pc::PcConfig> machine_config(const GuestRun& run, const engine::CpuEngine& engine) {
    machine::pc::PcConfig config;
    config.memory_bytes = run.memory_bytes;
    config.append = run.append;
    config.debug_exit = true;
    config.test_devices = run.test_devices;
    config.boot_files = STRATA_TRY(machine::boot::BootFiles::open(run.kernel, run.initrd));
    const arch::x86::Topology topology{1, run.vcpus, 1};
    for (std::uint32_t i = 0; i < run.vcpus; ++i) {
        const auto& offered = engine.capabilities();
        auto cpuid = STRATA_TRY(
            arch::x86::build_cpuid({}, topology, i, offered.supported_cpuid, offered.tsc_khz));
        config.vcpus.push_back({topology.apic_id(i), std::move(cpuid)});
    }
    return config;
}

/// True: go on after a reset.
Result<bool> settle(Events::Kind kind, machine::pc::PcMachine& pc, const GuestRun& run,
                    GuestResult& result) {
    switch (kind) {
        case Events::Kind::None:
            result.ending = Ending::TimedOut;
            return false;
        case Events::Kind::PowerOff:
            result.ending = Ending::PowerOff;
            return false;
        case Events::Kind::Panic:
            result.ending = Ending::Panic;
            return false;
        case Events::Kind::DebugExit:
            result.ending = Ending::DebugExit;
            return false;
        case Events::Kind::TripleFault:
            result.ending = Ending::TripleFault;
            return false;
        case Events::Kind::InternalError:
            result.ending = Ending::InternalError;
            return false;
        case Events::Kind::Reset:
            break;
    }
    if (++result.resets > run.max_resets) {
        return false;
    }
    STRATA_TRY_VOID(pc.reset());
    return true;
}

/// Where each vCPU stands, for the report of a run that did not end.
std::string positions(machine::pc::PcMachine& pc) {
    std::string text;
    for (const auto& vcpu : pc.vcpus()) {
        arch::x86::ArchState state;
        if (vcpu->get_state(state).ok()) {
            text +=
                fmt::format("[rip {:#x} cs {:#x} rflags {:#x} cr0 {:#x} cr3 {:#x} run-state {}]",
                            state.rip, state.segments[arch::x86::Cs].base, state.rflags, state.cr0,
                            state.cr3, static_cast<int>(state.run_state));
        }
    }
    return text;
}

}  // namespace

Result<GuestResult> run_guest(const GuestRun& run, engine::CpuEngine& engine) {
    const auto loop = STRATA_TRY(io::EventLoop::create());
    Events events;
    machine::pc::PcMachine* machine = nullptr;  // set before the guest runs and writes
    RecordedSerial serial(
        run.echo, {{run.wait_for, [&events] { events.note(Events::Kind::DebugExit, 0); }},
                   {run.act_at, [&machine, &loop,
                                 &run] { loop->post([&machine, &run] { run.act(*machine); }); }},
                   {run.press_at, [&machine, &loop] {
                        loop->post([&machine] { (void)machine->press_power_button(); });
                    }}});
    auto config = STRATA_TRY(machine_config(run, engine));
    const auto pc = STRATA_TRY(
        machine::pc::PcMachine::create(std::move(config), engine, *loop, serial, events));
    machine = pc.get();
    STRATA_TRY_VOID(pc->power_on());
    LoopThread loop_thread(*loop);
    GuestResult result;
    const auto begin = Clock::now();
    bool again = true;
    while (again) {
        Events::Kind kind = Events::Kind::None;
        {
            const Threads threads(*pc, events);
            kind = events.wait(begin + run.limit, result);
        }
        events.clear();
        again = STRATA_TRY(settle(kind, *pc, run, result));
    }
    if (result.ending == Ending::TimedOut) {
        result.detail = positions(*pc);
    }
    result.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    for (const auto& vcpu : pc->vcpus()) {
        result.instructions += vcpu->counters().instructions;
        result.direct_runs += vcpu->counters().direct_runs;
    }
    loop_thread.stop();
    result.serial = serial.text();
    return result;
}

}  // namespace strata::tests
