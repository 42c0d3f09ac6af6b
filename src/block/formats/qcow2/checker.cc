// Checker: counting.
#include "block/formats/qcow2/checker.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/qcow2/snapshot_table.h"
#include "block/wording.h"

namespace strata::block::qcow2 {
namespace {

constexpr std::uint64_t kMaxBitmapDirectory = 1024 * 65535;

struct BitmapExtension {
    Be32 bitmaps, reserved;
    Be64 directory_bytes, directory_offset;
};
struct BitmapEntry {
    Be64 table_offset;
    Be32 table_entries, flags;
    std::uint8_t type = 0, granularity_bits = 0;
    Be16 name_size;
    Be32 extra_size;
};
static_assert(sizeof(BitmapEntry) == 24);

}  // namespace

bool Checker::listens() const {
    return report_.messages.size() < kMaxMessages;
}

void Checker::tell(std::string text) {
    if (listens()) {
        report_.messages.push_back(std::move(text));
    }
}

void Checker::wrong(std::string_view text, bool mended) {
    if (listens()) {
        tell(std::string(mended ? "Repairing " : "ERROR ").append(text));
    }
    ++(mended ? report_.corruptions_fixed : report_.corruptions);
}

Task<std::vector<std::uint64_t>> Checker::read_words(std::uint64_t offset, std::uint64_t count) {
    std::vector<Be64> wire(count);
    STRATA_CO_TRY_VOID(
        co_await file_.read(offset, Buffers(std::as_writable_bytes(std::span(wire)))));
    co_return std::vector<std::uint64_t>(wire.begin(), wire.end());
}

/// Into words_.
Task<> Checker::read_l2(std::uint64_t host) {
    words_.resize(cluster() / 8);
    co_return co_await file_.read(host, Buffers(std::as_writable_bytes(std::span(words_))));
}

Task<> Checker::write_words(std::uint64_t offset, const std::vector<std::uint64_t>& words) {
    const std::vector<Be64> wire(words.begin(), words.end());
    co_return co_await file_.write(offset, Buffers::of(std::as_bytes(std::span(wire))));
}

// False: it lies past the end of the file.
bool Checker::count(std::uint64_t offset, std::uint64_t bytes, std::uint64_t owners,
                    std::string_view what) {
    if (bytes == 0) {
        return true;
    }
    if (offset >= kMaxHostOffset || offset + bytes > metadata_.end() + cluster()) {
        wrong(fmt::format("{} of {} bytes at {:#x} reaches past the end of the file at {:#x}", what,
                          bytes, offset, metadata_.end()),
              false);
        return false;
    }
    for (std::uint64_t index = offset / cluster(); index <= (offset + bytes - 1) / cluster();
         ++index) {
        counts_.add(index, owners);
    }
    return true;
}

Task<> Checker::count_l1(std::vector<std::uint64_t> l1, bool active) {
    for (std::size_t i = 0; i < l1.size(); ++i) {
        const std::uint64_t host = l1[i] & kOffsetMask;
        if (host == 0) {
            continue;
        }
        if (host % cluster() != 0 || host + cluster() > metadata_.end() + cluster() ||
            host >= metadata_.end()) {
            const bool mended = active && mends();
            wrong(fmt::format("L1 entry {} names an L2 table at {:#x}, where none can be", i, host),
                  mended);
            if (mended) {
                metadata_.l1()[i] = 0;
                const std::vector<std::uint64_t> none(1);
                STRATA_CO_TRY_VOID(co_await write_words(header().l1_offset + i * 8, none));
            }
            continue;
        }
        L2& table = l2_[host];
        if (table.owners++ == 0) {
            order_.push_back(host);
        }
        table.active = table.active || active;
    }
    co_return ok();
}

Task<> Checker::count_bitmaps() {
    for (const auto& each : header().extensions) {
        if (each.first == kEncryptionExtension && each.second.size() >= 16) {
            Be64 fields[2];
            std::memcpy(fields, each.second.data(), sizeof fields);
            (void)count(fields[0], fields[1], 1, "the encryption header");
        }
        if (each.first != kBitmapsExtension || each.second.size() < sizeof(BitmapExtension)) {
            continue;
        }
        BitmapExtension extension{};
        std::memcpy(&extension, each.second.data(), sizeof extension);
        if (extension.directory_bytes > kMaxBitmapDirectory ||
            !count(extension.directory_offset, extension.directory_bytes, 1,
                   "the bitmap directory")) {
            continue;
        }
        std::vector<std::byte> directory(extension.directory_bytes);
        STRATA_CO_TRY_VOID(
            co_await file_.read(extension.directory_offset, Buffers(std::span(directory))));
        std::size_t at = 0;
        for (std::uint32_t i = 0;
             i < extension.bitmaps && at + sizeof(BitmapEntry) <= directory.size(); ++i) {
            BitmapEntry entry{};
            std::memcpy(&entry, directory.data() + at, sizeof entry);
            at += (sizeof entry + std::size_t{entry.extra_size} + entry.name_size + 7) / 8 * 8;
            if (entry.table_entries * 8ULL > kMaxL1Bytes ||
                !count(entry.table_offset, entry.table_entries * 8ULL, 1, "a bitmap's table")) {
                continue;
            }
            STRATA_CO_TRY(const auto words,
                          co_await read_words(entry.table_offset, entry.table_entries));
            for (const std::uint64_t word : words) {
                if ((word & kOffsetMask) != 0) {
                    (void)count(word & kOffsetMask, cluster(), 1, "a bitmap's cluster");
                }
            }
        }
    }
    co_return ok();
}

Task<> Checker::count_file_tables(const std::vector<Table>& extra) {
    (void)count(0, cluster(), 1, "the header");
    (void)count(header().l1_offset, header().l1_entries * 8ULL, 1, "the L1 table");
    STRATA_CO_TRY_VOID(co_await count_l1(metadata_.l1(), true));
    STRATA_CO_TRY(const SnapshotTable table,
                  co_await read_snapshots(file_, header(), SnapshotReading::Lenient));
    (void)count(header().snapshots_offset, table.bytes, 1, "the snapshot table");
    std::vector<Table> tables = extra;
    for (const Snapshot& each : table.snapshots) {
        if (each.fault.empty()) {
            tables.push_back({each.l1_offset, each.l1_entries});
            continue;
        }
        wrong(fmt::format("snapshot {} ({}) {}; snapshot table entry corrupted", each.info.id,
                          each.info.name, each.fault),
              false);
    }
    for (const Table& each : tables) {
        if (each.entries != 0 && count(each.offset, each.entries * 8, 1, "a snapshot's L1 table")) {
            STRATA_CO_TRY(std::vector<std::uint64_t> l1,
                          co_await read_words(each.offset, each.entries));
            STRATA_CO_TRY_VOID(co_await count_l1(std::move(l1), false));
        }
    }
    co_return co_await count_bitmaps();
}

// False: the entry cannot be.
bool Checker::count_entry(std::uint64_t entry, std::uint64_t bitmap, const L2& table,
                          std::uint64_t host) {
    const auto mapping = metadata_.decode(entry, bitmap, 0);
    if (!mapping.ok() && leaves_entries_ && entry_errno_ == 0) {
        const std::uint64_t block =
            (entry & kOffsetMask) / cluster() / header().refcounts_per_block();
        entry_errno_ = block * 8 >= kMaxRefcountTableBytes ? EFBIG : EAGAIN;
    }
    if (!mapping.ok() && wording() == Wording::Qemu && !mends_entries() &&
        (entry & kCompressed) == 0 && (entry & kOffsetMask) % cluster() == 0) {
        tell(
            fmt::format("ERROR: counting reference for region exceeding the end of the file by one "
                        "cluster or more: offset {:#x} size {:#x}",
                        entry & kOffsetMask, cluster()));
        ++report_.corruptions;
        return false;
    }
    const bool preallocated = header().extended() && (bitmap & 0xFFFFFFFFU) == 0;
    if (!mapping.ok() && wording() == Wording::Qemu && mends_entries() && preallocated &&
        (entry & kCompressed) == 0 && (entry & kOffsetMask) % cluster() != 0) {
        wrong(fmt::format("offset={:x}: Preallocated cluster is not properly aligned; L2 entry "
                          "corrupted.",
                          entry & kOffsetMask),
              true);
        return false;
    }
    if (!mapping.ok()) {
        wrong(
            fmt::format("the L2 table at {:#x} has the entry {:#x}, which cannot be", host, entry),
            mends_entries());
        return false;
    }
    const Mapping& m = *mapping;
    const bool compressed = m.kind == Mapping::Kind::Compressed;
    if (compressed && (entry & kCopied) != 0 && table.active) {
        wrong(fmt::format("the compressed cluster at {:#x} has the COPIED bit", m.host),
              mends_entries());
        return false;
    }
    const bool here = compressed || m.host != 0 || (elsewhere_ && m.copied);
    if (table.active && here) {
        ++report_.allocated_clusters;
        report_.compressed_clusters += compressed ? 1 : 0;
        report_.fragmented_clusters += compressed || (next_ != 0 && m.host != next_) ? 1 : 0;
        next_ = compressed ? next_ : m.host + cluster();
    }
    if (here && !elsewhere_) {
        const std::uint64_t start = compressed ? m.host / 512 * 512 : m.host;
        (void)count(start, compressed ? m.host + m.length - start : cluster(), table.owners,
                    "a cluster");
    }
    return true;
}

/// Counts the entries at the beginning of `words` that are alike: none, or sound ones of clusters
/// side by side. Answers how many these are, 0 if the first one must be looked at by itself.
std::size_t Checker::count_run(std::span<const Be64> words, const L2& table) {
    const std::uint64_t first = words.front(), host = first & kOffsetMask;
    std::size_t run = 1;
    if (first == 0) {
        while (run < words.size() && words[run] == 0) {
            ++run;
        }
        return run;
    }
    if (host == 0 || (first & ~(kOffsetMask | kCopied)) != 0 || host % cluster() != 0) {
        return 0;
    }
    while (run < words.size() && words[run] == first + run * cluster()) {
        ++run;
    }
    run = host < metadata_.end()
              ? std::min<std::uint64_t>(run, (metadata_.end() - host) / cluster())
              : 0;
    while (run != 0 && metadata_.forbidden(host, run)) {
        run /= 2;
    }
    if (run == 0) {
        return 0;
    }
    counts_.add_run(host / cluster(), run, table.owners);
    if (table.active) {
        report_.allocated_clusters += run;
        report_.fragmented_clusters += next_ != 0 && host != next_ ? 1 : 0;
        next_ = host + run * cluster();
    }
    return run;
}

/// What takes the place of an entry that cannot be. What it meant is lost; zeros show, not
/// something older from below.
std::uint64_t Checker::mended_entry(std::uint64_t word, std::uint64_t bitmap) const {
    if ((word & kCompressed) != 0 && metadata_.decode(word & ~kCopied, bitmap, 0).ok()) {
        return word & ~kCopied;
    }
    return header().version >= 3 && header().entry_bytes() == 8 ? kZeroFlag : 0;
}

Task<> Checker::count_l2(std::uint64_t host, L2 table) {
    (void)count(host, cluster(), table.owners, "an L2 table");
    STRATA_CO_TRY_VOID(co_await read_l2(host));
    const std::size_t step = header().entry_bytes() / 8;
    bool changed = false;
    for (std::size_t i = 0; i < words_.size();) {
        if (step == 1 && !elsewhere_) {
            if (const std::size_t run = count_run(std::span(words_).subspan(i), table); run != 0) {
                i += run;
                continue;
            }
        }
        const std::uint64_t word = words_[i], bitmap = step == 2 ? words_[i + 1].value() : 0;
        if ((word != 0 || bitmap != 0) && !count_entry(word, bitmap, table, host) &&
            mends_entries()) {
            words_[i] = mended_entry(word, bitmap);
            if (step == 2 && words_[i] == 0) {
                // Zeros where subclusters are lost; the others show what they did.
                const std::uint64_t lost = (word & kCompressed) != 0 ? 0xFFFFFFFFU : bitmap;
                words_[i + 1] = (bitmap | lost << 32) & ~0xFFFFFFFFULL;
            }
            changed = true;
            if (words_[i] > kZeroFlag) {
                (void)count_entry(words_[i], step == 2 ? words_[i + 1].value() : 0, table, host);
            }
        }
        i += step;
    }
    if (changed) {
        tables_mended_ = true;
        STRATA_CO_TRY_VOID(
            co_await file_.write(host, Buffers::of(std::as_bytes(std::span(words_)))));
    }
    co_return ok();
}

Task<> Checker::count_blocks() {
    (void)count(header().refcount_table_offset,
                std::uint64_t{header().refcount_table_clusters} << header().cluster_bits, 1,
                "the refcount table");
    const std::vector<std::uint64_t>& table = metadata_.refcount_table();
    for (std::size_t i = 0; i < table.size(); ++i) {
        const std::uint64_t host = table[i] & kOffsetMask;
        if (host == 0) {
            continue;
        }
        const bool possible = host % cluster() == 0 && host < metadata_.end() && table[i] == host;
        if (!possible || !count(host, cluster(), 1, "a refcount block") ||
            counts_.get(host / cluster()) != 1) {
            tell(fmt::format(
                "ERROR refcount block {} is at {:#x}, which cannot be or belongs to something else",
                i, host));
            ++report_.corruptions;
            rebuild_ = true;
        }
    }
    co_return ok();
}

/// Nothing is mended beside a snapshot whose L1 table cannot be: what is its own would be a leak.
Task<> Checker::check_snapshots() {
    STRATA_CO_TRY(const SnapshotTable table,
                  co_await read_snapshots(file_, header(), SnapshotReading::Lenient));
    for (const Snapshot& each : table.snapshots) {
        if (!each.fault.empty()) {
            co_return Error{
                ErrorKind::Failed,
                fmt::format(
                    "'{}': snapshot {} ({}) {}; nothing is repaired beside it: what only it "
                    "has would be given up. Delete nothing: copy what can be read",
                    file_.name(), each.info.id, each.info.name, each.fault),
                EINVAL};
        }
    }
    co_return ok();
}

Task<CheckReport> Checker::run(Repair repair, std::vector<Table> extra) {
    repair_ = repair;
    report_.total_clusters = (header().size + cluster() - 1) / cluster();
    const bool was_dirty = (header().incompatible & kDirty) != 0;
    if (repair_ != Repair::Nothing) {
        STRATA_CO_TRY_VOID(co_await check_snapshots());
    }
    if (mends()) {
        STRATA_CO_TRY_VOID(co_await mark_dirty(true));
    }
    STRATA_CO_TRY_VOID(co_await count_file_tables(extra));
    for (std::size_t i = 0; i < order_.size(); ++i) {
        STRATA_CO_TRY_VOID(co_await count_l2(order_[i], l2_[order_[i]]));
    }
    STRATA_CO_TRY_VOID(co_await count_blocks());
    STRATA_CO_TRY_VOID(co_await compare());
    counts_right_ = report_.corruptions == 0 && report_.check_errors == 0 && report_.leaks == 0;
    STRATA_CO_TRY_VOID(co_await fix_flags(false, true));
    if (repair == Repair::Leaks && mends_flags() && flags_lack_) {
        STRATA_CO_TRY_VOID(co_await mark_dirty(true));  // counts that are right before the bits are
    }
    if (repair != Repair::Nothing) {
        STRATA_CO_TRY_VOID(co_await file_.flush());
        if (rebuild_ && mends()) {
            STRATA_CO_TRY_VOID(co_await rebuild());
        } else {
            STRATA_CO_TRY_VOID(co_await write_blocks());
        }
    }
    if (mends_flags() && flags_lack_) {
        STRATA_CO_TRY_VOID(co_await fix_flags(true, false));
        STRATA_CO_TRY_VOID(co_await file_.flush());
        if (!mends() && !was_dirty) {
            STRATA_CO_TRY_VOID(co_await mark_dirty(false));
        }
    }
    if (mends()) {
        // What cannot be mended stays as it was before, and so does the bit.
        if (!was_dirty || (report_.corruptions == 0 && report_.check_errors == 0)) {
            STRATA_CO_TRY_VOID(co_await mark_dirty(false));
        }
    }
    co_return report_;
}

}  // namespace strata::block::qcow2
