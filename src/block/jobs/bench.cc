// bench_image: `depth` coroutines that each take the next offset until the count is used up.
#include "block/jobs/bench.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <span>
#include <utility>

#include "block/sync.h"

namespace strata::block {
namespace {

constexpr std::size_t kAlignment = 4096;

struct FreeMemory {
    void operator()(void* memory) const { std::free(memory); }
};

class Bench {
  public:
    Bench(Node& node, const BenchOptions& options)
        : node_(node),
          options_(options),
          calm_(node.loop()),
          next_(options.offset % std::max<std::uint64_t>(node.size(), 1)) {}
    Task<> run(std::span<std::byte> memory);

  private:
    Task<> worker(std::span<std::byte> buffer);
    Task<> maybe_flush();
    Node& node_;
    const BenchOptions& options_;
    WaitQueue calm_;
    std::uint64_t next_;
    std::uint64_t started_ = 0;
    unsigned in_flight_ = 0;
    bool flushing_ = false;
};

Task<> Bench::maybe_flush() {
    if (options_.flush_interval == 0 || started_ % options_.flush_interval != 0) {
        co_return ok();
    }
    flushing_ = options_.drain;
    while (options_.drain && in_flight_ != 0) {
        co_await calm_.wait();
    }
    Result<> done = co_await node_.flush();
    flushing_ = false;
    calm_.wake_all();
    co_return done;
}

Task<> Bench::worker(std::span<std::byte> buffer) {
    while (started_ < options_.count) {
        while (flushing_) {
            co_await calm_.wait();
        }
        if (started_ >= options_.count) {
            break;
        }
        ++started_;
        ++in_flight_;
        const std::uint64_t at = next_;
        next_ = (next_ + options_.step) % node_.size();
        Result<> done = ok();
        if (options_.write) {
            done = co_await node_.write(at, Buffers(buffer));
        } else {
            done = co_await node_.read(at, Buffers(buffer));
        }
        --in_flight_;
        calm_.wake_all();
        STRATA_CO_TRY_VOID(std::move(done));
        STRATA_CO_TRY_VOID(co_await maybe_flush());
    }
    co_return ok();
}

Task<> Bench::run(std::span<std::byte> memory) {
    TaskGroup group(node_.loop(), options_.depth);
    for (unsigned i = 0; i < options_.depth; ++i) {
        group.start(worker(memory.subspan(i * options_.size, options_.size)));
    }
    co_return co_await group.finish();
}

}  // namespace

Task<double> bench_image(Node& node, BenchOptions options) {
    if (node.size() == 0 || options.depth == 0 || options.size > node.size()) {
        co_return Error(ErrorKind::InvalidArgument,
                        "the image is smaller than a request, or the depth is zero", EINVAL);
    }
    const std::size_t bytes =
        (options.depth * options.size + kAlignment - 1) / kAlignment * kAlignment;
    std::unique_ptr<void, FreeMemory> memory(
        std::aligned_alloc(kAlignment, std::max(bytes, kAlignment)));
    if (memory == nullptr) {
        co_return Error(ErrorKind::Failed, "not enough memory for the buffers", ENOMEM);
    }
    const std::span<std::byte> buffers(static_cast<std::byte*>(memory.get()),
                                       options.depth * options.size);
    std::ranges::fill(buffers, static_cast<std::byte>(options.pattern));
    Bench bench(node, options);
    const auto start = std::chrono::steady_clock::now();
    STRATA_CO_TRY_VOID(co_await bench.run(buffers));
    co_return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace strata::block
