// FolderServer: a folder of the host as the disk of a machine: an NBD server on a thread of ours,
// which the VMM, who may open no files, is a client of.
//
// Connections are pairs of sockets, handed over by a ConnectionOpener: nobody else can connect.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "base/mutex.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "block/loop.h"
#include "block/nbd/server/session.h"

namespace strata::cli {

class FolderServer {
  public:
    /// `location`: "fat:FOLDER" (block/protocols/fat/fat_node.h).
    static Result<std::unique_ptr<FolderServer>> create(std::string location);
    Result<> start();
    /// A connection; what the folder cannot be opened for if that failed. Any thread, after
    /// start().
    Result<UniqueFd> connect();
    ~FolderServer();
    FolderServer(const FolderServer&) = delete;
    FolderServer& operator=(const FolderServer&) = delete;

  private:
    FolderServer(std::string location, std::unique_ptr<block::Loop> loop)
        : location_(std::move(location)), loop_(std::move(loop)) {}
    void work();
    block::Task<> open();
    void serve(UniqueFd socket);
    void end_if_over();

    const std::string location_;
    const std::unique_ptr<block::Loop> loop_;
    Mutex mutex_;
    CondVar opened_;
    std::optional<Result<>> state_ STRATA_GUARDED_BY(mutex_);
    // The thread's own:
    block::nbd::SessionContext context_;
    std::list<block::nbd::Session> sessions_;
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace strata::cli
