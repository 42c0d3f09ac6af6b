// StubProcess: guest code in a real process: registers, faults, mappings, kicks, and code that
// attacks its stub.
#include "engine/soft/direct/stub_process.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arch/x86/arch_state.h"
#include "engine/soft/runtime/vector_state.h"

namespace strata::engine::soft {
namespace {

namespace x86 = arch::x86;

constexpr std::uint64_t kBase = 0x123400000000, kCode = 0x400000, kData = 0x600000;
constexpr std::uint64_t kRamBytes = 16 << 12;

/// By how the VMM and its stubs tell each other: true: notifications, false: futexes.
class StubProcessTest : public testing::TestWithParam<bool> {
  protected:
    void SetUp() override {
        if (GetParam() && !Zygote::host_notifies()) {
            GTEST_SKIP() << "this host's notifications do not do";
        }
        auto zygote = Zygote::start({}, GetParam());
        ASSERT_TRUE(zygote.ok());
        zygote_ = std::move(zygote).value();
        ram_ = UniqueFd(memfd_create("ram", MFD_CLOEXEC));
        ASSERT_EQ(ftruncate(ram_.get(), kRamBytes), 0);
        auto mapping = MmapRegion::map(kRamBytes, PROT_READ | PROT_WRITE, MAP_SHARED, ram_.get());
        ASSERT_TRUE(mapping.ok());
        memory_ = std::move(mapping).value();
        ASSERT_TRUE(zygote_->set_ram(ram_.get()).ok());
        auto stub = StubProcess::create(*zygote_, kBase);
        if (!stub.ok()) {
            GTEST_SKIP() << stub.error().text();
        }
        stub_ = std::move(stub).value();
        reset_xsave(xsave_, 0x37f);
        registers_.rip = kCode;
        registers_.rflags = 0x202;
        const StubMap maps[] = {
            {kCode, 4096, 0, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED},
            {kData, 4096, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED}};
        ASSERT_TRUE(stub_->apply(maps));
    }
    void put_code(const std::vector<std::uint8_t>& bytes) {
        std::memcpy(memory_.data(), bytes.data(), bytes.size());
    }
    // A stub that was slow to stop was kicked for it, and ends its next run at once.
    bool run() {
        bool good = stub_->run(registers_, xsave_, exit_);
        while (good && !exit_.entered && exit_.signal == kStubKick && !kicked_) {
            good = stub_->run(registers_, xsave_, exit_);
        }
        return good;
    }
    // … for a guest that does not stop by itself. Again and again: on a busy host the first kick
    // may come before the guest's code runs, and ends nothing but the way there.
    bool run_and_kick() {
        std::atomic<bool> ended{false};
        std::thread kicker([&] {
            do {
                std::this_thread::sleep_for(std::chrono::milliseconds(20));
                stub_->kick();
            } while (!ended);
        });
        const bool good = run();
        ended = true;
        kicker.join();
        return good;
    }

