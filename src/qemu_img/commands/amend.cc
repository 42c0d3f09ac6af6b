// amend: changes an image's options where it lies.
#include "block/amend.h"

#include <array>

#include <fmt/format.h>

#include "qemu_img/arguments.h"
#include "qemu_img/commands.h"
#include "qemu_img/create_options.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"

namespace strata::qemu_img {
namespace {

constexpr std::array kOptions = {OptionSpec{'o', nullptr, true},
                                 OptionSpec{'f', nullptr, true},
                                 OptionSpec{'t', nullptr, true},
                                 OptionSpec{'p', nullptr, false},
                                 OptionSpec{'q', nullptr, false},
                                 kObjectOption,
                                 kImageOptsOption,
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
    const Caching caching =
        STRATA_TRY(parse_caching("Invalid cache option", arguments.last_or("t", "writeback")));
    const bool help = STRATA_TRY(asks_for_help(arguments.all("o")));
    if (help && arguments.has("f")) {
        return print_amend_help(arguments.last_or("f", ""));
    }
    if (arguments.positionals().size() != 1) {
        return failure("Expecting one image file name");
    }
    STRATA_TRY_VOID(take_objects(session, arguments));
    const ImageSpec spec = STRATA_TRY(image_spec(arguments, arguments.positionals()[0], "f"));
    block::NodePtr node = STRATA_TRY(session.open(spec, {.write = true, .caching = caching}));
    const std::string format(node->format());
    if (help) {
        return print_amend_help(format);
    }
    const block::FormatDriver* driver = STRATA_TRY(block::find_format(format));
    if (block::amend_options(format).empty()) {
        return failure(fmt::format("Format driver '{}' does not support option amendment", format));
    }
    block::AmendRequest request;
    request.options = STRATA_TRY(amend_options(*driver, arguments.all("o")));
    STRATA_TRY_VOID(session.resolve_secrets(request.options));
    request.force = arguments.has("force");
    ProgressLine line(arguments.has("p") && !arguments.has("q"), 1.0);
    line.show(0, 1);
    request.progress = [&line](std::uint64_t done, std::uint64_t total) { line.show(done, total); };
    Result<> done = session.run(block::amend_image(node, std::move(request)));
    line.show(1, 1);
    if (!done.ok() && done.error().text().starts_with("Snapshot L1 table")) {
        report_error(done.error().text());
        return failure(
            fmt::format("Failed to turn zero into data clusters: {}", reason(done.error())));
    }
    if (!done.ok()) {
        return failure(done.error().text());
    }
    STRATA_TRY_VOID(session.close(node));
    return 0;
}

}  // namespace

const Command kAmend = {"amend",
                        "[--object objectdef] [--image-opts] [-p] [-q] [-f fmt] [-t cache] "
                        "[--force] -o options filename",
                        run};

}  // namespace strata::qemu_img
