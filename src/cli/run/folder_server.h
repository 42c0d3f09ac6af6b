// FolderServer: a folder of the host as the disk of a machine: an NBD server on a thread of ours,
// which the VMM, who may open no files, is a client of.
//
// Connections are pairs of sockets, handed over by a ConnectionOpener: nobody else can connect.
// Writes never reach the folder: they are refused, or go to a nameless overlay in $TMPDIR
// (/var/tmp) that is gone with the server.
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

/// A folder that is a machine's disk.
struct FolderDisk {
    std::string location;      ///< "fat:FOLDER" (block/protocols/fat/fat_node.h); empty: none
    bool drop_writes = false;  ///< writes are taken, and dropped at the end; else refused
};

class FolderServer {
  public:
    static Result<std::unique_ptr<FolderServer>> create(FolderDisk folder);
    Result<> start();
    /// A connection; what the folder cannot be opened for if that failed. Any thread, after
    /// start().
    Result<UniqueFd> connect();
    ~FolderServer();
    FolderServer(const FolderServer&) = delete;
    FolderServer& operator=(const FolderServer&) = delete;

  private:
    FolderServer(FolderDisk folder, std::unique_ptr<block::Loop> loop)
        : folder_(std::move(folder)), loop_(std::move(loop)) {}
    void work();
    block::Task<> open();
    block::Task<block::NodePtr> lay_over(block::NodePtr below);
    void serve(UniqueFd socket);
    void end_if_over();

    const FolderDisk folder_;
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
