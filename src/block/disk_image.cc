// open_disk(): the table of formats, and the names of modes.
#include "block/disk_image.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "block/formats/qcow2/qcow2_layer.h"
#include "block/formats/raw/raw_image.h"
#include "block/formats/raw/raw_layer.h"
#include "block/layer.h"

namespace strata::block {
namespace {

struct Format {
    std::string_view name;
    Result<std::unique_ptr<DiskImage>> (*open)(DiskOptions options);
};

constexpr unsigned kMaxChain = 64;

Result<std::unique_ptr<DiskImage>> open_qcow2(DiskOptions options) {
    if (options.cache == CacheMode::None) {
        return Error{ErrorKind::NotSupported,
                     fmt::format("disk '{}': qcow2 images take the host's cache only; use cache=writeback", options.path)};
    }
    const CacheMode cache = options.cache;
    const bool discard = options.discard;
    auto layer = STRATA_TRY(open_layer(std::move(options)));
    return make_layer_image(std::move(layer), "qcow2", cache, discard);
}

constexpr std::array kFormats{
    Format{"raw", &RawImage::open},
    Format{"qcow2", &open_qcow2},
};

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
    const auto found = std::find_if(table.begin(), table.end(), [&](const auto& each) { return each.name == text; });
    if (found != table.end()) {
        return found->value;
    }
    std::string known;
    for (const auto& each : table) {
        known += fmt::format("{}{}", known.empty() ? "" : ", ", each.name);
    }
    return Error{ErrorKind::InvalidArgument, fmt::format("unknown {} '{}'; known are {}", what, text, known)};
}

}  // namespace

Result<CacheMode> parse_cache_mode(std::string_view text) { return look_up(kCacheModes, text, "cache mode"); }

Result<IoEngine> parse_io_engine(std::string_view text) { return look_up(kEngines, text, "disk engine"); }

Result<std::unique_ptr<DiskImage>> open_disk(DiskOptions options) {
    for (const Format& format : kFormats) {
        if (format.name == options.format) {
            return format.open(std::move(options));
        }
    }
    return Error{ErrorKind::NotSupported, fmt::format("disk '{}': the format '{}' is not supported; convert it to qcow2 with "
                                                      "'qemu-img convert -O qcow2'",
                                                      options.path, options.format)};
}

Result<std::unique_ptr<Layer>> open_layer(DiskOptions options) { return open_layer(std::move(options), 0); }

Result<std::unique_ptr<Layer>> open_layer(DiskOptions options, unsigned depth) {
    if (depth > kMaxChain) {
        return Error{ErrorKind::Failed, fmt::format("image '{}' has more than {} layers; do they name each other?", options.path, kMaxChain)};
    }
    if (options.format == "raw") {
        return RawLayer::open(std::move(options));
    }
    if (options.format == "qcow2") {
        return std::unique_ptr<Layer>(STRATA_TRY(qcow2::Qcow2Layer::open(std::move(options), depth)));
    }
    return Error{ErrorKind::NotSupported, fmt::format("image '{}': the format '{}' is not raw or qcow2", options.path, options.format)};
}

}  // namespace strata::block
