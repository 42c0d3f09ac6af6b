// virtqueue_bench: what a request costs on the device's side of a split ring: pop, look the buffers
// up, push, decide about the interrupt.
#include <benchmark/benchmark.h>

#include "virtio/core/mock_queue.h"
#include "virtio/core/virtqueue.h"

namespace {

using namespace strata;
using namespace strata::virtio;

constexpr std::uint16_t kSize = 256;

/// Publishes and serves whole rings; `Setup` prepares what a chain looks like. Items are chains.
void serve(benchmark::State& state, std::uint64_t features, const std::vector<MockBuffer>& buffers,
           bool access) {
    MockHost host;
    MockQueue driver(host.memory(), 0x10000, kSize);
    auto queue = make_virtqueue(host.memory(), driver.setup(), features).value();
    const auto chains = static_cast<unsigned>(kSize / buffers.size());
    std::vector<memory::GuestSlices> views;
    for (auto _ : state) {
        state.PauseTiming();
        for (unsigned count = 0; count < chains; ++count) {
            driver.add(buffers);
        }
        state.ResumeTiming();
        for (;;) {
            auto chain = queue->pop().value();
            if (!chain) {
                break;
            }
            if (access) {
                views.clear();
                benchmark::DoNotOptimize(
                    chain->slices(memory::Access::Write, 0, chain->writable(), views));
            }
            queue->push(std::move(*chain), 1);
        }
        benchmark::DoNotOptimize(queue->should_interrupt());
    }
    state.SetItemsProcessed(state.iterations() * chains);
}

void pop_and_push_single(benchmark::State& state) {
    serve(state, 0, {{0x80000, 1500, true}}, false);
}
BENCHMARK(pop_and_push_single);

void pop_and_push_event_index(benchmark::State& state) {
    serve(state, Feature::kEventIndex, {{0x80000, 1500, true}}, false);
}
BENCHMARK(pop_and_push_event_index);

void block_request(benchmark::State& state) {
    serve(state, Feature::kEventIndex,
          {{0x80000, 16, false}, {0x81000, 4096, true}, {0x80100, 1, true}}, true);
}
BENCHMARK(block_request);

}  // namespace
