// rebase: another backing file. Safe: what reads differently is copied first. Unsafe (-u): the name
// alone changes.
#include <array>
#include <cerrno>

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
                                 OptionSpec{'F', nullptr, true},
                                 OptionSpec{'b', nullptr, true},
                                 OptionSpec{'u', nullptr, false},
                                 OptionSpec{'p', nullptr, false},
                                 OptionSpec{'t', nullptr, true},
                                 OptionSpec{'T', nullptr, true},
                                 OptionSpec{'q', nullptr, false},
                                 kObjectOption,
                                 kImageOptsOption,
                                 kForceShareOption};

struct NewBacking {
    block::NodePtr opened;        ///< null if it is one of the old chain, or none
    block::Node* node = nullptr;  ///< null: none
    const block::Node* common = nullptr;
};

Result<NewBacking> open_new(Session& session, block::Node& overlay, const Arguments& arguments,
                            const Caching& caching) {
    NewBacking result;
    const std::string name = arguments.last_or("b", "");
    if (name.empty()) {
        return result;
    }
    const std::string path = beside(overlay.name(), name);
    if (block::Node* layer = find_layer(overlay, name)) {
        result.node = layer;
        result.common = layer;
        return result;
    }
    const ImageSpec spec{path, arguments.last("F"), false};
    auto opened = session.open(spec, {.share = arguments.has("force-share"), .caching = caching});
    if (!opened.ok()) {
        return failure(fmt::format("Could not open new backing file '{}': {}", name,
                                   without_opening(opened.error(), spec)));
    }
    result.opened = std::move(opened).value();
    result.node = result.opened.get();
    return result;
}

Result<> absorb(Session& session, block::Node& overlay, const NewBacking& backing,
                const Arguments& arguments) {
    ProgressLine line(arguments.has("p") && !arguments.has("q"), 2.0);
    block::JobControl control(
        [&](std::uint64_t done, std::uint64_t total) { line.show(done, total); });
    return session.run(block::absorb_difference(overlay, overlay.backing(), backing.node,
                                                backing.common, control));
}

Result<> change_name(Session& session, block::Node& overlay, const Arguments& arguments) {
    const std::string name = arguments.last_or("b", "");
    const std::string format = arguments.last_or("F", "");
    if (!name.empty() && format.empty()) {
        return failure(fmt::format(
            "Could not change the backing file to '{}': backing format must be specified", name));
    }
    Result<> done =
        session.run(overlay.change_backing(nullptr, name, name.empty() ? std::string() : format));
    if (!done.ok() && done.error().system_errno() == ENOSPC) {
        return failure(fmt::format(
            "Could not change the backing file to '{}': No space left in the file header", name));
    }
    return done.ok() ? ok()
                     : Result<>(failure(fmt::format("Could not change the backing file to '{}': {}",
                                                    name, reason(done.error()))));
}

Result<int> run(Session& session, std::span<char*> words) {
    const Arguments arguments = STRATA_TRY(Arguments::parse(words, kOptions));
    if (arguments.help()) {
        print_help();
        return 0;
    }
    const std::string file = STRATA_TRY(arguments.only());
    const bool unsafe = arguments.has("u");
    if (!unsafe && !arguments.has("b")) {
        return usage_error("Must specify backing file (-b) or use unsafe mode (-u)");
    }
    const Caching caching =
        STRATA_TRY(parse_caching("Invalid cache option", arguments.last_or("t", "writeback")));
    const Caching source = STRATA_TRY(
        parse_caching("Invalid source cache option", arguments.last_or("T", "writeback")));
    STRATA_TRY_VOID(take_objects(session, arguments));
    const ImageSpec spec = STRATA_TRY(image_spec(arguments, file, "f"));
    block::NodePtr overlay =
        STRATA_TRY(session.open(spec, {.write = true, .backing = !unsafe, .caching = caching}));
    if (const auto format = arguments.last("F"); format && *format != "host_device" &&
                                                 *format != "file" &&
                                                 !block::find_format(*format).ok()) {
        return failure(fmt::format("Invalid format name: '{}'", *format));
    }
    if (!unsafe) {
        NewBacking backing = STRATA_TRY(open_new(session, *overlay, arguments, source));
        STRATA_TRY_VOID(absorb(session, *overlay, backing, arguments));
        STRATA_TRY_VOID(change_name(session, *overlay, arguments));
        STRATA_TRY_VOID(session.close(backing.opened));
    } else {
        STRATA_TRY_VOID(change_name(session, *overlay, arguments));
    }
    STRATA_TRY_VOID(session.close(overlay));
    return 0;
}

}  // namespace

const Command kRebase = {"rebase",
                         "[--object objectdef] [--image-opts] [-U] [-q] [-f fmt] [-t cache] [-T "
                         "src_cache] [-p] [-u] -b backing_file [-F backing_fmt] filename",
                         run};

}  // namespace strata::qemu_img
