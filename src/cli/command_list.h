// Command list: the tables of all commands, each defined in the file of its command.
#pragma once

#include <span>
#include <string_view>

#include "cli/command.h"

namespace strata::cli {

extern const Command kRunCommand;            // run/run_command.cc
extern const Command kMachineCommand;        // control/machine_command.cc
extern const Command kDiskListCommand;       // control/disk_commands.cc
extern const Command kDiskResizeCommand;     // control/disk_commands.cc
extern const Command kDiskLimitsCommand;     // control/disk_commands.cc
extern const Command kDiskMirrorCommand;     // control/disk_commands.cc
extern const Command kDiskBackupCommand;     // control/disk_commands.cc
extern const Command kDiskStreamCommand;     // control/disk_commands.cc
extern const Command kDiskCommitCommand;     // control/disk_commands.cc
extern const Command kDiskSnapshotCommand;   // control/disk_commands.cc
extern const Command kDiskEjectCommand;      // control/medium_commands.cc
extern const Command kDiskChangeCommand;     // control/medium_commands.cc
extern const Command kJobCommand;            // control/machine_command.cc
extern const Command kInfoCommand;           // info_command.cc
extern const Command kImageBuildCommand;     // image/image_commands.cc
extern const Command kImageCreateCommand;    // image/create_command.cc
extern const Command kImageConvertCommand;   // image/convert_command.cc
extern const Command kImageInfoCommand;      // image/inspect_commands.cc
extern const Command kImageCheckCommand;     // image/inspect_commands.cc
extern const Command kImageMapCommand;       // image/inspect_commands.cc
extern const Command kImageCompareCommand;   // image/inspect_commands.cc
extern const Command kImageResizeCommand;    // image/change_commands.cc
extern const Command kImageSnapshotCommand;  // image/change_commands.cc
extern const Command kImageCommitCommand;    // image/change_commands.cc
extern const Command kImageRebaseCommand;    // image/change_commands.cc
extern const Command kImageRelinkCommand;    // image/relink_command.cc
extern const Command kImageDdCommand;        // image/convert_command.cc
extern const Command kImageCompactCommand;   // image/compact_command.cc
extern const Command kImageServeCommand;     // image/serve_command.cc
extern const Command kImageAmendCommand;     // image/amend_command.cc
extern const Command kImageBitmapCommand;    // image/bitmap_command.cc
extern const Command kImageMeasureCommand;   // image/measure_command.cc
extern const Command kImageBenchCommand;     // image/measure_command.cc
extern const Command kImageListCommand;      // image/image_commands.cc
extern const Command kImagePathCommand;      // image/image_commands.cc
extern const Command kVersionCommand;        // version_command.cc
extern const Command kCompletionCommand;     // completion.cc
extern const Command kCompleteCommand;       // completion.cc; hidden: what the shells' scripts call

/// The candidates for the last of `words` (what stands after "strata"), one a line.
Result<int> complete_words(std::span<const std::string_view> words);

}  // namespace strata::cli
