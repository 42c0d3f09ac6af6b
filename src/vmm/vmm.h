// Vmm: the process of one VM: engine, machine, vCPU threads and event loop, from a start request to
// the machine's end.
//
//   waiting --start--> running --(guest or owner)--> ending --> over
//                      |     ^
//            a disk without room, and with it again;
//            the owner's pause and resume
//                      v     |
//                      held
//
// Threads: the main thread runs the event loop, on which devices, control messages and every
// decision about the machine's life happen; vCPU threads run guest code and only post what they
// notice. Lock order: none is held across these two. The process gives up what it does not need
// (sandbox.h) after everything is open and before the first guest instruction.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "api/vmm_protocol.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "devices/serial/serial_backend.h"
#include "host/sandbox.h"
#include "io/event_fd.h"
#include "io/event_loop.h"
#include "io/packet_socket.h"
#include "machine/machine_events.h"
#include "machine/pc/pc_machine.h"
#include "vmm/disk_desk.h"
#include "vmm/engine_choice.h"
#include "vmm/machine_devices.h"
#include "vmm/vcpu_threads.h"

namespace strata::vmm {

class Vmm final : private machine::MachineEvents {
  public:
    /// `control` is the owner's end of the protocol in api/vmm_protocol.h.
    static Result<std::unique_ptr<Vmm>> create(io::PacketSocket control);
    ~Vmm() override;
    Vmm(const Vmm&) = delete;
    Vmm& operator=(const Vmm&) = delete;

    /// Waits for the start request, runs the machine to its end, reports it. Answers the process's
    /// exit status.
    int run();

    /// An eventfd: writing to it ends the machine. For signal handlers.
    [[nodiscard]] int stop_fd() const { return stop_.fd(); }

  private:
    Vmm(std::unique_ptr<io::EventLoop> loop, io::EventFd stop, io::PacketSocket control)
        : loop_(std::move(loop)), stop_(std::move(stop)), control_(std::move(control)) {}

    // MachineEvents: from any thread.
    void power_off() override;
    void reset() override;
    void guest_crash(devices::GuestCrash crash) override;
    void debug_exit(std::uint32_t value) override;

    Result<api::VmmRequest> receive_start();
    Result<> start(const api::MachineConfig& config);
    Result<> build_machine(const api::MachineConfig& config);
    Result<> add_devices();
    void take_down();
    Result<host::SandboxConfig> lock_up(const api::MachineConfig& config);
    UniqueFd take_fd(std::int64_t place);
    void on_control();
    void on_vcpu_exit(std::size_t index, const engine::VcpuExit& exit);
    void on_triple_fault(std::size_t index, const std::string& detail);
    void do_reset();
    void control(const api::VmmRequest& request, std::vector<UniqueFd> fds);
    void serve_control(const api::ControlRequest& request, const DiskDesk::Reply& reply);
    Result<> pause_for_owner();
    Result<> resume_for_owner();
    /// The guest stands still, its clock too, from hold_machine() until nobody wants that any more.
    Result<> hold_machine();
    Result<> release_machine();
    [[nodiscard]] bool held() const { return waiting_.has_value() || paused_; }
    void look_at_disks();
    Result<> begin_waiting(const block::DiskWait& wait);
    Result<> end_waiting();
    void retry_later();
    void finish(api::VmmEvent event);
    void finish(api::ExitCause cause);
    void fail(const Error& error);
    void send(const api::VmmEvent& event) const;

    std::unique_ptr<io::EventLoop> loop_;
    io::EventFd stop_;
    io::PacketSocket control_;
    std::optional<io::EventLoop::WatchId> control_watch_, stop_watch_;
    std::vector<UniqueFd> fds_;
    bool reboot_ = true;
    UniqueFd profile_;  ///< outlives the machine, which writes it
    ChosenEngine chosen_;
    UniqueFd serial_fd_;
    std::unique_ptr<devices::SerialBackend> serial_;
    std::unique_ptr<MachineDevices> devices_;  ///< the host side of machine_'s
    std::unique_ptr<machine::pc::PcMachine> machine_;
    std::unique_ptr<VcpuThreads> threads_;
    io::EventLoop::Clock::time_point running_since_;  ///< the guest's last start
    unsigned short_lives_ = 0;        ///< triple faults in a row, each right after a start
    std::unique_ptr<DiskDesk> desk_;  ///< after the machine, whose disks it works on
    std::vector<std::byte> clock_;    ///< while the machine is held: its clock as it was
    bool paused_ = false;             ///< held for the owner
    /// While the machine waits for a disk: when the next attempt is due.
    struct Waiting {
        std::chrono::milliseconds pause;
        io::EventLoop::TimerId next = 0;
    };
    std::optional<Waiting> waiting_;
    std::optional<api::VmmEvent> ending_;
};

}  // namespace strata::vmm
