// resize: another size, absolute or by a difference.
#include <array>

#include <fmt/format.h>

#include "qemu_img/arguments.h"
#include "qemu_img/commands.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"

namespace strata::qemu_img {
namespace {

using block::Preallocation;

constexpr std::array kOptions = {OptionSpec{'f', nullptr, true},
                                 OptionSpec{'q', nullptr, false},
                                 kObjectOption,
                                 kImageOptsOption,
                                 OptionSpec{0, "preallocation", true},
                                 OptionSpec{0, "shrink", false}};

Result<Preallocation> preallocation_of(const std::string& text) {
    constexpr std::array<std::pair<std::string_view, Preallocation>, 4> kModes = {
        {{"off", Preallocation::Off},
         {"metadata", Preallocation::Metadata},
         {"falloc", Preallocation::Falloc},
         {"full", Preallocation::Full}}};
    for (const auto& [name, mode] : kModes) {
        if (name == text) {
            return mode;
        }
    }
    return failure(fmt::format("Invalid preallocation mode '{}'", text));
}

struct Wanted {
    int sign = 0;  ///< 0: absolute
    std::uint64_t bytes = 0;
};

Result<Wanted> wanted_of(std::string text) {
    Wanted wanted;
    if (!text.empty() && (text[0] == '+' || text[0] == '-')) {
        wanted.sign = text[0] == '+' ? 1 : -1;
        text.erase(0, 1);
    }
    bool too_large = false;
    const auto bytes = bytes_of(text, &too_large);
    if (!bytes) {
        return failure(
            too_large
                ? fmt::format("Value '{}' is out of range for parameter 'size'", text)
                : std::string(
                      "Parameter 'size' expects a non-negative number below 2^64\n"
                      "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
                      "and exabytes, respectively."));
    }
    wanted.bytes = *bytes;
    return wanted;
}

Result<std::uint64_t> new_size(const Wanted& wanted, std::uint64_t now) {
    const bool fits = wanted.sign < 0 ? wanted.bytes < now
                                      : wanted.bytes <= INT64_MAX - (wanted.sign > 0 ? now : 0);
    const std::uint64_t size = wanted.sign < 0   ? now - wanted.bytes
                               : wanted.sign > 0 ? now + wanted.bytes
                                                 : wanted.bytes;
    if (!fits || size == 0) {
        return failure("New image size must be positive");
    }
    return size;
}

Result<> check_change(std::uint64_t now, std::uint64_t size, Preallocation preallocation,
                      bool shrink) {
    if (size <= now && preallocation != Preallocation::Off) {
        return failure("Preallocation can only be used for growing images");
    }
    if (size < now && !shrink) {
        report_error("Use the --shrink option to perform a shrink operation.");
        report_warning(
            "Shrinking an image will delete all data beyond the shrunken image's end. Before "
            "performing such an operation, "
            "make sure there is no important data there.");
        return Error(ErrorKind::Failed, "");
    }
    return ok();
}

Result<int> run(Session& session, std::span<char*> words) {
    if (words.size() < 3) {
        return usage_error("Not enough arguments");
    }
    const std::string size_text = words.back();  // not an option, though "-1G" looks like one
    const Arguments arguments =
        STRATA_TRY(Arguments::parse(words.first(words.size() - 1), kOptions));
    if (arguments.help()) {
        print_help();
        return 0;
    }
    const Preallocation preallocation =
        STRATA_TRY(preallocation_of(arguments.last_or("preallocation", "off")));
    const std::string file = STRATA_TRY(arguments.only("Expecting image file name and size"));
    STRATA_TRY_VOID(take_objects(session, arguments));
    const Wanted wanted = STRATA_TRY(wanted_of(size_text));
    const ImageSpec spec = STRATA_TRY(image_spec(arguments, file, "f"));
    block::NodePtr node = STRATA_TRY(session.open(spec, {.write = true, .unmap = true}));
    const std::uint64_t size = STRATA_TRY(new_size(wanted, node->size()));
    Result<> allowed = check_change(node->size(), size, preallocation, arguments.has("shrink"));
    if (!allowed.ok()) {
        return allowed.error().text().empty() ? Result<int>(1) : Result<int>(allowed.error());
    }
    const Result<> resized = session.run(node->resize(size, preallocation));
    if (!resized.ok() && resized.error().text().ends_with("images have no resizing")) {
        return failure("Image format driver does not support resize");
    }
    STRATA_TRY_VOID(resized);
    STRATA_TRY_VOID(session.close(node));
    print_unless(arguments.has("q"), "Image resized.\n");
    return 0;
}

}  // namespace

const Command kResize = {"resize",
                         "[--object objectdef] [--image-opts] [-f fmt] [--preallocation=prealloc] "
                         "[-q] [--shrink] filename [+ | -]size",
                         run};

}  // namespace strata::qemu_img
