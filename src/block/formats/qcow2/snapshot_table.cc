// SnapshotTable: entry by entry.
#include "block/formats/qcow2/snapshot_table.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/endian.h"

namespace strata::block::qcow2 {
namespace {

constexpr std::uint64_t kMaxTable = 64U << 20;
constexpr std::uint32_t kMaxExtra = 1024;

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

std::string text_of(std::span<const std::byte> bytes) {
    std::string text;
    for (const std::byte each : bytes) {
        text += static_cast<char>(each);
    }
    return text;
}

void append(std::vector<std::byte>& out, const void* data, std::size_t size) {
    const auto* from = static_cast<const std::byte*>(data);
    out.insert(out.end(), from, from + size);
}

}  // namespace

Task<SnapshotTable> read_snapshots(Node& file, Header header, std::vector<std::string>* wrong) {
    SnapshotTable table;
    std::uint64_t at = header.snapshots_offset;
    for (std::uint32_t i = 0; i < header.snapshots; ++i) {
        Wire wire{};
        STRATA_CO_TRY_VOID(
            co_await file.read(at, Buffers(std::as_writable_bytes(std::span(&wire, 1)))));
        if (wire.extra_size > kMaxExtra) {
            co_return bad(file, fmt::format("has {} bytes of extra data in one entry",
                                            wire.extra_size.value()));
        }
        std::vector<std::byte> rest(std::size_t{wire.extra_size} + wire.id_size + wire.name_size);
        STRATA_CO_TRY_VOID(co_await file.read(at + sizeof wire, Buffers(std::span(rest))));
        Extra extra{0ULL, header.size, kNoIcount};
        const std::size_t known = std::min<std::size_t>(wire.extra_size, sizeof extra);
        std::memcpy(&extra, rest.data(), known / 8 * 8);
        Snapshot snapshot;
        snapshot.l1_offset = wire.l1_offset;
        snapshot.l1_entries = wire.l1_entries;
        snapshot.info.id = text_of(std::span(rest).subspan(wire.extra_size, wire.id_size));
        snapshot.info.name = text_of(
            std::span(rest).subspan(std::size_t{wire.extra_size} + wire.id_size, wire.name_size));
        if (auto fault = l1_fault(wire, header); !fault.empty()) {
            if (wrong == nullptr) {
                co_return bad(
                    file, fmt::format("names an L1 table of {} entries at {}, where none can be",
                                      wire.l1_entries.value(), wire.l1_offset.value()));
            }
            wrong->push_back(fmt::format("snapshot {} ({}) {}; snapshot table entry corrupted",
                                         snapshot.info.id, snapshot.info.name, fault));
            snapshot.l1_offset = snapshot.l1_entries = 0;
        }
        snapshot.info.date_seconds = wire.date_seconds;
        snapshot.info.date_nanoseconds = wire.date_nanoseconds;
        snapshot.info.vm_clock_nanoseconds = wire.vm_clock;
        snapshot.info.vm_state_size =
            known >= 8 ? extra.vm_state_size.value() : wire.vm_state_size.value();
        snapshot.info.disk_size = known >= 16 ? extra.disk_size.value() : header.size;
        if (known >= 24 && extra.icount != kNoIcount) {
            snapshot.info.icount = extra.icount;
        }
        if (snapshot.info.disk_size > (1ULL << 62)) {
            co_return bad(file, "has a disk size that is too large");
        }
        snapshot.more.assign(rest.begin() + static_cast<std::ptrdiff_t>(known),
                             rest.begin() + static_cast<std::ptrdiff_t>(wire.extra_size));
        table.snapshots.push_back(std::move(snapshot));
        at += (sizeof wire + rest.size() + 7) / 8 * 8;
        if (at - header.snapshots_offset > kMaxTable) {
            co_return bad(file, "is over 64 MiB");
        }
    }
    table.bytes = header.snapshots == 0 ? 0 : at - header.snapshots_offset;
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
