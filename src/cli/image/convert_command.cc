// strata image convert, dd: copies a disk image, with all its layers, or a part of it, into a new
// one of any format.
#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/text.h"
#include "block/jobs/copy.h"
#include "block/nbd/server/signals.h"
#include "block/one_go.h"
#include "block/window_node.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/image/copy_record.h"
#include "cli/image/image_tool.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

constexpr unsigned kParallel = 16;
constexpr std::chrono::milliseconds kCheckpoint{1000};  ///< how much a killed copy does again

constexpr std::array kPositionals = {
    Positional{"SOURCE", "The image to copy.", true, Completes::Files, ""},
    Positional{"TARGET", "The image to make; what it was is lost.", true, Completes::Files, ""}};

constexpr std::array kOptions = {
    kFormatOption,
    Option{"--output-format", 'O', "FORMAT", "The target's format (default raw).",
           Completes::NewFormats},
    Option{"--option", 'o', "NAME=VALUE[,…]", "The target's options, as for 'strata image create'.",
           Completes::Nothing, true},
    Option{"--compress", 'c', "", "Compress the target's content."},
    Option{"--snapshot", 'l', "NAME", "Copy this internal snapshot.", Completes::Nothing},
    Option{"--in-order", 0, "",
           "Write one stretch after another; else what is ready first is written first."},
    Option{"--salvage", 0, "", "Go on where the source cannot be read; such places become zeros."},
    Option{"--speed", 0, "SIZE", "At most so many bytes a second.", Completes::Nothing},
    Option{"--resume", 0, "",
           "Go on where the same command was killed or interrupted, and keep what is there if this "
           "one is."},
    Option{"--disk", 0, "NAME",
           "Of an appliance (ova, xva) with several disks, this one (ova: or its number).",
           Completes::Nothing},
    kFollowOption,
    kPassphraseOption,
    kBackingPassphraseOption,
    Option{"--target-passphrase-file", 0, "FILE",
           "Encrypt the target (qcow2 and luks): its passphrase is the first line of this file.",
           Completes::Files},
};

constexpr std::array kDdOptions = {
    kFormatOption,
    Option{"--output-format", 'O', "FORMAT", "The target's format (default raw).",
           Completes::NewFormats},
    Option{"--option", 'o', "NAME=VALUE[,…]", "The target's options, as for 'strata image create'.",
           Completes::Nothing, true},
    Option{"--bs", 0, "SIZE", "The size of a block (default 512).", Completes::Nothing},
    Option{"--skip", 0, "NUMBER", "Leave out so many blocks of the source.", Completes::Nothing},
    Option{"--count", 0, "NUMBER", "Copy so many blocks at most.", Completes::Nothing},
    kFollowOption,
    kPassphraseOption,
    kBackingPassphraseOption,
};

/// The part of the source that dd's options name; the source itself without any.
Result<block::NodePtr> part_of(block::NodePtr source, const Arguments& arguments) {
    constexpr std::uint64_t kMost = 1ULL << 62;
    const std::uint64_t size = source->size();
    const std::uint64_t block = STRATA_TRY(parse_size(arguments.value("--bs").value_or("512")));
    const std::uint64_t skip =
        STRATA_TRY(parse_integer(arguments.value("--skip").value_or("0"), 0, kMost));
    const std::uint64_t count = STRATA_TRY(
        parse_integer(arguments.value("--count").value_or(std::to_string(kMost)), 0, kMost));
    if (block == 0 || block % 512 != 0) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("--bs {}: disks are made of sectors of 512 bytes", block)};
    }
    const std::uint64_t start = skip > size / block ? size : std::min(size, skip * block);
    const std::uint64_t length =
        count > size / block ? size - start : std::min(size - start, count * block);
    return block::NodePtr(std::make_shared<block::WindowNode>(std::move(source), start, length));
}

/// SIGINT and SIGTERM end the copying in order.
block::Task<> copy_watched(block::Loop& loop, UniqueFd signals, block::Node& source,
                           block::Node& target, block::CopyOptions options,
                           block::JobControl& control) {
    STRATA_CO_TRY(auto watcher, block::nbd::EndSignals::create(loop, std::move(signals),
                                                               [&control] { control.cancel(); }));
    std::vector<block::Node*> sources(1, &source);
    Result<> done =
        co_await block::copy_image(std::move(sources), target, std::move(options), control);
    if (done.ok()) {
        done = co_await target.flush();
    }
    STRATA_CO_TRY_VOID(co_await watcher->finish());
    if (control.cancelled()) {
        co_return Error{ErrorKind::Failed, "interrupted"};
    }
    co_return done;
}

