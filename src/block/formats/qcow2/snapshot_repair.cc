// Qcow2Node: checks, and a snapshot table that is not as it should be.
//
// Before the clusters are counted, a table that is too long is cut: the header names fewer entries,
// which leaves leaks at worst, and these are found then. Afterwards, when all counts are right,
// entries that have too much or too little extra data are written anew with the rest of the table.
#include <algorithm>
#include <cerrno>
#include <utility>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/qcow2/checker.h"
#include "block/formats/qcow2/qcow2.h"
#include "block/wording.h"

namespace strata::block::qcow2 {
namespace {

constexpr std::size_t kMaxMessages = 200;

/// What a check says of a table that it cannot read.
Error unreadable(const Error& why) {
    return {
        why.kind(),
        worded(why.text(), fmt::format("ERROR failed to read the snapshot table: {}", why.text())),
        why.system_errno()};
}

Error too_many(std::string_view name, std::uint32_t snapshots) {
    return {ErrorKind::Failed,
            worded(fmt::format("'{}': its snapshot table of {} entries is over the limit of {}; a "
                               "repair of everything drops the rest",
                               name, snapshots, kMaxSnapshots),
                   fmt::format("ERROR snapshot table too large\nYou can force-remove all {} "
                               "overhanging snapshots with qemu-img check -r all",
                               snapshots - kMaxSnapshots)),
            EFBIG};
}

}  // namespace

/// The header names the first `count` entries alone.
Task<> Qcow2Node::cut_snapshots(std::uint32_t count) {
    const Be32 wire = count;
    STRATA_CO_TRY_VOID(co_await metadata_->write_header_field(kSnapshotsField,
                                                              std::as_bytes(std::span(&wire, 1))));
    STRATA_CO_TRY_VOID(co_await file_->flush());
    metadata_->header().snapshots = count;
    co_return ok();
}

/// The table as it shall be, with what is wrong with it in `report`. Entries that are too many are
/// cut off by a repair of everything.
Task<SnapshotTable> Qcow2Node::look_at_snapshots(Repair repair, CheckReport* report) {
    const bool mends = repair == Repair::All;
    Header wanted = header();
    std::uint64_t cut = 0;
    if (wanted.snapshots > kMaxSnapshots) {
        if (!mends) {
            co_return too_many(name(), wanted.snapshots);
        }
        cut = wanted.snapshots - kMaxSnapshots;
        wanted.snapshots = kMaxSnapshots;
        report->messages.push_back(fmt::format("Discarding {} overhanging snapshots", cut));
    }
    auto read = co_await read_snapshots(
        *file_, wanted, mends ? SnapshotReading::Lenient : SnapshotReading::FaultyL1);
    if (!read.ok()) {
        co_return unreadable(read.error());
    }
    SnapshotTable table = std::move(read).value();
    for (const auto& [entry, bytes] : table.cut) {
        if (report->messages.size() < kMaxMessages) {
            report->messages.push_back(fmt::format(
                "Discarding too much extra metadata in snapshot table entry {} ({} > 1024)", entry,
                bytes));
        }
    }
    if (table.overhanging != 0) {
        report->messages.push_back(fmt::format(
            "Discarding {} overhanging snapshots (snapshot table is too big)", table.overhanging));
    }
    report->corruptions_fixed += cut + table.overhanging + table.cut.size();
    for (std::size_t i = 0; i < table.snapshots.size(); ++i) {
        if (table.snapshots[i].incomplete) {
            if (report->messages.size() < kMaxMessages) {
                report->messages.push_back(fmt::format("{} snapshot table entry {} is incomplete",
                                                       mends ? "Repairing" : "ERROR", i));
            }
            ++(mends ? report->corruptions_fixed : report->corruptions);
        }
    }
    co_return std::move(table);
}

Task<CheckReport> Qcow2Node::count(Repair repair) {
    Checker checker(*metadata_, data_ != file_ || (header().incompatible & kExternalData) != 0);
    checker.imitate_peer();
    if (repair != Repair::Nothing) {
        STRATA_CO_TRY_VOID(co_await checker.check_snapshots());  // before anything is written
    }
    std::vector<Checker::Table> none;
    co_return co_await checker.run(repair, std::move(none));
}

Task<CheckReport> Qcow2Node::check(Repair repair) {
    STRATA_CO_TRY_VOID(check_range(0, 0, repair != Repair::Nothing));
    STRATA_CO_TRY(const auto alone, co_await gate_.exclusive());
    if (!traits_.read_only) {
        STRATA_CO_TRY_VOID(co_await metadata_->settle());
    }
    CheckReport told;
    STRATA_CO_TRY(SnapshotTable table, co_await look_at_snapshots(repair, &told));
    const std::uint64_t cut = header().snapshots - table.snapshots.size();
    if (header().version >= 3 || repair == Repair::Nothing) {
        STRATA_CO_TRY(CheckReport report, co_await mend(repair, std::move(table), cut, &told));
        co_return std::move(report);
    }
    // Version 2 has no dirty bit to stand while counts and COPIED bits do not agree.
    STRATA_CO_TRY(CheckReport found, co_await count(Repair::Nothing));
    if (found.clean() && told.corruptions_fixed == 0) {
        co_return std::move(found);
    }
    STRATA_CO_TRY_VOID(co_await change_version(3));
    STRATA_CO_TRY(CheckReport report, co_await mend(repair, std::move(table), cut, &told));
    if ((header().incompatible & kDirty) == 0) {
        STRATA_CO_TRY_VOID(co_await change_version(2));
    }
    co_return std::move(report);
}

/// Counts, and mends what `repair` allows; `table` is the snapshot table as it shall be, `cut`
/// entries shorter than in the header, and `told` what was found in it.
Task<CheckReport> Qcow2Node::mend(Repair repair, SnapshotTable table, std::uint64_t cut,
                                  CheckReport* told) {
    if (cut != 0 && std::ranges::all_of(table.snapshots, &std::string::empty, &Snapshot::fault)) {
        STRATA_CO_TRY_VOID(
            co_await cut_snapshots(static_cast<std::uint32_t>(table.snapshots.size())));
    }
    STRATA_CO_TRY(CheckReport report, co_await count(repair));
    if (told->corruptions_fixed > cut) {
        if (!report.clean()) {  // a new table takes clusters by these counts: not now
            told->corruptions += std::exchange(told->corruptions_fixed, cut) - cut;
        } else {
            STRATA_CO_TRY_VOID(co_await write_snapshots(std::move(table.snapshots), table.bytes));
            STRATA_CO_TRY_VOID(co_await metadata_->settle());
        }
    }
    report.corruptions += told->corruptions;
    report.corruptions_fixed += told->corruptions_fixed;
    report.messages.insert(report.messages.begin(), told->messages.begin(), told->messages.end());
    co_return std::move(report);
}

}  // namespace strata::block::qcow2
