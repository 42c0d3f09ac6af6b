// LayerImage, LayerQueue: a guest's disk over a Layer: a few worker threads a queue, which block in its place.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>

#include "block/layer.h"
#include "io/event_fd.h"

namespace strata::block {
namespace {

constexpr unsigned kMaxWorkers = 8;
constexpr std::size_t kMaxBounce = 1U << 20;

int number_of(const Result<>& result) {
    return result.ok() ? 0 : result.error().system_errno() != 0 ? result.error().system_errno() : EIO;
}

class LayerQueue final : public DiskQueue {
  public:
    LayerQueue(Layer& layer, CacheMode cache, bool discard, unsigned workers, io::EventFd done)
        : layer_(layer), cache_(cache), discard_(discard), done_(std::move(done)) {
        for (unsigned i = 0; i < workers; ++i) {
            workers_.emplace_back([this] { work(); });
        }
    }
    ~LayerQueue() override {
        {
            const std::lock_guard lock(mutex_);
            ending_ = true;
        }
        work_.notify_all();
        for (std::thread& worker : workers_) {
            worker.join();
        }
    }
    void submit(DiskRequest request) override {
        const std::lock_guard lock(mutex_);
        ++in_flight_;
        waiting_.push_back(std::move(request));
        work_.notify_one();
    }
    void kick() override {}
    [[nodiscard]] int completion_fd() const override { return done_.fd(); }
    void reap(std::vector<DiskCompletion>& out) override {
        const std::lock_guard lock(mutex_);
        (void)done_.drain();
        in_flight_ -= finished_.size();
        out.insert(out.end(), finished_.begin(), finished_.end());
        finished_.clear();
    }
    void wait() override {
        std::unique_lock lock(mutex_);
        ended_.wait(lock, [this] { return !finished_.empty() || in_flight_ == 0; });
    }
    [[nodiscard]] std::size_t in_flight() const override {
        const std::lock_guard lock(mutex_);
        return in_flight_;
    }

  private:
    // Ends when told to, with nothing left to do: every request's memory is free then.
    void work() {
        std::unique_lock lock(mutex_);
        for (;;) {
            work_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
            if (waiting_.empty()) {
                return;
            }
            DiskRequest request = std::move(waiting_.front());
            waiting_.pop_front();
            lock.unlock();
            const int error = execute(request);
            lock.lock();
            finished_.push_back({request.token, error});
            done_.signal();
            ended_.notify_all();
        }
    }

    int execute(const DiskRequest& request) {
        switch (request.op) {
            case DiskOp::Read:
            case DiskOp::Write: return transfer(request);
            case DiskOp::Flush: return cache_ == CacheMode::Unsafe || layer_.read_only() ? 0 : number_of(layer_.flush());
            case DiskOp::Discard:
                return discard_ ? settled(layer_.discard(request.offset, request.length)) : 0;
            case DiskOp::WriteZeroes:
                return settled(layer_.write_zeroes(request.offset, request.length, request.may_unmap && discard_));
        }
        return EINVAL;
    }

    int settled(const Result<>& done) {
        return done.ok() && cache_ == CacheMode::Writethrough ? number_of(layer_.flush()) : number_of(done);
    }

    int transfer(const DiskRequest& request) {
        std::uint64_t total = 0;
        for (const iovec& vector : request.buffers) {
            total += vector.iov_len;
        }
        if (total != request.length) {
            return EINVAL;
        }
        const bool writing = request.op == DiskOp::Write;
        std::uint64_t at = request.offset;
        // A write in many small pieces is gathered: each would be a read-modify-write of its cluster's metadata.
        if (writing && request.buffers.size() > 1 && total <= kMaxBounce) {
            std::vector<std::byte> bounce(total);
            std::size_t place = 0;
            for (const iovec& vector : request.buffers) {
                std::memcpy(bounce.data() + place, vector.iov_base, vector.iov_len);
                place += vector.iov_len;
            }
            return settled(layer_.write(at, bounce));
        }
        for (const iovec& vector : request.buffers) {
            const std::span bytes(static_cast<std::byte*>(vector.iov_base), vector.iov_len);
            const Result<> done = writing ? layer_.write(at, bytes) : layer_.read(at, bytes);
            if (!done.ok()) {
                return number_of(done);
            }
            at += vector.iov_len;
        }
        return writing ? settled(ok()) : 0;
    }

    Layer& layer_;
    const CacheMode cache_;
    const bool discard_;
    io::EventFd done_;
    mutable std::mutex mutex_;
    std::condition_variable work_, ended_;
    std::deque<DiskRequest> waiting_;
    std::vector<DiskCompletion> finished_;
    std::size_t in_flight_ = 0;
    bool ending_ = false;
    std::vector<std::thread> workers_;
};

class LayerImage final : public DiskImage {
  public:
    LayerImage(std::unique_ptr<Layer> layer, std::string format, CacheMode cache, bool discard)
        : layer_(std::move(layer)), format_(std::move(format)), cache_(cache), discard_(discard) {
        traits_.size = layer_->size();
        traits_.read_only = layer_->read_only();
        traits_.write_cache = cache != CacheMode::Writethrough;
        traits_.discard = discard && !traits_.read_only;
        traits_.write_zeroes = !traits_.read_only;
        traits_.physical_block = 4096;
        traits_.discard_alignment = 65536;
    }
    ~LayerImage() override {
        if (!traits_.read_only) {
            (void)layer_->flush();  // the guest was promised nothing; whoever must know flushes first
        }
    }
    [[nodiscard]] std::string_view name() const override { return layer_->name(); }
    [[nodiscard]] std::string_view format() const override { return format_; }
    [[nodiscard]] const DiskTraits& traits() const override { return traits_; }
    Result<std::unique_ptr<DiskQueue>> open_queue(unsigned depth) override {
        auto done = STRATA_TRY(io::EventFd::create());
        return std::unique_ptr<DiskQueue>(std::make_unique<LayerQueue>(*layer_, cache_, discard_, std::clamp(depth, 1U, kMaxWorkers),
                                                                       std::move(done)));
    }

  private:
    const std::unique_ptr<Layer> layer_;
    const std::string format_;
    const CacheMode cache_;
    const bool discard_;
    DiskTraits traits_;
};

}  // namespace

std::unique_ptr<DiskImage> make_layer_image(std::unique_ptr<Layer> layer, std::string format, CacheMode cache, bool discard) {
    return std::make_unique<LayerImage>(std::move(layer), std::move(format), cache, discard);
}

}  // namespace strata::block
