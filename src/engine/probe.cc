// Probe: the counting guest and its clock.
#include "engine/probe.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>

#include "arch/x86/cpu_model.h"
#include "arch/x86/registers.h"

namespace strata::engine {
namespace {

namespace x86 = arch::x86;

constexpr std::uint64_t kCode = 0x1000, kPml4 = 0x2000, kPdpt = 0x3000, kDirectory = 0x4000;
constexpr std::uint64_t kRamBytes = 1ULL << 20;
// 1: inc rcx; dec rdx; jmp 1b
constexpr std::array<std::uint8_t, 8> kLoop = {0x48, 0xff, 0xc1, 0x48, 0xff, 0xca, 0xeb, 0xf8};
constexpr double kInstructionsPerRound = 3;

/// The probe touches no device.
class NoIo final : public IoDispatcher {
  public:
    void mmio_read(std::uint64_t, std::span<std::byte> data) override {
        std::ranges::fill(data, std::byte{0xff});
    }
    void mmio_write(std::uint64_t, std::span<const std::byte>) override {}
    void port_read(std::uint16_t, std::span<std::byte> data) override {
        std::ranges::fill(data, std::byte{0xff});
    }
    void port_write(std::uint16_t, std::span<const std::byte>) override {}
    std::uint8_t acknowledge_external_interrupt() override { return 0xff; }
    void end_of_interrupt(std::uint8_t) override {}
};

x86::Segment flat(std::uint16_t selector, std::uint16_t attributes) {
    x86::Segment segment;
    segment.selector = selector;
    segment.attributes = attributes;
    segment.limit = 0xffffffff;
    return segment;
}

void write_guest(memory::GuestRam& ram) {
    const auto put = [&](std::uint64_t address, std::uint64_t value) {
        std::memcpy(ram.base() + address, &value, sizeof(value));
    };
    std::memcpy(ram.base() + kCode, kLoop.data(), kLoop.size());
    put(kPml4, kPdpt | 3);
    put(kPdpt, kDirectory | 3);
    put(kDirectory, 0x83);  // 2 MiB at 0
}

Result<> start_long_mode(Vcpu& vcpu) {
    x86::ArchState state;
    STRATA_TRY_VOID(vcpu.get_state(state));
    state.segments.fill(flat(16, 0xc093));
    state.segments[x86::Cs] = flat(8, 0xa09b);
    state.cr3 = kPml4;
    state.cr4 = x86::cr4::kPae;
    state.cr0 = x86::cr0::kPg | x86::cr0::kPe | x86::cr0::kNe | x86::cr0::kEt;
    state.efer = x86::efer::kLme | x86::efer::kLma;
    state.gpr[x86::Rcx] = 0;
    state.rip = kCode;
    return vcpu.set_state(state);
}

}  // namespace

Result<double> probe_mips(CpuEngine& engine, std::chrono::milliseconds time) {
    const auto ram = STRATA_TRY(memory::GuestRam::create(kRamBytes, kRamBytes));
    write_guest(*ram);
    NoIo io;
    const auto vm = STRATA_TRY(engine.create_vm(*ram, io));
    VcpuConfig config;
    config.bootstrap = true;
    config.cpuid = STRATA_TRY(x86::build_cpuid({}, {}, 0, engine.capabilities().supported_cpuid,
                                               engine.capabilities().tsc_khz));
    const auto vcpu = STRATA_TRY(vm->create_vcpu(config));
    STRATA_TRY_VOID(start_long_mode(*vcpu));
    VcpuExit exit;
    const auto begin = std::chrono::steady_clock::now();
    std::thread guest([&] { exit = vcpu->run(); });
    std::this_thread::sleep_for(time);
    vcpu->request_exit();
    guest.join();
    const std::chrono::duration<double, std::micro> taken =
        std::chrono::steady_clock::now() - begin;
    if (exit.reason != ExitReason::Interrupted) {
        return Error(
            ErrorKind::NotSupported,
            "the probe guest did not run: " +
                (exit.detail.empty() ? std::string("it ended in a triple fault") : exit.detail));
    }
    x86::ArchState state;
    STRATA_TRY_VOID(vcpu->get_state(state));
    return static_cast<double>(state.gpr[x86::Rcx]) * kInstructionsPerRound / taken.count();
}

}  // namespace strata::engine
