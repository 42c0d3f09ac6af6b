// strata image: build, list and find images.
#include <array>
#include <filesystem>
#include <string>

#include <fmt/format.h>

#include "base/text.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/image/debian.h"
#include "cli/image/store.h"
#include "cli/image/tiny.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

constexpr std::uint64_t kMinDisk = 1ULL << 30;
constexpr std::uint64_t kMaxDisk = 16ULL << 40;

constexpr std::array kBuildPositionals = {
    Positional{"IMAGE", "tiny (demo guest, seconds) or debian:12 (root disk, minutes).", true,
               Completes::Choices, "tiny|debian:12"}};

constexpr std::array kBuildOptions = {
    Option{"--size", 0, "SIZE", "Size of the root disk, e.g. 8G (debian:12 only; default 4G)."},
    Option{"--packages", 0, "LIST", "More Debian packages, separated by commas (debian:12 only)."},
    Option{"--mirror", 0, "URI",
           "A Debian archive to take packages from (debian:12 only; default: what apt uses here)."},
    Option{"--ssh-key", 0, "FILE",
           "A public key that may log in as root over ssh (debian:12 only).", Completes::Files},
    Option{"--name", 0, "NAME", "Store it under this name instead of IMAGE."},
    Option{"--replace", 0, "", "Build it anew if it exists; what changed in the old one is lost."},
};

constexpr std::array kPathPositionals = {
    Positional{"IMAGE", "The image's name.", true, Completes::Images, ""}};

void show_progress(std::string_view text) {
    notice(fmt::format("image: {}", text));
}

Result<DebianOptions> debian_options(const Arguments& arguments) {
    DebianOptions options;
    if (const auto size = arguments.value("--size")) {
        options.disk_bytes = STRATA_TRY(parse_size(*size)) / 4096 * 4096;
        if (options.disk_bytes < kMinDisk || options.disk_bytes > kMaxDisk) {
            return Error{ErrorKind::InvalidArgument,
                         fmt::format("--size {}: must be from {} to {}", *size,
                                     format_size(kMinDisk), format_size(kMaxDisk))};
        }
    }
    options.packages = std::string(arguments.value("--packages").value_or(""));
    options.ssh_key_file = std::string(arguments.value("--ssh-key").value_or(""));
    options.mirror = std::string(arguments.value("--mirror").value_or(""));
    return options;
}

Result<int> run_build(const Arguments& arguments) {
    const std::string_view kind = *arguments.positional(0);
    const DebianOptions debian = STRATA_TRY(debian_options(arguments));
    if (kind != "tiny" && kind != "debian:12") {
        const std::string_view near = nearest(kind, {"tiny", "debian:12"});
        return Error{ErrorKind::NotFound,
                     fmt::format("no recipe for '{}': {}", kind,
                                 near.empty() ? std::string("there are tiny and debian:12")
                                              : fmt::format("did you mean '{}'?", near))};
    }
    for (const char* option : {"--size", "--packages", "--mirror", "--ssh-key"}) {
        if (kind == "tiny" && arguments.value(option)) {
            return Error{ErrorKind::InvalidArgument,
                         fmt::format("{} is for debian:12 only: tiny has no disk", option)};
        }
    }
    const std::string name(arguments.value("--name").value_or(kind));
    ImageDraft draft = STRATA_TRY(ImageDraft::begin(name, arguments.flag("--replace")));
    Image image = STRATA_TRY(kind == "tiny" ? build_tiny(draft, show_progress)
                                            : build_debian(draft, debian, show_progress));
    image.name = name;
    STRATA_TRY_VOID(draft.commit(image));
    const std::string folder = fmt::format("{}/{}", store_folder(), name);
    if (arguments.flag("--json")) {
        print_out(api::dump_json_pretty(api::Json{{"name", name}, {"folder", folder}}));
    } else {
        notice(fmt::format("image '{}' is ready in {}: strata run {}", name, folder, name));
    }
    return 0;
}

std::uint64_t bytes_on_disk(const std::string& folder) {
    std::uint64_t total = 0;
    std::error_code code;
    for (std::filesystem::directory_iterator place(folder, code), end; !code && place != end;
         place.increment(code)) {
        std::error_code unreadable;
        const auto size = place->file_size(unreadable);
        total += unreadable ? 0 : size;
    }
    return total;
}

Result<int> run_list(const Arguments& arguments) {
    api::Json list = api::Json::array();
    std::string table;
    for (const std::string& name : image_names()) {
        auto image = find_image(name);
        const std::string about = image ? image->description : image.error().text();
        const std::uint64_t bytes = bytes_on_disk(fmt::format("{}/{}", store_folder(), name));
        list.push_back(
            {{"name", name}, {"bytes", bytes}, {"description", about}, {"usable", image.ok()}});
        table += arguments.flag("--quiet")
                     ? name + "\n"
                     : fmt::format("{:<16} {:>10}  {}\n", name, format_size(bytes), about);
    }
    if (arguments.flag("--json")) {
        print_out(api::dump_json_pretty(list));
    } else if (table.empty()) {
        notice("no images yet: make one with 'strata image build tiny'");
    } else {
        print_out(arguments.flag("--quiet")
                      ? table
                      : fmt::format("{:<16} {:>10}  {}\n", "NAME", "SIZE", "WHAT") + table);
    }
    return 0;
}

Result<int> run_path(const Arguments& arguments) {
    const Image image = STRATA_TRY(find_image(*arguments.positional(0)));
    print_out(arguments.flag("--json") ? api::dump_json_pretty(api::Json{{"folder", image.folder}})
                                       : image.folder + "\n");
    return 0;
}

}  // namespace

const Command kImageBuildCommand = {
    .name = "image build",
    .summary = "Make a guest image from Debian's packages",
    .description =
        "tiny is Debian's kernel with a busybox shell in memory; debian:12 is a whole Debian on a "
        "raw disk, with its\n"
        "kernel beside it for a direct boot. On the console root logs in without a password; over "
        "ssh only with --ssh-key.",
    .positionals = kBuildPositionals,
    .options = kBuildOptions,
    .examples =
        "  strata image build tiny\n"
        "  strata image build debian:12 --size 8G --ssh-key ~/.ssh/id_ed25519.pub --packages "
        "gcc,python3",
    .run = run_build,
};

const Command kImageListCommand = {
    .name = "image list",
    .summary = "List the images on this machine",
    .description = "",
    .positionals = {},
    .options = {},
    .examples = "",
    .run = run_list,
};

const Command kImagePathCommand = {
    .name = "image path",
    .summary = "Print the folder of an image",
    .description = "",
    .positionals = kPathPositionals,
    .options = {},
    .examples = "",
    .run = run_path,
};

}  // namespace strata::cli
