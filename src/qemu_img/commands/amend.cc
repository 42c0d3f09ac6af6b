// amend: changes an image's options where it lies.
#include <array>

#include <fmt/format.h>

#include "qemu_img/arguments.h"
#include "qemu_img/commands.h"
#include "qemu_img/create_options.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"

namespace strata::qemu_img {
namespace {

constexpr std::array kOptions = {OptionSpec{'o', nullptr, true}, OptionSpec{'f', nullptr, true}, OptionSpec{'t', nullptr, true},
                                 OptionSpec{'p', nullptr, false}, OptionSpec{'q', nullptr, false}, kObjectOption, kImageOptsOption,
                                 OptionSpec{0, "force", false}};

Result<int> run(Session& session, std::span<char*> words) {
    const Arguments arguments = STRATA_TRY(Arguments::parse(words, kOptions));
    if (arguments.help()) {
        print_help();
        return 0;
    }
    if (!arguments.has("o")) {
        return usage_error("Must specify options (-o)");
    }
    const Caching caching = STRATA_TRY(parse_caching("Invalid cache option", arguments.last_or("t", "writeback")));
    if (asks_for_help(arguments.all("o")) && arguments.has("f")) {
        return print_option_help(arguments.last_or("f", ""), true);
    }
    if (arguments.positionals().size() != 1) {
        return failure("Expecting one image file name");
    }
    STRATA_TRY_VOID(take_objects(session, arguments));
    const ImageSpec spec = STRATA_TRY(image_spec(arguments, arguments.positionals()[0], "f"));
    block::NodePtr node = STRATA_TRY(session.open(spec, {.write = true, .caching = caching}));
    const std::string format(node->format());
    if (asks_for_help(arguments.all("o"))) {
        return print_option_help(format, true);
    }
    NewImage image;  // checks names and values against the format's table
    STRATA_TRY_VOID(image.use_format(format));
    STRATA_TRY_VOID(image.take_options(arguments.all("o")));
    block::OptionList options = image.options;
    if (image.size) {
        options.emplace_back("size", std::to_string(*image.size));
    }
    ProgressLine line(arguments.has("p") && !arguments.has("q"), 1.0);
    Result<> done = session.run(node->amend(std::move(options)));
    if (!done.ok() && done.error().kind() == ErrorKind::NotSupported) {
        return failure(fmt::format("Format driver '{}' does not support option amendment", format));
    }
    STRATA_TRY_VOID(std::move(done));
    line.show(1, 1);
    STRATA_TRY_VOID(session.close(node));
    return 0;
}

}  // namespace

const Command kAmend = {"amend", "[--object objectdef] [--image-opts] [-p] [-q] [-f fmt] [-t cache] [--force] -o options filename", run};

}  // namespace strata::qemu_img
