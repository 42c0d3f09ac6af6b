// DirectRunner: user code of a hand-made address space in real stub processes: what is mapped and
// when, pages that are looked at again, back-off, and stubs that are lost.
#include "engine/soft/direct/direct_runner.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "arch/x86/cpu_model.h"
#include "engine/soft/direct/direct_probe.h"
#include "engine/soft/mmu/mmu_fixture.h"
#include "engine/soft/runtime/vector_state.h"

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kCodePage = kLinear, kDataPage = kLinear + 0x1000;
constexpr std::uint64_t kDataPhysical = 0x30000;
constexpr std::uint64_t kUserPage = kP | kU | kA;
constexpr std::uint64_t kTscKhz = 1'000'000;

// The number in front of which `name` stands in a report.
std::uint64_t counted(const std::string& report, const std::string& name) {
    const std::size_t at = report.find(" " + name + " ");
    return at == std::string::npos ? ~0ULL : std::stoull(report.substr(at + name.size() + 2));
}

// The processes that this one's children have made.
std::vector<int> grandchildren() {
    std::vector<int> found;
    const auto parent = [](int pid) {
        std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
        std::string text;
        std::getline(file, text);
        const std::size_t end = text.rfind(')');
        return end == std::string::npos ? 0 : std::stoi(text.substr(end + 4));
    };
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
        const std::string name = entry.path().filename();
        if (name.find_first_not_of("0123456789") == std::string::npos) {
            const int pid = std::stoi(name), above = parent(pid);
            if (above > 1 && parent(above) == getpid()) {
                found.push_back(pid);
            }
        }
    }
    return found;
}

class DirectRunnerTest : public MmuTest {
  protected:
    void SetUp() override {
        if (const auto possible = probe_direct_execution(); !possible.ok()) {
            GTEST_SKIP() << "this host has no stubs: " << possible.error().text();
        }
        auto zygote = Zygote::start({});
        ASSERT_TRUE(zygote.ok());
        zygote_ = std::move(zygote).value();
        ASSERT_TRUE(zygote_->set_ram(vm_->ram->fd()).ok());
        vm_->cpuid_table = x86::software_cpuid(x86::host_cpuid());
        constexpr std::uint64_t kFsgsbase = 1U << 16U;
        long_mode(kFsgsbase | x86::cr4::kOsfxsr | x86::cr4::kOsxmmexcpt | x86::cr4::kOsxsave);
        cpu_.xcr0 = host_vector_mask();
        cpu_.rflags = 0x202;
        cpu_.vector_live = 0;
        reset_xsave(std::span<std::byte, x86::kXsaveBytes>(cpu_.xsave), 0x37f);
        std::uint16_t cs = 0, ss = 0;
        __asm__("movw %%cs, %0\n\tmovw %%ss, %1" : "=r"(cs), "=r"(ss));
        for (Segment& segment : cpu_.segments) {
            segment = {.selector = 0, .attributes = 0xC0F3, .limit = ~0U, .base = 0};
        }
        cpu_.segments[x86::Cs] = {.selector = cs, .attributes = 0xA0FB, .limit = ~0U, .base = 0};
        cpu_.segments[x86::Ss].selector = ss;
        map(kUserPage, kP | kW | kU | kA);
        user();
        update_mode(cpu_);
        runner_ = std::make_unique<DirectRunner>(cpu_, *zygote_, kTscKhz, true);
        put({0x0f, 0x05});
        cpu_.rip = kCodePage;
        ASSERT_EQ(runner_->run(), DirectRunner::Outcome::Refused);
        ASSERT_GT(runner_->runs(), 0U) << runner_->report();
    }
    void TearDown() override { runner_.reset(); }

