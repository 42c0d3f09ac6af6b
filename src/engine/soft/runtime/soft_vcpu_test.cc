// Tests of the run loop: tiny guests on whole machines of the soft engine, run by the interpreter.
//
// Guests run in flat 32-bit protected mode without paging (the second vCPU starts in real mode); a
// write to port F4h ends the run.
#include "engine/soft/runtime/soft_vcpu.h"

#include <atomic>
#include <cstring>
#include <initializer_list>
#include <thread>

#include <gtest/gtest.h>

#include "arch/x86/cpu_model.h"
#include "arch/x86/registers.h"
#include "engine/soft/runtime/soft_vm_impl.h"
#include "engine/soft/runtime/tsc_clock.h"
#include "engine/soft/runtime/vector_state.h"

namespace strata::engine::soft {
namespace {

namespace x86 = arch::x86;

constexpr std::uint32_t kCode = 0x1000, kHandler = 0x2000, kIdt = 0x3000, kGdt = 0x4000,
                        kCounter = 0x5000, kStack = 0x7000, kApCode = 0x8000;
constexpr std::uint32_t kApic = 0xfee00000;
constexpr std::uint8_t kVector = 0x40;

/// Ends the run of the vCPU that writes to port F4h.
class ExitPort final : public IoDispatcher {
  public:
    void mmio_read(std::uint64_t, std::span<std::byte> data) override {
        std::memset(data.data(), 0xff, data.size());
    }
    void mmio_write(std::uint64_t, std::span<const std::byte>) override {}
    void port_read(std::uint16_t, std::span<std::byte> data) override {
        std::memset(data.data(), 0xff, data.size());
    }
    void port_write(std::uint16_t port, std::span<const std::byte>) override {
        if (port == 0xf4 && target != nullptr) {
            target->request_exit();
        }
    }
    std::uint8_t acknowledge_external_interrupt() override { return kVector; }
    void end_of_interrupt(std::uint8_t) override {}
    Vcpu* target = nullptr;
};

/// Machine code, little by little.
class Code {
  public:
    Code& bytes(std::initializer_list<int> list) {
        for (const int byte : list) {
            code_.push_back(static_cast<std::uint8_t>(byte));
        }
        return *this;
    }
    Code& word(std::uint32_t value) {
        return bytes({static_cast<int>(value & 255), static_cast<int>(value >> 8 & 255),
                      static_cast<int>(value >> 16 & 255), static_cast<int>(value >> 24)});
    }
    Code& store(std::uint32_t address, std::uint32_t value) {
        return bytes({0xc7, 0x05}).word(address).word(value);
    }
    Code& increment(std::uint32_t address) { return bytes({0xff, 0x05}).word(address); }
    Code& locked_increment(std::uint32_t address) {
        return bytes({0xf0, 0xff, 0x05}).word(address);
    }
    Code& out_exit() { return bytes({0xe6, 0xf4}); }
    Code& sti() { return bytes({0xfb}); }
    Code& cli() { return bytes({0xfa}); }
    Code& hlt() { return bytes({0xf4}); }
    Code& iret() { return bytes({0xcf}); }
    Code& loop_forever() { return bytes({0xeb, 0xfe}); }
    [[nodiscard]] const std::vector<std::uint8_t>& get() const { return code_; }

