// Layer: one disk image as its parts see it: reads and writes that return when they are done.
//
// The blocking face of an image, for chains (an overlay reads its backing layer), for offline tools, and, behind a
// LayerQueue's worker threads, for guests. Safe to call from several threads at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "base/result.h"
#include "block/disk_image.h"
#include "block/extent.h"

namespace strata::block {

class Layer {
  public:
    virtual ~Layer() = default;
    [[nodiscard]] virtual std::string_view name() const = 0;
    /// Bytes.
    [[nodiscard]] virtual std::uint64_t size() const = 0;
    [[nodiscard]] virtual bool read_only() const = 0;
    /// The layer below, or nullptr.
    [[nodiscard]] virtual Layer* backing() const = 0;
    /// Ranges beyond size() are errors (EIO). Errors carry an errno.
    virtual Result<> read(std::uint64_t offset, std::span<std::byte> into) = 0;
    virtual Result<> write(std::uint64_t offset, std::span<const std::byte> from) = 0;
    /// Reads as zeros afterwards; with `unmap` the space is given back where that is possible.
    virtual Result<> write_zeroes(std::uint64_t offset, std::uint64_t length, bool unmap) = 0;
    /// Gives space back; what was there reads as its old content or as zeros.
    virtual Result<> discard(std::uint64_t offset, std::uint64_t length) = 0;
    /// All writes completed before are durable afterwards.
    virtual Result<> flush() = 0;
    /// What lies at `offset`, of this layer alone. `length` is at least 1.
    virtual Result<Extent> status(std::uint64_t offset, std::uint64_t length) = 0;
};

/// Opens a layer of `options.format` (raw, qcow2) with its backing layers; `options.cache` None is not for layers.
/// Backing files are opened only if `options.follow_references`.
Result<std::unique_ptr<Layer>> open_layer(DiskOptions options);

/// As above, `depth` layers below the one on top. For formats.
Result<std::unique_ptr<Layer>> open_layer(DiskOptions options, unsigned depth);

/// A DiskImage over `layer`: its queues have worker threads of their own.
std::unique_ptr<DiskImage> make_layer_image(std::unique_ptr<Layer> layer, std::string format, CacheMode cache, bool discard);

}  // namespace strata::block
