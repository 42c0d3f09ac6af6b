// commit: writes what an overlay holds into a layer below it.
#include <array>

#include <fmt/format.h>

#include "block/jobs/chains.h"
#include "qemu_img/arguments.h"
#include "qemu_img/chain.h"
#include "qemu_img/commands.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"

namespace strata::qemu_img {
namespace {

constexpr std::array kOptions = {OptionSpec{'f', nullptr, true},
                                 OptionSpec{'t', nullptr, true},
                                 OptionSpec{'b', nullptr, true},
                                 OptionSpec{'d', nullptr, false},
                                 OptionSpec{'p', nullptr, false},
                                 OptionSpec{'q', nullptr, false},
                                 OptionSpec{'r', nullptr, true},
                                 kObjectOption,
                                 kImageOptsOption};

Result<block::Node*> base_of(block::Node& top, const Arguments& arguments,
                             const std::string& file) {
    if (const auto name = arguments.last("b")) {
        block::Node* base = find_layer(top, *name);
        if (base == nullptr) {
            return failure(
                fmt::format("Did not find '{}' in the backing chain of '{}'", *name, file));
        }
        return base;
    }
    if (top.backing() == nullptr) {
        return failure("Image does not have a backing file");
    }
    return top.backing();
}

Result<> commit(Session& session, const ImageSpec& top_spec, block::Node& top, block::Node& base,
                const Arguments& arguments, const Caching& caching) {
    const std::string& file = top_spec.text;
    // The chain below reads without locks; the layer that is written to is opened anew, with one.
    const ImageSpec spec = STRATA_TRY(spec_of_layer(session, top_spec, top, base));
    block::NodePtr target =
        STRATA_TRY(session.open(spec, {.write = true, .unmap = true, .caching = caching}));
    ProgressLine line(arguments.has("p") && !arguments.has("q"), 1.0);
    block::JobControl control(
        [&](std::uint64_t done, std::uint64_t total) { line.show(done, total); });
    if (const auto speed = arguments.last("r")) {
        control.set_speed(STRATA_TRY(parse_bytes("rate limit", *speed)));
    }
    Result<> done = session.run(block::commit_layers(top, &base, *target, control));
    if (!done.ok()) {
        return failure(fmt::format("Block job failed: {}", reason(done.error())));
    }
    STRATA_TRY_VOID(session.close(target));
    if (arguments.has("d") || arguments.has("b")) {
        return ok();
    }
    Result<> emptied = session.run(top.make_empty());
    if (!emptied.ok() && emptied.error().kind() != ErrorKind::NotSupported) {
        return failure(fmt::format("Failed to empty {}: {}", file, reason(emptied.error())));
    }
    return ok();
}

Result<int> run(Session& session, std::span<char*> words) {
    const Arguments arguments = STRATA_TRY(Arguments::parse(words, kOptions));
    if (arguments.help()) {
        print_help();
        return 0;
    }
    const std::string file = STRATA_TRY(arguments.only());
    const Caching caching =
        STRATA_TRY(parse_caching("Invalid cache option", arguments.last_or("t", "writeback")));
    STRATA_TRY_VOID(take_objects(session, arguments));
    const ImageSpec spec = STRATA_TRY(image_spec(arguments, file, "f"));
    block::NodePtr top = STRATA_TRY(session.open(
        spec, {.write = true, .free_backing = true, .unmap = true, .caching = caching}));
    block::Node* base = STRATA_TRY(base_of(*top, arguments, file));
    STRATA_TRY_VOID(commit(session, spec, *top, *base, arguments, caching));
    STRATA_TRY_VOID(session.close(top));
    print_unless(arguments.has("q"), "Image committed.\n");
    return 0;
}

}  // namespace

const Command kCommit = {"commit",
                         "[--object objectdef] [--image-opts] [-q] [-f fmt] [-t cache] [-b base] "
                         "[-r rate_limit] [-d] [-p] filename",
                         run};

}  // namespace strata::qemu_img
