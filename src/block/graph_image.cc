// GraphImage: requests go to the graph's thread in batches and come back through a list and a
// signal.
//
// Threads: a queue's owner submits, the graph's thread serves; they share the queue's lists under
// mutex_.
#include "block/graph_image.h"

#include <algorithm>
#include <cerrno>
#include <thread>

#include "base/log.h"
#include "base/mutex.h"
#include "block/filters/throttle/throttle.h"
#include "io/event_fd.h"

namespace strata::block {
namespace {

int number_of(const Result<>& result) {
    return result.ok()                         ? 0
           : result.error().system_errno() > 0 ? result.error().system_errno()
                                               : EIO;
}

class GraphQueue final : public DiskQueue {
  public:
    GraphQueue(Loop& loop, Node& node, CacheMode cache, bool discard, io::EventFd done)
        : loop_(loop), node_(node), cache_(cache), discard_(discard), done_(std::move(done)) {}
    // Every request's memory is free afterwards.
    ~GraphQueue() override {
        kick();
        const MutexLock lock(mutex_);
        while (under_way_ != 0) {
            ended_.wait(mutex_);
        }
    }
    void submit(DiskRequest request) override { batch_.push_back(std::move(request)); }
    void kick() override {
        if (batch_.empty()) {
            return;
        }
        {
            const MutexLock lock(mutex_);
            under_way_ += batch_.size();
        }
        loop_.post([this, batch = std::move(batch_)]() mutable {
            for (DiskRequest& request : batch) {
                const std::uint64_t token = request.token;
                loop_.spawn(serve(std::move(request)),
                            [this, token](Result<> result) { finish(token, result); });
            }
        });
        batch_ = {};
    }
    [[nodiscard]] int completion_fd() const override { return done_.fd(); }
    void reap(std::vector<DiskCompletion>& out) override {
        (void)done_.drain();  // level: the list says what is there
        const MutexLock lock(mutex_);
        out.insert(out.end(), finished_.begin(), finished_.end());
        finished_.clear();
    }
    void wait() override {
        kick();
        const MutexLock lock(mutex_);
        while (finished_.empty() && under_way_ != 0) {
            ended_.wait(mutex_);
        }
    }
    [[nodiscard]] std::size_t in_flight() const override {
        const MutexLock lock(mutex_);
        return batch_.size() + under_way_ + finished_.size();
    }

  private:
    Task<> settled(Result<> done) {
        if (done.ok() && cache_ == CacheMode::Writethrough) {
            co_return co_await node_.flush();
        }
        co_return done;
    }

    Task<> serve(DiskRequest request) {
        const Buffers buffers{std::span<const iovec>(request.buffers)};
        const bool transfers = request.op == DiskOp::Read || request.op == DiskOp::Write;
        if (transfers && buffers.size() != request.length) {
            co_return Error{ErrorKind::InvalidArgument, "a request's length is not its buffers'",
                            EINVAL};
        }
        Result<> done = ok();
        switch (request.op) {
            case DiskOp::Read:
                co_return co_await node_.read(request.offset, buffers);
            case DiskOp::Write:
                done = co_await node_.write(request.offset, buffers);
                break;
            case DiskOp::Flush:
                co_return co_await node_.flush();
            case DiskOp::Discard:
                if (discard_) {
                    done = co_await node_.discard(request.offset, request.length);
                }
                break;
            case DiskOp::WriteZeroes:
                done = co_await node_.write_zeroes(request.offset, request.length,
                                                   {.may_unmap = request.may_unmap && discard_});
                break;
        }
        co_return co_await settled(std::move(done));
    }

    void finish(std::uint64_t token, const Result<>& result) {
        const MutexLock lock(mutex_);
        if (finished_.empty()) {
            done_.signal();
        }
        finished_.push_back({token, number_of(result)});
        --under_way_;
        ended_.notify_all();
    }

