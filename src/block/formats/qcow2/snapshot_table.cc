// SnapshotTable: entry by entry.
#include "block/formats/qcow2/snapshot_table.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/wording.h"

namespace strata::block::qcow2 {
namespace {

constexpr std::uint64_t kMaxTable = 64U << 20;
constexpr std::uint32_t kMaxExtra = 1024;
constexpr std::uint64_t kMaxReach = 1ULL << 31;  // of a table with too much extra data

struct Wire {
    Be64 l1_offset;
    Be32 l1_entries;
    Be16 id_size, name_size;
    Be32 date_seconds, date_nanoseconds;
    Be64 vm_clock;
    Be32 vm_state_size, extra_size;
};
static_assert(sizeof(Wire) == 40);

struct Extra {
    Be64 vm_state_size, disk_size, icount;
};

constexpr std::uint64_t kNoIcount = ~0ULL;

Error bad(const Node& file, std::string_view what) {
    return {ErrorKind::Failed,
            fmt::format("qcow2 image '{}' is corrupt: its snapshot table {}", file.name(), what),
            EINVAL};
}

/// Why the L1 table of an entry cannot be; empty if it can.
std::string l1_fault(const Wire& wire, const Header& header) {
    if (wire.l1_offset % header.cluster() != 0) {
        return fmt::format("l1_offset={:#x}: L1 table is not cluster aligned",
                           wire.l1_offset.value());
    }
    if (wire.l1_offset >= kMaxHostOffset) {
        return fmt::format("l1_offset={:#x}: L1 table lies where none can be",
                           wire.l1_offset.value());
    }
    if (wire.l1_entries * 8ULL > kMaxL1Bytes) {
        return fmt::format("l1_size={:#x}: L1 table is too large", wire.l1_entries.value());
    }
    return {};
}

Error faulty_l1(const Node& file, const Wire& wire) {
    const bool large = wire.l1_entries * 8ULL > kMaxL1Bytes;
    return {ErrorKind::Failed,
            worded(fmt::format("qcow2 image '{}' is corrupt: its snapshot table names an L1 table "
                               "of {} entries at {}, where none can be",
                               file.name(), wire.l1_entries.value(), wire.l1_offset.value()),
                   large ? "Snapshot L1 table too large" : "Snapshot L1 table offset invalid"),
            large ? EFBIG : EINVAL};
}

Error much_extra(const Node& file, std::uint32_t entry, std::uint32_t bytes) {
    return {ErrorKind::Failed,
            worded(fmt::format("qcow2 image '{}' is corrupt: entry {} of its snapshot table has {} "
                               "bytes of extra data; 'check --repair all' cuts them off",
                               file.name(), entry, bytes),
                   fmt::format("Too much extra metadata in snapshot table entry {}\nYou can "
                               "force-remove this extra metadata with qemu-img check -r all",
                               entry)),
            EFBIG};
}

Error too_long(const Node& file, std::uint32_t overhanging) {
    return {ErrorKind::Failed,
            worded(fmt::format("qcow2 image '{}' is corrupt: its snapshot table is over 64 MiB; "
                               "'check --repair all' drops the last {} snapshots",
                               file.name(), overhanging),
                   fmt::format("Snapshot table is too big\nYou can force-remove all {} "
                               "overhanging snapshots with qemu-img check -r all",
                               overhanging)),
            EFBIG};
}

/// Up to the first NUL, if there is one.
std::string text_of(std::span<const std::byte> bytes) {
    std::string text;
    for (const std::byte each : bytes) {
        if (each == std::byte{0}) {
            break;
        }
        text += static_cast<char>(each);
    }
    return text;
}

void append(std::vector<std::byte>& out, const void* data, std::size_t size) {
    const auto* from = static_cast<const std::byte*>(data);
    out.insert(out.end(), from, from + size);
}

/// Reads small things that lie side by side: most are there already.
class Window {
  public:
    explicit Window(Node& file) : file_(file) {}
    Task<> read(std::uint64_t offset, std::span<std::byte> into) {
        if (into.size() > kBytes) {
            co_return co_await file_.read(offset, Buffers(into));
        }
        if (offset < start_ || offset + into.size() > start_ + bytes_.size()) {
            const std::uint64_t left = offset < file_.size() ? file_.size() - offset : 0;
            bytes_.resize(std::clamp<std::uint64_t>(left, into.size(), kBytes));
            start_ = offset;
            STRATA_CO_TRY_VOID(co_await file_.read(offset, Buffers(std::span(bytes_))));
        }
        std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset - start_), into.size(),
                    into.begin());
        co_return ok();
    }

  private:
    static constexpr std::size_t kBytes = 64U << 10;
    Node& file_;
    std::uint64_t start_ = 0;
    std::vector<std::byte> bytes_;
};

/// An entry, and how long it is in the file.
struct Entry {
    Wire wire{};
    Snapshot snapshot;
    std::uint64_t bytes = 0;       ///< without what makes it a multiple of 8
    std::uint64_t kept_bytes = 0;  ///< less extra data that is over the limit
};

