// Commands: what the personality knows, one file each in commands/.
#pragma once

#include <span>
#include <string_view>

#include "base/result.h"

namespace strata::qemu_img {

class Session;

struct Command {
    std::string_view name;
    std::string_view syntax;  ///< for --help
    /// `words[0]` is the command. Answers the exit status.
    Result<int> (*run)(Session& session, std::span<char*> words);
};

extern const Command kAmend, kBench, kBitmap, kCheck, kCommit, kCompare, kConvert, kCreate, kDd,
    kInfo, kMap, kMeasure, kRebase, kResize, kSnapshot;

/// Every command, in the order of their names.
std::span<const Command* const> commands();
/// The text of --help.
void print_help();

}  // namespace strata::qemu_img