    Loop& loop_;
    Node& node_;
    const CacheMode cache_;
    const bool discard_;
    io::EventFd done_;
    std::vector<DiskRequest> batch_;  ///< the owner's
    mutable Mutex mutex_;
    CondVar ended_;
    std::vector<DiskCompletion> finished_ STRATA_GUARDED_BY(mutex_);
    std::size_t under_way_ STRATA_GUARDED_BY(mutex_) = 0;
};

class GraphImage final : public DiskImage {
  public:
    GraphImage(std::unique_ptr<Loop> loop, NodePtr node, CacheMode cache, bool discard)
        : loop_(std::move(loop)), node_(std::move(node)), cache_(cache), discard_(discard) {
        const NodeTraits& node_traits = node_->traits();
        traits_.size = node_->size();
        traits_.read_only = node_traits.read_only;
        traits_.write_cache = cache != CacheMode::Writethrough;
        traits_.discard = discard && !traits_.read_only;
        traits_.write_zeroes = !traits_.read_only;
        traits_.physical_block = 4096;
        traits_.discard_alignment = node_traits.discard_alignment;
    }
    Result<> start() {
        try {
            thread_ = std::thread([this] { loop_->run_until_stopped(); });
        } catch (const std::system_error& error) {
            return Error::from_errno("cannot start a disk thread", error.code().value());
        }
        return ok();
    }
    ~GraphImage() override {
        if (!thread_.joinable()) {
            return;
        }
        loop_->post([this] {
            loop_->spawn(node_->close(), [this](Result<> closed) {
                if (!closed.ok()) {
                    log::error("a disk was not closed cleanly disk='{}' reason='{}'", node_->name(),
                               closed.error().text());
                }
                loop_->stop();
            });
        });
        thread_.join();
    }
    [[nodiscard]] std::string_view name() const override { return node_->name(); }
    [[nodiscard]] std::string_view format() const override { return node_->format(); }
    [[nodiscard]] const DiskTraits& traits() const override { return traits_; }
    Result<std::unique_ptr<DiskQueue>> open_queue(unsigned /*depth*/) override {
        // Not before: a machine's process has locked itself up by now, and so has each of its
        // threads.
        if (!thread_.joinable()) {
            STRATA_TRY_VOID(start());
        }
        auto done = STRATA_TRY(io::EventFd::create());
        return std::unique_ptr<DiskQueue>(
            std::make_unique<GraphQueue>(*loop_, *node_, cache_, discard_, std::move(done)));
    }

  private:
    const std::unique_ptr<Loop> loop_;
    const NodePtr node_;
    const CacheMode cache_;
    const bool discard_;
    DiskTraits traits_;
    std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<DiskImage>> open_graph_image(DiskOptions options) {
    auto loop = STRATA_TRY(
        Loop::create({.engine = options.engine, .quiet_start = options.engine != IoEngine::Uring}));
    OpenOptions open;
    open.path = std::move(options.path);
    open.fd = std::move(options.fd);
    open.format = std::move(options.format);
    open.read_only = options.read_only;
    // The graph flushes for writethrough itself: its metadata has an order of its own.
    open.cache = options.cache == CacheMode::Writethrough ? CacheMode::Writeback : options.cache;
    open.lock = options.lock;
    open.discard = options.discard;
    open.references = options.follow_references ? follow_references() : nullptr;
    NodePtr node = STRATA_TRY(loop->run(open_node(*loop, std::move(open))));
    if (!options.limits.empty() || !options.limit_group.empty()) {
        NodeTree limits(std::move(options.limits));
        if (!options.limit_group.empty()) {
            limits.set("group", std::move(options.limit_group));
        }
        node = std::make_shared<throttle::ThrottleNode>(std::move(node),
                                                        STRATA_TRY(throttle::take_group(limits)));
        STRATA_TRY_VOID(limits.finish("filter", "throttle"));
    }
    if (node->size() == 0) {
        return Error{ErrorKind::InvalidArgument, "disk '" + node->name() + "' is empty"};
    }
    auto image = std::make_unique<GraphImage>(std::move(loop), std::move(node), options.cache,
                                              options.discard);
    return std::unique_ptr<DiskImage>(std::move(image));
}

}  // namespace strata::block
