// open_disk(): the table of formats, and the names of modes.
#include "block/disk_image.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "block/formats/raw/raw_image.h"
#include "block/graph_image.h"

namespace strata::block {
namespace {

template <typename Value>
struct Named {
    std::string_view name;
    Value value;
};

constexpr std::array<Named<CacheMode>, 4> kCacheModes{{
    {"writeback", CacheMode::Writeback},
    {"writethrough", CacheMode::Writethrough},
    {"none", CacheMode::None},
    {"unsafe", CacheMode::Unsafe},
}};

constexpr std::array<Named<IoEngine>, 3> kEngines{{
    {"auto", IoEngine::Auto},
    {"uring", IoEngine::Uring},
    {"threads", IoEngine::Threads},
}};

template <typename Table>
auto look_up(const Table& table, std::string_view text, std::string_view what)
    -> Result<decltype(table.front().value)> {
    const auto found = std::find_if(table.begin(), table.end(),
                                    [&](const auto& each) { return each.name == text; });
    if (found != table.end()) {
        return found->value;
    }
    std::string known;
    for (const auto& each : table) {
        known += fmt::format("{}{}", known.empty() ? "" : ", ", each.name);
    }
    return Error{ErrorKind::InvalidArgument,
                 fmt::format("unknown {} '{}'; known are {}", what, text, known)};
}

}  // namespace

Result<CacheMode> parse_cache_mode(std::string_view text) {
    return look_up(kCacheModes, text, "cache mode");
}

Result<IoEngine> parse_io_engine(std::string_view text) {
    return look_up(kEngines, text, "disk engine");
}

Result<std::unique_ptr<DiskImage>> open_disk(DiskOptions options) {
    // A raw disk needs no graph: its requests go to the host's queue from the thread that has them.
    if (options.format == "raw" && options.limits.empty() && options.limit_group.empty()) {
        return RawImage::open(std::move(options));
    }
    if (const auto known = find_format(options.format); !known.ok()) {
        return Error(known.error()).context(fmt::format("disk '{}'", options.path));
    }
    return open_graph_image(std::move(options));
}

}  // namespace strata::block
