// Checker: comparing and mending.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/qcow2/checker.h"
#include "block/formats/qcow2/refcount_field.h"
#include "block/wording.h"

namespace strata::block::qcow2 {

void Checker::compare_block(std::uint64_t block, Block& content, bool& changed) {
    const std::uint64_t per_block = header().refcounts_per_block();
    const unsigned order = header().refcount_order;
    std::uint64_t used = 0;
    for (std::uint64_t i = 0; i < per_block; ++i) {
        const std::uint64_t index = block * per_block + i;
        std::byte* place = content.content.data() + (i << order) / 8;
        const std::uint64_t bit = (i << order) % 8;
        const std::uint64_t stored = get_refcount(place, order, bit);
        const std::uint64_t counted = counts_.get(index);
        used = stored != 0 ? index + 1 : used;
        if (stored == counted) {
            continue;
        }
        if (counted > metadata_.max_refcount()) {
            tell(fmt::format("ERROR: overflow cluster offset={:#x}", index * cluster()));
            tell(
                "Use qemu-img amend to increase the refcount entry width or qemu-img convert to "
                "create a clean copy if the image cannot be opened for writing");
            ++report_.corruptions;
            counts_.set(index, static_cast<std::uint32_t>(stored));
            continue;
        }
        const bool leak = stored > counted;
        const bool fix = repair_ == Repair::All || (leak && repair_ == Repair::Leaks);
        if (listens() && repairs_.size() < kMaxMessages) {
            const std::string what =
                fmt::format("cluster {} refcount={} reference={}", index, stored, counted);
            if (fix) {
                repairs_.push_back("Repairing " + what);
            }
            if (!fix || wording() == Wording::Qemu) {
                tell((leak ? "Leaked " : "ERROR ") +
                     what);  // the peer tells what it finds, and then again what it mends
            }
        }
        if (leak) {
            ++(fix ? report_.leaks_fixed : report_.leaks);
        } else {
            ++(fix ? report_.corruptions_fixed : report_.corruptions);
        }
        if (fix) {
            put_refcount(place, order, bit, counted);
            changed = true;
            if (counted == 0) {
                freed_.push_back(index);
            }
        } else {
            counts_.set(index, static_cast<std::uint32_t>(
                                   std::min<std::uint64_t>(stored, 0xFFFFFFFFU)));  // what stands
        }
    }
    report_.image_end_offset = std::max(report_.image_end_offset, used * cluster());
}

Task<> Checker::compare() {
    const std::vector<std::uint64_t>& table = metadata_.refcount_table();
    const std::uint64_t per_block = header().refcounts_per_block();
    std::vector<std::uint64_t> lost;  // counted, but without a block
    for (const auto& page : counts_.pages()) {
        for (std::uint64_t i = 0; i < CountMap::kPage; ++i) {
            const std::uint64_t index = page.first * CountMap::kPage + i;
            if ((*page.second)[i] != 0 && (index / per_block >= table.size() ||
                                           (table[index / per_block] & kOffsetMask) == 0)) {
                lost.push_back(index);
            }
        }
    }
    if (peer_ && mends()) {
        STRATA_CO_TRY_VOID(co_await add_uncounted(lost));
    }
    for (const std::uint64_t index : lost) {
        wrong(fmt::format("cluster {} refcount=0 reference={}", index, counts_.get(index)),
              mends() && !peer_);
    }
    rebuild_ = rebuild_ || !lost.empty();
    if (rebuild_ && mends()) {
        report_.corruptions_fixed += std::exchange(report_.corruptions, 0);
        co_return ok();
    }
    for (std::uint64_t block = 0; block < table.size(); ++block) {
        const std::uint64_t host = table[block] & kOffsetMask;
        if (host == 0 || host % cluster() != 0 || host >= metadata_.end()) {
            continue;
        }
        Block content{host, std::vector<std::byte>(cluster())};
        STRATA_CO_TRY_VOID(co_await file_.read(host, Buffers(std::span(content.content))));
        bool changed = false;
        compare_block(block, content, changed);
        if (changed) {
            blocks_.push_back(std::move(content));
        }
    }
    for (std::string& each : repairs_) {
        tell(std::move(each));
    }
    co_return ok();
}

// QEMU builds the structure anew if but one cluster in use has no count; so does a program of that
// name. What it would mend alone is told as the rest of the damage is.
Task<> Checker::add_uncounted(std::vector<std::uint64_t>& lost) {
    const std::vector<std::uint64_t>& table = metadata_.refcount_table();
    const std::uint64_t per_block = header().refcounts_per_block();
    const unsigned order = header().refcount_order;
    for (std::uint64_t block = 0; block < table.size(); ++block) {
        const std::uint64_t host = table[block] & kOffsetMask;
        if (host == 0 || host % cluster() != 0 || host >= metadata_.end()) {
            continue;
        }
        std::vector<std::byte> content(cluster());
        STRATA_CO_TRY_VOID(co_await file_.read(host, Buffers(std::span(content))));
        for (std::uint64_t i = 0; i < per_block; ++i) {
            const std::uint64_t index = block * per_block + i;
            if (counts_.get(index) != 0 &&
                get_refcount(content.data() + (i << order) / 8, order, (i << order) % 8) == 0) {
                lost.push_back(index);
            }
        }
    }
    std::ranges::sort(lost);
    co_return ok();
}

/// As QEMU tells of a structure built anew: the clusters of the old one, which are free now.
void Checker::tell_rebuilt() {
    if (!peer_) {
        return;
    }
    std::vector<std::uint64_t> old;
    for (std::uint64_t i = 0; i < header().refcount_table_clusters; ++i) {
        old.push_back(header().refcount_table_offset / cluster() + i);
    }
    for (const std::uint64_t entry : metadata_.refcount_table()) {
        if (const std::uint64_t host = entry & kOffsetMask;
            host != 0 && host % cluster() == 0 && host < metadata_.end()) {
            old.push_back(host / cluster());
        }
    }
    std::ranges::sort(old);
    tell("Rebuilding refcount structure");
    for (const std::uint64_t index : old) {
        if (counts_.get(index) == 0) {
            tell(fmt::format("Repairing cluster {} refcount=1 reference=0", index));
        }
    }
}

Task<> Checker::write_blocks() {
    for (const Block& block : blocks_) {
        STRATA_CO_TRY_VOID(co_await file_.write(block.host, Buffers::of(block.content)));
    }
    STRATA_CO_TRY_VOID(co_await file_.flush());
    metadata_.forget_everything();
    if (metadata_.discard_) {
        STRATA_CO_TRY_VOID(co_await metadata_.punch(freed_));
    }
    co_return ok();
}

// Takes wrong COPIED bits away, or (`setting`) sets those that lack.
Task<> Checker::fix_l2_flags(std::uint64_t host, bool setting, bool telling) {
    STRATA_CO_TRY_VOID(co_await read_l2(host));
    const std::size_t step = header().entry_bytes() / 8;
    bool changed = false;
    for (std::size_t i = 0; i < words_.size(); i += step) {
        const std::uint64_t word = words_[i], data = word & kOffsetMask;
        if ((word & kCompressed) != 0 || data == 0) {
            continue;
        }
        const bool has = (word & kCopied) != 0, should = counts_.get(data / cluster()) == 1;
        if (has == should) {
            continue;
        }
        flags_lack_ = flags_lack_ || should;
        if (telling) {
            wrong(listens() ? fmt::format("OFLAG_COPIED data cluster: l2_entry={:x} refcount={}",
                                          word, counts_.get(data / cluster()))
                            : "",
                  mends_flags());
        }
        if (mends_flags() && should == setting) {
            words_[i] = word ^ kCopied;
            changed = true;
        }
    }
    if (changed) {
        STRATA_CO_TRY_VOID(
            co_await file_.write(host, Buffers::of(std::as_bytes(std::span(words_)))));
    }
    co_return ok();
}

Task<> Checker::fix_flags(bool setting, bool telling) {
    std::vector<std::uint64_t>& l1 = metadata_.l1();
    bool changed = false;
    for (std::uint64_t& entry : l1) {
        const std::uint64_t host = entry & kOffsetMask;
        if (host == 0 || !l2_.contains(host)) {
            continue;
        }
        const bool has = (entry & kCopied) != 0, should = counts_.get(host / cluster()) == 1;
        if (has == should) {
            continue;
        }
        flags_lack_ = flags_lack_ || should;
        if (telling) {
            wrong(fmt::format("OFLAG_COPIED L2 cluster: l1_index={} l1_entry={:x} refcount={}",
                              &entry - l1.data(), entry, counts_.get(host / cluster())),
                  mends_flags());
        }
        if (mends_flags() && should == setting) {
            entry ^= kCopied;
            changed = true;
        }
    }
    if (changed) {
        STRATA_CO_TRY_VOID(co_await write_words(header().l1_offset, l1));
    }
    if (elsewhere_) {
        co_return ok();
    }
    for (std::size_t i = 0; i < order_.size(); ++i) {
        if (l2_[order_[i]].active) {
            STRATA_CO_TRY_VOID(co_await fix_l2_flags(order_[i], setting, telling));
        }
    }
    metadata_.forget_everything();
    co_return ok();
}

// The table and the blocks that are there, which nobody will own.
void Checker::uncount_tables() {
    const auto uncount = [&](std::uint64_t host) {
        if (host % cluster() == 0 && host < metadata_.end() && counts_.get(host / cluster()) != 0) {
            counts_.set(host / cluster(), counts_.get(host / cluster()) - 1);
        }
    };
    for (const std::uint64_t entry : metadata_.refcount_table()) {
        if (entry != 0) {
            uncount(entry & kOffsetMask);
        }
    }
    for (std::uint64_t i = 0; i < header().refcount_table_clusters; ++i) {
        uncount(header().refcount_table_offset + i * cluster());
    }
}

Result<std::vector<std::uint64_t>> Checker::used_blocks(std::uint64_t& first) const {
    const std::uint64_t per_block = header().refcounts_per_block();
    std::vector<std::uint64_t> used;
    for (const auto& page : counts_.pages()) {
        for (std::uint64_t i = 0; i < CountMap::kPage; ++i) {
            const std::uint64_t index = page.first * CountMap::kPage + i;
            if ((*page.second)[i] != 0) {
                first = std::max(first, index + 1);
                if (used.empty() || used.back() != index / per_block) {
                    used.push_back(index / per_block);
                }
            }
            if ((*page.second)[i] > metadata_.max_refcount()) {
                return Error{
                    ErrorKind::Failed,
                    fmt::format("'{}': its refcounts are too narrow for the references it has",
                                file_.name()),
                    EINVAL};
            }
        }
    }
    return used;
}

// New blocks and a new table at the end of the file: complete and durable before the header names
// them.
Task<> Checker::rebuild() {
    const std::uint64_t per_block = header().refcounts_per_block();
    uncount_tables();
    tell_rebuilt();
    std::uint64_t first = metadata_.end() / cluster();
    STRATA_CO_TRY(std::vector<std::uint64_t> used, used_blocks(first));
    std::uint64_t table_clusters = 1;
    for (std::uint64_t before = 0; before != used.size() + table_clusters;) {
        before = used.size() + table_clusters;
        for (std::uint64_t block = first / per_block; block <= (first + before) / per_block;
             ++block) {
            if (used.empty() || used.back() < block) {
                used.push_back(block);
            }
        }
        table_clusters = ((used.back() + 1) * 8 + cluster() - 1) / cluster();
    }
    if (table_clusters * cluster() > kMaxRefcountTableBytes) {
        co_return Error{ErrorKind::Failed,
                        fmt::format("'{}': its file is too long for its refcounts", file_.name()),
                        EFBIG};
    }
    const std::uint64_t total = used.size() + table_clusters;
    for (std::uint64_t i = 0; i < total; ++i) {
        counts_.set(first + i, 1);
    }
    std::vector<std::uint64_t> table(table_clusters * cluster() / 8);
    for (std::size_t i = 0; i < used.size(); ++i) {
        std::vector<std::byte> content(cluster());
        for (std::uint64_t each = 0; each < per_block; ++each) {
            const unsigned order = header().refcount_order;
            put_refcount(content.data() + (each << order) / 8, order, (each << order) % 8,
                         counts_.get(used[i] * per_block + each));
        }
        table[used[i]] = (first + i) * cluster();
        STRATA_CO_TRY_VOID(co_await file_.write(table[used[i]], Buffers::of(content)));
    }
    STRATA_CO_TRY_VOID(co_await write_words((first + used.size()) * cluster(), table));
    STRATA_CO_TRY_VOID(co_await file_.flush());
    report_.image_end_offset = (first + total) * cluster();
    co_return co_await metadata_.take_refcount_table((first + used.size()) * cluster(),
                                                     std::move(table));
}

Task<> Checker::mark_dirty(bool dirty) {
    Header& h = metadata_.header();
    const bool sound = report_.corruptions == 0 && report_.check_errors == 0;
    const std::uint64_t wanted =
        dirty ? h.incompatible | kDirty : h.incompatible & ~(sound ? kDirty | kCorrupt : kDirty);
    if (h.version < 3 || h.incompatible == wanted) {
        co_return ok();
    }
    const Be64 wire = wanted;
    STRATA_CO_TRY_VOID(co_await metadata_.write_header_field(kIncompatibleField,
                                                             std::as_bytes(std::span(&wire, 1))));
    STRATA_CO_TRY_VOID(co_await file_.flush());
    h.incompatible = wanted;
    co_return ok();
}

}  // namespace strata::block::qcow2
