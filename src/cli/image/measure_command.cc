// strata image measure, bench: how large an image would be, how fast one is.
#include <algorithm>
#include <array>
#include <string>

#include <fmt/format.h>

#include "api/json.h"
#include "base/text.h"
#include "block/jobs/bench.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/image/image_tool.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

constexpr std::array kSource = {Positional{
    "FILE", "The image that would be copied; without it --size.", false, Completes::Files, ""}};
constexpr std::array kMeasureOptions = {
    kFormatOption,
    Option{"--output-format", 'O', "FORMAT", "The format of the image to be (default raw).",
           Completes::NewFormats},
    Option{"--option", 'o', "NAME=VALUE[,…]", "Its options, as for 'strata image create'.",
           Completes::Nothing, true},
    Option{"--size", 0, "SIZE", "The size of an empty disk.", Completes::Nothing},
    Option{"--snapshot", 'l', "NAME", "Measure this internal snapshot.", Completes::Nothing},
    kPassphraseOption,
    kBackingPassphraseOption,
    kFollowOption,
};
constexpr std::array kImage = {Positional{"FILE", "The image.", true, Completes::Files, ""}};
constexpr std::array kBenchOptions = {
    kFormatOption,
    Option{"--count", 'c', "N", "Requests (default 75000).", Completes::Nothing},
    Option{"--depth", 'd', "N", "Requests at a time (default 64).", Completes::Nothing},
    Option{"--request-size", 's', "SIZE", "Bytes of a request (default 4k).", Completes::Nothing},
    Option{"--step", 'S', "SIZE",
           "From the start of one to the start of the next (default: their size).",
           Completes::Nothing},
    Option{"--write", 'w', "", "Write zeros; the image's content is lost."},
    Option{"--flush-interval", 0, "N", "Flush after every N requests.", Completes::Nothing},
    kPassphraseOption,
    kBackingPassphraseOption,
    kFollowOption,
};
constexpr std::uint64_t kMaxRequest = 1ULL << 30;

Result<int> run_measure(const Arguments& arguments) {
    const std::string_view format = arguments.value("--output-format").value_or("raw");
    const block::FormatDriver* driver = STRATA_TRY(block::find_format(format));
    if (driver->measure == nullptr) {
        return Error{
            ErrorKind::NotSupported,
            fmt::format("how large a {} image would be cannot be told before it is made", format)};
    }
    ImageTool tool = STRATA_TRY(ImageTool::start());
    block::CreateRequest request;
    request.options = STRATA_TRY(option_lists(arguments.values("--option")));
    block::NodePtr source;
    if (const auto file = arguments.positional(0)) {
        const std::string passphrase = STRATA_TRY(passphrase_of(arguments));
        source = STRATA_TRY(tool.open(arguments, *file, {.lock = false, .passphrase = passphrase}));
        if (const auto snapshot = arguments.value("--snapshot")) {
            STRATA_TRY_VOID(tool.run(source->load_snapshot(tool.snapshot_id(*source, *snapshot))));
        }
        request.size = source->size();
    } else if (const auto size = arguments.value("--size")) {
        request.size = STRATA_TRY(parse_size(*size));
    } else {
        return Error{ErrorKind::InvalidArgument, "measure what? A FILE, or --size SIZE"};
    }
    const block::Measurement result =
        STRATA_TRY(tool.run(driver->measure(source.get(), std::move(request))));
    if (arguments.flag("--json")) {
        api::Json json = {{"required", result.required},
                          {"fully_allocated", result.fully_allocated}};
        if (result.bitmaps != 0) {
            json["bitmaps"] = result.bitmaps;
        }
        print_out(api::dump_json_pretty(json));
        return 0;
    }
    print_out(fmt::format("needed           {:>16} {}\nfully allocated  {:>16} {}\n",
                          result.required, format_size(result.required), result.fully_allocated,
                          format_size(result.fully_allocated)));
    print_out(result.bitmaps != 0 ? fmt::format("its bitmaps      {:>16} {}\n", result.bitmaps,
                                                format_size(result.bitmaps))
                                  : "");
    return 0;
}

Result<int> run_bench(const Arguments& arguments) {
    block::BenchOptions options;
    options.count =
        STRATA_TRY(parse_integer(arguments.value("--count").value_or("75000"), 1, 1ULL << 40));
    options.depth = static_cast<unsigned>(
        STRATA_TRY(parse_integer(arguments.value("--depth").value_or("64"), 1, 4096)));
    options.size = STRATA_TRY(parse_size(arguments.value("--request-size").value_or("4k")));
    options.step =
        STRATA_TRY(parse_size(arguments.value("--step").value_or(std::to_string(options.size))));
    options.flush_interval =
        STRATA_TRY(parse_integer(arguments.value("--flush-interval").value_or("0"), 0, 1ULL << 40));
    options.write = arguments.flag("--write");
    ImageTool tool = STRATA_TRY(ImageTool::start());
    const std::string passphrase = STRATA_TRY(passphrase_of(arguments));
    block::NodePtr node = STRATA_TRY(tool.open(arguments, *arguments.positional(0),
                                               {.write = options.write, .passphrase = passphrase}));
    if (options.size == 0 || options.size > kMaxRequest || options.size > node->size()) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("requests of {} bytes do not fit this disk of {}", options.size,
                                 node->size())};
    }
    const double seconds = STRATA_TRY(tool.run(block::bench_image(*node, options)));
    STRATA_TRY_VOID(tool.close(node));
    const double rate = static_cast<double>(options.count) / std::max(seconds, 1e-9);
    const double bytes = rate * static_cast<double>(options.size);
    if (arguments.flag("--json")) {
        print_out(api::dump_json_pretty(api::Json{
            {"seconds", seconds}, {"requests_per_second", rate}, {"bytes_per_second", bytes}}));
    } else {
        print_out(fmt::format("{:.3f} s, {:.0f} requests/s, {}/s\n", seconds, rate,
                              format_size(static_cast<std::uint64_t>(bytes))));
    }
    return 0;
}

}  // namespace

const Command kImageMeasureCommand = {
    .name = "image measure",
    .summary = "Tell how much space an image would take",
    .description = "",
    .positionals = kSource,
    .options = kMeasureOptions,
    .examples =
        "  strata image measure --size 100G -O qcow2\n"
        "  strata image measure -f raw -O qcow2 -o cluster_size=2M disk.raw",
    .run = run_measure,
};

const Command kImageBenchCommand = {
    .name = "image bench",
    .summary = "Measure how fast an image is read or written",
    .description = "",
    .positionals = kImage,
    .options = kBenchOptions,
    .examples = "  strata image bench -f qcow2 -d 32 disk.qcow2",
    .run = run_bench,
};

}  // namespace strata::cli
