// measure: how large an image would be.
#include <array>

#include <fmt/format.h>

#include "api/json.h"
#include "qemu_img/arguments.h"
#include "qemu_img/commands.h"
#include "qemu_img/create_options.h"
#include "qemu_img/json_text.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"

namespace strata::qemu_img {
namespace {

constexpr std::array kOptions = {OptionSpec{'f', nullptr, true},
                                 OptionSpec{'O', nullptr, true},
                                 OptionSpec{'o', nullptr, true},
                                 OptionSpec{'l', nullptr, true},
                                 kOutputOption,
                                 OptionSpec{0, "size", true},
                                 kObjectOption,
                                 kImageOptsOption,
                                 kForceShareOption};

Result<block::Measurement> measure(Session& session, const NewImage& image, block::Node* source) {
    if (image.driver->measure == nullptr) {
        return failure(
            fmt::format("Block driver '{}' does not support size measurement", image.driver->name));
    }
    auto size = session.run(image.driver->measure(source, image.request()));
    return size.ok() ? std::move(size) : failure(size.error().text());
}

/// Both sides can have bitmaps: their size is told, though it be 0.
Result<bool> tells_bitmaps(Session& session, const NewImage& image, block::Node* source) {
    const std::string compat = image.option("compat");
    if (source == nullptr || source->format() != "qcow2" || image.driver->name != "qcow2" ||
        compat == "0.10" || compat == "v2") {
        return false;
    }
    return session.run(source->bitmaps()).ok();
}

Result<> check_arguments(const Arguments& arguments) {
    const bool named = !arguments.positionals().empty();
    if (arguments.positionals().size() > 1) {
        return failure("At most one filename argument is allowed.");
    }
    if (!named && (arguments.has("image-opts") || arguments.has("f") || arguments.has("l"))) {
        return failure("--image-opts, -f, and -l require a filename argument.");
    }
    if (named && arguments.has("size")) {
        return failure("--size N cannot be used together with a filename.");
    }
    if (!named && !arguments.has("size")) {
        return failure("Either --size N or one filename must be specified.");
    }
    return ok();
}

Result<block::NodePtr> open_source(Session& session, const Arguments& arguments) {
    if (arguments.positionals().empty()) {
        return block::NodePtr();
    }
    const ImageSpec spec = STRATA_TRY(image_spec(arguments, arguments.positionals()[0], "f"));
    block::NodePtr source = STRATA_TRY(session.open(spec, {.share = arguments.has("force-share")}));
    if (const auto snapshot = arguments.last("l")) {
        Result<> loaded = session.run(source->load_snapshot(STRATA_TRY(snapshot_name(*snapshot))));
        if (!loaded.ok()) {
            return failure(loading_failure(loaded.error(), *source));
        }
    }
    return source;
}

Result<int> run(Session& session, std::span<char*> words) {
    const Arguments arguments = STRATA_TRY(Arguments::parse(words, kOptions));
    if (arguments.help()) {
        print_help();
        return 0;
    }
    STRATA_TRY_VOID(asks_for_help(arguments.all("o")));  // before anything else is looked at
    for (const std::string& snapshot : arguments.all("l")) {
        STRATA_TRY_VOID(snapshot_name(snapshot));
    }
    const bool json = STRATA_TRY(wants_json(arguments));
    NewImage image;
    if (const auto size = arguments.last("size")) {
        image.size = STRATA_TRY(parse_bytes("image size", *size));
    }
    STRATA_TRY_VOID(check_arguments(arguments));
    STRATA_TRY_VOID(take_objects(session, arguments));
    block::NodePtr source = STRATA_TRY(open_source(session, arguments));
    const std::string format = arguments.last_or("O", "raw");
    STRATA_TRY_VOID(image.use_format(format));
    Result<> options = image.take_options(arguments.all("o"));
    if (!options.ok()) {
        report_error(options.error().text());
        return failure(fmt::format("Invalid options for file format '{}'", format));
    }
    if (source != nullptr) {
        image.size = source->size();
    }
    const block::Measurement size = STRATA_TRY(measure(session, image, source.get()));
    const bool bitmaps = STRATA_TRY(tells_bitmaps(session, image, source.get()));
    STRATA_TRY_VOID(session.close(source));
    if (json) {
        api::Json result = {{"required", size.required}, {"fully-allocated", size.fully_allocated}};
        if (bitmaps) {
            result["bitmaps"] = size.bitmaps;
        }
        print(json_text(result));
        return 0;
    }
    print(fmt::format("required size: {}\nfully allocated size: {}\n", size.required,
                      size.fully_allocated));
    print(bitmaps ? fmt::format("bitmaps size: {}\n", size.bitmaps) : "");
    return 0;
}

}  // namespace

const Command kMeasure = {"measure",
                          "[--output=ofmt] [-O output_fmt] [-o options] [--size N | [--object "
                          "objectdef] [--image-opts] [-f fmt] [-l snapshot_param] filename]",
                          run};

}  // namespace strata::qemu_img