    void put(std::initializer_list<std::uint8_t> bytes) {
        std::memset(vm_->ram->base() + kData, 0, 0x1000);
        std::memcpy(vm_->ram->base() + kData, bytes.begin(), bytes.size());
    }
    void map_page(std::uint64_t linear, std::uint64_t entry) {
        poke(kLevel1 + ((linear >> 12) & 511) * 8, entry);
    }
    DirectRunner::Outcome run() {
        cpu_.rip = kCodePage;
        return runner_->run();
    }
    [[nodiscard]] std::uint64_t count(const std::string& name) const {
        return counted(runner_->report(), name);
    }
    // The page of code is taken away and comes back, as when a process ends and another is made.
    void replace_code(std::initializer_list<std::uint8_t> bytes) {
        map_page(kCodePage, 0);
        flush_tlb_all(cpu_);
        (void)run();
        cpu_.exception = {};
        put(bytes);
        map_page(kCodePage, kData | kUserPage);
        flush_tlb_all(cpu_);
    }

    std::unique_ptr<Zygote> zygote_;
    std::unique_ptr<DirectRunner> runner_;
};

TEST_F(DirectRunnerTest, RunsToTheSystemCall) {
    put({0x48, 0xff, 0xc3, 0x0f, 0x05});  // inc rbx; syscall
    cpu_.gpr[x86::Rbx] = 41;
    const std::uint64_t before = runner_->runs();
    EXPECT_EQ(run(), DirectRunner::Outcome::Refused);
    EXPECT_EQ(cpu_.gpr[x86::Rbx], 42U);
    EXPECT_EQ(cpu_.rip, kCodePage + 3);
    EXPECT_EQ(runner_->runs(), before + 1);
}

// What the guest's kernel made after a fault is there when the stub goes on: it does not come back
// for it.
TEST_F(DirectRunnerTest, PageOfAFaultIsMappedBeforeTheNextRun) {
    put({0x48, 0x8b, 0x03, 0x0f, 0x05});  // mov rax, [rbx]; syscall
    cpu_.gpr[x86::Rbx] = kDataPage + 8;
    ASSERT_EQ(run(), DirectRunner::Outcome::Exception);
    EXPECT_EQ(cpu_.exception.vector, x86::vector::kPf);
    EXPECT_EQ(cpu_.exception.fault_address, kDataPage + 8);
    EXPECT_EQ(cpu_.rip, kCodePage);
    const std::uint64_t faults = count("mapping-faults");
    map_page(kDataPage, kDataPhysical | kUserPage | kW | kD);
    poke(kDataPhysical + 8, 77);
    cpu_.exception = {};
    EXPECT_EQ(run(), DirectRunner::Outcome::Refused);
    EXPECT_EQ(cpu_.gpr[x86::Rax], 77U);
    EXPECT_EQ(count("mapping-faults"), faults);
}

// … but only with the rights that the guest's tables give.
TEST_F(DirectRunnerTest, PageOfAFaultGetsNoMoreThanTheGuestGave) {
    put({0x48, 0x89, 0x03, 0x0f, 0x05});  // mov [rbx], rax; syscall
    cpu_.gpr[x86::Rbx] = kDataPage;
    ASSERT_EQ(run(), DirectRunner::Outcome::Exception);
    map_page(kDataPage, kDataPhysical | kUserPage);
    cpu_.exception = {};
    ASSERT_EQ(run(), DirectRunner::Outcome::Exception);
    constexpr std::uint32_t kPresentWriteUser = 7;
    EXPECT_EQ(fault(), kPresentWriteUser);
}

TEST_F(DirectRunnerTest, PageThatWasTakenAwayIsGone) {
    put({0x48, 0x8b, 0x03, 0x0f, 0x05});
    cpu_.gpr[x86::Rbx] = kDataPage;
    map_page(kDataPage, kDataPhysical | kUserPage);
    ASSERT_EQ(run(), DirectRunner::Outcome::Refused);
    map_page(kDataPage, 0);
    flush_tlb_page(cpu_, kDataPage);
    EXPECT_EQ(run(), DirectRunner::Outcome::Exception);
    EXPECT_EQ(cpu_.exception.fault_address, kDataPage);
}

TEST_F(DirectRunnerTest, SameContentIsNotLookedAtAgain) {
    const std::uint64_t scans = count("scans");
    EXPECT_GT(scans, 0U);
    replace_code({0x0f, 0x05});
    ASSERT_EQ(run(), DirectRunner::Outcome::Refused);
    EXPECT_EQ(cpu_.rip, kCodePage);
    EXPECT_EQ(count("scans"), scans);
}

