// bench: requests at a depth, timed.
#include "block/jobs/bench.h"

#include <array>
#include <climits>

#include <fmt/format.h>

#include "qemu_img/arguments.h"
#include "qemu_img/commands.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"

namespace strata::qemu_img {
namespace {

constexpr std::array kOptions = {OptionSpec{'c', nullptr, true},
                                 OptionSpec{'d', nullptr, true},
                                 OptionSpec{'f', nullptr, true},
                                 OptionSpec{'n', nullptr, false},
                                 OptionSpec{'i', nullptr, true},
                                 OptionSpec{'o', nullptr, true},
                                 OptionSpec{'q', nullptr, false},
                                 OptionSpec{'s', nullptr, true},
                                 OptionSpec{'S', nullptr, true},
                                 OptionSpec{'t', nullptr, true},
                                 OptionSpec{'w', nullptr, false},
                                 OptionSpec{0, "flush-interval", true},
                                 OptionSpec{0, "pattern", true},
                                 OptionSpec{0, "no-drain", false},
                                 kImageOptsOption,
                                 kForceShareOption};

Result<std::uint64_t> count_of(const Arguments& arguments, std::string_view key,
                               std::uint64_t fallback, std::uint64_t high,
                               std::string_view complaint) {
    const auto text = arguments.last(key);
    if (!text) {
        return fallback;
    }
    const auto value = bytes_of(*text);
    if (!value || *value > high) {
        return failure(std::string(complaint));
    }
    return *value;
}

Result<block::BenchOptions> options_of(const Arguments& arguments) {
    block::BenchOptions options;
    options.count =
        STRATA_TRY(count_of(arguments, "c", 75000, INT_MAX, "Invalid request count specified"));
    options.depth = static_cast<unsigned>(
        STRATA_TRY(count_of(arguments, "d", 64, INT_MAX, "Invalid queue depth specified")));
    options.offset = STRATA_TRY(parse_bytes("offset", arguments.last_or("o", "0")));
    options.size =
        STRATA_TRY(parse_bytes("buffer size", arguments.last_or("s", "4096"), 0, INT_MAX));
    options.step = STRATA_TRY(parse_bytes("step_size", arguments.last_or("S", "0"), 0, INT_MAX));
    options.step = options.step == 0 ? options.size : options.step;
    options.pattern = static_cast<std::uint8_t>(
        STRATA_TRY(count_of(arguments, "pattern", 0, 255, "Invalid pattern byte specified")));
    options.flush_interval = STRATA_TRY(
        count_of(arguments, "flush-interval", 0, INT_MAX, "Invalid flush interval specified"));
    options.drain = !arguments.has("no-drain");
    options.write = arguments.has("w");
    if (!options.write && options.flush_interval != 0) {
        return failure("--flush-interval is only available in write tests");
    }
    if (options.flush_interval != 0 && options.flush_interval < options.depth) {
        return failure("Flush interval can't be smaller than depth");
    }
    return options;
}

Result<int> run(Session& session, std::span<char*> words) {
    const Arguments arguments = STRATA_TRY(Arguments::parse(words, kOptions));
    if (arguments.help()) {
        print_help();
        return 0;
    }
    const std::string file = STRATA_TRY(arguments.only());
    const Caching caching =
        STRATA_TRY(parse_caching("Invalid cache mode", arguments.last_or("t", "writeback")));
    const block::BenchOptions options = STRATA_TRY(options_of(arguments));
    const ImageSpec spec = STRATA_TRY(image_spec(arguments, file, "f"));
    block::NodePtr node = STRATA_TRY(session.open(
        spec, {.write = options.write, .share = arguments.has("force-share"), .caching = caching}));
    print(
        fmt::format("Sending {} {} requests, {} bytes each, {} in parallel (starting at offset {}, "
                    "step size {})\n",
                    options.count, options.write ? "write" : "read", options.size, options.depth,
                    options.offset, options.step));
    print(options.flush_interval != 0
              ? fmt::format("Sending flush every {} requests\n", options.flush_interval)
              : "");
    auto seconds = session.run(block::bench_image(*node, options));
    if (!seconds.ok()) {
        return failure(fmt::format("Failed request: {}", reason(seconds.error())));
    }
    print(fmt::format("Run completed in {:3.3f} seconds.\n", *seconds));
    STRATA_TRY_VOID(session.close(node));
    return 0;
}

}  // namespace

const Command kBench = {"bench",
                        "[-c count] [-d depth] [-f fmt] [--flush-interval=flush_interval] [-i aio] "
                        "[-n] [--no-drain] [-o offset] [--pattern=pattern] [-q] [-s buffer_size] "
                        "[-S step_size] [-t cache] [-w] [-U] filename",
                        run};

}  // namespace strata::qemu_img
