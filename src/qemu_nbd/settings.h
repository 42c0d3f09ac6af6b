// Settings: qemu-nbd's command line, checked.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "block/nbd/address.h"
#include "block/nbd/server/export.h"
#include "qemu_img/arguments.h"
#include "qemu_img/session.h"

namespace strata::qemu_nbd {

struct Settings {
    bool help = false, version = false, list = false, fork = false, persistent = false,
         verbose = false;
    block::nbd::Address address;
    unsigned shared = 1;
    block::nbd::ExportOptions exported;
    std::uint64_t offset = 0;
    qemu_img::ImageSpec image;
    qemu_img::OpenMode mode;
    std::string cache = "writeback";
    bool overlay = false;                 ///< --snapshot
    std::optional<std::string> snapshot;  ///< --load-snapshot
    std::vector<std::string> objects;
    std::string tls_creds, tls_authz, tls_hostname, pid_file;
    bool socket_activation = false;  ///< the listening socket is descriptor 3
};

/// The error is for standard error as it is.
Result<Settings> read_settings(std::span<char*> words);

}  // namespace strata::qemu_nbd