/// Extra data over the limit is left out; that is for the caller to mind.
Task<Entry> read_entry(Window& window, const Header& header, std::uint64_t at) {
    Entry entry;
    Wire& wire = entry.wire;
    STRATA_CO_TRY_VOID(co_await window.read(at, std::as_writable_bytes(std::span(&wire, 1))));
    const std::uint32_t kept = std::min(wire.extra_size.value(), kMaxExtra);
    std::vector<std::byte> extra_bytes(kept), names(std::size_t{wire.id_size} + wire.name_size);
    STRATA_CO_TRY_VOID(co_await window.read(at + sizeof wire, extra_bytes));
    STRATA_CO_TRY_VOID(co_await window.read(at + sizeof wire + wire.extra_size, names));
    Extra extra{0ULL, header.size, kNoIcount};
    const std::size_t known = std::min<std::size_t>(kept, sizeof extra);
    if (known >= 8) {
        std::memcpy(&extra, extra_bytes.data(), known / 8 * 8);
    }
    Snapshot& snapshot = entry.snapshot;
    snapshot.l1_offset = wire.l1_offset;
    snapshot.l1_entries = wire.l1_entries;
    snapshot.info.id = text_of(std::span(names).first(wire.id_size));
    snapshot.info.name = text_of(std::span(names).subspan(wire.id_size));
    snapshot.info.date_seconds = wire.date_seconds;
    snapshot.info.date_nanoseconds = wire.date_nanoseconds;
    snapshot.info.vm_clock_nanoseconds = wire.vm_clock;
    snapshot.info.vm_state_size =
        known >= 8 ? extra.vm_state_size.value() : wire.vm_state_size.value();
    snapshot.info.disk_size = known >= 16 ? extra.disk_size.value() : header.size;
    if (known >= 24 && extra.icount != kNoIcount) {
        snapshot.info.icount = extra.icount;
    }
    snapshot.more.assign(extra_bytes.begin() + static_cast<std::ptrdiff_t>(known),
                         extra_bytes.end());
    snapshot.incomplete = header.version >= 3 && wire.extra_size < 16;
    snapshot.fault = l1_fault(wire, header);
    entry.bytes = sizeof wire + std::uint64_t{wire.extra_size} + names.size();
    entry.kept_bytes = entry.bytes - (wire.extra_size - kept);
    co_return std::move(entry);
}

std::uint64_t up_to_8(std::uint64_t bytes) {
    return (bytes + 7) / 8 * 8;
}

}  // namespace

Task<SnapshotTable> read_snapshots(Node& file, Header header, SnapshotReading reading) {
    SnapshotTable table;
    Window window(file);
    std::uint64_t kept_bytes = 0;
    for (std::uint32_t i = 0; i < header.snapshots; ++i) {
        if (i == kMaxSnapshots) {
            if (reading != SnapshotReading::Lenient) {
                co_return bad(file, fmt::format("has {} entries", header.snapshots));
            }
            table.overhanging = header.snapshots - i;
            break;
        }
        const std::uint64_t at = up_to_8(table.bytes);
        STRATA_CO_TRY(Entry entry,
                      co_await read_entry(window, header, header.snapshots_offset + at));
        if (entry.wire.extra_size > kMaxExtra) {
            if (reading != SnapshotReading::Lenient) {
                co_return much_extra(file, i, entry.wire.extra_size);
            }
            table.cut.emplace_back(i, entry.wire.extra_size.value());
        }
        kept_bytes = up_to_8(kept_bytes) + entry.kept_bytes;
        if (kept_bytes > kMaxTable || at + entry.bytes > kMaxReach) {
            table.overhanging = header.snapshots - i;
            if (reading != SnapshotReading::Lenient) {
                co_return too_long(file, table.overhanging);
            }
            break;
        }
        if (!entry.snapshot.fault.empty() && reading == SnapshotReading::Sound) {
            co_return faulty_l1(file, entry.wire);
        }
        if (entry.snapshot.info.disk_size > (1ULL << 62)) {
            co_return bad(file, "has a disk size that is too large");
        }
        table.snapshots.push_back(std::move(entry.snapshot));
        table.bytes = at + entry.bytes;
    }
    co_return table;
}

std::vector<std::byte> serialise_snapshots(const std::vector<Snapshot>& snapshots) {
    std::vector<std::byte> out;
    for (const Snapshot& each : snapshots) {
        Wire wire{};
        wire.l1_offset = each.l1_offset;
        wire.l1_entries = each.l1_entries;
        wire.id_size = static_cast<std::uint16_t>(each.info.id.size());
        wire.name_size = static_cast<std::uint16_t>(each.info.name.size());
        wire.date_seconds = each.info.date_seconds;
        wire.date_nanoseconds = each.info.date_nanoseconds;
        wire.vm_clock = each.info.vm_clock_nanoseconds;
        wire.vm_state_size = each.info.vm_state_size > 0xFFFFFFFFU
                                 ? 0U
                                 : static_cast<std::uint32_t>(each.info.vm_state_size);
        wire.extra_size = static_cast<std::uint32_t>(sizeof(Extra) + each.more.size());
        const Extra extra{each.info.vm_state_size, each.info.disk_size,
                          each.info.icount.value_or(kNoIcount)};
        append(out, &wire, sizeof wire);
        append(out, &extra, sizeof extra);
        append(out, each.more.data(), each.more.size());
        append(out, each.info.id.data(), each.info.id.size());
        append(out, each.info.name.data(), each.info.name.size());
        out.resize((out.size() + 7) / 8 * 8);
    }
    return out;
}

}  // namespace strata::block::qcow2
