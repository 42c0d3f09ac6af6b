// DiskOpeners: who connects to NBD servers for a machine whose process may open nothing: for its
// disks from the start, and for exports that a request on the control socket names.
#pragma once

#include <memory>
#include <vector>

#include "api/json.h"
#include "api/machine_config.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "block/nbd/connector.h"

namespace strata::cli {

/// Not thread-safe; the openers themselves are threads, so start() comes after every fork.
class DiskOpeners {
  public:
    /// Makes one for each disk on an NBD server: its channel is appended to `fds`, and the disk
    /// told its place there.
    Result<> add(std::vector<api::DiskConfig>& disks, std::vector<UniqueFd>& fds);
    Result<> start();
    /// If a request names an export, its descriptor becomes a channel to who connects to that.
    Result<> open_export_of(api::Json& body, std::vector<UniqueFd>& fds);
    /// A machine that waits for a server waits no longer.
    void clear() { openers_.clear(); }

  private:
    Result<UniqueFd> add_one(block::OptionList location);
    std::vector<std::unique_ptr<block::nbd::ConnectionOpener>> openers_;
};

}  // namespace strata::cli
