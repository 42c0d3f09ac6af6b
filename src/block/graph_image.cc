// GraphImage: requests go to the graph's thread in batches and come back through a list and a
// signal.
//
// Threads: a queue's owner submits, the graph's thread serves; they share the queue's lists under
// mutex_.
#include "block/graph_image.h"

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string>
#include <thread>

#include "base/log.h"
#include "base/mutex.h"
#include "block/filters/throttle/throttle.h"
#include "block/live/live_disk.h"
#include "block/live_image.h"
#include "block/nbd/client/nbd_node.h"
#include "block/patient_queue.h"
#include "block/sync.h"
#include "io/event_fd.h"

namespace strata::block {
namespace {

int number_of(const Result<>& result) {
    return result.ok()                                       ? 0
           : result.error().kind() == ErrorKind::Unreachable ? kUnreachable
           : result.error().system_errno() > 0               ? result.error().system_errno()
                                                             : EIO;
}

class GraphQueue final : public DiskQueue {
  public:
    GraphQueue(LiveDisk& disk, CacheMode cache, bool discard, io::EventFd done)
        : loop_(disk.loop()),
          disk_(disk),
          cache_(cache),
          discard_(discard),
          done_(std::move(done)) {}
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
                            [this, token](const Result<>& result) { finish(token, result); });
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
    Task<> settled(Node& node, Result<> done) {
        if (done.ok() && cache_ == CacheMode::Writethrough) {
            co_return co_await node.flush();
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
        std::optional<Gate::Pass> pass;
        if (disk_.gate().open()) {
            pass.emplace(disk_.gate().enter());
        } else {
            STRATA_CO_TRY(Gate::Pass waited, co_await disk_.gate().shared());
            pass.emplace(std::move(waited));
        }
        Node& node = disk_.top();
        Result<> done = ok();
        switch (request.op) {
            case DiskOp::Read:
                co_return co_await node.read(request.offset, buffers);
            case DiskOp::Write:
                done = co_await node.write(request.offset, buffers);
                break;
            case DiskOp::Flush:
                co_return co_await node.flush();
            case DiskOp::Discard:
                if (discard_) {
                    done = co_await node.discard(request.offset, request.length);
                }
                break;
            case DiskOp::WriteZeroes:
                done = co_await node.write_zeroes(request.offset, request.length,
                                                  {.may_unmap = request.may_unmap && discard_});
                break;
        }
        co_return co_await settled(node, std::move(done));
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
    LiveDisk& disk_;
    const CacheMode cache_;
    const bool discard_;
    io::EventFd done_;
    std::vector<DiskRequest> batch_;  ///< the owner's
    mutable Mutex mutex_;
    CondVar ended_;
    std::vector<DiskCompletion> finished_ STRATA_GUARDED_BY(mutex_);
    std::size_t under_way_ STRATA_GUARDED_BY(mutex_) = 0;
};

class GraphImage final : public LiveImage, private LiveAccess {
  public:
    GraphImage(std::unique_ptr<Loop> loop, NodePtr node,
               std::shared_ptr<throttle::ThrottleGroup> limits, CacheMode cache, bool discard)
        : loop_(std::move(loop)),
          name_(node->name()),
          format_(node->format()),
          disk_(std::move(node), std::move(limits)),
          cache_(cache),
          discard_(discard) {
        const NodeTraits& node_traits = disk_.disk().traits();
        traits_.size = disk_.disk().size();
        traits_.read_only = node_traits.read_only;
        traits_.write_cache = cache != CacheMode::Writethrough;
        traits_.discard = discard && !traits_.read_only;
        traits_.write_zeroes = !traits_.read_only;
        traits_.physical_block = 4096;
        traits_.discard_alignment = node_traits.discard_alignment;
    }
    ~GraphImage() override {
        if (!thread_.joinable()) {
            return;
        }
        loop_->post([this] {
            loop_->spawn(shut_down(), [this](const Result<>& closed) {
                if (!closed.ok()) {
                    log::error("a disk was not closed cleanly disk='{}' reason='{}'", name_,
                               closed.error().text());
                }
                loop_->stop();
            });
        });
        thread_.join();
    }
    [[nodiscard]] std::string_view name() const override { return name_; }
    [[nodiscard]] std::string_view format() const override { return format_; }
    [[nodiscard]] const DiskTraits& traits() const override { return traits_; }
    [[nodiscard]] LiveAccess* live() override { return this; }
    Result<std::unique_ptr<DiskImage>> as_graph() override {
        return Error{ErrorKind::WrongState, "disk '" + name_ + "' is a graph already"};
    }
    void grow(std::uint64_t size, std::function<void(Result<>)> done) override {
        start([size](LiveDisk& disk) { return grow_disk(disk, size); }, std::move(done));
    }
    void settle_size(std::uint64_t size) override { traits_.size = std::max(traits_.size, size); }
    Result<std::unique_ptr<DiskQueue>> open_queue(unsigned /*depth*/) override {
        STRATA_TRY_VOID(start_thread());
        auto done = STRATA_TRY(io::EventFd::create());
        return std::unique_ptr<DiskQueue>(
            std::make_unique<GraphQueue>(disk_, cache_, discard_, std::move(done)));
    }

  private:
    // Not before the first queue: a machine's process has locked itself up by then, and so has
    // each of its threads.
    Result<> start_thread() {
        if (thread_.joinable()) {
            return ok();
        }
        try {
            thread_ = std::thread([this] { loop_->run_until_stopped(); });
        } catch (const std::system_error& error) {
            return Error::from_errno("cannot start a disk thread", error.code().value());
        }
        return ok();
    }
    void start(Work work, std::function<void(Result<>)> done) override {
        if (auto started = start_thread(); !started.ok()) {
            done(std::move(started));
            return;
        }
        loop_->post([this, work = std::move(work), done = std::move(done)]() mutable {
            ++works_;
            // The work's captures outlive its coroutine, which may be a lambda's.
            const auto kept = std::make_shared<Work>(std::move(work));
            loop_->spawn((*kept)(disk_), [this, kept, done = std::move(done)](Result<> result) {
                done(std::move(result));
                --works_;
                ended_.wake_all();
            });
        });
    }
    static Task<> grow_disk(LiveDisk& disk, std::uint64_t size) {
        STRATA_CO_TRY_VOID(disk.check_free());
        STRATA_CO_TRY(const auto alone, co_await disk.gate().exclusive());
        STRATA_CO_TRY_VOID(disk.check_free());
        if (size < disk.disk().size()) {
            co_return Error{ErrorKind::WrongState, "a disk in use cannot shrink"};
        }
        co_return co_await disk.disk().resize(size, Preallocation::Off);
    }
    Task<> shut_down() {
        disk_.end_job();
        while (works_ != 0) {
            co_await ended_.wait();
        }
        co_return co_await disk_.close();
    }

    const std::unique_ptr<Loop> loop_;
    const std::string name_, format_;
    LiveDisk disk_;
    const CacheMode cache_;
    const bool discard_;
    DiskTraits traits_;
    std::size_t works_ = 0;  ///< of start(); the loop's
    WaitQueue ended_{*loop_};
    std::thread thread_;
};

}  // namespace

Task<NodePtr> open_export(Loop& loop, OpenOptions options, OptionList location,
                          std::shared_ptr<nbd::Connector> connector) {
    STRATA_CO_TRY(nbd::Location where, nbd::take_location(location));
    if (!location.empty()) {
        co_return Error{ErrorKind::InvalidArgument,
                        "unknown option '" + location.front().first + "' of an export"};
    }
    STRATA_CO_TRY(NodePtr node,
                  co_await nbd::NbdNode::open(loop, std::move(where), options.read_only,
                                              std::move(connector)));
    const NodePtr file = node;
    auto top = co_await open_format(std::move(node), std::move(options));
    if (!top.ok()) {
        (void)co_await file->close();  // the other error is told
    }
    co_return top;
}

Result<std::unique_ptr<DiskImage>> open_graph_image(DiskOptions options, GraphExtras extras) {
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
    if (!extras.passphrase.empty()) {
        for (const char* name : {"key-secret", "encrypt.key-secret", "layers.key-secret",
                                 "layers.encrypt.key-secret"}) {
            open.extra.emplace_back(name, extras.passphrase);
        }
    }
    NodePtr node = STRATA_TRY(
        loop->run(extras.nbd_location.empty()
                      ? open_node(*loop, std::move(open))
                      : open_export(*loop, std::move(open), std::move(extras.nbd_location),
                                    std::move(extras.nbd_connector))));
    std::shared_ptr<throttle::ThrottleGroup> group;
    if (!options.limits.empty() || !options.limit_group.empty()) {
        NodeTree limits(std::move(options.limits));
        if (!options.limit_group.empty()) {
            limits.set("group", std::move(options.limit_group));
        }
        group = STRATA_TRY(throttle::take_group(limits));
        STRATA_TRY_VOID(limits.finish("filter", "throttle"));
    }
    if (node->size() == 0) {
        return Error{ErrorKind::InvalidArgument, "disk '" + node->name() + "' is empty"};
    }
    auto image = std::make_unique<GraphImage>(std::move(loop), std::move(node), std::move(group),
                                              options.cache, options.discard);
    return std::unique_ptr<DiskImage>(std::move(image));
}

}  // namespace strata::block
