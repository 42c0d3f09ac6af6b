// TinyMachine: RAM, an engine's VM and a recording dispatcher, for guests of a few instructions.
//
// Runs on either engine, named "kvm" or "soft". Guest code comes from tiny_guests.S.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "arch/x86/cpu_model.h"
#include "base/mutex.h"
#include "engine/cpu_engine.h"

namespace strata::tests {

/// The code of one tiny guest.
using GuestCode = std::span<const std::byte>;

/// Defines NAME_code() for the guest NAME of tiny_guests.S.
#define TINY_GUEST(name)                                                            \
    extern "C" const std::byte tiny_##name##_begin[], tiny_##name##_end[];          \
    inline GuestCode name##_code() {                                                \
        return {static_cast<const std::byte*>(tiny_##name##_begin),                 \
                static_cast<std::size_t>(tiny_##name##_end - tiny_##name##_begin)}; \
    }

struct PortWrite {
    std::uint16_t port;
    std::uint64_t value;
    bool operator==(const PortWrite&) const = default;
    friend void PrintTo(
        const PortWrite& write,
        std::ostream* out) {  // NOLINT(readability-identifier-naming): GoogleTest's name
        *out << "port " << write.port << " <- " << write.value;
    }
};

/// Records what the guest does; answers reads from tables. Threads: any.
class RecordingIo final : public engine::IoDispatcher {
  public:
    void mmio_read(std::uint64_t address, std::span<std::byte> data) override;
    void mmio_write(std::uint64_t address, std::span<const std::byte> data) override;
    void port_read(std::uint16_t port, std::span<std::byte> data) override;
    void port_write(std::uint16_t port, std::span<const std::byte> data) override;
    std::uint8_t acknowledge_external_interrupt() override;
    void end_of_interrupt(std::uint8_t vector) override;

    /// Called on the vCPU's thread for each port write.
    std::function<void(std::uint16_t)> on_port_write;
    std::function<std::uint8_t()> on_acknowledge;
    std::map<std::uint64_t, std::uint64_t>
        answers;  ///< by port or address; set before the guest runs

    [[nodiscard]] std::vector<PortWrite> port_writes();
    /// Bytes written to device memory, by address.
    [[nodiscard]] std::map<std::uint64_t, std::uint8_t> mmio_bytes();
    [[nodiscard]] std::vector<std::uint8_t> ended();
    /// Waits until something was written to `port`; false after ten seconds.
    [[nodiscard]] bool wait_for_port(std::uint16_t port);

  private:
    Mutex mutex_;
    CondVar changed_;
    std::vector<PortWrite> port_writes_ STRATA_GUARDED_BY(mutex_);
    std::map<std::uint64_t, std::uint8_t> mmio_ STRATA_GUARDED_BY(mutex_);
    std::vector<std::uint8_t> ended_ STRATA_GUARDED_BY(mutex_);
};

class TinyMachine {
  public:
    static constexpr std::uint64_t kCodeAddress = 0x1000, kApAddress = 0x7000,
                                   kRamBytes = 4ULL << 20;
    static constexpr std::uint16_t kEndPort = 0xf4;

    /// RAM, the long-mode tables and `vcpus` vCPUs in their power-on state.
    static Result<std::unique_ptr<TinyMachine>> create(engine::CpuEngine& engine,
                                                       std::uint32_t vcpus = 1);

    void load(std::uint64_t address, GuestCode code);
    /// The code at kCodeAddress, and vCPU 0 there in real mode or long mode.
    Result<> start_real(GuestCode code);
    Result<> start_long(GuestCode code);
    /// Runs vCPU 0 until the guest writes to kEndPort, at most `limit`; TimedOut is `detail` "timed
    /// out".
    engine::VcpuExit run(std::chrono::milliseconds limit = std::chrono::seconds(8));

    RecordingIo io;
    std::unique_ptr<memory::GuestRam> ram;
    std::unique_ptr<engine::EngineVm> vm;
    std::vector<std::unique_ptr<engine::Vcpu>> vcpus;

  private:
    TinyMachine() = default;
    void write_tables();
};

}  // namespace strata::tests
