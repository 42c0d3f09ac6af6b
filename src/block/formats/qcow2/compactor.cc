// Compactor: passes over the file; data.
#include "block/formats/qcow2/compactor.h"

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "block/formats/qcow2/checker.h"
#include "block/formats/qcow2/refcount_field.h"

namespace strata::block::qcow2 {
namespace {

constexpr std::uint64_t kCopyBytes = 2U << 20;
constexpr unsigned kPasses = 3;

}  // namespace

Compactor::Compactor(Qcow2Node& node, CompactWatch watch)
    : node_(node),
      meta_(*node.metadata_),
      file_(*node.file_),
      watch_(std::move(watch)),
      buffer_(std::max(kCopyBytes, 2 * node.cluster())) {}

Task<> Compactor::moved(std::uint64_t bytes) {
    moved_ += bytes;
    if (stop_.ok() && watch_.advance) {
        stop_ = watch_.advance(bytes);
    }
    if (stop_.ok() && watch_.look) {
        stop_ = co_await watch_.look(bytes);
    }
    co_return ok();
}

/// What a crash or a stop left, and whatever else nobody refers to.
Task<> Compactor::mend_leaks() {
    STRATA_CO_TRY_VOID(co_await meta_.settle());
    Checker checker(meta_, node_.data_ != node_.file_);
    std::vector<Checker::Table> none;
    STRATA_CO_TRY(const CheckReport report, co_await checker.run(Repair::Leaks, std::move(none)));
    if (report.corruptions != 0 || report.check_errors != 0) {
        co_return Error{
            ErrorKind::Failed,
            fmt::format("'{}' is damaged and cannot be compacted ({}): mend it first, 'check "
                        "--repair all'",
                        node_.name(),
                        report.messages.empty() ? "see 'check'" : report.messages.front()),
            EIO};
    }
    meta_.forget_everything();
    co_return ok();
}

/// Bitmaps are stored anew, in the first free clusters.
Task<> Compactor::renew_bitmaps() {
    const std::vector<BitmapInfo> all = node_.bitmaps_.list();
    bool any = false;
    for (const BitmapInfo& each : all) {
        if (!each.in_use) {
            STRATA_CO_TRY(Bitmap bitmap, co_await node_.bitmaps_.read(each.name));
            STRATA_CO_TRY_VOID(node_.bitmaps_.put(std::move(bitmap)));
            any = true;
        }
    }
    if (any) {
        STRATA_CO_TRY_VOID(co_await node_.store_bitmaps());
    }
    co_return co_await meta_.settle();
}

/// Sets limit_ to the number of clusters in use; answers how many of them lie behind it.
Task<std::uint64_t> Compactor::survey() {
    STRATA_CO_TRY_VOID(co_await meta_.settle());
    meta_.forget_everything();
    const std::uint64_t per_block = meta_.header().refcounts_per_block();
    const unsigned order = meta_.header().refcount_order;
    std::uint64_t used = 0, before = 0;
    std::vector<std::byte> content(cluster());
    std::vector<std::pair<std::uint64_t, std::uint64_t>> runs;  // first and number of those in use
    for (std::size_t block = 0; block < meta_.table_.size(); ++block) {
        const std::uint64_t host = meta_.table_[block] & kOffsetMask;
        if (host == 0) {
            continue;
        }
        STRATA_CO_TRY_VOID(co_await file_.read(host, Buffers(std::span(content))));
        for (std::uint64_t i = 0; i < per_block; ++i) {
            if (get_refcount(content.data() + (i << order) / 8, order, (i << order) % 8) == 0) {
                continue;
            }
            const std::uint64_t index = block * per_block + i;
            if (!runs.empty() && runs.back().first + runs.back().second == index) {
                ++runs.back().second;
            } else {
                runs.emplace_back(index, 1);
            }
            ++used;
        }
    }
    limit_ = used;
    for (const auto& [first, count] : runs) {
        before += first >= used ? 0 : std::min(count, used - first);
    }
    co_return used - before;
}

/// The first free clusters before limit_, `wanted` at most, whose refcount is 1 now; none if there
/// are none.
Task<Allocation> Compactor::take(std::uint64_t wanted) {
    const auto lock = co_await meta_.allocation_.lock();
    STRATA_CO_TRY_VOID(co_await meta_.free_retired());
    for (;; ++meta_.cursor_) {
        meta_.cursor_ += meta_.skip_used(meta_.cursor_);
        if (meta_.cursor_ >= limit_) {
            co_return Allocation{};
        }
        STRATA_CO_TRY(const bool free, co_await meta_.is_free(meta_.cursor_));
        if (free) {
            break;
        }
    }
    co_return co_await meta_.allocate_locked(std::min(wanted, limit_ - meta_.cursor_));
}

/// The first `clusters` free ones side by side before limit_; 0 if there are none.
Task<std::uint64_t> Compactor::take_row(std::uint64_t clusters) {
    const auto lock = co_await meta_.allocation_.lock();
    STRATA_CO_TRY_VOID(co_await meta_.free_retired());
    std::uint64_t row = 0;
    for (std::uint64_t index = 0; index < limit_; ++index) {
        STRATA_CO_TRY(const bool free, co_await meta_.is_free(index));
        row = free ? row + 1 : 0;
        if (row == clusters) {
            for (std::uint64_t each = index + 1 - clusters; each <= index; ++each) {
                STRATA_CO_TRY_VOID(co_await meta_.set_refcount(each, 1));
            }
            co_return (index + 1 - clusters) * cluster();
        }
    }
    co_return std::uint64_t{0};
}

/// Nothing on the disk refers to them any more, durably: what loses its last reference is free.
Task<> Compactor::let_go(std::vector<Reference> references) {
    const auto lock = co_await meta_.allocation_.lock();
    std::vector<std::uint64_t> freed;
    for (const Reference& each : references) {
        const std::uint64_t index = each.host / cluster();
        STRATA_CO_TRY(const std::uint64_t now, co_await meta_.refcount(index));
        if (now < each.count) {
            co_return meta_.corrupt(
                fmt::format("the cluster at {:#x} has more references than counted", each.host));
        }
        if (now == each.count) {
            freed.push_back(index);
        } else {
            STRATA_CO_TRY_VOID(co_await meta_.set_refcount(index, now - each.count));
        }
    }
    std::ranges::sort(freed);
    if (meta_.discard_) {
        STRATA_CO_TRY_VOID(co_await meta_.punch(freed));
    }
    for (const std::uint64_t index : freed) {
        meta_.leave_packed(index);
        STRATA_CO_TRY_VOID(co_await meta_.set_refcount(index, 0));
        meta_.cursor_ = std::min(meta_.cursor_, index);
    }
    co_return ok();
}

Task<std::uint64_t> Compactor::run() {
    STRATA_CO_TRY_VOID(co_await mend_leaks());
    STRATA_CO_TRY_VOID(co_await renew_bitmaps());
    Result<> done = ok();
    again_ = true;
    for (unsigned i = 0; i < kPasses && again_ && done.ok() && stop_.ok(); ++i) {
        again_ = false;
        STRATA_CO_TRY(const std::uint64_t work, co_await survey());
        if (i == 0 && watch_.begin) {
            watch_.begin(work * cluster());
        }
        done = co_await pass();
    }
    if (!stop_.ok() && done.ok() && !places_.empty()) {
        // Some of the tables that share a cluster name its new place, the others the old one.
        STRATA_CO_TRY_VOID(co_await mend_leaks());
    }
    STRATA_CO_TRY_VOID(done);
    STRATA_CO_TRY_VOID(stop_);
    co_return moved_;
}

Task<> Compactor::pass() {
    STRATA_CO_TRY_VOID(co_await move_snapshots());
    STRATA_CO_TRY_VOID(co_await move_l1());
    STRATA_CO_TRY_VOID(co_await move_refcount_table());
    STRATA_CO_TRY_VOID(co_await move_refcount_blocks());
    if (stop_.ok()) {
        STRATA_CO_TRY_VOID(co_await move_l2_tables());
    }
    if (stop_.ok() && node_.data_ == node_.file_) {
        STRATA_CO_TRY_VOID(co_await move_data());
    }
    co_return co_await cut();
}

/// Offset and entries: the active disk's and the snapshots'.
Task<std::vector<std::pair<std::uint64_t, std::uint64_t>>> Compactor::all_l1_tables() {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> all{
        {meta_.header().l1_offset, meta_.header().l1_entries}};
    STRATA_CO_TRY(const SnapshotTable snapshots, co_await read_snapshots(file_, meta_.header()));
    for (const Snapshot& each : snapshots.snapshots) {
        all.emplace_back(each.l1_offset, each.l1_entries);
    }
    co_return all;
}

Task<> Compactor::move_data() {
    STRATA_CO_TRY(const auto tables, co_await all_l1_tables());
    std::set<std::uint64_t> seen;
    for (const auto& [offset, entries] : tables) {
        std::vector<Be64> l1(entries);
        STRATA_CO_TRY_VOID(
            co_await file_.read(offset, Buffers(std::as_writable_bytes(std::span(l1)))));
        active_ = offset == meta_.header().l1_offset;
        for (std::size_t i = 0; i < l1.size() && stop_.ok(); ++i) {
            const std::uint64_t host = l1[i] & kOffsetMask;
            if (host != 0 && seen.insert(host).second) {
                STRATA_CO_TRY_VOID(co_await move_data_of(host, i));
            }
        }
    }
    if (stop_.ok()) {
        STRATA_CO_TRY_VOID(co_await let_go(std::exchange(late_, {})));
        places_.clear();
    }
    co_return co_await meta_.settle();
}

/// The clusters that the L2 table at `table` names, which stands at `index` in an L1 table.
Task<> Compactor::move_data_of(std::uint64_t table, std::uint64_t index) {
    words_.resize(cluster() / 8);
    STRATA_CO_TRY_VOID(
        co_await file_.read(table, Buffers(std::as_writable_bytes(std::span(words_)))));
    STRATA_CO_TRY(const std::uint64_t owners, co_await meta_.refcount(table / cluster()));
    changed_ = false;
    Result<> done = ok();
    for (std::size_t entry = 0; entry < meta_.header().l2_entries() && stop_.ok();) {
        const auto count = co_await move_entry(entry, index, owners);
        if (!count.ok()) {
            done = count.error();
            break;
        }
        entry += *count;
    }
    STRATA_CO_TRY_VOID(co_await write_table(table));
    co_return done;
}

/// After the clusters' new places: the table, then the old places go.
Task<> Compactor::write_table(std::uint64_t table) {
    if (!changed_) {
        co_return ok();
    }
    STRATA_CO_TRY_VOID(co_await meta_.write_back());
    STRATA_CO_TRY_VOID(co_await file_.write(table, Buffers::of(std::as_bytes(std::span(words_)))));
    STRATA_CO_TRY_VOID(co_await file_.flush());
    STRATA_CO_TRY_VOID(co_await let_go(std::exchange(old_, {})));
    if (meta_.loaded()) {
        co_return co_await meta_.settle();
    }
    co_return ok();
}

/// Answers how many entries were seen to.
Task<std::size_t> Compactor::move_entry(std::size_t entry, std::uint64_t index,
                                        std::uint64_t owners) {
    const std::size_t step = meta_.header().entry_bytes() / 8;
    const std::uint64_t word = words_[entry * step];
    const std::uint64_t bitmap = step == 2 ? words_[entry * step + 1].value() : 0;
    if (word == 0) {
        co_return std::size_t{1};
    }
    STRATA_CO_TRY(const Mapping m, meta_.decode(word, bitmap, 0));
    if (m.kind == Mapping::Kind::Compressed) {
        if (behind(m.host + m.length - 1)) {
            STRATA_CO_TRY_VOID(co_await move_packed(entry, m, owners));
        }
        co_return std::size_t{1};
    }
    if (m.host == 0) {
        co_return std::size_t{1};
    }
    const bool zero = m.kind == Mapping::Kind::Zero;
    if (!zero && !behind(m.host)) {
        co_return std::size_t{1};
    }
    const std::uint64_t guest = (index * meta_.header().l2_entries() + entry) * cluster();
    STRATA_CO_TRY(const std::uint64_t refs, co_await meta_.refcount(m.host / cluster()));
    if (zero && (refs == owners || active_)) {
        STRATA_CO_TRY_VOID(co_await drop_place(entry, m, owners));
        co_return std::size_t{1};
    }
    if (refs != owners) {
        if (behind(m.host)) {
            STRATA_CO_TRY_VOID(co_await move_shared(entry, m, guest, refs));
        }
        co_return std::size_t{1};
    }
    const Run first{entry, 1, m.host, guest};
    STRATA_CO_TRY(const Run run, co_await extend(first, owners));
    co_return co_await move_run(run, owners);
}

/// As many entries as go on in the same way, and fit into the buffer.
Task<Compactor::Run> Compactor::extend(Run run, std::uint64_t owners) {
    const std::size_t step = meta_.header().entry_bytes() / 8;
    const std::uint64_t most = std::min<std::uint64_t>(buffer_.size() / cluster(),
                                                       meta_.header().l2_entries() - run.entry);
    while (run.count < most && step == 1) {
        const std::uint64_t next = run.host + run.count * cluster();
        if ((words_[run.entry + run.count] & ~kCopied) != next) {
            break;
        }
        STRATA_CO_TRY(const std::uint64_t refs, co_await meta_.refcount(next / cluster()));
        if (refs != owners) {
            break;
        }
        ++run.count;
    }
    co_return run;
}

/// A place that is kept for zeros is not needed. (What another disk has as well is dropped by the
/// active one alone, whose entries say whether it is the only owner.)
Task<> Compactor::drop_place(std::size_t entry, const Mapping& old, std::uint64_t owners) {
    const std::size_t step = meta_.header().entry_bytes() / 8;
    words_[entry * step] = step == 2 ? 0 : kZeroFlag;
    changed_ = again_ = true;
    old_.push_back({old.host, owners});
    co_return ok();
}

Task<> Compactor::copy_data(std::uint64_t from, std::uint64_t to, std::uint64_t guest,
                            std::uint64_t clusters) {
    if (node_.header().encryption == 0) {
        const Buffers all = buffer_.view().slice(0, clusters * cluster());
        STRATA_CO_TRY_VOID(co_await file_.read(from, all));
        co_return co_await file_.write(to, all);
    }
    // The cipher may go by the place in the file.
    for (std::uint64_t at = 0; at < clusters * cluster(); at += cluster()) {
        const Buffers one = buffer_.view().slice(0, cluster());
        STRATA_CO_TRY_VOID(co_await node_.read_data(from + at, guest + at, one));
        STRATA_CO_TRY_VOID(co_await node_.write_data(to + at, guest + at, one));
    }
    co_return ok();
}

Task<std::size_t> Compactor::move_run(Run run, std::uint64_t owners) {
    const std::size_t step = meta_.header().entry_bytes() / 8;
    STRATA_CO_TRY(const Allocation place, co_await take(run.count));
    if (place.clusters == 0) {
        co_return run.count;
    }
    for (std::uint64_t i = 0; i < place.clusters && owners != 1; ++i) {
        STRATA_CO_TRY_VOID(co_await meta_.set_refcount(place.host / cluster() + i, owners));
    }
    STRATA_CO_TRY_VOID(co_await copy_data(run.host, place.host, run.guest, place.clusters));
    for (std::uint64_t i = 0; i < place.clusters; ++i) {
        Be64& word = words_[(run.entry + i) * step];
        word = (word & ~kOffsetMask) | (place.host + i * cluster());
        old_.push_back({run.host + i * cluster(), owners});
    }
    changed_ = true;
    STRATA_CO_TRY_VOID(co_await moved(place.clusters * cluster()));
    co_return place.clusters;
}

/// A cluster that other tables name, too.
Task<> Compactor::move_shared(std::size_t entry, const Mapping& old, std::uint64_t guest,
                              std::uint64_t refs) {
    const std::size_t step = meta_.header().entry_bytes() / 8;
    auto known = places_.find(old.host);
    if (known == places_.end()) {
        STRATA_CO_TRY(const Allocation place, co_await take(1));
        if (place.clusters == 0) {
            places_.emplace(old.host, old.host);  // it stays, for the other tables as well
            co_return ok();
        }
        STRATA_CO_TRY_VOID(co_await meta_.set_refcount(place.host / cluster(), refs));
        STRATA_CO_TRY_VOID(co_await copy_data(old.host, place.host, guest, 1));
        known = places_.emplace(old.host, place.host).first;
        late_.push_back({old.host, refs});
        STRATA_CO_TRY_VOID(co_await moved(cluster()));
    }
    Be64& word = words_[entry * step];
    word = (word & ~kOffsetMask) | known->second;
    changed_ = true;
    co_return ok();
}

/// Counts `more` references of the bytes at `host`; false: a refcount would be too large.
Task<bool> Compactor::count_more(std::uint64_t host, std::uint64_t bytes, std::uint64_t more) {
    const std::uint64_t first = host / cluster(), last = (host + bytes - 1) / cluster();
    for (std::uint64_t index = first; index <= last && more != 0; ++index) {
        STRATA_CO_TRY(const std::uint64_t now, co_await meta_.refcount(index));
        if (now > meta_.max_refcount() - more) {
            co_return false;
        }
    }
    for (std::uint64_t index = first; index <= last && more != 0; ++index) {
        STRATA_CO_TRY(const std::uint64_t now, co_await meta_.refcount(index));
        STRATA_CO_TRY_VOID(co_await meta_.set_refcount(index, now + more));
    }
    co_return true;
}

/// A place before limit_ for compressed bytes that `owners` tables name, counted for one; 0 if
/// there is none.
Task<std::uint64_t> Compactor::take_packed(std::uint64_t bytes, std::uint64_t owners) {
    if (bytes > cluster()) {
        co_return co_await take_row((bytes + cluster() - 1) / cluster());
    }
    STRATA_CO_TRY(const Allocation free, co_await take(1));
    if (free.clusters == 0) {
        co_return std::uint64_t{0};
    }
    STRATA_CO_TRY_VOID(co_await meta_.give_back(free.host, 1));
    const std::uint64_t shared = meta_.packed_ / cluster();
    STRATA_CO_TRY(const std::uint64_t now, co_await meta_.refcount(shared));
    if (now > meta_.max_refcount() - owners) {
        meta_.leave_packed(shared);  // no room in its refcount
    }
    co_return co_await meta_.allocate_packed(bytes);
}

// Whole sectors move, so that what an entry says of the length holds at the new place.
Task<> Compactor::move_packed(std::size_t entry, const Mapping& old, std::uint64_t owners) {
    const std::size_t step = meta_.header().entry_bytes() / 8;
    const std::uint64_t start = old.host / 512 * 512, bytes = old.host + old.length - start;
    const auto known = places_.find(old.host);
    std::uint64_t place = 0, more = owners;
    if (known != places_.end()) {
        place = known->second;
    } else {
        STRATA_CO_TRY(place, co_await take_packed(bytes, owners));
        if (place == 0) {
            co_return ok();
        }
        const Buffers all = buffer_.view().slice(0, bytes);
        STRATA_CO_TRY_VOID(co_await file_.read(start, all));
        STRATA_CO_TRY_VOID(co_await file_.write(place, all));
        more = owners - 1;
        STRATA_CO_TRY_VOID(co_await moved(bytes));
    }
    STRATA_CO_TRY(const bool counted, co_await count_more(place, bytes, more));
    if (!counted) {
        if (known == places_.end()) {
            // The copy stays without an owner.
            for (std::uint64_t host = place / cluster() * cluster(); host < place + bytes;
                 host += cluster()) {
                old_.push_back({host, 1});
            }
            changed_ = true;
        }
        co_return ok();
    }
    if (meta_.header().snapshots != 0) {
        places_[old.host] = place;
    }
    Be64& word = words_[entry * step];
    const unsigned split = 62 - (meta_.header().cluster_bits - 8);
    word = (word & ~((1ULL << split) - 1)) | (place + old.host % 512);
    changed_ = true;
    for (std::uint64_t host = start / cluster() * cluster(); host < start + bytes;
         host += cluster()) {
        old_.push_back({host, owners});
    }
    co_return ok();
}

}  // namespace strata::block::qcow2
