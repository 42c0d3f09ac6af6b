// Vmm: a machine's life.
#include "vmm/vmm.h"

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "arch/x86/cpu_model.h"
#include "base/log.h"
#include "block/engines/uring/ring.h"
#include "devices/serial/backends/stream_backend.h"
#include "vmm/lock_up.h"

namespace strata::vmm {
namespace {

using namespace std::chrono_literals;

// A vCPU leaves within microseconds; this is for one that never does, which is our own fault.
constexpr auto kHoldLimit = 5000ms;
constexpr auto kFlushLimit = 1000ms;
// A triple fault is a way to reset a PC (Linux: reboot=t); a guest that does nothing else would do
// it for ever.
constexpr auto kShortLife = 2s;
constexpr unsigned kMaxShortLives = 5;
// Between two attempts to write to a disk that is full.
constexpr auto kFirstRetry = 500ms, kLongestRetry = 8000ms;
// Between pvpanic's report and the end: the kernel still prints.
constexpr auto kPanicGrace = 200ms;

machine::boot::KernelEntry kernel_entry(api::KernelEntry wanted) {
    switch (wanted) {
        case api::KernelEntry::Auto:
            return machine::boot::KernelEntry::Auto;
        case api::KernelEntry::Decompress:
            return machine::boot::KernelEntry::Decompress;
        case api::KernelEntry::Stub:
            return machine::boot::KernelEntry::Stub;
    }
    return machine::boot::KernelEntry::Auto;
}

Result<std::vector<machine::pc::PcVcpu>> make_vcpus(const api::MachineConfig& config,
                                                    const engine::Capabilities& offered) {
    const arch::x86::CpuModel model = STRATA_TRY(arch::x86::CpuModel::parse(config.cpu_model));
    const arch::x86::Topology topology{config.cpus.sockets, config.cpus.cores, config.cpus.threads};
    if (topology.total() > offered.max_vcpus) {
        return Error{ErrorKind::NotSupported,
                     fmt::format("{} virtual CPUs: this engine has at most {}", topology.total(),
                                 offered.max_vcpus)};
    }
    std::vector<machine::pc::PcVcpu> vcpus;
    for (std::uint32_t i = 0; i < topology.total(); ++i) {
        vcpus.push_back({topology.apic_id(i),
                         STRATA_TRY(arch::x86::build_cpuid(
                             model, topology, i, offered.supported_cpuid, offered.tsc_khz))});
    }
    return vcpus;
}

}  // namespace

Result<std::unique_ptr<Vmm>> Vmm::create(io::PacketSocket control) {
    auto loop = STRATA_TRY(io::EventLoop::create());
    auto stop = STRATA_TRY(io::EventFd::create());
    return std::unique_ptr<Vmm>(new Vmm(std::move(loop), std::move(stop), std::move(control)));
}

Vmm::~Vmm() {
    if (control_watch_) {
        loop_->remove(*control_watch_);
    }
    if (stop_watch_) {
        loop_->remove(*stop_watch_);
    }
}

int Vmm::run() {
    auto request = receive_start();
    auto started = request ? start(request->config) : Result<>(request.error());
    if (!started) {
        fail(started.error());
        send(*ending_);
        return exit_status(started.error().kind());
    }
    loop_->run();
    if (auto held = threads_->hold(kHoldLimit); !held) {
        // Their stacks and ours cannot be taken down; what the guest wrote is in the files already
        // or lost with it.
        log::error("{}: ending the process", held.error().text());
        send(*ending_);
        _exit(1);
    }
    take_down();
    send(*ending_);
    return 0;
}

// What the guest said last goes out, then the machine goes.
void Vmm::take_down() {
    threads_.reset();
    serial_->flush(kFlushLimit);
    if (ConsoleCable* console = devices_->console()) {
        console->flush(kFlushLimit);
        console->connect(nullptr);
    }
    devices_->end_connections();
    machine_.reset();
}

Result<api::VmmRequest> Vmm::receive_start() {
    auto packet = STRATA_TRY(control_.receive());
    if (!packet) {
        return Error{ErrorKind::Unreachable, "nobody sent a start request"};
    }
    fds_ = std::move(packet->fds);
    const api::Json json = STRATA_TRY(api::parse_json(packet->text));
    auto request = STRATA_TRY(api::vmm_request_from_json(json, fds_.size()));
    if (request.operation != api::VmmOperation::Start) {
        return Error{ErrorKind::WrongState, "the first request must be start"};
    }
    return request;
}

UniqueFd Vmm::take_fd(std::int64_t place) {
    return place == api::kNoFile ? UniqueFd() : std::move(fds_[static_cast<std::size_t>(place)]);
}

Result<> Vmm::start(const api::MachineConfig& config) {
    reboot_ = config.reboot;
    profile_ = take_fd(config.profile.fd);
    chosen_ = STRATA_TRY(choose_engine(config, profile_.get()));
    serial_fd_ = take_fd(config.serial_fd);
    serial_ = STRATA_TRY(devices::open_fd_backend(*loop_, serial_fd_.get(), serial_fd_.get()));
    devices_ = STRATA_TRY(MachineDevices::open(config, fds_, *loop_));
    const host::SandboxConfig sandbox = STRATA_TRY(lock_up(config));
    STRATA_TRY_VOID(build_machine(config));
    STRATA_TRY_VOID(add_devices());
    desk_ = std::make_unique<DiskDesk>(*loop_, devices_->running_disks(),
                                       devices_->running_drives(), [this](api::Json body) {
                                           api::VmmEvent event;
                                           event.kind = api::VmmEvent::Kind::Notice;
                                           event.body = std::move(body);
                                           send(event);
                                       });
    STRATA_TRY_VOID(machine_->power_on());
    control_watch_ =
        STRATA_TRY(loop_->watch(control_.fd(), EPOLLIN, [this](std::uint32_t) { on_control(); }));
    stop_watch_ = STRATA_TRY(loop_->watch(stop_.fd(), EPOLLIN, [this](std::uint32_t) {
        (void)stop_.drain();  // level-triggered: once is enough
        finish(api::ExitCause::Stopped);
    }));
    threads_ = std::make_unique<VcpuThreads>(
        machine_->vcpus(),
        [this](std::size_t index, const engine::VcpuExit& exit) { on_vcpu_exit(index, exit); },
        [sandbox] { return host::lock_vcpu_thread(sandbox); });
    api::VmmEvent event;
    event.kind = api::VmmEvent::Kind::Started;
    event.engine = std::string(chosen_.engine->name());
    event.reason = chosen_.reason;
    send(event);
    running_since_ = io::EventLoop::Clock::now();
    threads_->release();
    return ok();
}

Result<> Vmm::build_machine(const api::MachineConfig& config) {
    machine::pc::PcConfig pc;
    pc.memory_bytes = config.memory_bytes;
    pc.vcpus = STRATA_TRY(make_vcpus(config, chosen_.engine->capabilities()));
    pc.append = config.append;
    pc.kernel_entry = kernel_entry(config.kernel_entry);
    pc.debug_exit = config.debug_exit;
    pc.test_devices = config.debug_exit;
    pc.boot_files =
        STRATA_TRY(machine::boot::BootFiles::adopt(take_fd(config.kernel.fd), config.kernel.name,
                                                   take_fd(config.initrd.fd), config.initrd.name));
    machine_ = STRATA_TRY(
        machine::pc::PcMachine::create(std::move(pc), *chosen_.engine, *loop_, *serial_, *this));
    return ok();
}

Result<> Vmm::add_devices() {
    devices_->on_disk_wait([this] { loop_->post([this] { look_at_disks(); }); });
    auto functions = STRATA_TRY(devices_->make_functions(machine_->ram()));
    for (auto& function : functions) {
        STRATA_TRY_VOID(machine_->add_device(std::move(function)));
    }
    return ok();
}

// Everything that needs the host is open and no second thread exists: from here on the process can
// only work with what it has.
Result<host::SandboxConfig> Vmm::lock_up(const api::MachineConfig& config) {
    host::SandboxConfig sandbox = sandbox_for(config, chosen_.engine->name() == "kvm");
    sandbox.io_uring = block::RingStock::adopted()->left() != 0;
    const host::SandboxReport report = STRATA_TRY(host::enter_sandbox(sandbox));
    log::info("sandbox: {}", report.text);
    log::info("disks: {}", sandbox.io_uring ? "io_uring" : "threads");
    return sandbox;
}

void Vmm::on_control() {
    auto packet = control_.receive();
    auto request = Result<api::VmmRequest>(Error{ErrorKind::Unreachable, ""});
    std::vector<UniqueFd> fds;
    if (packet && packet->has_value()) {
        auto json = api::parse_json((**packet).text);
        request = json ? api::vmm_request_from_json(*json, (**packet).fds.size())
                       : Result<api::VmmRequest>(json.error());
        if (!request) {
            log::warn("a control message makes no sense: {}", request.error().text());
            return;
        }
        fds = std::move((**packet).fds);
    }
    // A closed socket means that the owner is gone: the machine goes with it.
    if (!request || request->operation == api::VmmOperation::Stop) {
        loop_->remove(*control_watch_);
        control_watch_.reset();
        finish(api::ExitCause::Stopped);
    } else if (request->operation == api::VmmOperation::PowerButton) {
        api::VmmEvent event;
        event.kind = api::VmmEvent::Kind::PowerButton;
        event.heard = machine_->press_power_button();
        send(event);
    } else if (request->operation == api::VmmOperation::Control) {
        control(*request, std::move(fds));
    } else if (request->operation == api::VmmOperation::Retry && waiting_) {
        devices_->retry_disks();
    } else if (request->operation == api::VmmOperation::ConsoleSize &&
               devices_->console() != nullptr) {
        devices_->console()->resize(request->columns, request->rows);
    }
}

void Vmm::power_off() {
    loop_->post([this] { finish(api::ExitCause::PowerOff); });
}

void Vmm::reset() {
    loop_->post([this] { do_reset(); });
}

void Vmm::guest_crash(devices::GuestCrash crash) {
    if (crash == devices::GuestCrash::CrashLoaded) {
        return;  // its crash kernel takes over
    }
    loop_->post([this] {
        loop_->at(io::EventLoop::Clock::now() + kPanicGrace,
                  [this] { finish(api::ExitCause::Panic); });
    });
}

void Vmm::debug_exit(std::uint32_t value) {
    loop_->post([this, value] {
        api::VmmEvent event;
        event.cause = api::ExitCause::DebugExit;
        event.value = value;
        finish(std::move(event));
    });
}

void Vmm::on_vcpu_exit(std::size_t index, const engine::VcpuExit& exit) {
    loop_->post([this, index, exit] {
        if (exit.reason == engine::ExitReason::TripleFault) {
            on_triple_fault(index, exit.detail);
        } else {
            fail(Error{ErrorKind::Failed, fmt::format("vcpu {}: {}", index, exit.detail)});
        }
    });
}

void Vmm::on_triple_fault(std::size_t index, const std::string& detail) {
    if (!threads_->parked(index)) {
        return;  // of before a reset that another vCPU's fault has caused
    }
    log::info("vcpu {} triple-faulted: {}", index, detail);
    const bool short_life = io::EventLoop::Clock::now() - running_since_ < kShortLife;
    short_lives_ = short_life ? short_lives_ + 1 : 0;
    if (!reboot_ || short_lives_ >= kMaxShortLives) {
        finish(api::ExitCause::TripleFault);
    } else {
        do_reset();
    }
}

void Vmm::do_reset() {
    if (ending_) {
        return;
    }
    if (!reboot_) {
        finish(api::ExitCause::Reset);
        return;
    }
    auto done = waiting_ ? end_waiting() : ok();  // the reset gives up what waits
    if (done && paused_) {
        done = resume_for_owner();
    }
    if (done) {
        done = threads_->hold(kHoldLimit);
    }
    if (done) {
        done = machine_->reset();
    }
    if (!done) {
        fail(std::move(done).error().context("restarting the machine"));
        return;
    }
    threads_->unpark_all();
    running_since_ = io::EventLoop::Clock::now();
    threads_->release();
}

// A disk began to wait for the host, or none does any more. Any number of times.
void Vmm::look_at_disks() {
    const auto wait = devices_->waiting_disk();
    if (ending_ || wait.has_value() == waiting_.has_value()) {
        return;
    }
    if (auto done = wait ? begin_waiting(*wait) : end_waiting(); !done) {
        fail(std::move(done).error().context(wait ? "holding the machine"
                                                  : "letting the machine go on"));
    }
}

Result<> Vmm::begin_waiting(const block::DiskWait& wait) {
    STRATA_TRY_VOID(hold_machine());
    waiting_.emplace(Waiting{.pause = kFirstRetry});
    api::VmmEvent event;
    event.kind = api::VmmEvent::Kind::Waiting;
    const bool full = wait.error == ENOSPC || wait.error == EDQUOT;
    event.reason = fmt::format(
        "{}{}",
        wait.error == block::kUnreachable
            ? fmt::format("the server of disk '{}' does not answer", wait.disk)
            : Error::from_errno(fmt::format("disk '{}' cannot be {} at offset {}", wait.disk,
                                            wait.reading ? "read" : "written", wait.offset),
                                wait.error)
                  .text(),
        full ? "; make room on its file system" : "");
    send(event);
    retry_later();
    return ok();
}

Result<> Vmm::end_waiting() {
    loop_->cancel(waiting_->next);
    waiting_.reset();
    api::VmmEvent event;
    event.kind = api::VmmEvent::Kind::GoingOn;
    send(event);
    return release_machine();
}

void Vmm::retry_later() {
    waiting_->next = loop_->at(io::EventLoop::Clock::now() + waiting_->pause, [this] {
        devices_->retry_disks();
        if (waiting_) {
            waiting_->pause =
                std::min<std::chrono::milliseconds>(waiting_->pause * 2, kLongestRetry);
            retry_later();
        }
    });
}

void Vmm::finish(api::VmmEvent event) {
    if (!ending_) {
        ending_ = std::move(event);
        loop_->stop();
    }
}

void Vmm::finish(api::ExitCause cause) {
    api::VmmEvent event;
    event.cause = cause;
    finish(std::move(event));
}

void Vmm::fail(const Error& error) {
    api::VmmEvent event;
    event.cause = api::ExitCause::Error;
    event.error_kind = error.kind();
    event.error = error.text();
    finish(std::move(event));
}

void Vmm::send(const api::VmmEvent& event) const {
    if (auto sent = control_.send(api::dump_json(api::to_json(event))); !sent) {
        log::info("the owner is gone: {}", sent.error().text());
    }
}

}  // namespace strata::vmm