  private:
    std::vector<std::uint8_t> code_;
};

class Machine {
  public:
    explicit Machine(std::uint32_t count) {
        ram = memory::GuestRam::create(1U << 20, 3ULL << 30).value();
        vm = std::make_unique<SoftVmImpl>(*ram, port, host_tsc_khz());
        const x86::CpuidTable supported = x86::software_cpuid(x86::host_cpuid());
        for (std::uint32_t i = 0; i < count; ++i) {
            VcpuConfig config;
            config.index = config.apic_id = i;
            config.bootstrap = i == 0;
            config.cpuid =
                x86::build_cpuid({}, {1, count, 1}, i, supported, host_tsc_khz()).value();
            vcpus.push_back(vm->create_vcpu(config).value());
        }
        port.target = vcpus[0].get();
        put(kHandler, Code().increment(kCounter).store(kApic + 0xb0, 0).iret());
        poke64(kGdt + 8, 0x00cf9b000000ffff);
        poke64(kGdt + 16, 0x00cf93000000ffff);
        for (const std::uint32_t vector : {2U, static_cast<std::uint32_t>(kVector)}) {
            gate(vector, kHandler);
        }
        EXPECT_TRUE(vcpus[0]->set_state(flat_state()).ok());
    }
    static x86::ArchState flat_state() {
        x86::ArchState state = x86::ArchState::power_on(0, true);
        state.cr0 = x86::cr0::kPe | x86::cr0::kEt;
        for (x86::Segment& segment : state.segments) {
            segment = {16, 0xc093, 0xffffffff, 0, false};
        }
        state.segments[x86::Cs] = {8, 0xc09b, 0xffffffff, 0, false};
        state.gdtr = {kGdt, 0x17};
        state.idtr = {kIdt, 0x7ff};
        state.gpr[x86::Rsp] = kStack;
        state.rip = kCode;
        return state;
    }
    void gate(std::uint32_t vector, std::uint32_t target) {
        poke64(kIdt + vector * 8, (target & 0xffff) | (8U << 16) | (0x8e00ULL << 32) |
                                      (static_cast<std::uint64_t>(target >> 16) << 48));
    }
    void put(std::uint32_t at, const Code& code) {
        std::memcpy(ram->base() + at, code.get().data(), code.get().size());
    }
    void poke64(std::uint32_t at, std::uint64_t value) { std::memcpy(ram->base() + at, &value, 8); }
    std::uint32_t peek(std::uint32_t at) {
        std::uint32_t value = 0;
        std::memcpy(&value, ram->base() + at, 4);
        return value;
    }
    // Until the guest stored something there.
    void wait_for(std::uint32_t at) {
        while (__atomic_load_n(reinterpret_cast<std::uint32_t*>(ram->base() + at),
                               __ATOMIC_ACQUIRE) == 0) {
            std::this_thread::yield();
        }
    }
    std::uint32_t counter() { return peek(kCounter); }
    // Runs vCPU 0 here, the others on threads of their own until it is done.
    VcpuExit run() {
        std::vector<std::thread> threads;
        for (std::size_t i = 1; i < vcpus.size(); ++i) {
            threads.emplace_back([this, i] { (void)vcpus[i]->run(); });
        }
        const VcpuExit exit = vcpus[0]->run();
        for (std::size_t i = 1; i < vcpus.size(); ++i) {
            vcpus[i]->request_exit();
        }
        for (std::thread& thread : threads) {
            thread.join();
        }
        return exit;
    }

