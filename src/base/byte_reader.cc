// ByteReader: its one error.
#include "base/byte_reader.h"

#include <fmt/format.h>

namespace strata {

Error ByteReader::truncated(std::size_t wanted) const {
    return {ErrorKind::Failed, fmt::format("truncated: {} bytes wanted at offset {}, {} left",
                                           wanted, offset_, remaining())};
}

}  // namespace strata
