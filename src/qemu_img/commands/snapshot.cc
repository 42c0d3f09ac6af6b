// snapshot: list, create, apply and delete internal snapshots.
#include <algorithm>
#include <array>
#include <chrono>

#include <fmt/format.h>

#include "qemu_img/arguments.h"
#include "qemu_img/commands.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"
#include "qemu_img/snapshot_table.h"

namespace strata::qemu_img {
namespace {

constexpr std::array kOptions = {OptionSpec{'l', nullptr, false},
                                 OptionSpec{'a', nullptr, true},
                                 OptionSpec{'c', nullptr, true},
                                 OptionSpec{'d', nullptr, true},
                                 OptionSpec{'q', nullptr, false},
                                 kObjectOption,
                                 kImageOptsOption,
                                 kForceShareOption};

/// How the block graph's words begin for a snapshot whose L1 table cannot be.
constexpr std::string_view kFaultyL1 = "Snapshot L1 table";

struct Action {
    char what = 0;
    std::string name;
};

Result<Action> action_of(const Arguments& arguments) {
    Action action;
    for (const auto& [key, value] : arguments.given()) {
        if (key == "l" || key == "a" || key == "c" || key == "d") {
            if (action.what != 0) {
                return usage_error("Cannot mix '-l', '-a', '-c', '-d'");
            }
            action = {key[0], value};
        }
    }
    return action;
}

Result<> create(Session& session, block::Node& node, const std::string& name) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    block::SnapshotInfo snapshot;
    snapshot.name = name;
    snapshot.date_seconds =
        static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::seconds>(now).count());
    snapshot.date_nanoseconds = static_cast<std::uint32_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(now).count() % 1000000000);
    snapshot.disk_size = node.size();
    snapshot.icount = 0;  // the peer's snapshots of images say so
    auto id = session.run(node.create_snapshot(snapshot));
    if (!id.ok()) {
        return failure(fmt::format("Could not create snapshot '{}': {} ({})", name,
                                   -id.error().system_errno(), reason(id.error())));
    }
    return ok();
}

/// By name alone; "not found" otherwise.
Result<> remove(Session& session, block::Node& node, const std::string& name) {
    const auto list = session.run(node.snapshots());
    const auto found = list.ok() ? std::ranges::find(*list, name, &block::SnapshotInfo::name)
                                 : std::vector<block::SnapshotInfo>::const_iterator();
    if (!list.ok() || found == list->end()) {
        return failure(fmt::format("Could not delete snapshot '{}': snapshot not found", name));
    }
    const Result<> done = session.run(node.delete_snapshot(found->id));
    if (done.ok()) {
        return ok();
    }
    const std::string& text = done.error().text();
    const bool leaks = text.starts_with("Failed to free");
    if (leaks) {
        (void)std::fflush(stdout);
        fmt::print(stderr, "qcow2_free_clusters failed: {}\n", reason(done.error()));
    }
    return failure(fmt::format("Could not delete snapshot '{}': {}", name,
                               leaks || text.starts_with(kFaultyL1) ? text : reason(done.error())));
}

Result<> act(Session& session, block::Node& node, const Action& action) {
    if (action.what == 'l') {
        auto list = session.run(node.snapshots());
        if (list.ok() && !list->empty()) {
            print(snapshot_table(*list));
        }
        return ok();
    }
    if (action.what == 'c') {
        return create(session, node, action.name);
    }
    if (action.what == 'a') {
        Result<> done = session.run(node.apply_snapshot(action.name));
        const bool faulty = !done.ok() && done.error().text().starts_with(kFaultyL1);
        if (faulty) {
            report_error(done.error().text());
        }
        return done.ok() ? ok()
                         : Result<>(failure(fmt::format(
                               "Could not apply snapshot '{}': {}{}", action.name,
                               faulty ? "Failed to load snapshot: " : "", reason(done.error()))));
    }
    if (action.what == 'd') {
        return remove(session, node, action.name);
    }
    return ok();
}

Result<int> run(Session& session, std::span<char*> words) {
    const Arguments arguments = STRATA_TRY(Arguments::parse(words, kOptions));
    if (arguments.help()) {
        print_help();
        return 0;
    }
    const Action action = STRATA_TRY(action_of(arguments));
    const std::string file = STRATA_TRY(arguments.only());
    STRATA_TRY_VOID(take_objects(session, arguments));
    const ImageSpec spec{file, std::nullopt, arguments.has("image-opts")};
    block::NodePtr node = STRATA_TRY(
        session.open(spec, {.write = action.what != 'l', .share = arguments.has("force-share")}));
    STRATA_TRY_VOID(act(session, *node, action));
    STRATA_TRY_VOID(session.close(node));
    return 0;
}

}  // namespace

const Command kSnapshot = {"snapshot",
                           "[--object objectdef] [--image-opts] [-U] [-q] [-l | -a snapshot | -c "
                           "snapshot | -d snapshot] filename",
                           run};

}  // namespace strata::qemu_img
