// FolderServer: its thread.
#include "cli/run/folder_server.h"

#include <system_error>
#include <utility>

#include <sys/socket.h>

#include "block/nbd/server/export.h"
#include "block/nbd/stream.h"
#include "block/protocols/fat/fat_node.h"
#include "block/registry.h"
#include "block/worker_pool.h"

namespace strata::cli {

Result<std::unique_ptr<FolderServer>> FolderServer::create(std::string location) {
    // Files are read on the server's own thread: one guest needs no more.
    auto loop = STRATA_TRY(block::Loop::create({.engine = block::IoEngine::Threads,
                                                .quiet_start = true,
                                                .workers = block::WorkerPool::kNone}));
    return std::unique_ptr<FolderServer>(new FolderServer(std::move(location), std::move(loop)));
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
    options.path = location_;
    options.read_only = true;
    options.tree = block::NodeTree(block::fat::location_options(location_));
    options.tree.set("driver", "vvfat");
    STRATA_CO_TRY(block::NodePtr node, co_await block::open_node(*loop_, std::move(options)));
    block::nbd::ExportOptions offered;
    offered.read_only = true;
    STRATA_CO_TRY(auto made,
                  co_await block::nbd::Export::create(std::move(node), std::move(offered)));
    context_.exports.push_back(std::move(made));
    co_return ok();
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
    auto stream = block::nbd::Stream::adopt(*loop_, std::move(socket), location_);
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
