// compare: whether two images hold the same. Status 0 same, 1 different, 2 and more: could not
// tell.
#include "block/jobs/compare.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "qemu_img/arguments.h"
#include "qemu_img/commands.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"

namespace strata::qemu_img {
namespace {

using Verdict = block::Comparison::Verdict;

constexpr int kDifferent = 1;
constexpr int kNotOpened = 2;
constexpr int kNoStatus = 3;
constexpr int kNotRead = 4;

constexpr std::array kOptions = {OptionSpec{'f', nullptr, true},
                                 OptionSpec{'F', nullptr, true},
                                 OptionSpec{'T', nullptr, true},
                                 OptionSpec{'p', nullptr, false},
                                 OptionSpec{'q', nullptr, false},
                                 OptionSpec{'s', nullptr, false},
                                 kObjectOption,
                                 kImageOptsOption,
                                 kForceShareOption};

int tell(const block::Comparison& result, bool quiet) {
    switch (result.verdict) {
        case Verdict::Size:
            print_unless(quiet, "Strict mode: Image size mismatch!\n");
            return kDifferent;
        case Verdict::Status:
            print_unless(quiet, fmt::format("Strict mode: Offset {} block status mismatch!\n",
                                            result.offset));
            return kDifferent;
        case Verdict::Content:
            print_unless(quiet, fmt::format("Content mismatch at offset {}!\n", result.offset));
            return kDifferent;
        case Verdict::Same:
            break;
    }
    print_unless(quiet || !result.sizes_differ, "Warning: Image size mismatch!\n");
    print_unless(quiet, "Images are identical.\n");
    return 0;
}

struct Pair {
    block::NodePtr first, second;
};

Result<Pair> open_both(Session& session, const Arguments& arguments) {
    const Caching caching = STRATA_TRY(
        parse_caching("Invalid source cache option", arguments.last_or("T", "writeback")));
    const OpenMode mode{.share = arguments.has("force-share"), .caching = caching};
    const ImageSpec one = STRATA_TRY(image_spec(arguments, arguments.positionals()[0], "f"));
    const ImageSpec two = STRATA_TRY(image_spec(arguments, arguments.positionals()[1], "F"));
    Pair pair;
    pair.first = STRATA_TRY(session.open(one, mode));
    pair.second = STRATA_TRY(session.open(two, mode));
    return pair;
}

Result<int> run(Session& session, std::span<char*> words) {
    const Arguments arguments = STRATA_TRY(Arguments::parse(words, kOptions));
    if (arguments.help()) {
        print_help();
        return 0;
    }
    if (arguments.positionals().size() != 2) {
        return usage_error("Expecting two image file names");
    }
    STRATA_TRY_VOID(take_objects(session, arguments));
    const bool quiet = arguments.has("q");
    auto pair = open_both(session, arguments);
    if (!pair.ok()) {
        report_error(pair.error().text());
        return kNotOpened;
    }
    ProgressLine line(arguments.has("p") && !quiet, 2.0);
    block::JobControl control(
        [&](std::uint64_t done, std::uint64_t total) { line.show(done, total); });
    block::CompareFailure failed;
    auto result = session.run(
        block::compare_images(*pair->first, *pair->second, arguments.has("s"), control, &failed));
    if (!result.ok()) {
        const std::string& file = arguments.positionals()[failed.second ? 1 : 0];
        if (failed.what == block::CompareFailure::What::Status) {
            report_error(fmt::format("Sector allocation test failed for {}", file));
            return kNoStatus;
        }
        report_error(fmt::format("Error while reading offset {} of {}: {}", failed.offset, file,
                                 reason(result.error())));
        const std::uint64_t one = pair->first->size(), two = pair->second->size();
        print_unless(quiet || one == two || failed.offset < std::min(one, two),
                     "Warning: Image size mismatch!\n");  // it was past the shorter one
        return kNotRead;
    }
    return tell(*result, quiet);
}

}  // namespace

const Command kCompare = {"compare",
                          "[--object objectdef] [--image-opts] [-f fmt] [-F fmt] [-T src_cache] "
                          "[-p] [-q] [-s] [-U] filename1 filename2",
                          run};

}  // namespace strata::qemu_img
