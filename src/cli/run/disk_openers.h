// DiskOpeners: who connects to NBD servers for a machine whose process may open nothing: for its
// disks from the start, and for exports that a request on the control socket names. Folders as
// disks are exports of ours.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "api/json.h"
#include "api/machine_config.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "block/nbd/connector.h"
#include "cli/run/folder_server.h"

namespace strata::cli {

/// Not thread-safe; the openers themselves are threads, so start() comes after every fork.
class DiskOpeners {
  public:
    /// Makes one for each disk on an NBD server: its channel is appended to `fds`, and the disk
    /// told its place there. `folders`: by disk, those whose export is a folder of this host.
    Result<> add(std::vector<api::DiskConfig>& disks,
                 const std::map<std::size_t, FolderDisk>& folders, std::vector<UniqueFd>& fds);
    Result<> start();
    /// If a request names an export, its descriptor becomes a channel to who connects to that.
    Result<> open_export_of(api::Json& body, std::vector<UniqueFd>& fds);
    /// A machine that waits for a server waits no longer.
    void clear() { openers_.clear(); }

  private:
    Result<UniqueFd> add_one(block::OptionList location);
    Result<UniqueFd> add_folder(const FolderDisk& folder);
    std::vector<std::unique_ptr<FolderServer>> folders_;
    std::vector<std::unique_ptr<block::nbd::ConnectionOpener>> openers_;  ///< they ask folders_
};

}  // namespace strata::cli
