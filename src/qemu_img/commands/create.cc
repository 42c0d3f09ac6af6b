// create: a new, empty image.
#include <algorithm>
#include <array>
#include <filesystem>

#include <fmt/format.h>

#include "qemu_img/arguments.h"
#include "qemu_img/commands.h"
#include "qemu_img/create_options.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"

namespace strata::qemu_img {
namespace {

constexpr std::array kOptions = {OptionSpec{'F', nullptr, true},
                                 OptionSpec{'b', nullptr, true},
                                 OptionSpec{'f', nullptr, true},
                                 OptionSpec{'o', nullptr, true},
                                 OptionSpec{'q', nullptr, false},
                                 OptionSpec{'u', nullptr, false},
                                 kObjectOption};

Error about(const std::string& file, const Error& error) {
    return failure(fmt::format("{}: {}", file, error.text()));
}

/// Looks at the backing file: its size, if the image has none of its own. `hint`: what to say
/// behind an error, without an end of line.
Result<> settle_backing(Session& session, NewImage& image, bool unchecked, std::string& hint) {
    const std::string backing = image.option("backing_file");
    const std::string format = image.option("backing_fmt");
    std::error_code code;  // what is not there is nobody's file
    if (backing == image.path ||
        (!backing.empty() &&
         std::filesystem::equivalent(image.path, beside(image.path, backing), code))) {
        return failure(
            "Error: Trying to create an image with the same filename as the backing file");
    }
    if (backing.empty()) {
        return failure("Expected backing file name, got empty string");
    }
    if (unchecked) {
        return format.empty() ? Result<>(failure("Backing file specified without backing format"))
                              : ok();
    }
    if (!format.empty() && !block::find_format(format).ok()) {
        return failure(fmt::format("Unknown driver '{}'\nCould not open backing image.", format));
    }
    ImageSpec spec;
    spec.text = beside(image.path, backing);
    spec.format = format.empty() ? std::nullopt : std::optional(format);
    // Its size alone is wanted: an encrypted one needs no key for that.
    auto node = session.open(spec, {.data = false, .share = true});
    if (!node.ok()) {
        return failure(without_opening(node.error(), spec) + "\nCould not open backing image.");
    }
    const std::uint64_t size = (*node)->size();
    const std::string found((*node)->format());
    STRATA_TRY_VOID(session.close(*node));
    if (format.empty()) {
        hint = fmt::format("Detected format of {}.", found);
        return failure("Backing file specified without backing format");
    }
    if (!image.size) {
        image.size = size;
    }
    return ok();
}

Result<> create(Session& session, const Arguments& arguments, const std::string& file,
                std::string& hint) {
    NewImage image;
    image.path = STRATA_TRY(plain_path(file));
    STRATA_TRY_VOID(image.use_format(arguments.last_or("f", "raw")));
    STRATA_TRY_VOID(image.take_options(arguments.all("o")));
    if (arguments.positionals().size() > 1) {
        if (image.size) {
            return failure("The image size must be specified only once");
        }
        image.size = STRATA_TRY(parse_bytes("image size", arguments.positionals()[1]));
    }
    STRATA_TRY_VOID(image.take_backing(arguments.last("b"), arguments.last("F")));
    if (image.has("backing_file")) {
        STRATA_TRY_VOID(settle_backing(session, image, arguments.has("u"), hint));
    }
    if (!image.size) {
        return failure("Image creation needs a size parameter");
    }
    print_unless(arguments.has("q"), fmt::format("Formatting '{}', fmt={} {}\n", file,
                                                 image.driver->name, image.summary()));
    if (const std::string format = image.option("backing_fmt");
        !format.empty() && !block::find_format(format).ok()) {
        return failure(fmt::format("unrecognized backing format '{}'", format));
    }
    return image.create(session);
}

Result<int> run(Session& session, std::span<char*> words) {
    const Arguments arguments = STRATA_TRY(Arguments::parse(words, kOptions));
    if (arguments.help()) {
        print_help();
        return 0;
    }
    STRATA_TRY_VOID(take_objects(session, arguments));
    const auto& names = arguments.positionals();
    if (STRATA_TRY(asks_for_help(arguments.all("o")))) {
        return print_option_help(arguments.last_or("f", "raw"), !names.empty());
    }
    if (names.empty()) {
        return usage_error("Expecting image file name");
    }
    if (names.size() > 2) {
        return usage_error(fmt::format("Unexpected argument: {}", names[2]));
    }
    if (names.size() == 2) {
        STRATA_TRY_VOID(parse_bytes("image size", names[1]));  // before the format is looked at
    }
    std::string hint;
    Result<> done = create(session, arguments, names[0], hint);
    if (!done.ok() && !hint.empty()) {
        report_error(about(names[0], done.error()).text());
        fmt::print(stderr, "{}", hint);
        return 1;
    }
    if (!done.ok()) {
        return about(names[0], done.error());
    }
    return 0;
}

}  // namespace

const Command kCreate = {"create",
                         "[--object objectdef] [-q] [-f fmt] [-b backing_file [-F backing_fmt]] "
                         "[-u] [-o options] filename [size]",
                         run};

}  // namespace strata::qemu_img