    ExitPort port;
    std::unique_ptr<memory::GuestRam> ram;
    std::unique_ptr<SoftVmImpl> vm;
    std::vector<std::unique_ptr<Vcpu>> vcpus;
};

Code enable_apic() {
    return Code().store(kApic + 0xf0, 0x1ff);
}
Code start_timer(std::uint32_t nanoseconds) {
    return enable_apic()
        .store(kApic + 0x320, kVector)
        .store(kApic + 0x3e0, 0xb)
        .store(kApic + 0x380, nanoseconds);
}

TEST(SoftVcpuTest, RunsUntilTheGuestSaysSo) {
    Machine machine(1);
    machine.put(kCode, Code().increment(kCounter).out_exit().loop_forever());
    EXPECT_EQ(machine.run().reason, ExitReason::Interrupted);
    EXPECT_EQ(machine.counter(), 1U);
}

TEST(SoftVcpuTest, ExitRequestIsStickyUntilOneRun) {
    Machine machine(1);
    machine.put(kCode, Code().loop_forever());
    machine.vcpus[0]->request_exit();
    EXPECT_EQ(machine.run().reason, ExitReason::Interrupted);
}

TEST(SoftVcpuTest, HaltIsEndedByTheTimer) {
    Machine machine(1);
    machine.put(kCode, start_timer(1'000'000).sti().hlt().out_exit().loop_forever());
    EXPECT_EQ(machine.run().reason, ExitReason::Interrupted);
    EXPECT_EQ(machine.counter(), 1U);
}

TEST(SoftVcpuTest, RunningGuestIsInterruptedByTheTimer) {
    Machine machine(1);
    machine.put(kHandler, Code().increment(kCounter).out_exit().loop_forever());
    machine.put(kCode, start_timer(1'000'000).sti().loop_forever());
    EXPECT_EQ(machine.run().reason, ExitReason::Interrupted);
    EXPECT_EQ(machine.counter(), 1U);
}

TEST(SoftVcpuTest, InterruptWaitsForSti) {
    Machine machine(1);
    // A self-IPI while IF = 0; the counter is copied before STI. The handler returns to the second
    // store.
    machine.put(kCode, enable_apic()
                           .store(kApic + 0x300, (1U << 18) | kVector)
                           .bytes({0xa1})
                           .word(kCounter)
                           .bytes({0xa3})
                           .word(kCounter + 4)
                           .sti()
                           .bytes({0x90})
                           .bytes({0xa1})
                           .word(kCounter)
                           .bytes({0xa3})
                           .word(kCounter + 8)
                           .out_exit()
                           .loop_forever());
    EXPECT_EQ(machine.run().reason, ExitReason::Interrupted);
    EXPECT_EQ(machine.peek(kCounter + 4), 0U);
    EXPECT_EQ(machine.peek(kCounter + 8), 1U);
}

TEST(SoftVcpuTest, StiShadowCoversHlt) {
    Machine machine(1);
    // The interrupt is pending before STI: it must come after HLT began, else the guest would sleep
    // for ever.
    machine.put(kCode, enable_apic()
                           .store(kApic + 0x300, (1U << 18) | kVector)
                           .sti()
                           .hlt()
                           .out_exit()
                           .loop_forever());
    EXPECT_EQ(machine.run().reason, ExitReason::Interrupted);
    EXPECT_EQ(machine.counter(), 1U);
}

TEST(SoftVcpuTest, NmiEndsHaltWithInterruptsOff) {
    Machine machine(1);
    machine.put(kCode, Code().cli().increment(kCounter + 4).hlt().out_exit().loop_forever());
    std::thread device([&] {
        machine.wait_for(kCounter + 4);
        std::this_thread::sleep_for(std::chrono::milliseconds(
            5));  // it sleeps by then, most likely; else the test shows less
        machine.vm->inject_nmi(0);
    });
    EXPECT_EQ(machine.run().reason, ExitReason::Interrupted);
    device.join();
    EXPECT_EQ(machine.counter(), 1U);
}

TEST(SoftVcpuTest, SecondNmiWaitsForIret) {
    Machine machine(1);
    // Each NMI handler sends one more to itself, up to three; nested delivery would lose the count
    // at the end.
    machine.put(kHandler, Code()
                              .increment(kCounter)
                              .bytes({0x83, 0x3d})
                              .word(kCounter)
                              .bytes({0x03, 0x73, 0x0a})
                              .store(kApic + 0x300, (1U << 18) | 0x400)
                              .bytes({0xa1})
                              .word(kCounter)
                              .bytes({0xa3})
                              .word(kCounter + 4)
                              .iret());
    machine.put(kCode, enable_apic()
                           .cli()
                           .bytes({0x83, 0x3d})
                           .word(kCounter)
                           .bytes({0x03, 0x75, 0xf7})
                           .out_exit()
                           .loop_forever());
    machine.vm->inject_nmi(0);
    EXPECT_EQ(machine.run().reason, ExitReason::Interrupted);
    EXPECT_EQ(machine.counter(), 3U);
    EXPECT_EQ(machine.peek(kCounter + 4), 3U);
}

TEST(SoftVcpuTest, ExternalInterruptComesThroughLint0) {
    Machine machine(1);
    machine.put(kHandler, Code().increment(kCounter).out_exit().loop_forever());
    machine.put(kCode, enable_apic().store(kApic + 0x350, 0x700).sti().hlt().loop_forever());
    machine.vm->set_external_interrupt(true);
    EXPECT_EQ(machine.run().reason, ExitReason::Interrupted);
    EXPECT_EQ(machine.counter(), 1U);
}

TEST(SoftVcpuTest, MessageFromADeviceThreadEndsHalt) {
    Machine machine(1);
    machine.put(kCode, enable_apic().increment(kCounter + 4).sti().hlt().out_exit().loop_forever());
    std::thread device([&] {
        machine.wait_for(kCounter + 4);
        machine.vm->send({0xfee00000, kVector});
    });
    EXPECT_EQ(machine.run().reason, ExitReason::Interrupted);
    device.join();
    EXPECT_EQ(machine.counter(), 1U);
}

TEST(SoftVcpuTest, FaultWithoutIdtIsATripleFault) {
    Machine machine(1);
    x86::ArchState state = Machine::flat_state();
    state.idtr.limit = 0;
    ASSERT_TRUE(machine.vcpus[0]->set_state(state).ok());
    machine.put(kCode, Code().bytes({0x0f, 0x0b}));
    EXPECT_EQ(machine.run().reason, ExitReason::TripleFault);
}

TEST(SoftVcpuTest, SecondProcessorStartsByInitAndSipi) {
    Machine machine(2);
    // Real mode: mov word [5000h], 1; cli; hlt
    machine.put(kApCode,
                Code().bytes({0xc7, 0x06, 0x00, 0x50, 0x01, 0x00, 0xfa, 0xf4, 0xeb, 0xfd}));
    // cmp dword [counter], 1; jne -9
    machine.put(kCode, enable_apic()
                           .store(kApic + 0x310, 1U << 24)
                           .store(kApic + 0x300, 0x4500)
                           .store(kApic + 0x300, 0x4608)
                           .bytes({0x83, 0x3d})
                           .word(kCounter)
                           .bytes({0x01, 0x75, 0xf7})
                           .out_exit()
                           .loop_forever());
    EXPECT_EQ(machine.run().reason, ExitReason::Interrupted);
    EXPECT_EQ(machine.counter(), 1U);
}

TEST(SoftVcpuTest, LockedIncrementsOfTwoProcessorsAllCount) {
    Machine machine(2);
    x86::ArchState second = Machine::flat_state();
    second.apic_base &= ~0x100ULL;
    ASSERT_TRUE(machine.vcpus[1]->set_state(second).ok());
    // Each: mov ecx, 20000; again: lock inc [counter]; loop again; then lock inc [counter+4]; until
    // it is 2.
    machine.put(kCode, Code()
                           .bytes({0xb9})
                           .word(20000)
                           .locked_increment(kCounter)
                           .bytes({0xe2, 0xf7})
                           .locked_increment(kCounter + 4)
                           .bytes({0x83, 0x3d})
                           .word(kCounter + 4)
                           .bytes({0x02, 0x75, 0xf7})
                           .out_exit()
                           .loop_forever());
    EXPECT_EQ(machine.run().reason, ExitReason::Interrupted);
    EXPECT_EQ(machine.counter(), 40000U);
}

TEST(SoftVcpuTest, ExclusiveSectionsStopRunningProcessors) {
    Machine machine(2);
    x86::ArchState second = Machine::flat_state();
    second.apic_base &= ~0x100ULL;
    ASSERT_TRUE(machine.vcpus[1]->set_state(second).ok());
    machine.put(kCode, Code().locked_increment(kCounter).bytes({0xeb, 0xf7}));
    std::atomic<int> moved{0};
    std::thread other([&] {
        for (int i = 0; i < 200; ++i) {
            machine.vm->run_exclusive(nullptr, [&] {
                const std::uint32_t before = machine.counter();
                std::this_thread::yield();
                moved += machine.counter() != before ? 1 : 0;
            });
        }
        machine.vcpus[0]->request_exit();
    });
    EXPECT_EQ(machine.run().reason, ExitReason::Interrupted);
    other.join();
    EXPECT_EQ(moved, 0);
}

TEST(SoftVcpuTest, SavedStateContinuesInAnotherMachine) {
    Machine first(1);
    // Counts, leaves, and after the exit counts once more.
    const Code code = start_timer(100'000'000)
                          .bytes({0xb8})
                          .word(0x1234)
                          .increment(kCounter)
                          .out_exit()
                          .increment(kCounter)
                          .sti()
                          .hlt()
                          .out_exit();
    first.put(kCode, code);
    EXPECT_EQ(first.run().reason, ExitReason::Interrupted);
    x86::ArchState state;
    ASSERT_TRUE(first.vcpus[0]->get_state(state).ok());
    EXPECT_EQ(state.gpr[x86::Rax], 0x1234U);
    put_pkru(std::span(state.xsave), pkru_offset(first.vm->cpuid(*first.vm->cpus()[0])),
             0x55555554);

    Machine second(1);
    second.put(kCode, code);
    ASSERT_TRUE(second.vcpus[0]->set_state(state).ok());
    x86::ArchState again;
    ASSERT_TRUE(second.vcpus[0]->get_state(again).ok());
    again.tsc = state.tsc;
    std::memcpy(&again.lapic[0x390], &state.lapic[0x390], 4);  // the timer's count goes on
    EXPECT_EQ(state, again);
    EXPECT_EQ(second.run().reason, ExitReason::Interrupted);
    EXPECT_EQ(second.counter(), 2U) << "once by the code, once by the timer that went on";
}

TEST(SoftVcpuTest, AcknowledgedInterruptOfALoadedStateIsDeliveredOnce) {
    Machine machine(1);
    machine.put(kHandler, Code().increment(kCounter).iret());
    // With IF = 0 it waits, and is still there when the state is saved.
    machine.put(kCode, Code().out_exit().sti().bytes({0x90}).out_exit().loop_forever());
    x86::ArchState state = Machine::flat_state();
    state.events.interrupt_pending = true;
    state.events.interrupt_vector = kVector;
    ASSERT_TRUE(machine.vcpus[0]->set_state(state).ok());
    EXPECT_EQ(machine.run().reason, ExitReason::Interrupted);
    EXPECT_EQ(machine.counter(), 0U);
    ASSERT_TRUE(machine.vcpus[0]->get_state(state).ok());
    EXPECT_TRUE(state.events.interrupt_pending);
    EXPECT_EQ(state.events.interrupt_vector, kVector);
    EXPECT_EQ(machine.run().reason, ExitReason::Interrupted);
    EXPECT_EQ(machine.counter(), 1U) << "once, although no interrupt controller asks for it";
    ASSERT_TRUE(machine.vcpus[0]->get_state(state).ok());
    EXPECT_FALSE(state.events.interrupt_pending);
}

TEST(SoftVcpuTest, TwoLatchedNmisAreSavedAndDelivered) {
    Machine first(1);
    first.vm->inject_nmi(0);
    first.vm->inject_nmi(0);
    x86::ArchState state;
    ASSERT_TRUE(first.vcpus[0]->get_state(state).ok());
    EXPECT_EQ(state.events.nmis_pending, 2U);
    Machine second(1);
    // Until both handlers have run.
    second.put(kCode, Code()
                          .bytes({0x83, 0x3d})
                          .word(kCounter)
                          .bytes({0x02, 0x75, 0xf7})
                          .out_exit()
                          .loop_forever());
    ASSERT_TRUE(second.vcpus[0]->set_state(state).ok());
    EXPECT_EQ(second.run().reason, ExitReason::Interrupted);
    EXPECT_EQ(second.counter(), 2U);
}

TEST(SoftVcpuTest, ImpossibleStatesAreRefused) {
    Machine machine(1);
    x86::ArchState state = Machine::flat_state();
    state.efer = x86::efer::kLma;
    EXPECT_FALSE(machine.vcpus[0]->set_state(state).ok());
    state = Machine::flat_state();
    state.xcr0 = 0;
    EXPECT_FALSE(machine.vcpus[0]->set_state(state).ok());
    state = Machine::flat_state();
    state.segments[x86::Fs].base = 0x0000800000000000;
    EXPECT_FALSE(machine.vcpus[0]->set_state(state).ok());
}

TEST(SoftVcpuTest, TscIsTheSameOnProcessorsLoadedOneAfterTheOther) {
    Machine machine(2);
    x86::ArchState a, b;
    ASSERT_TRUE(machine.vcpus[0]->get_state(a).ok());
    ASSERT_TRUE(machine.vcpus[1]->get_state(b).ok());
    ASSERT_TRUE(machine.vcpus[0]->set_state(a).ok());
    ASSERT_TRUE(machine.vcpus[1]->set_state(b).ok());
    EXPECT_EQ(machine.vm->cpus()[0]->tsc_offset, machine.vm->cpus()[1]->tsc_offset);
}

TEST(SoftVcpuTest, DirtyLogCatchesWritesOfTheGuest) {
    Machine machine(1);
    machine.put(
        kCode, Code().increment(kCounter).out_exit().increment(kCounter).out_exit().loop_forever());
    ASSERT_TRUE(machine.vm->set_dirty_logging(true).ok());
    EXPECT_EQ(machine.run().reason, ExitReason::Interrupted);
    ASSERT_TRUE(machine.vm->sync_dirty_log().ok());
    EXPECT_TRUE(machine.ram->dirty().test(kCounter >> 12));
    machine.ram->dirty().clear();
    ASSERT_TRUE(machine.vm->sync_dirty_log().ok());
    EXPECT_FALSE(machine.ram->dirty().test(kCounter >> 12));
    EXPECT_EQ(machine.run().reason, ExitReason::Interrupted);
    EXPECT_TRUE(machine.ram->dirty().test(kCounter >> 12));
}

}  // namespace
}  // namespace strata::engine::soft
