// Compact: looks through an image's data for zeros, then lets its format pack the file.
#include "block/jobs/compact.h"

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "block/jobs/buffer_pool.h"
#include "block/jobs/zero_runs.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kChunk = 1U << 20;
constexpr std::uint64_t kLeastHole = 4096;

/// Lets the zeros in [at, at + length) go, which is data. False: this image has no way to.
Task<bool> dig_chunk(Node& node, std::uint64_t at, std::uint64_t length, BufferPool& pool,
                     std::uint64_t& zeroes) {
    const auto buffer = pool.take(length);
    STRATA_CO_TRY_VOID(co_await node.read(at, Buffers(buffer.bytes())));
    const std::uint64_t grain = std::max(node.traits().cluster_size, kLeastHole);
    ZeroRuns runs(buffer.bytes(), at, grain, grain);
    while (const auto run = runs.next()) {
        const std::uint64_t start = at + run->offset;
        if (!run->zero || start % grain != 0 ||
            (run->length % grain != 0 && start + run->length != node.size())) {
            continue;
        }
        const Result<> done = co_await node.write_zeroes(
            start, run->length, ZeroOptions{.may_unmap = true, .no_fallback = true});
        if (!done.ok() && done.error().kind() == ErrorKind::NotSupported) {
            co_return false;
        }
        STRATA_CO_TRY_VOID(done);
        zeroes += run->length;
    }
    co_return true;
}

/// A bitmap would record it: written zeros that go are a write to those who look.
Task<bool> records_writes(Node& node) {
    const auto all = co_await node.bitmaps();
    co_return all.ok() && std::ranges::any_of(*all, [](const BitmapInfo& each) {
        return each.automatic && !each.in_use;
    });
}

Task<std::uint64_t> dig(Node& node, JobControl& control) {
    STRATA_CO_TRY(const bool recorded, co_await records_writes(node));
    if (recorded) {
        co_return std::uint64_t{0};
    }
    control.begin(node.size());
    BufferPool pool;
    std::uint64_t zeroes = 0;
    const std::uint64_t grain = std::max(node.traits().cluster_size, kLeastHole);
    const std::uint64_t chunk = std::max(kChunk, grain);
    for (std::uint64_t at = 0; at < node.size();) {
        STRATA_CO_TRY(const Extent extent, co_await node.status(at, node.size() - at));
        std::uint64_t length = extent.length;
        if (extent.kind == Extent::Kind::Data && !extent.compressed) {
            length = std::min(length, chunk - at % chunk);
            STRATA_CO_TRY_VOID(co_await control.pause_point(node.loop(), length));
            STRATA_CO_TRY(const bool able, co_await dig_chunk(node, at, length, pool, zeroes));
            if (!able) {
                break;
            }
        }
        STRATA_CO_TRY_VOID(control.check());
        control.advance(length);
        at += length;
    }
    STRATA_CO_TRY_VOID(co_await node.flush());
    co_return zeroes;
}

}  // namespace

Task<CompactReport> compact_image(NodePtr node, JobControl& control) {
    auto* packs = dynamic_cast<Compactable*>(node.get());
    if (packs == nullptr && !node->traits().discard) {
        co_return Error{ErrorKind::NotSupported,
                        fmt::format("'{}': {} images give no space back; a conversion leaves the "
                                    "zeros out",
                                    node->name(), node->format()),
                        ENOTSUP};
    }
    CompactReport report;
    if (packs == nullptr || !packs->finds_zeroes()) {
        STRATA_CO_TRY(report.zeroes, co_await dig(*node, control));
    }
    if (packs != nullptr) {
        CompactWatch watch;
        watch.begin = [&control](std::uint64_t total) { control.begin(total); };
        watch.advance = [&control](std::uint64_t bytes) {
            control.advance(bytes);
            return control.check();
        };
        watch.look = [&control, &node](std::uint64_t bytes) {
            return control.pause_point(node->loop(), bytes);
        };
        STRATA_CO_TRY(const CompactReport packed, co_await packs->pack_file(std::move(watch)));
        report.zeroes += packed.zeroes;
        report.moved = packed.moved;
    }
    co_return report;
}

}  // namespace strata::block
