// ImageTool: what the commands on disk images share: a graph's loop, opening by Strata's rules,
// progress on a terminal.
//
// The rules: the format of an image is named, never guessed (a guest can write any header into a
// raw disk), and files that an image names are opened only with --follow. `qemu-img`, the same
// program called by that name, has that tool's rules.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "api/json.h"
#include "base/result.h"
#include "block/jobs/job.h"
#include "block/loop.h"
#include "block/node.h"
#include "block/registry.h"
#include "cli/arguments.h"
#include "cli/command.h"

namespace strata::cli {

/// Options that several image commands have.
inline constexpr Option kFormatOption{"--format", 'f', "FORMAT",
                                      "The image's format, e.g. raw, qcow2; it is never guessed.",
                                      Completes::Formats};
inline constexpr Option kFollowOption{
    "--follow", 0, "",
    "Open the files that the image names (backing, data): only if it is trusted."};

inline constexpr Option kPassphraseOption{
    "--passphrase-file", 0, "FILE",
    "The passphrase of an encrypted image is the first line of this file.", Completes::Files};
inline constexpr Option kBackingPassphraseOption{
    "--backing-passphrase-file", 0, "FILE",
    "The passphrase of the layers below, if it is another: the first line of this file.",
    Completes::Files};

struct ImageAccess {
    bool write = false;
    bool backing = true;        ///< open the chain below
    bool free_backing = false;  ///< without locks there: one of its layers is written to besides
    bool check = false;
    bool key = true;  ///< false: the data is not looked at, an encrypted image needs no passphrase
    bool lock = true;
    block::CacheMode cache = block::CacheMode::Writeback;
    std::string passphrase{};          ///< of an encrypted image
    std::string backing_passphrase{};  ///< of the layers below; empty: the same
    std::string disk{};                ///< of an appliance, by its name there; empty: its only one
};

/// The first line of the file that `option` names; empty without it.
Result<std::string> passphrase_of(const Arguments& arguments,
                                  std::string_view option = "--passphrase-file");
/// What a new image is told to be encrypted with `passphrase`; nothing if that is empty.
block::OptionList encryption_options(std::string_view format, const std::string& passphrase);

/// The options of "name=value,name=value" each; a comma in a value is written twice. Passphrases
/// are refused: they come from files.
Result<block::OptionList> option_lists(std::span<const std::string_view> lists);
/// With --json: what a command made or changed.
void print_result(const Arguments& arguments, const api::Json& result);
/// What `option` means, for people.
std::string option_help(const block::CreateOption& option);
/// InvalidArgument if `target` is a file of `source` or of a layer below it, by whatever name.
Result<> check_apart(const block::Node& source, const std::string& target);

/// Adds the host's files that `node`'s own layer uses, as it names them.
void add_files(const block::Node& node, std::set<std::string>& files);

class ImageTool {
  public:
    static Result<ImageTool> start();
    template <typename T>
    Result<T> run(block::Task<T> task) {
        return loop_->run(std::move(task));
    }
    [[nodiscard]] block::Loop& loop() { return *loop_; }
    /// Opens the image of `arguments`: --format, --follow and the passphrases are taken from there.
    /// Without a format the error tells what the file looks like.
    Result<block::NodePtr> open(const Arguments& arguments, std::string_view path,
                                ImageAccess access);
    /// The same with a format in hand; the passphrases are those of `access`.
    Result<block::NodePtr> open_as(std::string_view path, std::string_view format, bool follow,
                                   const ImageAccess& access);
    /// The format that a file looks like; "raw" if none.
    Result<std::string> looks_like(const std::string& path);
    Result<> close(block::NodePtr& node);
    /// The id of the snapshot of that name; `name` itself if none has it, which may be an id then.
    std::string snapshot_id(block::Node& node, std::string_view name);
    /// Makes an empty image; what was at the path is replaced.
    Result<> create(std::string_view format, block::CreateRequest request) {
        return run(block::create_image(*loop_, std::string(format), std::move(request)));
    }

  private:
    explicit ImageTool(std::unique_ptr<block::Loop> loop) : loop_(std::move(loop)) {}
    std::unique_ptr<block::Loop> loop_;
};

/// A bar on standard error, if that is a terminal and notices are shown: what is done, of what, how
/// fast. Gone when it ends.
class ProgressBar {
  public:
    explicit ProgressBar(std::string title, bool shown);
    ~ProgressBar();
    ProgressBar(const ProgressBar&) = delete;
    ProgressBar& operator=(const ProgressBar&) = delete;
    /// For jobs: draws, ten times a second at most.
    block::JobControl& control() { return control_; }

  private:
    void draw(std::uint64_t done, std::uint64_t total);
    std::string title_;
    bool shown_;
    std::chrono::steady_clock::time_point start_, drawn_;
    block::JobControl control_;
};

}  // namespace strata::cli
