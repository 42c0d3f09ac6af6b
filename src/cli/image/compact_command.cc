// strata image compact: an image's file made smaller where it lies.
#include <array>
#include <filesystem>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "api/json.h"
#include "base/text.h"
#include "block/jobs/compact.h"
#include "block/nbd/server/signals.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/image/image_tool.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

constexpr std::array kPositionals = {Positional{"FILE", "The image.", true, Completes::Files, ""}};
constexpr std::array kOptions = {
    kFormatOption,
    Option{"--speed", 0, "SIZE", "Look through so many bytes a second at most.",
           Completes::Nothing},
    kPassphraseOption, kBackingPassphraseOption, kFollowOption};

/// SIGINT and SIGTERM end it in order.
block::Task<block::CompactReport> compact_watched(block::Loop& loop, UniqueFd signals,
                                                  block::NodePtr node, block::JobControl& control) {
    STRATA_CO_TRY(auto watcher, block::nbd::EndSignals::create(loop, std::move(signals),
                                                               [&control] { control.cancel(); }));
    auto done = co_await block::compact_image(std::move(node), control);
    STRATA_CO_TRY_VOID(co_await watcher->finish());
    co_return done;
}

struct Sizes {
    std::uint64_t length = 0;  ///< of the file; 0: there is none
    std::uint64_t on_disk = 0;
};

Sizes sizes_of(ImageTool& tool, block::Node& node) {
    Sizes sizes;
    std::error_code code;  // a place that is no file has no length
    const auto length = std::filesystem::file_size(node.name(), code);
    sizes.length = code ? 0 : length;
    const auto bytes = tool.run(node.allocated_bytes());
    sizes.on_disk = bytes.ok() ? *bytes : 0;  // what cannot be asked is not told
    return sizes;
}

Result<int> run_compact(const Arguments& arguments) {
    UniqueFd signals = STRATA_TRY(block::nbd::EndSignals::block());
    ImageTool tool = STRATA_TRY(ImageTool::start());
    const std::string path(*arguments.positional(0));
    block::NodePtr node = STRATA_TRY(tool.open(arguments, path, {.write = true}));
    const Sizes before = sizes_of(tool, *node);
    block::CompactReport report;
    {
        ProgressBar bar("compact", !arguments.flag("--quiet"));
        if (const auto speed = arguments.value("--speed")) {
            bar.control().set_speed(STRATA_TRY(parse_size(*speed)));
        }
        auto done = tool.run(compact_watched(tool.loop(), std::move(signals), node, bar.control()));
        if (!done.ok()) {
            const bool interrupted = bar.control().cancelled();
            STRATA_TRY_VOID(tool.close(node));
            return interrupted ? Error{ErrorKind::Failed,
                                       fmt::format("interrupted; '{}' is whole, and running this "
                                                   "again goes on",
                                                   path)}
                               : done.error();
        }
        report = *done;
    }
    const Sizes after = sizes_of(tool, *node);
    STRATA_TRY_VOID(tool.close(node));
    print_result(arguments, {{"file", path},
                             {"zeroes", report.zeroes},
                             {"moved", report.moved},
                             {"length", {{"before", before.length}, {"after", after.length}}},
                             {"on-disk", {{"before", before.on_disk}, {"after", after.on_disk}}}});
    notice(fmt::format("'{}': the file had {} ({} on disk) and has {} ({})", path,
                       format_size(before.length), format_size(before.on_disk),
                       format_size(after.length), format_size(after.on_disk)));
    return 0;
}

}  // namespace

const Command kImageCompactCommand = {
    .name = "image compact",
    .summary = "Make an image's file smaller where it lies",
    .description =
        "Lets clusters go that hold nothing but zeros or that nobody refers to; a qcow2, VDI, VHD "
        "or VHDX file is packed then: what\n"
        "lies at its end moves into the holes. The image is whole at every moment; interrupted or "
        "killed, it goes on when run again.",
    .positionals = kPositionals,
    .options = kOptions,
    .examples = "  strata image compact -f qcow2 disk.qcow2",
    .run = run_compact,
};

}  // namespace strata::cli
