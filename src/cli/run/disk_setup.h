// Disk setup: from what --disk says to an open file for the VMM: formats that were not named,
// temporary and undoable overlays.
#pragma once

#include <string>
#include <string_view>

#include "api/machine_config.h"
#include "api/option_text.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/run/folder_server.h"

namespace strata::cli {

/// Opens a file or a block device, not blocking on anything else that may be there. `what` is for
/// messages.
Result<UniqueFd> open_checked(const std::string& path, std::string_view what, int flags);

/// A disk as the VMM takes it: but for the place of the descriptor.
struct PreparedDisk {
    api::DiskConfig config;
    UniqueFd fd;
    FolderDisk folder{};   ///< an export of our own, whose server must be made
    std::string notice{};  ///< what the user should know of what becomes of it
};

/// Opens what `disk` says. Without a format it is raw, but not if it looks like an image: then
/// InvalidArgument, with what to write. Mode Nonpersistent: writes go to a nameless overlay in
/// $TMPDIR (/var/tmp), which is gone with the machine. Undoable: to FILE.undo, made if it is not
/// there. An NBD export has no descriptor, but `nbd` in its config. A folder
/// ("fat:FOLDER") is an export that whoever runs the machine serves (folder_server.h).
Result<PreparedDisk> prepare_disk(api::DiskText disk);

}  // namespace strata::cli