    std::unique_ptr<Zygote> zygote_;
    UniqueFd ram_;
    MmapRegion memory_;
    std::unique_ptr<StubProcess> stub_;
    StubRegisters registers_{};
    StubExit exit_;
    bool kicked_ = false;
    alignas(64) std::array<std::byte, x86::kXsaveBytes> xsave_{};
};

TEST_P(StubProcessTest, SystemCallComesBackWithAllRegisters) {
    put_code({0x48, 0xff, 0xc3, 0x0f, 0x05});  // inc rbx; syscall
    for (unsigned i = 0; i < 16; ++i) {
        registers_.gpr[i] = 0x1111111111111111ULL * i;
    }
    registers_.fs_base = 0x7000;
    registers_.gs_base = 0x8000;
    ASSERT_TRUE(run());
    ASSERT_TRUE(exit_.entered);
    EXPECT_EQ(exit_.signal, SIGSYS);
    EXPECT_EQ(exit_.registers.rip, kCode + 5);
    EXPECT_EQ(exit_.registers.gpr[x86::Rax], 0U);
    EXPECT_EQ(exit_.registers.gpr[x86::Rbx], 0x3333333333333334ULL);
    EXPECT_EQ(exit_.registers.gpr[x86::Rsp], 0x4444444444444444ULL);
    EXPECT_EQ(exit_.registers.gpr[x86::R15], 0xffffffffffffffffULL);
    EXPECT_EQ(exit_.registers.fs_base, 0x7000U);
    EXPECT_EQ(exit_.registers.gs_base, 0x8000U);
}

TEST_P(StubProcessTest, VectorValuesGoBothWays) {
    put_code({0x66, 0x0f, 0xfe, 0xc0, 0x0f, 0x05});  // paddd xmm0, xmm0; syscall
    const std::uint32_t lanes[4] = {1, 2, 3, 4};
    std::memcpy(&xsave_[160], lanes, sizeof lanes);
    ASSERT_TRUE(run());
    std::uint32_t after[4] = {};
    std::memcpy(after, &xsave_[160], sizeof after);
    EXPECT_EQ(after[0], 2U);
    EXPECT_EQ(after[3], 8U);
}

TEST_P(StubProcessTest, UnmappedAddressIsAPageFault) {
    put_code({0x48, 0x8b, 0x00});  // mov rax, [rax]
    registers_.gpr[x86::Rax] = 0x12345678;
    ASSERT_TRUE(run());
    EXPECT_EQ(exit_.trap, 14U);
    EXPECT_EQ(exit_.address, 0x12345678U);
    EXPECT_EQ(exit_.registers.rip, kCode);
}

TEST_P(StubProcessTest, UnmappedPageIsGone) {
    put_code({0x48, 0x8b, 0x00, 0x0f, 0x05});
    registers_.gpr[x86::Rax] = kData;
    ASSERT_TRUE(run());
    EXPECT_EQ(exit_.signal, SIGSYS);
    const StubMap unmap[] = {{kData, 4096, 0, 0, 0}};
    ASSERT_TRUE(stub_->apply(unmap));
    ASSERT_TRUE(run());
    EXPECT_EQ(exit_.trap, 14U);
}

TEST_P(StubProcessTest, OrdersDoNotTellWherePagesLie) {
    put_code({0x48, 0x8b, 0x00, 0x0f, 0x05});  // mov rax, [rax]; syscall
    registers_.gpr[x86::Rax] = kBase + offsetof(StubArea, orders) + offsetof(StubOrders, maps) +
                               sizeof(StubMap) + offsetof(StubMap, ram_offset);
    ASSERT_TRUE(run());
    EXPECT_EQ(exit_.signal, SIGSYS);
    EXPECT_EQ(exit_.registers.gpr[x86::Rax], 0U);
}

TEST_P(StubProcessTest, TimeStampCounterTraps) {
    put_code({0x0f, 0x31});
    ASSERT_TRUE(run());
    EXPECT_EQ(exit_.trap, 13U);
    EXPECT_EQ(exit_.registers.rip, kCode);
}

TEST_P(StubProcessTest, KickEndsALoop) {
    put_code({0xeb, 0xfe});
    ASSERT_TRUE(run_and_kick());
    EXPECT_EQ(exit_.signal, kStubKick);
    EXPECT_EQ(exit_.registers.rip, kCode);
}

TEST_P(StubProcessTest, KickBeforeTheRunEndsItAtOnce) {
    put_code({0xeb, 0xfe});
    stub_->kick();
    kicked_ = true;
    ASSERT_TRUE(run());
    EXPECT_EQ(exit_.signal, kStubKick);
}

// The guest jumps to the stub's own system calls with arguments of its own.
TEST_P(StubProcessTest, StubsSystemCallsRefuseOtherArguments) {
    put_code({0xff, 0xe1});  // jmp rcx
    for (const char* call : {strata_stub_wake_call, strata_stub_wait_call, strata_stub_mask_call}) {
        registers_.gpr[x86::Rcx] = stub_place(kBase, call) - 2;
        registers_.gpr[x86::Rax] = 9;  // mmap
        ASSERT_TRUE(run());
        EXPECT_EQ(exit_.signal, SIGSYS);
        EXPECT_TRUE(exit_.entered || call == strata_stub_mask_call);
    }
}

// The guest forges the end of its run: writes `done` and goes on. The kernel's count finds it out,
// and notifications do not even look at it.
TEST_P(StubProcessTest, ForgedEndIsFoundOut) {
    // mov dword [rax], 1; inc qword [rbx]; jmp to the inc
    put_code({0xc7, 0x00, 0x01, 0x00, 0x00, 0x00, 0x48, 0xff, 0x03, 0xeb, 0xfb});
    registers_.gpr[x86::Rax] = kBase + offsetof(StubArea, reports) + offsetof(StubReports, done);
    registers_.gpr[x86::Rbx] = kData;
    ASSERT_TRUE(run_and_kick());
    EXPECT_EQ(exit_.signal, kStubKick);
    const volatile auto* counter =
        reinterpret_cast<const volatile std::uint64_t*>(memory_.data() + 4096);
    const std::uint64_t seen = *counter;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(*counter, seen);  // it does stand still
}

// … or writes over `entered`, so that the handler takes the run for one that has not begun and goes
// back to the guest: in a loop, once before a system call, and with `done` along.
TEST_P(StubProcessTest, ForgedBeginningDoesNotKeepItRunning) {
    const std::uint64_t reports = kBase + offsetof(StubArea, reports);
    const std::uint64_t entered = reports + offsetof(StubReports, entered),
                        done = reports + offsetof(StubReports, done);
    // mov dword [rax], 0; inc qword [rbx]; jmp to the beginning, or syscall. The second ones: mov
    // qword.
    const std::pair<std::uint64_t, std::vector<std::uint8_t>> codes[] = {
        {entered, {0xc7, 0x00, 0, 0, 0, 0, 0x48, 0xff, 0x03, 0xeb, 0xf5}},
        {entered, {0xc7, 0x00, 0, 0, 0, 0, 0x48, 0xff, 0x03, 0x0f, 0x05}},
        {done, {0x48, 0xc7, 0x00, 0, 0, 0, 0, 0x48, 0xff, 0x03, 0xeb, 0xf4}},
        {done, {0x48, 0xc7, 0x00, 0, 0, 0, 0, 0x48, 0xff, 0x03, 0x0f, 0x05}}};
    const volatile auto* counter =
        reinterpret_cast<const volatile std::uint64_t*>(memory_.data() + 4096);
    for (const auto& [address, code] : codes) {
        put_code(code);
        registers_.gpr[x86::Rax] = address;
        registers_.gpr[x86::Rbx] = kData;
        kicked_ = true;  // one run
        ASSERT_TRUE(run_and_kick());
        const std::uint64_t seen = *counter;
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        EXPECT_EQ(*counter, seen);
    }
    put_code({0x0f, 0x05});
    kicked_ = false;
    ASSERT_TRUE(run());
    EXPECT_EQ(exit_.signal, SIGSYS);
}

TEST_P(StubProcessTest, NothingIsMappedOverItsArea) {
    for (const std::uint64_t at : {kBase - 4096, kBase, kBase + sizeof(StubArea) - 4096}) {
        const StubMap map[] = {{at, 8192, 0, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED}};
        EXPECT_FALSE(stub_->apply(map));
    }
    put_code({0x0f, 0x05});
    ASSERT_TRUE(run());
    EXPECT_EQ(exit_.signal, SIGSYS);
}

// Orders that somebody forged: of the helper's calls only those that map the RAM file pass.
TEST_P(StubProcessTest, HelperMapsNothingButRam) {
    const StubMap anonymous[] = {
        {kData, 4096, 0, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED}};
    EXPECT_FALSE(stub_->apply(anonymous));
    EXPECT_FALSE(run());  // it is dead
}

TEST_P(StubProcessTest, OrdersAndCodeAreReadOnly) {
    put_code({0x48, 0x89, 0x00});  // mov [rax], rax
    for (const std::uint64_t offset :
         {std::uint64_t{0}, std::uint64_t{0x1000}, std::uint64_t{0x4ff8}}) {
        registers_.gpr[x86::Rax] = kBase + offset;
        ASSERT_TRUE(run());
        EXPECT_EQ(exit_.trap, 14U);
        EXPECT_EQ(exit_.address, kBase + offset);
    }
}

// With its stack pointer near the bottom of the signal stack no signal can be delivered: the
// process ends.
TEST_P(StubProcessTest, StubThatEndsItselfIsNoticed) {
    put_code({0x0f, 0x0b});
    registers_.gpr[x86::Rsp] =
        kBase + offsetof(StubArea, reports) + offsetof(StubReports, stack) + 1024;
    EXPECT_FALSE(run());
}

// A jump to the places where the stub's two threads wait is an end of the run like others.
TEST_P(StubProcessTest, ForgedWaitingGainsNothing) {
    put_code({0xff, 0xe1});  // jmp rcx
    for (const char* call : {strata_stub_wait_call, strata_stub_helper_wait_call}) {
        registers_.gpr[x86::Rcx] = stub_place(kBase, call) - 2;
        registers_.gpr[x86::Rax] = 202;  // futex
        registers_.gpr[x86::Rdi] = kBase + offsetof(StubArea, orders);
        registers_.gpr[x86::Rsi] = registers_.gpr[x86::R10] = 0;
        (void)run_and_kick();  // what it reports is an old report, if anything
        const StubMap again[] = {{kData, 4096, 0, PROT_READ, MAP_SHARED | MAP_FIXED}};
        ASSERT_TRUE(stub_->apply(again));
    }
    registers_.gpr[x86::Rcx] = 0x1000;
    ASSERT_TRUE(run());
    EXPECT_EQ(exit_.trap, 14U);
}

// The stub of the zygote that this process has made.
int stub_pid() {
    const auto children = [](const std::string& of) {
        std::ifstream file("/proc/" + of + "/task/" + of + "/children");
        std::vector<std::string> found;
        for (std::string pid; file >> pid;) {
            found.push_back(pid);
        }
        return found;
    };
    for (const std::string& child : children(std::to_string(getpid()))) {
        for (const std::string& stub : children(child)) {
            return std::stoi(stub);
        }
    }
    return 0;
}

// Keeps kicks from a process, as if it had found a way to go on in spite of them.
class KickSwallower {
  public:
    explicit KickSwallower(int pid) : thread_([this, pid] { swallow(pid); }) {
        while (state_ == State::Starting) {
            std::this_thread::yield();
        }
    }
    ~KickSwallower() { thread_.join(); }
    KickSwallower(const KickSwallower&) = delete;
    KickSwallower& operator=(const KickSwallower&) = delete;
    [[nodiscard]] bool works() const { return state_ == State::Works; }

