// ClientHandshake: from the server's greeting to an export chosen, or to a list of all.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "block/nbd/stream.h"
#include "block/nbd/wire.h"

namespace strata::block::nbd {

/// What was agreed upon.
struct Agreement {
    ExportInfo info;
    bool structured = false;
    std::optional<std::uint32_t> context;  ///< id of the metadata context asked for
};

/// Credentials as `location` says; null without TLS.
Result<std::shared_ptr<const TlsCredentials>> client_credentials(const Location& location);

/// Agrees on location's export. The stream is ready for requests then.
Task<Agreement> agree(Stream& stream, const Location& location,
                      std::shared_ptr<const TlsCredentials> tls);
/// Every export with what its server tells about it.
Task<std::vector<ExportInfo>> list_exports(Stream& stream, const Location& location,
                                           std::shared_ptr<const TlsCredentials> tls);

}  // namespace strata::block::nbd