/// `record`: where the copy puts down how far it is; null: nowhere. Everything below `start` is
/// there.
Result<> copy(ImageTool& tool, block::Node& source, block::Node& target, const Arguments& arguments,
              UniqueFd signals, CopyRecord* record, std::uint64_t start) {
    block::CopyOptions options;
    options.start = start;
    if (record != nullptr) {
        options.checkpoint = [record](std::uint64_t done) { return record->put(done); };
        options.checkpoint_every = kCheckpoint;
    }
    options.target_zero = target.traits().zero_initialised;
    options.compress = arguments.flag("--compress");
    options.in_order = arguments.flag("--in-order");
    options.salvage = arguments.flag("--salvage");
    options.parallel = kParallel;
    options.warn = [](const std::string& text) { notice(text); };
    ProgressBar bar("convert", !arguments.flag("--quiet"));
    if (const auto speed = arguments.value("--speed")) {
        bar.control().set_speed(STRATA_TRY(parse_size(*speed)));
    }
    return tool.run(copy_watched(tool.loop(), std::move(signals), source, target,
                                 std::move(options), bar.control()));
}

/// Nothing has this name: what has it later was made by us.
bool is_missing(const std::string& path) {
    std::error_code code;
    return std::filesystem::symlink_status(path, code).type() ==
           std::filesystem::file_type::not_found;
}

/// Where the target's data goes, if its options name a file for that; empty: into the target.
std::string data_path(const block::CreateRequest& request) {
    const std::string name(request.option("data_file"));
    return name.empty() ? name
                        : (std::filesystem::path(request.path).parent_path() / name).string();
}

/// What is copied into.
struct Target {
    std::string path;
    block::NodePtr node{};
    std::uint64_t start = 0;  ///< everything below is there
    bool fresh = false;       ///< nothing had its name before
    std::string data{};       ///< its data file, if that was there before
};

/// A target that lacks a part of its content looks whole: it goes, unless there was something
/// before it.
Error give_up(Target& target, const Error& why) {
    std::set<std::string> files;
    add_files(*target.node, files);
    target.node.reset();  // not closed: nothing is to be brought to what goes
    std::error_code code;
    for (const std::string& each : target.fresh ? files : std::set<std::string>()) {
        std::error_code apart;
        if (target.data.empty() || !std::filesystem::equivalent(each, target.data, apart)) {
            std::filesystem::remove(each, code);
        }
    }
    const std::string left =
        target.fresh && !code
            ? fmt::format("'{}' is not left behind{}", target.path,
                          target.data.empty()
                              ? ""
                              : fmt::format(", but '{}' holds a part of it", target.data))
            : fmt::format("'{}' holds a part of it: do not use it", target.path);
    return {why.kind(), fmt::format("{}; {}", why.text(), left), why.system_errno()};
}

/// A target of which a part is there is kept: the same command goes on.
Error keep_part(ImageTool& tool, Target& target, const Error& why) {
    (void)tool.close(target.node);  // as well as it goes: else it is as a crash leaves it
    return {why.kind(),
            fmt::format("{}; '{}' holds a part of it: the same command with --resume goes on",
                        why.text(), target.path),
            why.system_errno()};
}

/// What a copy puts down of itself, with --resume; null without.
Result<std::optional<CopyRecord>> record_of(const block::Node& source,
                                            const block::CreateRequest& request,
                                            std::string_view format, const Arguments& arguments) {
    if (!arguments.flag("--resume")) {
        return std::optional<CopyRecord>();
    }
    if (block::written_in_one_go(format, request)) {
        return Error{ErrorKind::NotSupported,
                     fmt::format("{} images of this kind are written in one go: leave out --resume",
                                 format)};
    }
    return std::optional(
        STRATA_TRY(CopyRecord::of(source, request,
                                  {{"source_format", source.format()},
                                   {"format", format},
                                   {"snapshot", arguments.value("--snapshot").value_or("")},
                                   {"disk", arguments.value("--disk").value_or("")},
                                   {"compress", arguments.flag("--compress")}})));
}

