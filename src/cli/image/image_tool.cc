// ImageTool: opening, making and progress.
#include "cli/image/image_tool.h"

#include <unistd.h>

#include <algorithm>
#include <functional>

#include <fmt/format.h>

#include "base/text.h"
#include "block/secrets.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

/// What a tree of nodes is named with (docs/design/block.md): "nodes:driver=fault,rules.0.rate=0.1,file.driver=qcow2,file.file.filename=a".
constexpr std::string_view kNodes = "nodes:";
constexpr std::size_t kBarWidth = 30;
constexpr std::chrono::milliseconds kRedraw{100};

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

}  // namespace

Result<std::string> passphrase_of(const Arguments& arguments, std::string_view option) {
    const auto file = arguments.value(option);
    if (!file) {
        return std::string();
    }
    std::string text = STRATA_TRY(block::load_secret({.data = {}, .file = std::string(*file), .base64 = false, .key = {}, .iv = {}}));
    text.resize(std::min(text.size(), text.find('\n')));
    if (text.empty()) {
        return Error{ErrorKind::InvalidArgument, fmt::format("{} {}: its first line is empty", option, *file)};
    }
    return text;
}

block::OptionList encryption_options(std::string_view format, const std::string& passphrase) {
    if (passphrase.empty()) {
        return {};
    }
    return format == "luks" ? block::OptionList{{"key-secret", passphrase}} : block::OptionList{{"encrypt.format", "luks"}, {"encrypt.key-secret", passphrase}};
}

Result<ImageTool> ImageTool::start() { return ImageTool(STRATA_TRY(block::Loop::create())); }

Result<block::NodePtr> ImageTool::open_as(std::string_view path, std::string_view format, bool follow, const ImageAccess& access) {
    block::OpenOptions options;
    if (block::is_location(path)) {
        STRATA_TRY_VOID(block::set_location(options, path));
    }
    options.path = path;
    options.format = format;
    if (path.starts_with(kNodes)) {
        for (const std::string_view each : split(path.substr(kNodes.size()), ',')) {
            const auto equals = each.find('=');
            options.tree.set(std::string(each.substr(0, equals)), equals == std::string_view::npos ? "on" : std::string(each.substr(equals + 1)));
        }
    }
    options.read_only = !access.write;
    options.lock = access.lock;
    options.cache = access.cache;
    options.lock_backing = access.lock && !access.free_backing;
    options.open_backing = access.backing;
    options.open_data = access.backing;
    options.for_check = access.check;
    if (!access.passphrase.empty()) {
        options.extra = {{format == "luks" ? "key-secret" : "encrypt.key-secret", access.passphrase}};
    }
    if (follow) {
        options.references = block::follow_references();
    }
    return run(block::open_node(*loop_, std::move(options)));
}

Result<block::NodePtr> ImageTool::open(const Arguments& arguments, std::string_view path, const ImageAccess& access) {
    const auto format = arguments.value("--format");
    if (path.starts_with(kNodes)) {
        return open_as(path, "raw", arguments.flag("--follow"), access);
    }
    if (!format) {
        auto found = run(look(*loop_, std::string(path)));
        if (!found.ok()) {
            return found.error();
        }
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("which format has '{}'? It looks like {}; if that is what it was made as, say -f {}", path, *found, *found)};
    }
    return open_as(path, *format, arguments.flag("--follow"), access);
}

Result<> ImageTool::close(block::NodePtr& node) {
    if (node == nullptr) {
        return ok();
    }
    Result<> done = run(node->close());
    node.reset();
    return done;
}

Result<> ImageTool::create(std::string_view format, const std::string& path, std::uint64_t size, std::span<const std::string_view> lists,
                           block::OptionList options) {
    for (const std::string_view list : lists) {
        for (const std::string_view each : split(list, ',')) {
            const auto equals = each.find('=');
            options.emplace_back(each.substr(0, equals), equals == std::string_view::npos ? "on" : each.substr(equals + 1));
        }
    }
    return run(block::create_image(*loop_, std::string(format), {path, size, std::move(options)}));
}

ProgressBar::ProgressBar(std::string title, bool shown)
    : title_(std::move(title)), shown_(shown && ::isatty(STDERR_FILENO) != 0), start_(std::chrono::steady_clock::now()), drawn_{},
      control_(shown_ ? std::function<void(std::uint64_t, std::uint64_t)>([this](std::uint64_t done, std::uint64_t total) { draw(done, total); })
                      : std::function<void(std::uint64_t, std::uint64_t)>()) {}

ProgressBar::~ProgressBar() {
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
    const double seconds = std::max(std::chrono::duration<double>(now - start_).count(), 0.001);
    const double part = static_cast<double>(done) / static_cast<double>(total);
    const auto filled = static_cast<std::size_t>(part * kBarWidth);
    fmt::print(stderr, "\r{} [{}{}] {:5.1f}%  {} of {}  {}/s\x1b[K", title_, std::string(filled, '#'), std::string(kBarWidth - filled, '.'),
               part * 100.0, format_size(done), format_size(total), format_size(static_cast<std::uint64_t>(static_cast<double>(done) / seconds)));
    (void)std::fflush(stderr);
}

}  // namespace strata::cli
