// TinyMachine: tables of a long-mode guest, and running it under a time limit.
#include "tiny_machine.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>

#include "arch/x86/registers.h"

namespace strata::tests {
namespace {

namespace x86 = arch::x86;

TINY_GUEST(gates)

constexpr std::uint64_t kIdt = 0x3000, kGates = 0x4000, kGdt = 0x2000, kPml4 = 0x10000,
                        kPdpt = 0x11000, kDirectories = 0x12000;
constexpr std::uint64_t kPresentWritable = 3, kLarge = 0x80;

std::uint64_t number(std::span<const std::byte> data) {
    std::uint64_t value = 0;
    std::memcpy(&value, data.data(), std::min<std::size_t>(data.size(), 8));
    return value;
}

x86::Segment flat_segment(std::uint16_t selector, std::uint16_t attributes) {
    x86::Segment segment;
    segment.selector = selector;
    segment.attributes = attributes;
    segment.limit = 0xffffffff;
    return segment;
}

}  // namespace

void RecordingIo::mmio_read(std::uint64_t address, std::span<std::byte> data) {
    const auto found = answers.find(address);
    const std::uint64_t value = found == answers.end() ? ~0ULL : found->second;
    std::memcpy(data.data(), &value, std::min<std::size_t>(data.size(), 8));
}

void RecordingIo::mmio_write(std::uint64_t address, std::span<const std::byte> data) {
    const MutexLock lock(mutex_);
    for (const std::byte byte : data) {
        mmio_[address++] = static_cast<std::uint8_t>(byte);
    }
}

void RecordingIo::port_read(std::uint16_t port, std::span<std::byte> data) {
    mmio_read(port, data);
}

void RecordingIo::port_write(std::uint16_t port, std::span<const std::byte> data) {
    {
        const MutexLock lock(mutex_);
        port_writes_.push_back({port, number(data)});
        changed_.notify_all();
    }
    if (on_port_write) {
        on_port_write(port);
    }
}

std::uint8_t RecordingIo::acknowledge_external_interrupt() {
    return on_acknowledge ? on_acknowledge() : std::uint8_t{0xff};
}

void RecordingIo::end_of_interrupt(std::uint8_t vector) {
    const MutexLock lock(mutex_);
    ended_.push_back(vector);
}

std::vector<PortWrite> RecordingIo::port_writes() {
    const MutexLock lock(mutex_);
    return port_writes_;
}

std::map<std::uint64_t, std::uint8_t> RecordingIo::mmio_bytes() {
    const MutexLock lock(mutex_);
    return mmio_;
}

std::vector<std::uint8_t> RecordingIo::ended() {
    const MutexLock lock(mutex_);
    return ended_;
}

bool RecordingIo::wait_for_port(std::uint16_t port) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    const MutexLock lock(mutex_);
    while (std::ranges::find(port_writes_, port, &PortWrite::port) == port_writes_.end()) {
        if (!changed_.wait_until(mutex_, deadline)) {
            return false;
        }
    }
    return true;
}

Result<std::unique_ptr<TinyMachine>> TinyMachine::create(engine::CpuEngine& engine,
                                                         std::uint32_t vcpus) {
    auto machine = std::unique_ptr<TinyMachine>(new TinyMachine());
    machine->ram = STRATA_TRY(memory::GuestRam::create(kRamBytes, 3ULL << 30));
    machine->vm = STRATA_TRY(engine.create_vm(*machine->ram, machine->io));
    const x86::Topology topology{1, vcpus, 1};
    for (std::uint32_t index = 0; index < vcpus; ++index) {
        engine::VcpuConfig config;
        config.index = index;
        config.apic_id = topology.apic_id(index);
        config.bootstrap = index == 0;
        config.cpuid =
            STRATA_TRY(x86::build_cpuid({}, topology, index, engine.capabilities().supported_cpuid,
                                        engine.capabilities().tsc_khz));
        machine->vcpus.push_back(STRATA_TRY(machine->vm->create_vcpu(config)));
    }
    machine->write_tables();
    machine->io.on_port_write = [raw = machine.get()](std::uint16_t port) {
        if (port == kEndPort) {
            raw->vcpus[0]->request_exit();
        }
    };
    return machine;
}

void TinyMachine::load(std::uint64_t address, GuestCode code) {
    std::memcpy(ram->base() + address, code.data(), code.size());
}

void TinyMachine::write_tables() {
    const auto put = [&](std::uint64_t address, std::uint64_t value) {
        std::memcpy(ram->base() + address, &value, 8);
    };
    put(kPml4, kPdpt | kPresentWritable);
    for (std::uint64_t gigabyte = 0; gigabyte < 4; ++gigabyte) {
        const std::uint64_t directory = kDirectories + gigabyte * 0x1000;
        put(kPdpt + gigabyte * 8, directory | kPresentWritable);
        for (std::uint64_t i = 0; i < 512; ++i) {
            put(directory + i * 8, (gigabyte << 30) | (i << 21) | kLarge | kPresentWritable);
        }
    }
    put(kGdt + 8, 0x00af9b000000ffff);   // 64-bit code
    put(kGdt + 16, 0x00cf93000000ffff);  // data
    for (std::uint64_t vector = 0; vector < 64; ++vector) {
        const std::uint64_t gate = kGates + vector * 16;
        put(kIdt + vector * 16,
            (gate & 0xffff) | (8ULL << 16) | (0x8e00ULL << 32) | ((gate >> 16) << 48));
        put(kIdt + vector * 16 + 8, 0);
    }
    load(kGates, gates_code());
}

Result<> TinyMachine::start_real(GuestCode code) {
    load(kCodeAddress, code);
    x86::ArchState state;
    STRATA_TRY_VOID(vcpus[0]->get_state(state));
    state.segments[x86::Cs].selector = 0;
    state.segments[x86::Cs].base = 0;
    state.rip = kCodeAddress;
    return vcpus[0]->set_state(state);
}

Result<> TinyMachine::start_long(GuestCode code) {
    load(kCodeAddress, code);
    x86::ArchState state;
    STRATA_TRY_VOID(vcpus[0]->get_state(state));
    state.segments.fill(flat_segment(16, 0xc093));
    state.segments[x86::Cs] = flat_segment(8, 0xa09b);
    state.gdtr = {kGdt, 0x17};
    state.idtr = {kIdt, 64 * 16 - 1};
    state.cr3 = kPml4;
    state.cr4 = x86::cr4::kPae | x86::cr4::kOsfxsr;
    state.cr0 = x86::cr0::kPg | x86::cr0::kPe | x86::cr0::kNe | x86::cr0::kMp | x86::cr0::kEt;
    state.efer = x86::efer::kLme | x86::efer::kLma;
    state.gpr[x86::Rsp] = 0x8000;
    state.rip = kCodeAddress;
    return vcpus[0]->set_state(state);
}

engine::VcpuExit TinyMachine::run(std::chrono::milliseconds limit) {
    Mutex mutex;
    CondVar ended;
    bool done = false;
    bool late = false;
    std::thread watchdog([&] {
        const auto deadline = std::chrono::steady_clock::now() + limit;
        const MutexLock lock(mutex);
        while (!done && ended.wait_until(mutex, deadline)) {
        }
        if (!done) {
            late = true;
            vcpus[0]->request_exit();
        }
    });
    engine::VcpuExit exit = vcpus[0]->run();
    {
        const MutexLock lock(mutex);
        done = true;
        ended.notify_all();
    }
    watchdog.join();
    if (late) {
        exit.detail = "timed out";
    }
    return exit;
}

}  // namespace strata::tests