/// Whether the target has at some places what the source has: nobody has made it anew since.
/// `salvage`: places that cannot be read say nothing.
block::Task<bool> looks_copied(block::Node& source, block::Node& target, std::uint64_t done,
                               bool salvage) {
    constexpr std::uint64_t kSample = 64U << 10;
    std::vector<std::byte> wanted(kSample), there(kSample);
    for (const std::uint64_t at : samples(done, kSample)) {
        const std::size_t count = std::min(kSample, done - at);
        Result<> read = co_await source.read(at, block::Buffers(std::span(wanted).first(count)));
        if (!read.ok() && salvage) {
            continue;
        }
        STRATA_CO_TRY_VOID(std::move(read));
        STRATA_CO_TRY_VOID(co_await target.read(at, block::Buffers(std::span(there).first(count))));
        if (!std::equal(wanted.begin(), wanted.begin() + static_cast<std::ptrdiff_t>(count),
                        there.begin())) {
            co_return false;
        }
    }
    co_return true;
}

/// The target as a copy before left it, of which `done` bytes are there; null: it is another, and
/// starts anew.
Result<block::NodePtr> reopen(ImageTool& tool, block::Node& source, const std::string& path,
                              std::string_view format, const std::string& secret,
                              std::uint64_t done, bool salvage) {
    block::NodePtr target =
        STRATA_TRY(tool.open_as(path, format, true, {.write = true, .passphrase = secret}));
    if (target->size() != source.size() ||
        !STRATA_TRY(tool.run(looks_copied(source, *target, done, salvage)))) {
        return block::NodePtr();
    }
    return target;
}

/// A passphrase for a source that needs none was meant for the target.
Result<> check_passphrase(ImageTool& tool, block::Node& source, const std::string& passphrase) {
    for (block::Node* layer = &source; layer != nullptr && !passphrase.empty();
         layer = layer->backing()) {
        if (STRATA_TRY(tool.run(layer->info())).encrypted) {
            return ok();
        }
    }
    if (passphrase.empty()) {
        return ok();
    }
    return Error{ErrorKind::InvalidArgument,
                 fmt::format("'{}' is not encrypted: --passphrase-file is the source's; the target "
                             "is encrypted with --target-passphrase-file",
                             source.name())};
}

/// The image to make, as far as that can be refused before what was there is lost.
Result<block::CreateRequest> target_request(const Arguments& arguments, std::string_view format,
                                            std::uint64_t size, const std::string& secret) {
    const block::FormatDriver* driver = STRATA_TRY(block::find_format(format));
    block::CreateRequest request{std::string(*arguments.positional(1)), size,
                                 encryption_options(format, secret)};
    block::OptionList more = STRATA_TRY(option_lists(arguments.values("--option")));
    request.options.insert(request.options.end(), more.begin(), more.end());
    if (arguments.flag("--compress") &&
        (driver->compresses == nullptr || !driver->compresses(request))) {
        return Error{ErrorKind::NotSupported,
                     fmt::format("{} images{} cannot be compressed", format,
                                 driver->compresses == nullptr ? "" : " with these options")};
    }
    return request;
}

/// What a copy before has in the target; null: nothing that could go on. Whatever else hinders it
/// leaves the part as it is.
Result<block::NodePtr> go_on(ImageTool& tool, block::Node& source, std::string_view format,
                             const std::string& secret, const CopyRecord& record, bool salvage,
                             Target& target) {
    target.start = STRATA_TRY(record.done());
    if (target.start == 0) {
        return block::NodePtr();
    }
    auto node = reopen(tool, source, target.path, format, secret, target.start, salvage);
    if (!node.ok()) {
        return Error(node.error().kind(),
                     fmt::format("{}; '{}' holds a part of a copy and is left as it is (it starts "
                                 "anew without '{}')",
                                 node.error().text(), target.path, record.path()),
                     node.error().system_errno());
    }
    if (*node != nullptr) {
        notice(fmt::format("'{}' has {} of {} already", target.path, format_size(target.start),
                           format_size(source.size())));
    }
    return node;
}