TEST_F(DirectRunnerTest, ContentThatChangedIsLookedAtAgain) {
    const std::uint64_t scans = count("scans");
    replace_code({0x90, 0x0f, 0x05});
    ASSERT_EQ(run(), DirectRunner::Outcome::Refused);
    EXPECT_EQ(cpu_.rip, kCodePage + 1);
    EXPECT_EQ(count("scans"), scans + 1);
    EXPECT_EQ(count("sensitive-pages"), 0U);
    replace_code({0x0f, 0xa2, 0x0f, 0x05});  // cpuid; syscall
    const std::uint64_t natively = count("kernel-entries");
    (void)run();
    EXPECT_GT(count("sensitive-pages"), 0U);
    EXPECT_GT(count("refused"), 0U);
    EXPECT_EQ(count("kernel-entries"), natively);
    // What was good before still is.
    const std::uint64_t seen = count("scans");
    replace_code({0x0f, 0x05});
    ASSERT_EQ(run(), DirectRunner::Outcome::Refused);
    EXPECT_EQ(count("scans"), seen);
    EXPECT_EQ(count("kernel-entries"), natively + 1);
}

// Code that is made executable, rewritten and made executable again, all between two runs.
TEST_F(DirectRunnerTest, CodeRewrittenBetweenRunsIsLookedAtAgain) {
    const auto rewrite = [this](auto flush) {
        put({0x90, 0x0f, 0x05});
        map_page(kCodePage, kData | kUserPage | kD);
        flush();
        (void)run();
        const std::uint64_t natively = count("kernel-entries");
        put({0x0f, 0xa2, 0x0f, 0x05});  // cpuid; syscall
        flush();
        (void)run();
        EXPECT_EQ(count("kernel-entries"), natively);
        EXPECT_GT(count("refused"), 0U);
    };
    rewrite([this] { flush_tlb_page(cpu_, kCodePage); });
    rewrite([this] { flush_tlb_all(cpu_); });
}

// Code that was never written at its address is not looked at for every large flush.
TEST_F(DirectRunnerTest, CleanCodeSurvivesALargeFlush) {
    put({0x0f, 0xa2, 0x0f, 0x05});  // cpuid; syscall: not as a guest's program can write it
    const std::uint64_t natively = count("kernel-entries");
    flush_tlb_all(cpu_);
    ASSERT_EQ(run(), DirectRunner::Outcome::Refused);
    EXPECT_EQ(count("kernel-entries"), natively + 1);
}

// What was learned of a process does not hold for the next one that has its page tables.
TEST_F(DirectRunnerTest, NextProcessWithTheSameTablesBeginsAnew) {
    constexpr std::uint64_t kOther = kData + 0x3000;
    UserSpace& space = current_space(cpu_);
    cpu_.direct->always = false;
    set_active(*cpu_.direct, space, true);
    space.strikes = 2;
    flush_tlb_all(cpu_);
    ASSERT_EQ(run(), DirectRunner::Outcome::Refused);
    EXPECT_TRUE(space.active);  // the same process
    EXPECT_EQ(space.strikes, 2U);
    std::memset(vm_->ram->base() + kOther, 0x90, 0x1000);
    map_page(kCodePage, kOther | kUserPage);
    flush_tlb_all(cpu_);
    const std::uint64_t runs = runner_->runs();
    EXPECT_EQ(run(), DirectRunner::Outcome::Refused);
    EXPECT_EQ(runner_->runs(), runs);
    EXPECT_FALSE(space.active);
    EXPECT_EQ(space.strikes, 0U);
    EXPECT_EQ(cpu_.direct->active, 0U);
}

