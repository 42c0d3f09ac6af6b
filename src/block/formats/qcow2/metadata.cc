// Metadata: L1 and L2 tables, rounds of writing.
#include "block/formats/qcow2/metadata.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/protocols/file/file_node.h"

namespace strata::block::qcow2 {
namespace {

constexpr std::size_t kSlice = 4096, kL2Slices = 8192, kRefcountSlices = 2048;
constexpr std::size_t kMaxPending = 65536;

}  // namespace

Metadata::Metadata(Node& file, Header header, bool discard)
    : file_(file),
      header_(std::move(header)),
      data_elsewhere_((header_.incompatible & kExternalData) != 0),
      discard_(discard),
      zero_end_(file.traits().zero_initialised),
      end_((file.size() + header_.cluster() - 1) / header_.cluster() * header_.cluster()),
      l2_(file, std::min<std::size_t>(kSlice, header_.cluster()), kL2Slices),
      refcounts_(file, std::min<std::size_t>(kSlice, header_.cluster()), kRefcountSlices),
      tables_(file.loop()),
      allocation_(file.loop()),
      round_(file.loop()) {}

Task<std::unique_ptr<Metadata>> Metadata::load(Node& file, Header header, bool discard,
                                               bool lenient) {
    std::unique_ptr<Metadata> made(new Metadata(file, std::move(header), discard));
    const Header& h = made->header_;
    const std::uint64_t table_bytes = std::uint64_t{h.refcount_table_clusters} << h.cluster_bits;
    if (!lenient && (h.l1_offset + h.l1_entries * 8ULL > made->end_ ||
                     h.refcount_table_offset + table_bytes > made->end_)) {
        co_return made->corrupt("its tables lie past the end of the file; is it cut off?");
    }
    STRATA_CO_TRY(made->l1_, co_await made->read_table(h.l1_offset, h.l1_entries));
    STRATA_CO_TRY(made->table_,
                  co_await made->read_table(h.refcount_table_offset, table_bytes / 8));
    co_return std::move(made);
}

Error Metadata::corrupt(std::string_view what) const {
    return {ErrorKind::Failed, fmt::format("qcow2 image '{}' is corrupt: {}", file_.name(), what),
            EIO};
}

bool Metadata::forbidden(std::uint64_t host, std::uint64_t clusters) const {
    const auto within = [&](std::uint64_t start, std::uint64_t bytes) {
        return host < start + bytes && start < host + clusters * header_.cluster();
    };
    return within(0, header_.cluster()) || within(header_.l1_offset, header_.l1_entries * 8ULL) ||
           within(header_.refcount_table_offset,
                  std::uint64_t{header_.refcount_table_clusters} << header_.cluster_bits) ||
           (header_.snapshots != 0 && within(header_.snapshots_offset, 1));
}

Task<std::vector<std::uint64_t>> Metadata::read_table(std::uint64_t offset, std::uint64_t entries) {
    std::vector<Be64> wire(entries);
    STRATA_CO_TRY_VOID(
        co_await file_.read(offset, Buffers(std::as_writable_bytes(std::span(wire)))));
    co_return std::vector<std::uint64_t>(wire.begin(), wire.end());
}

Result<Mapping> Metadata::decode(std::uint64_t entry, std::uint64_t bitmap,
                                 std::uint64_t guest) const {
    Mapping m;
    if ((entry & kCompressed) != 0) {
        const unsigned split = 62 - (header_.cluster_bits - 8);
        m.kind = Mapping::Kind::Compressed;
        m.host = entry & ((1ULL << split) - 1);
        m.length = static_cast<std::uint32_t>((((entry & (kCompressed - 1)) >> split) + 1) * 512 -
                                              (m.host & 511));
        return m.host < header_.cluster() || m.host >= end_ || data_elsewhere_
                   ? Result<Mapping>(corrupt(fmt::format(
                         "the compressed cluster for {:#x} is at {:#x}", guest, m.host)))
                   : m;
    }
    m.host = entry & kOffsetMask;
    m.copied = (entry & kCopied) != 0;
    // In a data file of its own a cluster may be at 0, and COPIED is always set for one that is
    // there.
    const bool here = data_elsewhere_ ? m.host != 0 || m.copied : m.host != 0;
    if (m.host % header_.cluster() != 0 ||
        (!data_elsewhere_ && (m.host >= end_ || (here && forbidden(m.host))))) {
        return corrupt(
            fmt::format("the cluster for {:#x} is at {:#x}, where none can be", guest, m.host));
    }
    m.kind = here ? Mapping::Kind::Normal : Mapping::Kind::Unallocated;
    if (header_.extended()) {
        m.allocated = static_cast<std::uint32_t>(bitmap);
        m.zero = static_cast<std::uint32_t>(bitmap >> 32);
        if ((m.allocated & m.zero) != 0 || (!here && m.allocated != 0)) {
            return corrupt(fmt::format("the subclusters of {:#x} contradict each other ({:#x})",
                                       guest, bitmap));
        }
        m.kind = m.zero == ~0U                 ? Mapping::Kind::Zero
                 : (m.allocated | m.zero) == 0 ? Mapping::Kind::Unallocated
                                               : Mapping::Kind::Normal;
    } else if (header_.version >= 3 && (entry & kZeroFlag) != 0) {
        m.kind = Mapping::Kind::Zero;
    }
    return m;
}

Result<std::uint64_t> Metadata::l2_table(std::uint64_t guest) const {
    const std::uint64_t index = guest / header_.cluster() / header_.l2_entries();
    if (index >= l1_.size()) {
        return corrupt(fmt::format("its L1 table ends before {:#x}", guest));
    }
    const std::uint64_t host = l1_[index] & kOffsetMask;
    if (host % header_.cluster() != 0 || host >= end_ || (host != 0 && forbidden(host))) {
        return corrupt(
            fmt::format("the L2 table for {:#x} is at {:#x}, where none can be", guest, host));
    }
    return host;
}

// The table that `guest` is in, as the active disk's own: made, or copied from one that a snapshot
// shares.
Task<std::uint64_t> Metadata::own_l2_table(std::uint64_t guest) {
    const std::uint64_t index = guest / header_.cluster() / header_.l2_entries();
    STRATA_CO_TRY(std::uint64_t host, l2_table(guest));
    if (host != 0 && (l1_[index] & kCopied) != 0) {
        co_return host;
    }
    const auto lock = co_await tables_.lock();
    STRATA_CO_TRY(host, l2_table(guest));
    if (host != 0 && (l1_[index] & kCopied) != 0) {
        co_return host;  // somebody was faster
    }
    STRATA_CO_TRY(const std::uint64_t made, co_await allocate_table(1));
    std::vector<std::byte> content(header_.cluster());
    if (host != 0) {
        for (std::uint64_t at = 0; at < header_.cluster(); at += l2_.bytes()) {
            STRATA_CO_TRY(const std::byte* from, co_await l2_.load(host + at));
            std::copy_n(from, l2_.bytes(), content.begin() + static_cast<std::ptrdiff_t>(at));
        }
    }
    for (std::uint64_t at = 0; at < header_.cluster(); at += l2_.bytes()) {
        std::copy_n(content.begin() + static_cast<std::ptrdiff_t>(at), l2_.bytes(),
                    l2_.fresh(made + at));
    }
    l1_[index] = made | kCopied;
    l1_dirty_.insert(index);
    if (host != 0) {
        pending_.push_back(host);
    }
    co_return made;
}

bool Metadata::look_up_now(std::uint64_t guest, Result<Mapping>& out) {
    const Result<std::uint64_t> table = l2_table(guest);
    if (!table.ok()) {
        out = table.error();
        return true;
    }
    if (*table == 0) {
        out = Mapping{};
        return true;
    }
    const std::uint64_t at =
        guest / header_.cluster() % header_.l2_entries() * header_.entry_bytes();
    const std::byte* slice = l2_.find(*table + at / l2_.bytes() * l2_.bytes());
    if (slice == nullptr) {
        return false;
    }
    Be64 words[2] = {0ULL, 0ULL};
    std::memcpy(words, slice + at % l2_.bytes(), header_.entry_bytes());
    out = decode(words[0], words[1], guest);
    return true;
}

std::uint64_t Metadata::run_now(std::uint64_t guest, std::uint64_t most) {
    const std::uint64_t entries = header_.l2_entries();
    const std::uint64_t index = guest / header_.cluster() % entries;
    const Result<std::uint64_t> table = l2_table(guest);
    if (!table.ok() || most <= 1) {
        return 1;
    }
    if (*table == 0) {
        std::uint64_t count = entries - index;
        for (std::size_t next = guest / header_.cluster() / entries + 1;
             count < most && next < l1_.size() && l1_[next] == 0; ++next) {
            count += entries;
        }
        return std::min(count, most);
    }
    const std::uint64_t at = index * header_.entry_bytes();
    const std::byte* slice = l2_.find(*table + at / l2_.bytes() * l2_.bytes());
    if (slice == nullptr) {
        return 1;
    }
    const std::size_t words = header_.entry_bytes() / 8;
    const std::size_t here = at % l2_.bytes() / 8;
    const std::uint64_t limit = std::min<std::uint64_t>(most, (l2_.bytes() / 8 - here) / words);
    const auto word = [&](std::size_t i) {
        Be64 value = 0ULL;
        std::memcpy(&value, slice + (here + i) * 8, sizeof value);
        return static_cast<std::uint64_t>(value);
    };
    const std::uint64_t first = word(0);
    const bool placed = (first & kOffsetMask) != 0;
    if ((first & kCompressed) != 0 || (header_.extended() && (placed || word(1) != 0)) ||
        (placed && data_elsewhere_)) {
        return 1;
    }
    const std::uint64_t step = placed ? header_.cluster() : 0;
    std::uint64_t count = 1;
    while (count < limit && word(count * words) == first + count * step &&
           (words == 1 || word(count * words + 1) == 0)) {
        ++count;
    }
    const std::uint64_t host = first & kOffsetMask;
    return placed && (host + count * step > end_ || forbidden(host, count)) ? 1 : count;
}

Task<Mapping> Metadata::look_up(std::uint64_t guest) {
    Result<Mapping> found = Mapping{};
    // Another turn if the slice went, or the table moved, meanwhile.
    while (!look_up_now(guest, found)) {
        STRATA_CO_TRY(const std::uint64_t table, l2_table(guest));
        const std::uint64_t at =
            guest / header_.cluster() % header_.l2_entries() * header_.entry_bytes();
        STRATA_CO_TRY_VOID(co_await l2_.load(table + at / l2_.bytes() * l2_.bytes()));
    }
    co_return found;
}

Task<> Metadata::set(std::uint64_t guest, Entry entry) {
    STRATA_CO_TRY(const std::uint64_t table, co_await own_l2_table(guest));
    const std::uint64_t at =
        guest / header_.cluster() % header_.l2_entries() * header_.entry_bytes();
    const std::uint64_t place = table + at / l2_.bytes() * l2_.bytes();
    STRATA_CO_TRY(std::byte * slice, co_await l2_.load(place));
    const Be64 words[2] = {entry.word, entry.bitmap};
    std::memcpy(slice + at % l2_.bytes(), words, header_.entry_bytes());
    l2_.taint(place);
    co_return ok();
}

Task<> Metadata::prepare(std::uint64_t guest) {
    STRATA_CO_TRY_VOID(co_await own_l2_table(guest));
    co_return ok();
}

Task<std::uint64_t> Metadata::set_run(std::uint64_t guest, Entry first, std::uint64_t count) {
    STRATA_CO_TRY(const std::uint64_t table, co_await own_l2_table(guest));
    const std::uint64_t at =
        guest / header_.cluster() % header_.l2_entries() * header_.entry_bytes();
    const std::uint64_t place = table + at / l2_.bytes() * l2_.bytes();
    STRATA_CO_TRY(std::byte * slice, co_await l2_.load(place));
    count =
        std::min<std::uint64_t>(count, (l2_.bytes() - at % l2_.bytes()) / header_.entry_bytes());
    for (std::uint64_t i = 0; i < count; ++i) {
        const Be64 words[2] = {first.word + i * header_.cluster(), first.bitmap};
        std::memcpy(slice + at % l2_.bytes() + i * header_.entry_bytes(), words,
                    header_.entry_bytes());
    }
    l2_.taint(place);
    co_return count;
}

void Metadata::drop_l2_tables(std::uint64_t first) {
    for (std::uint64_t index = first; index < l1_.size(); ++index) {
        if ((l1_[index] & kOffsetMask) != 0) {
            release(l1_[index] & kOffsetMask, 1);
            l1_[index] = 0;
            l1_dirty_.insert(index);
        }
    }
}

void Metadata::release(std::uint64_t host, std::uint64_t clusters) {
    for (std::uint64_t i = 0; i < clusters; ++i) {
        pending_.push_back(host + i * header_.cluster());
    }
}

void Metadata::release(const Mapping& m) {
    if (m.host == 0 || data_elsewhere_) {
        return;
    }
    const std::uint64_t last = m.kind == Mapping::Kind::Compressed ? m.host + m.length - 1 : m.host;
    const std::uint64_t first = m.host / header_.cluster();
    release(first * header_.cluster(), last / header_.cluster() - first + 1);
}

bool Metadata::loaded() const {
    return l2_.full_of_dirt() || refcounts_.full_of_dirt() || pending_.size() >= kMaxPending;
}

Metadata::Entries Metadata::take(std::set<std::uint64_t>& dirty,
                                 const std::vector<std::uint64_t>& table) {
    Entries entries;
    for (const std::uint64_t index : dirty) {
        entries.emplace_back(index, table[index]);
    }
    dirty.clear();
    return entries;
}

// Neighbours go together.
Task<> Metadata::write_entries(std::uint64_t table, const Entries& entries) {
    std::vector<Be64> wire;
    for (std::size_t at = 0; at < entries.size(); at += wire.size()) {
        wire.clear();
        while (at + wire.size() < entries.size() &&
               entries[at + wire.size()].first == entries[at].first + wire.size()) {
            wire.emplace_back(entries[at + wire.size()].second);
        }
        STRATA_CO_TRY_VOID(co_await file_.write(table + entries[at].first * 8,
                                                Buffers::of(std::as_bytes(std::span(wire)))));
    }
    co_return ok();
}

void Metadata::forget_everything() {
    l2_.clear();
    refcounts_.clear();
    cursor_ = 0;
    packed_ = 0;
}

Task<> Metadata::take_refcount_table(std::uint64_t offset, std::vector<std::uint64_t> table) {
    struct {
        Be64 offset;
        Be32 clusters;
    } const fields{offset, static_cast<std::uint32_t>(table.size() * 8 / header_.cluster())};
    STRATA_CO_TRY_VOID(
        co_await write_header_field(kRefcountTableField, std::as_bytes(std::span(&fields, 1))));
    STRATA_CO_TRY_VOID(co_await file_.flush());
    header_.refcount_table_offset = fields.offset;
    header_.refcount_table_clusters = fields.clusters;
    table_ = std::move(table);
    end_ = std::max(end_, offset + table_.size() * 8);
    forget_everything();
    co_return ok();
}

Task<> Metadata::settle() {
    STRATA_CO_TRY_VOID(co_await write_back());
    STRATA_CO_TRY_VOID(co_await free_released());
    co_return co_await write_back();
}

Task<> Metadata::write_header_field(std::uint64_t offset, std::span<const std::byte> bytes) {
    co_return co_await file_.write(offset, Buffers::of(bytes));
}

// One round for all who asked before it began.
Task<> Metadata::write_back() {
    const std::uint64_t mine = ++asked_;
    const auto turn = co_await round_.lock();
    if (written_ >= mine) {
        co_return ok();
    }
    const std::uint64_t covered = asked_;
    STRATA_CO_TRY_VOID(co_await write_round());
    written_ = covered;
    co_return ok();
}

Task<> Metadata::write_round() {
    SliceCache::Batch l2, refcounts;
    Entries l1, table;
    Retired retired;
    {
        const auto tables = co_await tables_.lock();
        const auto allocation = co_await allocation_.lock();
        refcounts = refcounts_.take_dirty();
        l2 = l2_.take_dirty();
        l1 = take(l1_dirty_, l1_);
        table = take(table_dirty_, table_);
        retired.clusters.swap(pending_);
        retired.epoch = epoch_++;
        passages_.push_back(0);
    }
    const bool has_l2 = !l2.pieces.empty();
    Result<> done = co_await refcounts_.write(std::move(refcounts));
    if (done.ok()) {
        done = co_await file_.flush();  // the data as well
    }
    if (done.ok() && !table.empty()) {
        done = co_await write_entries(header_.refcount_table_offset, table);
        if (done.ok()) {
            done = co_await file_.flush();
        }
    }
    if (has_l2 && !done.ok()) {
        l2_.put_back(l2);
    } else if (has_l2) {
        done = co_await l2_.write(std::move(l2));
        if (done.ok()) {
            done = co_await file_.flush();
        }
    }
    if (done.ok() && !l1.empty()) {
        done = co_await write_entries(header_.l1_offset, l1);
        if (done.ok()) {
            done = co_await file_.flush();
        }
    }
    if (!done.ok()) {
        for (const auto& each : table) {
            table_dirty_.insert(each.first);
        }
        for (const auto& each : l1) {
            l1_dirty_.insert(each.first);
        }
        pending_.insert(pending_.end(), retired.clusters.begin(), retired.clusters.end());
        co_return done;
    }
    if (!retired.clusters.empty()) {
        retired_.push_back(std::move(retired));
    }
    co_return ok();
}

}  // namespace strata::block::qcow2
