// check: an image's consistency. Status 0 good, 1 not checked, 2 corrupt, 3 leaks only, 63 no
// checks for this format.
#include <algorithm>
#include <array>
#include <cerrno>

#include <fmt/format.h>

#include "api/json.h"
#include "qemu_img/arguments.h"
#include "qemu_img/commands.h"
#include "qemu_img/json_text.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"

namespace strata::qemu_img {
namespace {

using block::CheckReport;

constexpr int kCorrupt = 2;
constexpr int kLeaks = 3;
constexpr int kNoChecks = 63;

constexpr std::array kOptions = {OptionSpec{'f', "format", true},
                                 OptionSpec{'r', "repair", true},
                                 kOutputOption,
                                 OptionSpec{'T', nullptr, true},
                                 OptionSpec{'q', nullptr, false},
                                 kObjectOption,
                                 kImageOptsOption,
                                 kForceShareOption};

std::string report_text(const CheckReport& report) {
    std::string text;
    if (report.clean()) {
        text = "No errors were found on the image.\n";
    }
    if (report.corruptions != 0) {
        text += fmt::format(
            "\n{} errors were found on the image.\nData may be corrupted, or further writes to the "
            "image may corrupt it.\n",
            report.corruptions);
    }
    if (report.leaks != 0) {
        text += fmt::format(
            "\n{} leaked clusters were found on the image.\nThis means waste of disk space, but no "
            "harm to data.\n",
            report.leaks);
    }
    if (report.check_errors != 0) {
        text += fmt::format("\n{} internal errors have occurred during the check.\n",
                            report.check_errors);
    }
    if (report.total_clusters != 0 && report.allocated_clusters != 0) {
        const auto percent = [](std::uint64_t part, std::uint64_t whole) {
            return static_cast<double>(part) * 100.0 / static_cast<double>(whole);
        };
        text += fmt::format(
            "{}/{} = {:.2f}% allocated, {:.2f}% fragmented, {:.2f}% compressed clusters\n",
            report.allocated_clusters, report.total_clusters,
            percent(report.allocated_clusters, report.total_clusters),
            percent(report.fragmented_clusters, report.allocated_clusters),
            percent(report.compressed_clusters, report.allocated_clusters));
    }
    if (report.image_end_offset != 0) {
        text += fmt::format("Image end offset: {}\n", report.image_end_offset);
    }
    return text;
}

api::Json report_json(const CheckReport& report, const std::string& file, std::string_view format) {
    api::Json result = {
        {"filename", file}, {"format", format}, {"check-errors", report.check_errors}};
    const auto add = [&](const char* name, std::uint64_t value) {
        if (value != 0) {
            result[name] = value;
        }
    };
    add("image-end-offset", report.image_end_offset);
    add("corruptions", report.corruptions);
    add("leaks", report.leaks);
    add("corruptions-fixed", report.corruptions_fixed);
    add("leaks-fixed", report.leaks_fixed);
    add("total-clusters", report.total_clusters);
    add("allocated-clusters", report.allocated_clusters);
    add("fragmented-clusters", report.fragmented_clusters);
    add("compressed-clusters", report.compressed_clusters);
    return result;
}

Result<block::Repair> repair_of(const Arguments& arguments) {
    const auto value = arguments.last("repair");
    if (!value) {
        return block::Repair::Nothing;
    }
    if (*value != "leaks" && *value != "all") {
        return usage_error(
            fmt::format("Unknown option value for -r (expecting 'leaks' or 'all'): {}", *value));
    }
    return *value == "all" ? block::Repair::All : block::Repair::Leaks;
}

/// The peer counts clusters in these formats alone.
constexpr std::array<std::string_view, 4> kCounted = {"qcow2", "qed", "parallels", "qcow"};

/// Checks, and once more if something was mended.
Result<CheckReport> check(Session& session, block::Node& node, block::Repair repair, bool talk) {
    CheckReport report = STRATA_TRY(session.run(node.check(repair)));
    for (const std::string& message : report.messages) {
        fmt::print(stderr, "{}\n", message);
    }
    if (report.corruptions_fixed + report.leaks_fixed == 0) {
        return report;
    }
    print_unless(!talk, fmt::format("The following inconsistencies were found and repaired:\n\n    "
                                    "{} leaked clusters\n    {} corruptions\n\n"
                                    "Double checking the fixed image now...\n",
                                    report.leaks_fixed, report.corruptions_fixed));
    CheckReport again = STRATA_TRY(session.run(node.check(block::Repair::Nothing)));
    for (const std::string& message : again.messages) {
        fmt::print(stderr, "{}\n", message);
    }
    again.corruptions_fixed = report.corruptions_fixed;
    again.leaks_fixed = report.leaks_fixed;
    return again;
}

Result<int> run(Session& session, std::span<char*> words) {
    const Arguments arguments = STRATA_TRY(Arguments::parse(words, kOptions));
    if (arguments.help()) {
        print_help();
        return 0;
    }
    const block::Repair repair = STRATA_TRY(repair_of(arguments));
    const std::string file = STRATA_TRY(arguments.only());
    const bool json = STRATA_TRY(wants_json(arguments));
    const Caching caching = STRATA_TRY(
        parse_caching("Invalid source cache option", arguments.last_or("T", "writeback")));
    STRATA_TRY_VOID(take_objects(session, arguments));
    const bool quiet = arguments.has("q");
    const ImageSpec spec = STRATA_TRY(image_spec(arguments, file, "format"));
    block::NodePtr node = STRATA_TRY(session.open(spec, {.write = repair != block::Repair::Nothing,
                                                         .check = true,
                                                         .share = arguments.has("force-share"),
                                                         .caching = caching}));
    const std::string format(node->format());
    auto report = check(session, *node, repair, !quiet && !json);
    if (report.ok() && std::ranges::find(kCounted, format) == kCounted.end()) {
        report->total_clusters = report->allocated_clusters = report->image_end_offset = 0;
    }
    if (!report.ok()) {
        if (report.error().kind() == ErrorKind::NotSupported) {
            report_error("This image format does not support checks");
            return kNoChecks;
        }
        if (report.error().text().starts_with("ERROR ")) {
            report_error(report.error().text());
        }
        return failure(fmt::format("Check failed: {}", reason(report.error())));
    }
    Result<> closed = session.close(node);
    print_unless(quiet,
                 json ? json_text(report_json(*report, file, format)) : report_text(*report));
    if (report->check_errors != 0 || !closed.ok()) {
        return failure(closed.ok() ? std::string("Check failed")
                                   : fmt::format("Check failed: {}", reason(closed.error())));
    }
    return report->corruptions != 0 ? kCorrupt : report->leaks != 0 ? kLeaks : 0;
}

}  // namespace

const Command kCheck = {"check",
                        "[--object objectdef] [--image-opts] [-q] [-f fmt] [--output=ofmt] [-r "
                        "[leaks | all]] [-T src_cache] [-U] filename",
                        run};

}  // namespace strata::qemu_img