  private:
    enum class State { Starting, Works, Refused };
    void swallow(int pid) {
        if (ptrace(PTRACE_SEIZE, pid, nullptr, nullptr) != 0) {
            state_ = State::Refused;
            return;
        }
        state_ = State::Works;
        int status = 0;
        while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
            const long stopped = WSTOPSIG(status);
            (void)ptrace(PTRACE_CONT, pid, nullptr, stopped == kStubKick ? 0L : stopped);
        }
    }
    std::atomic<State> state_{State::Starting};
    std::thread thread_;
};

// The last resort: a stub that no kick stops is killed after a while of its own processor time, and
// the next one runs.
TEST_P(StubProcessTest, StubThatDoesNotStopIsKilled) {
    constexpr std::uint64_t kPatience = 30'000'000;
    put_code({0xeb, 0xfe});
    KickSwallower swallower(stub_pid());
    if (!swallower.works()) {
        stub_.reset();
        GTEST_SKIP() << "this host lets nobody trace stubs";
    }
    std::atomic<bool> ended{false};
    std::thread kicker([&] {
        while (!ended) {
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
            stub_->kick(kPatience);
        }
    });
    EXPECT_FALSE(run());
    ended = true;
    kicker.join();
    auto next = StubProcess::create(*zygote_, kBase);
    ASSERT_TRUE(next.ok());
    stub_ = std::move(next).value();
    const StubMap maps[] = {{kCode, 4096, 0, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED}};
    ASSERT_TRUE(stub_->apply(maps));
    put_code({0x0f, 0x05});
    ASSERT_TRUE(run());
    EXPECT_EQ(exit_.signal, SIGSYS);
}

// One that a kick does stop is not, however often it is kicked.
TEST_P(StubProcessTest, StubThatStopsIsNotKilled) {
    constexpr std::uint64_t kPatience = 30'000'000;
    put_code({0xeb, 0xfe});
    std::atomic<bool> ended{false};
    std::thread kicker([&] {
        while (!ended) {
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
            stub_->kick(kPatience);
        }
    });
    bool good = true;
    for (int i = 0; i < 20 && good; ++i) {
        good = stub_->run(registers_, xsave_, exit_);
    }
    ended = true;
    kicker.join();
    EXPECT_TRUE(good);
}

INSTANTIATE_TEST_SUITE_P(Handing, StubProcessTest, testing::Bool(),
                         [](const auto& how) { return how.param ? "Notifications" : "Futexes"; });

}  // namespace
}  // namespace strata::engine::soft
