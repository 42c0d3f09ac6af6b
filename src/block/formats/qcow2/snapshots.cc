// Qcow2Node: internal snapshots.
//
// The image is at rest meanwhile. A table that is to be referred to is complete, and everything it
// refers to counted, before the header names it; what the header names no more is uncounted
// afterwards. So a crash between leaves leaks, and one while counts and COPIED bits change leaves
// the dirty bit (checker.h). Version 2 has none: the image is of version 3 while they change.
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <ctime>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/qcow2/checker.h"
#include "block/formats/qcow2/qcow2.h"
#include "block/wording.h"

namespace strata::block::qcow2 {
namespace {

constexpr std::uint64_t kSizeToL1 = 24;  ///< size, encryption, L1 entries, L1 offset

std::vector<Snapshot>::iterator find(std::vector<Snapshot>& all, std::string_view which) {
    const auto by_id = std::find_if(all.begin(), all.end(),
                                    [&](const Snapshot& each) { return each.info.id == which; });
    return by_id != all.end() ? by_id
                              : std::find_if(all.begin(), all.end(), [&](const Snapshot& each) {
                                    return each.info.name == which;
                                });
}

Error unknown(std::string_view image, std::string_view which) {
    return {ErrorKind::NotFound, fmt::format("'{}' has no snapshot '{}'", image, which), ENOENT};
}

std::string new_id(const std::vector<Snapshot>& all) {
    std::uint64_t highest = 0;
    for (const Snapshot& each : all) {
        std::uint64_t value = 0;
        (void)std::from_chars(each.info.id.data(), each.info.id.data() + each.info.id.size(),
                              value);  // no number counts as 0
        highest = std::max(highest, value);
    }
    return std::to_string(highest + 1);
}

}  // namespace

/// Makes refcounts and COPIED bits what they should be, with L1 tables (offset, entries) that the
/// header does not name yet.
Task<> Qcow2Node::recount(L1Tables l1_tables) {
    STRATA_CO_TRY_VOID(co_await metadata_->settle());
    std::vector<Checker::Table> extra;
    for (const auto& each : l1_tables) {
        extra.push_back({each.first, each.second});
    }
    const bool old_version = header().version < 3;
    if (old_version) {
        STRATA_CO_TRY_VOID(co_await change_version(3));
    }
    Checker checker(*metadata_, data_ != file_);
    checker.leave_entries();
    const auto counted = co_await checker.run(Repair::All, std::move(extra));
    Result<> restored = ok();
    if (old_version && (header().incompatible & kDirty) == 0) {
        restored = co_await change_version(2);
    }
    STRATA_CO_TRY(const CheckReport report, counted);
    if (!report.clean()) {
        co_return Error{
            ErrorKind::Failed,
            fmt::format("'{}': its reference counts do not allow that: {}", name(),
                        report.messages.empty() ? "they are damaged" : report.messages.back()),
            checker.entry_errno() != 0 ? checker.entry_errno() : EINVAL};
    }
    co_return restored;
}

/// Says no more than the header does: nothing that only one of the versions has may be in use.
Task<> Qcow2Node::change_version(std::uint32_t version) {
    Header wanted = header();
    wanted.version = version;
    co_return co_await change_features(std::move(wanted));
}

Task<std::vector<SnapshotInfo>> Qcow2Node::snapshots() {
    STRATA_CO_TRY(const auto pass, co_await gate_.shared());
    STRATA_CO_TRY(const SnapshotTable table,
                  co_await read_snapshots(*file_, header(), SnapshotReading::FaultyL1));
    std::vector<SnapshotInfo> infos;
    for (const Snapshot& each : table.snapshots) {
        infos.push_back(each.info);
    }
    co_return infos;
}

Task<std::uint64_t> Qcow2Node::write_new_l1(std::vector<std::uint64_t> l1) {
    const std::uint64_t clusters =
        std::max<std::uint64_t>(1, (l1.size() * 8 + cluster() - 1) / cluster());
    STRATA_CO_TRY(const std::uint64_t place, co_await metadata_->allocate_table(clusters));
    std::vector<Be64> wire(clusters * cluster() / 8);
    std::transform(l1.begin(), l1.end(), wire.begin(),
                   [](std::uint64_t entry) { return Be64(entry & ~kCopied); });
    STRATA_CO_TRY_VOID(co_await file_->write(place, Buffers::of(std::as_bytes(std::span(wire)))));
    STRATA_CO_TRY_VOID(co_await metadata_->write_back());
    co_return place;
}

/// `old_bytes`: of the table that this one replaces.
Task<> Qcow2Node::write_snapshots(std::vector<Snapshot> all, std::uint64_t old_bytes) {
    const std::vector<std::byte> bytes = serialise_snapshots(all);
    std::uint64_t place = 0;
    if (!bytes.empty()) {
        STRATA_CO_TRY(
            place, co_await metadata_->allocate_table((bytes.size() + cluster() - 1) / cluster()));
        STRATA_CO_TRY_VOID(co_await file_->write(place, Buffers::of(bytes)));
        STRATA_CO_TRY_VOID(co_await metadata_->write_back());
    }
    struct {
        Be32 count;
        Be64 offset;
    } const fields{static_cast<std::uint32_t>(all.size()), place};
    STRATA_CO_TRY_VOID(co_await metadata_->write_header_field(
        kSnapshotsField, std::as_bytes(std::span(&fields, 1))));
    STRATA_CO_TRY_VOID(co_await file_->flush());
    metadata_->release(header().snapshots_offset, (old_bytes + cluster() - 1) / cluster());
    metadata_->header().snapshots = fields.count;
    metadata_->header().snapshots_offset = place;
    co_return ok();
}

Task<std::string> Qcow2Node::create_snapshot(SnapshotInfo snapshot) {
    STRATA_CO_TRY_VOID(check_change(0, 0));
    STRATA_CO_TRY(const auto alone, co_await gate_.exclusive());
    if (data_ != file_) {
        co_return lacks("snapshots with a data file of their own");
    }
    if (metadata_->max_refcount() < 2) {
        co_return Error{ErrorKind::NotSupported,
                        fmt::format("'{}': refcounts of one bit allow no snapshots; 'amend -o "
                                    "refcount_bits=16' widens them",
                                    name()),
                        EINVAL};
    }
    STRATA_CO_TRY(SnapshotTable table, co_await read_snapshots(*file_, header()));
    if (table.snapshots.size() >= kMaxSnapshots || snapshot.name.size() > 65535) {
        co_return Error{ErrorKind::InvalidArgument,
                        fmt::format("'{}': too many snapshots, or too long a name", name()), EFBIG};
    }
    STRATA_CO_TRY_VOID(co_await metadata_->settle());
    const std::uint64_t entries = metadata_->l1().size();
    STRATA_CO_TRY(const std::uint64_t l1, co_await write_new_l1(metadata_->l1()));
    L1Tables made(1, {l1, entries});
    if (Result<> counted = co_await recount(std::move(made)); !counted.ok()) {
        L1Tables none;
        (void)co_await recount(std::move(none));  // takes the copy back; the other error is told
        co_return counted.error();
    }
    snapshot.id = new_id(table.snapshots);
    snapshot.disk_size = size_;
    if (snapshot.date_seconds == 0) {
        snapshot.date_seconds = static_cast<std::uint32_t>(std::time(nullptr));
    }
    const std::uint64_t state = snapshot.vm_state_size;
    const std::string id = snapshot.id;
    table.snapshots.push_back(Snapshot{.l1_offset = l1,
                                       .l1_entries = static_cast<std::uint32_t>(entries),
                                       .info = std::move(snapshot),
                                       .more = {}});
    STRATA_CO_TRY_VOID(co_await write_snapshots(std::move(table.snapshots), table.bytes));
    if (state != 0) {  // it is the snapshot's now
        STRATA_CO_TRY_VOID(
            co_await clear(vm_state_offset(), vm_state_offset() + state, Clearing::Drop));
    }
    STRATA_CO_TRY_VOID(co_await metadata_->settle());
    co_return id;
}

Task<> Qcow2Node::apply_snapshot(std::string which) {
    STRATA_CO_TRY_VOID(check_range(0, 0, true));
    STRATA_CO_TRY(const auto alone, co_await gate_.exclusive());
    if (bitmaps_.in_effect()) {
        co_return Error{
            ErrorKind::WrongState,
            fmt::format("'{}': Device has active dirty bitmaps, which another content would belie",
                        name()),
            EBUSY};
    }
    STRATA_CO_TRY(SnapshotTable table, co_await read_snapshots(*file_, header()));
    const auto found = find(table.snapshots, which);
    if (found == table.snapshots.end()) {
        co_return unknown(name(), which);
    }
    STRATA_CO_TRY_VOID(co_await metadata_->settle());
    Header wanted = header();
    wanted.size = found->info.disk_size;
    const std::uint64_t entries = std::max<std::uint64_t>(found->l1_entries, wanted.l1_needed());
    if (entries * 8 > kMaxL1Bytes) {
        co_return metadata_->corrupt("a snapshot's disk is too large for its clusters");
    }
    std::vector<Be64> wire(found->l1_entries);
    STRATA_CO_TRY_VOID(
        co_await file_->read(found->l1_offset, Buffers(std::as_writable_bytes(std::span(wire)))));
    std::vector<std::uint64_t> l1(wire.begin(), wire.end());
    l1.resize(entries);
    STRATA_CO_TRY(const std::uint64_t place, co_await write_new_l1(l1));
    L1Tables made(1, {place, entries});
    STRATA_CO_TRY_VOID(co_await recount(std::move(made)));
    struct {
        Be64 size;
        Be32 encryption, entries;
        Be64 offset;
    } const fields{wanted.size, header().encryption, static_cast<std::uint32_t>(entries), place};
    STRATA_CO_TRY_VOID(
        co_await metadata_->write_header_field(kSizeToL1, std::as_bytes(std::span(&fields, 1))));
    STRATA_CO_TRY_VOID(co_await file_->flush());
    Header& h = metadata_->header();
    h.size = size_ = wanted.size;
    h.l1_entries = fields.entries;
    h.l1_offset = place;
    for (std::uint64_t& entry : l1) {
        entry &= ~kCopied;
    }
    metadata_->l1() = std::move(l1);
    metadata_->forget_everything();
    L1Tables none;
    co_return co_await recount(std::move(none));
}

Task<> Qcow2Node::delete_snapshot(std::string which) {
    STRATA_CO_TRY_VOID(check_range(0, 0, true));
    STRATA_CO_TRY(const auto alone, co_await gate_.exclusive());
    STRATA_CO_TRY(SnapshotTable table, co_await read_snapshots(*file_, header()));
    const auto found = find(table.snapshots, which);
    if (found == table.snapshots.end()) {
        co_return unknown(name(), which);
    }
    STRATA_CO_TRY_VOID(co_await metadata_->settle());
    table.snapshots.erase(found);
    STRATA_CO_TRY_VOID(co_await write_snapshots(std::move(table.snapshots), table.bytes));
    file_->note(NodeEvent::ClusterFree);
    L1Tables none;
    Result<> freed = co_await recount(std::move(none));
    if (!freed.ok() && wording() == Wording::Qemu) {
        co_return Error{freed.error().kind(),
                        fmt::format("Failed to free the cluster and L1 table: {}",
                                    std::strerror(freed.error().system_errno())),
                        freed.error().system_errno()};
    }
    co_return freed;
}

Task<> Qcow2Node::load_snapshot(std::string which) {
    STRATA_CO_TRY(const auto alone, co_await gate_.exclusive());
    STRATA_CO_TRY(SnapshotTable table,
                  co_await read_snapshots(*file_, header(), SnapshotReading::FaultyL1));
    const auto found = find(table.snapshots, which);
    if (found == table.snapshots.end()) {
        co_return unknown(name(), which);
    }
    if (!found->fault.empty()) {
        STRATA_CO_TRY_VOID(co_await read_snapshots(*file_, header()));  // tells what is wrong
    }
    if (!traits_.read_only) {
        STRATA_CO_TRY_VOID(co_await metadata_->settle());
    }
    std::vector<Be64> wire(found->l1_entries);
    STRATA_CO_TRY_VOID(
        co_await file_->read(found->l1_offset, Buffers(std::as_writable_bytes(std::span(wire)))));
    traits_.read_only = closed_ = true;
    metadata_->l1().assign(wire.begin(), wire.end());
    Header wanted = header();
    wanted.size = found->info.disk_size;
    metadata_->l1().resize(
        std::max<std::uint64_t>(wire.size(), std::min(wanted.l1_needed(), kMaxL1Bytes / 8)));
    size_ = wanted.size;
    co_return ok();
}

std::uint64_t Qcow2Node::vm_state_offset() const {
    return header().l1_needed() * header().l2_entries() * cluster();
}

Task<> Qcow2Node::read_vm_state(std::uint64_t offset, Buffers into) {
    STRATA_CO_TRY(const auto pass, co_await gate_.shared());
    const Metadata::Passage passage(*metadata_);
    const std::uint64_t covered = metadata_->l1().size() * header().l2_entries() * cluster();
    const std::uint64_t start = vm_state_offset() + offset;
    const std::uint64_t part =
        start >= covered ? 0 : std::min<std::uint64_t>(into.size(), covered - start);
    into.from(part).fill(std::byte{0});
    co_return co_await read_inside(start, into.slice(0, part));
}

Task<> Qcow2Node::write_vm_state(std::uint64_t offset, Buffers from) {
    STRATA_CO_TRY_VOID(check_range(0, 0, true));
    const std::uint64_t start = vm_state_offset() + offset;
    const std::uint64_t covered = header().l2_entries() * cluster();
    const std::uint64_t entries = (start + from.size() + covered - 1) / covered;
    if (entries > metadata_->l1().size()) {
        STRATA_CO_TRY(const auto alone, co_await gate_.exclusive());
        if (entries > metadata_->l1().size()) {
            STRATA_CO_TRY_VOID(co_await grow_l1(entries));
        }
    }
    STRATA_CO_TRY(const auto pass, co_await gate_.shared());
    const Metadata::Passage passage(*metadata_);
    co_return co_await write_bytes(start, from);
}

}  // namespace strata::block::qcow2
