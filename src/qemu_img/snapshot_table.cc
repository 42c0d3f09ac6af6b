// snapshot_table: columns as the peer prints them.
#include "qemu_img/snapshot_table.h"

#include <array>
#include <ctime>

#include <fmt/format.h>

#include "qemu_img/report.h"

namespace strata::qemu_img {
namespace {

std::string date_of(const block::SnapshotInfo& snapshot) {
    const auto seconds = static_cast<std::time_t>(snapshot.date_seconds);
    std::tm parts{};
    ::localtime_r(&seconds, &parts);
    std::array<char, 32> text{};
    const std::size_t length = std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &parts);
    return {text.data(), length};
}

std::string clock_of(const block::SnapshotInfo& snapshot) {
    const std::uint64_t milliseconds = snapshot.vm_clock_nanoseconds / 1000000U;
    const std::uint64_t seconds = milliseconds / 1000U;
    return fmt::format("{:02}:{:02}:{:02}.{:03}", seconds / 3600U, seconds / 60U % 60U,
                       seconds % 60U, milliseconds % 1000U);
}

}  // namespace

std::string snapshot_table(const std::vector<block::SnapshotInfo>& snapshots) {
    std::string text = "Snapshot list:\n";
    text += fmt::format("{:<10}{:<17}{:>8}{:>20}{:>13}{:>11}\n", "ID", "TAG", "VM SIZE", "DATE",
                        "VM CLOCK", "ICOUNT");
    for (const block::SnapshotInfo& one : snapshots) {
        const std::string icount = one.icount ? std::to_string(*one.icount) : std::string();
        text += fmt::format("{:<9} {:<16} {:>8}{:>20}{:>13}{:>11}\n", one.id, one.name,
                            human_size(one.vm_state_size), date_of(one), clock_of(one), icount);
    }
    return text;
}

}  // namespace strata::qemu_img
