// GraphImage: a guest's disk over a block graph, which has an I/O thread of its own.
#pragma once

#include <memory>
#include <string>

#include "block/disk_image.h"
#include "block/registry.h"

namespace strata::block {

namespace nbd {
class Connector;
}

/// What a disk needs besides that is no plain file.
struct GraphExtras {
    std::string passphrase{};   ///< of an encrypted image, and of encrypted layers below
    OptionList nbd_location{};  ///< an NBD export instead of a file (nbd/address.h), and
    std::shared_ptr<nbd::Connector> nbd_connector{};  ///< who connects to it; null: we
};

/// Opens an NBD export, in options.format: `location` says where (nbd/address.h), `connector` who
/// connects; null: we.
Task<NodePtr> open_export(Loop& loop, OpenOptions options, OptionList location,
                          std::shared_ptr<nbd::Connector> connector);

/// Opens `options.path` and what it refers to. Its thread starts with its first queue.
Result<std::unique_ptr<DiskImage>> open_graph_image(DiskOptions options, GraphExtras extras = {});

}  // namespace strata::block
