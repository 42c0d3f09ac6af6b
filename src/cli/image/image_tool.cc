// ImageTool: opening, making and progress.
#include "cli/image/image_tool.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <set>

#include <fmt/format.h>
#include <unistd.h>

#include "base/text.h"
#include "block/jobs/progress_signal.h"
#include "block/protocols/fat/fat_node.h"
#include "block/secrets.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

/// What a tree of nodes is named with (docs/design/block.md):
/// "nodes:driver=fault,rules.0.rate=0.1,file.driver=qcow2,file.file.filename=a".
constexpr std::string_view kNodes = "nodes:";
constexpr std::size_t kBarWidth = 30;
constexpr std::chrono::milliseconds kRedraw{100};

/// The nodes of a folder as a disk ("fat:FOLDER"), in `format`; "file": the disk alone.
block::NodeTree folder_tree(std::string_view name, std::string_view format) {
    block::NodeTree disk(block::fat::location_options(name));
    disk.set("driver", "vvfat");
    if (format == "file") {
        return disk;
    }
    block::NodeTree tree;
    tree.set("driver", std::string(format));
    tree.graft("file", disk);
    return tree;
}

block::Task<std::string> look(block::Loop& loop, std::string path) {
    block::OpenOptions options;
    if (block::is_location(path)) {
        STRATA_CO_TRY_VOID(block::set_location(options, path));
    }
    options.path = std::move(path);
    options.format = "file";
    options.read_only = true;
    options.lock = false;
    STRATA_CO_TRY(block::NodePtr file, co_await block::open_node(loop, std::move(options)));
    auto format = co_await block::probe_format(*file);
    STRATA_CO_TRY_VOID(co_await file->close());
    co_return format;
}

/// The parts between commas; two of these are one that belongs to a part.
std::vector<std::string> list_parts(std::string_view list) {
    std::vector<std::string> parts(1);
    for (std::size_t at = 0; at < list.size(); ++at) {
        if (list[at] != ',') {
            parts.back() += list[at];
        } else if (list.substr(at).starts_with(",,")) {
            parts.back() += ',';
            ++at;
        } else {
            parts.emplace_back();
        }
    }
    return parts;
}

/// What opens encrypted images, and the layers below them.
block::OptionList key_options(std::string_view format, const ImageAccess& access) {
    block::OptionList options;
    const std::string& below =
        access.backing_passphrase.empty() ? access.passphrase : access.backing_passphrase;
    if (!access.passphrase.empty()) {
        options.emplace_back(format == "luks" ? "key-secret" : "encrypt.key-secret",
                             access.passphrase);
    }
    if (!below.empty()) {
        options.emplace_back("layers.key-secret", below);
        options.emplace_back("layers.encrypt.key-secret", below);
    }
    if (!access.key) {
        options.emplace_back("unlock", "optional");
        options.emplace_back("layers.unlock", "optional");
    }
    return options;
}

bool is_secret(std::string_view name) {
    return name.ends_with("-secret");
}

/// How a passphrase is given instead.
std::string_view secret_advice(std::string_view name) {
    return name.ends_with("key-secret") ? "--passphrase-file (convert: --target-passphrase-file)"
                                        : "--passphrase-file, --new-passphrase-file";
}

/// " 25.0%  1 MiB of 4 MiB  512 KiB/s"
std::string state_text(std::chrono::steady_clock::time_point start, std::uint64_t done,
                       std::uint64_t total) {
    const auto passed = std::chrono::steady_clock::now() - start;
    const double seconds = std::max(std::chrono::duration<double>(passed).count(), 0.001);
    const double part = total == 0 ? 0.0 : static_cast<double>(done) / static_cast<double>(total);
    return fmt::format(
        "{:5.1f}%  {} of {}  {}/s", part * 100.0, format_size(done), format_size(total),
        format_size(static_cast<std::uint64_t>(static_cast<double>(done) / seconds)));
}

}  // namespace

Result<std::string> passphrase_of(const Arguments& arguments, std::string_view option) {
    const auto file = arguments.value(option);
    if (!file) {
        return std::string();
    }
    std::string text = STRATA_TRY(block::load_secret(
        {.data = {}, .file = std::string(*file), .base64 = false, .key = {}, .iv = {}}));
    text.resize(std::min(text.size(), text.find('\n')));
    if (text.ends_with('\r')) {
        notice(
            fmt::format("{} {}: its first line ends with a carriage return, as Windows writes "
                        "lines; that is a part of the passphrase",
                        option, *file));
    }
    if (text.empty()) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("{} {}: its first line is empty", option, *file)};
    }
    return text;
}

block::OptionList encryption_options(std::string_view format, const std::string& passphrase) {
    if (passphrase.empty()) {
        return {};
    }
    return format == "luks"
               ? block::OptionList{{"key-secret", passphrase}}
               : block::OptionList{{"encrypt.format", "luks"}, {"encrypt.key-secret", passphrase}};
}

Result<block::OptionList> option_lists(std::span<const std::string_view> lists) {
    block::OptionList options;
    for (const std::string_view list : lists) {
        for (const std::string& each : list_parts(list)) {
            const auto equals = each.find('=');
            const std::string name = each.substr(0, equals);
            if (is_secret(name)) {
                return Error{ErrorKind::InvalidArgument,
                             fmt::format("-o {}: a command line is no place for a passphrase; put "
                                         "it into a file for {}",
                                         name, secret_advice(name))};
            }
            options.emplace_back(name,
                                 equals == std::string::npos ? "on" : each.substr(equals + 1));
        }
    }
    return options;
}

std::string option_help(const block::CreateOption& option) {
    return is_secret(option.name) ? fmt::format("not here: {}", secret_advice(option.name))
                                  : std::string(option.help);
}

