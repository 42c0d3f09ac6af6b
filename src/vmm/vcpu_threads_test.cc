// VcpuThreads tests: holding, releasing, parking, with vCPUs that only count.
#include "vmm/vcpu_threads.h"

#include <atomic>

#include <gtest/gtest.h>

namespace strata::vmm {
namespace {

using namespace std::chrono_literals;

/// Runs until asked to exit; ends with a triple fault when told to.
class CountingVcpu final : public engine::Vcpu {
  public:
    engine::VcpuExit run() override {
        ++runs;
        while (!exit_.exchange(false)) {
            if (fault.exchange(false)) {
                return {engine::ExitReason::TripleFault, "test"};
            }
            std::this_thread::yield();
        }
        return {};
    }
    void request_exit() override { exit_ = true; }
    Result<> get_state(arch::x86::ArchState& /*state*/) override { return ok(); }
    Result<> set_state(const arch::x86::ArchState& /*state*/) override { return ok(); }
    [[nodiscard]] engine::VcpuCounters counters() const override { return {}; }

    std::atomic<int> runs{0};
    std::atomic<bool> fault{false};

  private:
    std::atomic<bool> exit_{false};
};

struct Fixture {
    Fixture() {
        for (int i = 0; i < 2; ++i) {
            auto vcpu = std::make_unique<CountingVcpu>();
            raw.push_back(vcpu.get());
            vcpus.push_back(std::move(vcpu));
        }
    }
    std::vector<std::unique_ptr<engine::Vcpu>> vcpus;
    std::vector<CountingVcpu*> raw;
};

void wait_for(const std::atomic<int>& value, int least) {
    while (value < least) {
        std::this_thread::yield();
    }
}

TEST(VcpuThreadsTest, StartsHeldAndRunsWhenReleased) {
    Fixture fixture;
    VcpuThreads threads(fixture.vcpus, [](std::size_t, const engine::VcpuExit&) {});
    ASSERT_TRUE(threads.hold(5s).ok());
    EXPECT_EQ(fixture.raw[0]->runs, 0);
    threads.release();
    wait_for(fixture.raw[0]->runs, 1);
    wait_for(fixture.raw[1]->runs, 1);
}

TEST(VcpuThreadsTest, HeldVcpusStayOutUntilReleasedAgain) {
    Fixture fixture;
    VcpuThreads threads(fixture.vcpus, [](std::size_t, const engine::VcpuExit&) {});
    threads.release();
    wait_for(fixture.raw[0]->runs, 1);
    ASSERT_TRUE(threads.hold(5s).ok());
    const int runs = fixture.raw[0]->runs;
    std::this_thread::sleep_for(5ms);
    EXPECT_EQ(fixture.raw[0]->runs, runs);
    threads.release();
    wait_for(fixture.raw[0]->runs, runs + 1);
}

TEST(VcpuThreadsTest, VcpuThatStoppedByItselfIsReportedOnceAndParked) {
    Fixture fixture;
    std::atomic<int> exits{0};
    VcpuThreads threads(fixture.vcpus, [&](std::size_t index, const engine::VcpuExit& exit) {
        EXPECT_EQ(index, 1U);
        EXPECT_EQ(exit.reason, engine::ExitReason::TripleFault);
        ++exits;
    });
    fixture.raw[1]->fault = true;
    threads.release();
    wait_for(exits, 1);
    ASSERT_TRUE(threads.hold(5s).ok());
    const int runs = fixture.raw[1]->runs;
    threads.release();
    std::this_thread::sleep_for(5ms);
    EXPECT_EQ(fixture.raw[1]->runs, runs);
    ASSERT_TRUE(threads.hold(5s).ok());
    threads.unpark_all();
    threads.release();
    wait_for(fixture.raw[1]->runs, runs + 1);
    EXPECT_EQ(exits, 1);
}

}  // namespace
}  // namespace strata::vmm