// Runs that end at once cost more than they bring: the space has to wait.
TEST_F(DirectRunnerTest, SpaceThatLosesWaits) {
    UserSpace& space = current_space(cpu_);
    set_active(*cpu_.direct, space, true);
    for (int i = 0; i < 20'000 && space.active; ++i) {
        ASSERT_EQ(run(), DirectRunner::Outcome::Refused);
    }
    EXPECT_FALSE(space.active);
    EXPECT_EQ(count("given-up"), 1U);
    EXPECT_GT(space.backoff, 0U);
    EXPECT_GT(space.not_before, 0U);
}

// A hot page with CPUID: the space waits for longer than one that only loses.
TEST_F(DirectRunnerTest, HotSensitivePageIsHopeless) {
    constexpr std::uint64_t kFirstUs = 20'000;
    replace_code({0x0f, 0xa2, 0xeb, 0xfc});  // cpuid; jmp there
    UserSpace& space = current_space(cpu_);
    set_active(*cpu_.direct, space, true);
    for (int i = 0; i < 20'000 && space.active; ++i) {
        (void)run();
        cpu_.exception = {};
    }
    ASSERT_FALSE(space.active);
    EXPECT_GE(space.backoff, kFirstUs);
}

// Another address space is judged by itself.
TEST_F(DirectRunnerTest, OtherSpacesHaveRecordsOfTheirOwn) {
    UserSpace& space = current_space(cpu_);
    space.strikes = 2;
    cpu_.cr3 = kRoot + 0x80000;
    UserSpace& other = current_space(cpu_);
    EXPECT_NE(&space, &other);
    EXPECT_EQ(other.strikes, 0U);
    cpu_.cr3 = kRoot;
    EXPECT_EQ(&current_space(cpu_), &space);
}

// Another PCID for the same page tables is the same program in the same stub, whose mappings are
// looked at anew: flushes of this PCID were not for it.
TEST_F(DirectRunnerTest, AnotherPcidIsTheSameSpace) {
    cpu_.cr4 |= x86::cr4::kPcide;
    put({0x48, 0x8b, 0x03, 0x0f, 0x05});  // mov rax, [rbx]; syscall
    cpu_.gpr[x86::Rbx] = kDataPage;
    cpu_.cr3 = kRoot | 1;
    map_page(kDataPage, kDataPhysical | kUserPage);
    poke(kDataPhysical, 5);
    ASSERT_EQ(run(), DirectRunner::Outcome::Refused);
    EXPECT_EQ(cpu_.gpr[x86::Rax], 5U);
    UserSpace& space = current_space(cpu_);
    cpu_.cr3 = kRoot | 2;
    EXPECT_EQ(&current_space(cpu_), &space);
    ASSERT_EQ(run(), DirectRunner::Outcome::Refused);
    EXPECT_EQ(count("stubs"), 1U);
    EXPECT_EQ(count("recycled"), 0U);
    map_page(kDataPage, 0);
    cpu_.cr3 = kRoot | 1;
    EXPECT_EQ(run(), DirectRunner::Outcome::Exception);
    EXPECT_EQ(cpu_.exception.fault_address, kDataPage);
}

// The guest sees #GP where its process was, and goes on in a new one. Whoever has the same page
// tables later does not wait for ever.
TEST_F(DirectRunnerTest, StubThatIsLostIsReplaced) {
    const auto stubs = grandchildren();
    ASSERT_FALSE(stubs.empty());
    for (const int pid : stubs) {
        ASSERT_EQ(kill(pid, SIGKILL), 0);
    }
    ASSERT_EQ(run(), DirectRunner::Outcome::Exception);
    EXPECT_EQ(cpu_.exception.vector, x86::vector::kGp);
    EXPECT_EQ(count("lost"), 1U);
    const UserSpace& space = current_space(cpu_);
    EXPECT_FALSE(space.active);
    EXPECT_GT(space.not_before, __builtin_ia32_rdtsc());
    EXPECT_LT(space.not_before, __builtin_ia32_rdtsc() + 60'000 * kTscKhz);
    cpu_.exception = {};
    EXPECT_EQ(run(), DirectRunner::Outcome::Refused);
    EXPECT_EQ(cpu_.rip, kCodePage);
    EXPECT_EQ(count("stubs"), 2U);
}

}  // namespace
}  // namespace strata::engine::soft
