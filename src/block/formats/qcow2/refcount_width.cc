// Metadata: refcounts of another width.
//
// All of them are written anew behind the end of the file; then one sector of the header changes
// table and width together. The old structure is counted as free in the new one, so a crash before
// leaves a file that is longer, and one after leaves nothing at all.
#include <algorithm>
#include <cerrno>
#include <set>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/qcow2/metadata.h"
#include "block/formats/qcow2/refcount_field.h"

namespace strata::block::qcow2 {
namespace {

constexpr std::uint64_t kOrderField = 96, kSector = 512;

}  // namespace

/// The counts of one refcount block; those of the old structure itself are 0.
Task<std::vector<std::uint64_t>> Metadata::counts_of(std::uint64_t block,
                                                     const std::set<std::uint64_t>& own) {
    const std::uint64_t per_block = header_.refcounts_per_block();
    std::vector<std::uint64_t> counts(per_block);
    for (std::uint64_t i = 0; i < per_block; ++i) {
        STRATA_CO_TRY(const std::uint64_t count, co_await refcount(block * per_block + i));
        counts[i] = own.contains(block * per_block + i) ? 0 : count;
    }
    co_return counts;
}

/// The clusters that the refcounts themselves are in.
std::set<std::uint64_t> Metadata::refcount_clusters() const {
    std::set<std::uint64_t> own;
    for (const std::uint64_t entry : table_) {
        if ((entry & kOffsetMask) != 0) {
            own.insert((entry & kOffsetMask) / header_.cluster());
        }
    }
    for (std::uint64_t i = 0; i < header_.refcount_table_clusters; ++i) {
        own.insert(header_.refcount_table_offset / header_.cluster() + i);
    }
    return own;
}

/// Where the new structure goes: what the counts allow and how many blocks they need.
Task<Metadata::WidthPlan> Metadata::plan_width(unsigned order, const std::set<std::uint64_t>& own) {
    WidthPlan plan;
    plan.first = end_ / header_.cluster();
    plan.per_block = header_.cluster() * 8 >> order;
    const std::uint64_t most = order == 6 ? ~0ULL : (1ULL << (1U << order)) - 1;
    const std::uint64_t per_old = header_.refcounts_per_block();
    for (std::uint64_t block = 0; block < table_.size(); ++block) {
        if ((table_[block] & kOffsetMask) == 0) {
            continue;
        }
        STRATA_CO_TRY(const auto counts, co_await counts_of(block, own));
        for (std::uint64_t i = 0; i < per_old; ++i) {
            const std::uint64_t index = block * per_old + i;
            if (counts[i] > most) {
                co_return Error{ErrorKind::InvalidArgument,
                                fmt::format("Cannot decrease refcount entry width to {} bits: "
                                            "Cluster at offset {:#x} has a refcount of {}",
                                            1U << order, index * header_.cluster(), counts[i]),
                                EINVAL};
            }
            if (counts[i] != 0) {
                plan.blocks.insert(index / plan.per_block);
                plan.first = std::max(plan.first, index + 1);
            }
        }
    }
    plan.table_clusters = 1;
    for (std::uint64_t before = 0; before != plan.total();) {
        before = plan.total();
        for (std::uint64_t block = plan.first / plan.per_block;
             block <= (plan.first + before - 1) / plan.per_block; ++block) {
            plan.blocks.insert(block);
        }
        plan.table_clusters =
            ((*plan.blocks.rbegin() + 1) * 8 + header_.cluster() - 1) / header_.cluster();
    }
    if (plan.table_clusters * header_.cluster() > kMaxRefcountTableBytes) {
        co_return Error{
            ErrorKind::Failed,
            fmt::format("qcow2 image '{}': its file is too long for refcounts of {} bits",
                        file_.name(), 1U << order),
            EFBIG};
    }
    co_return plan;
}

/// Writes one new block: the old counts in its range, and the new structure's own.
Task<> Metadata::write_wider_block(const WidthPlan& plan, unsigned order, std::uint64_t block,
                                   std::uint64_t host, const std::set<std::uint64_t>& own) {
    std::vector<std::byte> content(header_.cluster());
    const std::uint64_t start = block * plan.per_block, end = start + plan.per_block,
                        per_old = header_.refcounts_per_block();
    const auto put = [&](std::uint64_t index, std::uint64_t count) {
        const std::uint64_t bits = (index - start) << order;
        put_refcount(content.data() + bits / 8, order, bits % 8, count);
    };
    for (std::uint64_t old = start / per_old; old <= (end - 1) / per_old && old < table_.size();
         ++old) {
        if ((table_[old] & kOffsetMask) == 0) {
            continue;
        }
        for (std::uint64_t index = std::max(start, old * per_old);
             index < std::min(end, (old + 1) * per_old); ++index) {
            STRATA_CO_TRY(const std::uint64_t count, co_await refcount(index));
            if (count != 0 && !own.contains(index)) {
                put(index, count);
            }
        }
    }
    for (std::uint64_t index = std::max(start, plan.first);
         index < std::min(end, plan.first + plan.total()); ++index) {
        put(index, 1);
    }
    co_return co_await file_.write(host, Buffers::of(content));
}

Task<> Metadata::change_refcount_width(unsigned order) {
    const std::set<std::uint64_t> own = refcount_clusters();
    STRATA_CO_TRY(const WidthPlan plan, co_await plan_width(order, own));
    std::vector<std::uint64_t> table(plan.table_clusters * header_.cluster() / 8);
    std::uint64_t host = plan.first * header_.cluster();
    for (const std::uint64_t block : plan.blocks) {
        STRATA_CO_TRY_VOID(co_await write_wider_block(plan, order, block, host, own));
        table[block] = host;
        host += header_.cluster();
    }
    const std::vector<Be64> wire(table.begin(), table.end());
    STRATA_CO_TRY_VOID(co_await file_.write(host, Buffers::of(std::as_bytes(std::span(wire)))));
    STRATA_CO_TRY_VOID(co_await file_.flush());
    std::vector<std::byte> sector(kSector);
    STRATA_CO_TRY_VOID(co_await file_.read(0, Buffers(std::span(sector))));
    const Be64 place = host;
    const Be32 clusters = static_cast<std::uint32_t>(plan.table_clusters), new_order = order;
    std::memcpy(sector.data() + kRefcountTableField, &place, sizeof place);
    std::memcpy(sector.data() + kRefcountTableField + 8, &clusters, sizeof clusters);
    std::memcpy(sector.data() + kOrderField, &new_order, sizeof new_order);
    STRATA_CO_TRY_VOID(co_await write_header_field(0, sector));
    STRATA_CO_TRY_VOID(co_await file_.flush());
    header_.refcount_table_offset = host;
    header_.refcount_table_clusters = static_cast<std::uint32_t>(plan.table_clusters);
    header_.refcount_order = order;
    table_ = std::move(table);
    end_ = std::max(end_, host + plan.table_clusters * header_.cluster());
    forget_everything();
    if (discard_) {
        co_return co_await punch(std::vector<std::uint64_t>(own.begin(), own.end()));
    }
    co_return ok();
}

}  // namespace strata::block::qcow2
