// Creating qcow2 images: header, refcount table, refcount blocks, L1 table, in this order from the start of the file.
#include "block/formats/qcow2/create.h"

#include <fcntl.h>
#include <unistd.h>

#include <bit>
#include <vector>

#include <fmt/format.h>

#include "base/endian.h"
#include "base/unique_fd.h"
#include "block/file_access.h"
#include "block/file_lock.h"

namespace strata::block::qcow2 {
namespace {

Result<Header> plan(const CreateOptions& o) {
    const auto wrong = [](std::string text) { return Error{ErrorKind::InvalidArgument, std::move(text)}; };
    const std::uint64_t least = o.extended_l2 ? 16384 : 512;
    if (!std::has_single_bit(o.cluster) || o.cluster < least || o.cluster > (2U << 20)) {
        return wrong(fmt::format("cluster_size={}: must be a power of two from {} to 2M", o.cluster, least));
    }
    if (!std::has_single_bit(o.refcount_bits) || o.refcount_bits > 64) {
        return wrong(fmt::format("refcount_bits={}: must be a power of two up to 64", o.refcount_bits));
    }
    if (o.version < 3 && (o.refcount_bits != 16 || o.extended_l2 || o.lazy_refcounts || o.compression != Compression::Zlib)) {
        return wrong("compat=0.10 has none of refcount_bits, extended_l2, lazy_refcounts, compression_type=zstd; use compat=1.1");
    }
    if (o.backing.empty() != o.backing_format.empty()) {
        return wrong("a backing file needs its format and the other way round: -b FILE -F FORMAT");
    }
    if (o.size > (1ULL << 62)) {
        return wrong(fmt::format("a size of {} bytes is too large", o.size));
    }
    Header h;
    h.version = o.version;
    h.cluster_bits = static_cast<std::uint32_t>(std::countr_zero(o.cluster));
    h.refcount_order = static_cast<std::uint32_t>(std::countr_zero(o.refcount_bits));
    h.size = (o.size + 511) / 512 * 512;
    h.compression = o.compression;
    h.incompatible = (o.extended_l2 ? kExtendedL2 : 0) | (o.compression != Compression::Zlib ? kCompressionType : 0);
    h.compatible = o.lazy_refcounts ? kLazyRefcounts : 0;
    h.backing = o.backing;
    h.backing_format = o.backing_format;
    if (h.l1_needed() * 8 > kMaxL1Bytes) {
        return wrong(fmt::format("{} bytes are too many for clusters of {}; use a larger cluster_size", o.size, o.cluster));
    }
    return h;
}

std::uint64_t rounded_up(std::uint64_t value, std::uint64_t unit) { return (value + unit - 1) / unit; }

}  // namespace

Result<> create(const std::string& path, const CreateOptions& options) {
    Header h = STRATA_TRY(plan(options));
    const std::uint64_t l1_clusters = rounded_up(h.l1_needed() * 8, h.cluster());
    std::uint64_t blocks = 1, table = 1, total = 0;
    for (std::uint64_t before = 0; before != blocks + table;) {
        before = blocks + table;
        total = 1 + table + blocks + l1_clusters;
        blocks = rounded_up(total, h.refcounts_per_block());
        table = rounded_up(blocks * 8, h.cluster());
    }
    h.refcount_table_offset = h.cluster();
    h.refcount_table_clusters = static_cast<std::uint32_t>(table);
    const std::uint64_t first_block = (1 + table) * h.cluster();
    h.l1_entries = static_cast<std::uint32_t>(h.l1_needed());
    h.l1_offset = first_block + blocks * h.cluster();
    const std::vector<std::byte> head = STRATA_TRY(serialise_header(h));

    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644));
    if (!fd) {
        return Error::from_errno(fmt::format("cannot create image '{}'", path));
    }
    (void)STRATA_TRY(file_size(fd.get(), path));
    STRATA_TRY_VOID(lock_image(fd.get(), true, path));
    if (::ftruncate(fd.get(), 0) != 0 || ::ftruncate(fd.get(), static_cast<off_t>(total * h.cluster())) != 0) {
        return Error::from_errno(fmt::format("cannot give image '{}' {} bytes", path, total * h.cluster()));
    }
    std::vector<Be64> entries;
    for (std::uint64_t i = 0; i < blocks; ++i) {
        entries.emplace_back(first_block + i * h.cluster());
    }
    STRATA_TRY_VOID(write_file(fd.get(), h.refcount_table_offset, std::as_bytes(std::span(entries)), path));
    // Refcount 1 for each of the `total` first clusters; the blocks lie one behind the other.
    const std::uint64_t width = 1ULL << h.refcount_order;
    std::vector<std::byte> counts(rounded_up(total * width, 8));
    for (std::uint64_t i = 0; i < total; ++i) {
        if (width < 8) {
            counts[i * width / 8] |= static_cast<std::byte>(1U << (i * width % 8));
        } else {
            counts[(i + 1) * width / 8 - 1] = std::byte{1};
        }
    }
    STRATA_TRY_VOID(write_file(fd.get(), first_block, counts, path));
    STRATA_TRY_VOID(write_file(fd.get(), 0, head, path));
    return ok();
}

}  // namespace strata::block::qcow2