/// The target as a copy before left it, or a new one.
Result<> open_target(ImageTool& tool, block::Node& source, std::string_view format,
                     block::CreateRequest request, const std::string& secret,
                     const std::optional<CopyRecord>& record, bool salvage, Target& target) {
    target.fresh = !block::is_location(target.path) && is_missing(target.path);
    std::vector<std::string> files{target.path};
    if (const std::string data = data_path(request); !data.empty()) {
        STRATA_TRY_VOID(check_apart(source, data));
        target.data = is_missing(data) ? "" : data;
        files.push_back(data);
    }
    if (record) {
        target.node = STRATA_TRY(go_on(tool, source, format, secret, *record, salvage, target));
    }
    if (target.node != nullptr) {
        return ok();
    }
    target.start = 0;
    // What is put down speaks of another target.
    STRATA_TRY_VOID(CopyRecord::replace(target.path, files,
                                        [&] { return tool.create(format, std::move(request)); }));
    target.node =
        STRATA_TRY(tool.open_as(target.path, format, true, {.write = true, .passphrase = secret}));
    return ok();
}

enum class Verb : std::uint8_t { Convert, Dd };

Result<int> run_copy(const Arguments& arguments, Verb verb) {
    UniqueFd signals = STRATA_TRY(block::nbd::EndSignals::block());
    ImageTool tool = STRATA_TRY(ImageTool::start());
    const std::string path(*arguments.positional(1));
    const std::string_view format = arguments.value("--output-format").value_or("raw");
    const std::string passphrase = STRATA_TRY(passphrase_of(arguments)),
                      secret = STRATA_TRY(passphrase_of(arguments, "--target-passphrase-file"));
    block::NodePtr source =
        STRATA_TRY(tool.open(arguments, *arguments.positional(0), {.passphrase = passphrase}));
    STRATA_TRY_VOID(check_passphrase(tool, *source, passphrase));
    if (verb == Verb::Dd) {
        STRATA_TRY_VOID(check_apart(*source, path));
        source = STRATA_TRY(part_of(std::move(source), arguments));
    } else if (const auto snapshot = arguments.value("--snapshot")) {
        STRATA_TRY_VOID(tool.run(source->load_snapshot(tool.snapshot_id(*source, *snapshot))));
    }
    STRATA_TRY_VOID(check_apart(*source, path));
    const std::uint64_t size = source->size();
    block::CreateRequest request = STRATA_TRY(target_request(arguments, format, size, secret));
    Target target{.path = path};
    std::optional<CopyRecord> record = STRATA_TRY(record_of(*source, request, format, arguments));
    STRATA_TRY_VOID(open_target(tool, *source, format, std::move(request), secret, record,
                                arguments.flag("--salvage"), target));
    const Result<> done = copy(tool, *source, *target.node, arguments, std::move(signals),
                               record ? &*record : nullptr, target.start);
    if (!done.ok()) {
        return record ? keep_part(tool, target, done.error()) : give_up(target, done.error());
    }
    STRATA_TRY_VOID(tool.close(target.node));
    if (record) {
        STRATA_TRY_VOID(record->remove());
    }
    print_result(arguments, {{"file", path}, {"format", format}, {"size", size}});
    notice(fmt::format("image '{}': {}, {}", path, format, format_size(size)));
    return 0;
}

Result<int> run_convert(const Arguments& arguments) {
    return run_copy(arguments, Verb::Convert);
}

Result<int> run_dd(const Arguments& arguments) {
    return run_copy(arguments, Verb::Dd);
}

}  // namespace

const Command kImageDdCommand = {
    .name = "image dd",
    .summary = "Copy a part of a disk image into another one",
    .description = "",
    .positionals = kPositionals,
    .options = kDdOptions,
    .examples = "  strata image dd -f qcow2 -O raw --bs 1M --skip 1 --count 16 disk.qcow2 part.raw",
    .run = run_dd,
};

const Command kImageConvertCommand = {
    .name = "image convert",
    .summary = "Copy a disk image into another format",
    .description = "",
    .positionals = kPositionals,
    .options = kOptions,
    .examples =
        "  strata image convert -f qcow2 -O raw disk.qcow2 disk.raw\n"
        "  strata image convert -f raw -O qcow2 -c -o compression_type=zstd disk.raw disk.qcow2\n"
        "  strata image convert -f qcow2 --follow -O qcow2 overlay.qcow2 flat.qcow2\n"
        "  strata image convert --resume -f raw -O qcow2 large.raw large.qcow2",
    .run = run_convert,
};

}  // namespace strata::cli