void print_result(const Arguments& arguments, const api::Json& result) {
    if (arguments.flag("--json")) {
        print_out(api::dump_json_pretty(result));
    }
}

void add_files(const block::Node& node, std::set<std::string>& files) {
    if (node.format() == "file") {
        files.insert(node.name());
    }
    for (const block::Node* each : node.children()) {
        if (each != node.backing()) {
            add_files(*each, files);
        }
    }
}

Result<> check_apart(const block::Node& source, const std::string& target) {
    for (const block::Node* layer = &source; layer != nullptr; layer = layer->backing()) {
        std::set<std::string> files{layer->name()};
        add_files(*layer, files);
        for (const std::string& each : files) {
            std::error_code code;  // what is not there is nobody's file
            if (std::filesystem::equivalent(each, target, code)) {
                const std::string_view which = layer != &source ? "one of the layers below it"
                                               : each != layer->name() ? "one of its files"
                                                                       : "itself";
                return Error{ErrorKind::InvalidArgument,
                             fmt::format("'{}' is '{}' {}", target, source.name(), which)};
            }
        }
    }
    return ok();
}

Result<ImageTool> ImageTool::start() {
    block::hold_progress_signal();  // before the loop's threads
    return ImageTool(STRATA_TRY(block::Loop::create()));
}

Result<block::NodePtr> ImageTool::open_as(std::string_view path, std::string_view format,
                                          bool follow, const ImageAccess& access) {
    block::OpenOptions options;
    if (block::is_location(path)) {
        STRATA_TRY_VOID(block::set_location(options, path));
    }
    options.path = path;
    options.format = format;
    if (block::fat::is_location(path)) {
        options.tree = folder_tree(path, format);
    }
    if (path.starts_with(kNodes)) {
        for (const std::string_view each : split(path.substr(kNodes.size()), ',')) {
            const auto equals = each.find('=');
            options.tree.set(
                std::string(each.substr(0, equals)),
                equals == std::string_view::npos ? "on" : std::string(each.substr(equals + 1)));
        }
    }
    options.read_only = !access.write;
    options.lock = access.lock;
    options.cache = access.cache;
    options.lock_backing = access.lock && !access.free_backing;
    options.open_backing = access.backing;
    options.open_data = access.backing;
    options.for_check = access.check;
    options.extra = key_options(format, access);
    if (!access.backing && !access.lock) {  // it is looked at alone
        options.extra.emplace_back("extents", "optional");
    }
    if (!access.disk.empty()) {
        options.extra.emplace_back("disk", access.disk);
    }
    if (follow) {
        options.references = block::follow_references();
    }
    return run(block::open_node(*loop_, std::move(options)));
}

Result<block::NodePtr> ImageTool::open(const Arguments& arguments, std::string_view path,
                                       ImageAccess access) {
    if (access.passphrase.empty()) {
        access.passphrase = STRATA_TRY(passphrase_of(arguments));
    }
    if (access.backing_passphrase.empty()) {
        access.backing_passphrase =
            STRATA_TRY(passphrase_of(arguments, "--backing-passphrase-file"));
    }
    const auto format = arguments.value("--format");
    if (path.starts_with(kNodes) || (block::fat::is_location(path) && !format)) {
        return open_as(path, "raw", arguments.flag("--follow"), access);
    }
    if (!format) {
        auto found = run(look(*loop_, std::string(path)));
        if (!found.ok()) {
            return found.error();
        }
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("which format has '{}'? It looks like {}; if that is what it was "
                                 "made as, say -f {}",
                                 path, *found, *found)};
    }
    return open_as(path, *format, arguments.flag("--follow"), access);
}

Result<std::string> ImageTool::looks_like(const std::string& path) {
    return run(look(*loop_, path));
}

Result<> ImageTool::close(block::NodePtr& node) {
    if (node == nullptr) {
        return ok();
    }
    Result<> done = run(node->close());
    node.reset();
    return done;
}

std::string ImageTool::snapshot_id(block::Node& node, std::string_view name) {
    const auto all = run(node.snapshots());
    if (all.ok()) {  // else whatever is done with the snapshot says so
        const auto found = std::ranges::find(*all, name, &block::SnapshotInfo::name);
        return found == all->end() ? std::string(name) : found->id;
    }
    return std::string(name);
}

ProgressBar::ProgressBar(std::string title, bool shown)
    : title_(std::move(title)),
      shown_(shown && ::isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()),
      drawn_{},
      control_(shown_ ? std::function<void(std::uint64_t, std::uint64_t)>(
                            [this](std::uint64_t done, std::uint64_t total) { draw(done, total); })
                      : std::function<void(std::uint64_t, std::uint64_t)>()) {
    block::hold_progress_signal();
    block::answer_progress_signal([this](std::uint64_t done, std::uint64_t total) {
        fmt::print(stderr, "{}{}: {}\n", shown_ ? "\r\x1b[K" : "", title_,
                   state_text(start_, done, total));
    });
}

ProgressBar::~ProgressBar() {
    block::answer_progress_signal({});
    if (shown_) {
        fmt::print(stderr, "\r\x1b[K");
    }
}

void ProgressBar::draw(std::uint64_t done, std::uint64_t total) {
    const auto now = std::chrono::steady_clock::now();
    if (!shown_ || total == 0 || (done != total && now - drawn_ < kRedraw)) {
        return;
    }
    drawn_ = now;
    const double part = static_cast<double>(done) / static_cast<double>(total);
    const auto filled = static_cast<std::size_t>(part * kBarWidth);
    fmt::print(stderr, "\r{} [{}{}] {}\x1b[K", title_, std::string(filled, '#'),
               std::string(kBarWidth - filled, '.'), state_text(start_, done, total));
    (void)std::fflush(stderr);
}

}  // namespace strata::cli
