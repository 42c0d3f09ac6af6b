// FolderServer: its thread.
#include "cli/run/folder_server.h"

#include <cstdlib>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include "block/nbd/server/export.h"
#include "block/nbd/stream.h"
#include "block/protocols/fat/fat_node.h"
#include "block/registry.h"
#include "block/worker_pool.h"

namespace strata::cli {

namespace {

/// An overlay's file, which has a name no longer than it must.
block::Task<block::NodePtr> open_temporary(block::Loop& loop, std::uint64_t size) {
    const char* place = std::getenv("TMPDIR");  // NOLINT(concurrency-mt-unsafe): nobody changes it
    std::string path = fmt::format("{}/strata-disk-XXXXXX", place != nullptr ? place : "/var/tmp");
    const UniqueFd made(::mkostemp(path.data(), O_CLOEXEC));
    if (!made.valid()) {
        co_return Error::from_errno(fmt::format("temporary file '{}'", path));
    }
    block::CreateRequest request{path, size, {}};
    Result<> created = co_await block::create_image(loop, "qcow2", std::move(request));
    Result<block::NodePtr> node = block::NodePtr();
    if (created.ok()) {
        block::OpenOptions options;
        options.path = path;
        options.format = "qcow2";
        node = co_await block::open_node(loop, std::move(options));
    }
    (void)::unlink(path.c_str());  // it lives on while it is open
    if (!created.ok()) {
        co_return std::move(created).error();
    }
    co_return node;
}

}  // namespace

Result<std::unique_ptr<FolderServer>> FolderServer::create(FolderDisk folder) {
    // Files are read on the server's own thread: one guest needs no more.
    auto loop = STRATA_TRY(block::Loop::create({.engine = block::IoEngine::Threads,
                                                .quiet_start = true,
                                                .workers = block::WorkerPool::kNone}));
    return std::unique_ptr<FolderServer>(new FolderServer(std::move(folder), std::move(loop)));
}

Result<> FolderServer::start() {
    try {
        thread_ = std::thread([this] { work(); });
    } catch (const std::system_error& error) {
        return Error::from_errno("cannot start a thread for a folder", error.code().value());
    }
    return ok();
}

FolderServer::~FolderServer() {
    if (!thread_.joinable()) {
        return;
    }
    loop_->post([this] {
        stopping_ = true;
        for (block::nbd::Session& each : sessions_) {
            each.cut_off();
        }
        end_if_over();
    });
    thread_.join();
}

block::Task<> FolderServer::open() {
    block::OpenOptions options;
    options.path = folder_.location;
    options.read_only = true;
    options.tree = block::NodeTree(block::fat::location_options(folder_.location));
    options.tree.set("driver", "vvfat");
    STRATA_CO_TRY(block::NodePtr node, co_await block::open_node(*loop_, std::move(options)));
    if (folder_.drop_writes) {
        STRATA_CO_TRY(node, co_await lay_over(std::move(node)));
    }
    block::nbd::ExportOptions offered;
    offered.read_only = !folder_.drop_writes;
    STRATA_CO_TRY(auto made,
                  co_await block::nbd::Export::create(std::move(node), std::move(offered)));
    context_.exports.push_back(std::move(made));
    co_return ok();
}

block::Task<block::NodePtr> FolderServer::lay_over(block::NodePtr below) {
    STRATA_CO_TRY(block::NodePtr node, co_await open_temporary(*loop_, below->size()));
    STRATA_CO_TRY_VOID(co_await node->change_backing(std::move(below), "fat", "raw"));
    co_return node;
}

void FolderServer::work() {
    Result<> done = loop_->run(open());
    {
        const MutexLock lock(mutex_);
        state_.emplace(std::move(done));
    }
    opened_.notify_all();
    loop_->run_until_stopped();
}

Result<UniqueFd> FolderServer::connect() {
    {
        MutexLock lock(mutex_);
        while (!state_) {
            opened_.wait(mutex_);
        }
        if (!state_->ok()) {
            return state_->error();
        }
    }
    int ends[2] = {-1, -1};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
        return Error::from_errno("cannot make a connection to a folder's server");
    }
    UniqueFd ours(ends[0]);
    UniqueFd theirs(ends[1]);
    loop_->post([this, fd = ours.release()] { serve(UniqueFd(fd)); });
    return theirs;
}

void FolderServer::serve(UniqueFd socket) {
    auto stream = block::nbd::Stream::adopt(*loop_, std::move(socket), folder_.location);
    if (stopping_ || !stream.ok()) {
        return;  // the client sees its connection end
    }
    const auto session = sessions_.emplace(sessions_.end(), *loop_, std::move(*stream), context_);
    loop_->spawn(session->run(), [this, session](const Result<>& /*why*/) {
        sessions_.erase(session);
        end_if_over();
    });
}

void FolderServer::end_if_over() {
    if (stopping_ && sessions_.empty()) {
        loop_->stop();
    }
}

}  // namespace strata::cli
