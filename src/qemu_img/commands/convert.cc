// convert: copies images, one behind the other, into another of any format.
#include <algorithm>
#include <array>
#include <functional>
#include <utility>

#include <fmt/format.h>

#include "block/jobs/copy.h"
#include "qemu_img/arguments.h"
#include "qemu_img/commands.h"
#include "qemu_img/create_options.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"

namespace strata::qemu_img {
namespace {

constexpr unsigned kMaxParallel = 16;
constexpr std::uint64_t kSector = 512;

constexpr std::array kOptions = {OptionSpec{'f', nullptr, true},
                                 OptionSpec{'O', nullptr, true},
                                 OptionSpec{'B', nullptr, true},
                                 OptionSpec{'F', "backing-format", true},
                                 OptionSpec{'C', nullptr, false},
                                 OptionSpec{'c', nullptr, false},
                                 OptionSpec{'o', nullptr, true},
                                 OptionSpec{'l', nullptr, true},
                                 OptionSpec{'S', nullptr, true},
                                 OptionSpec{'p', nullptr, false},
                                 OptionSpec{'t', nullptr, true},
                                 OptionSpec{'T', nullptr, true},
                                 OptionSpec{'q', nullptr, false},
                                 OptionSpec{'n', nullptr, false},
                                 OptionSpec{'m', nullptr, true},
                                 OptionSpec{'W', nullptr, false},
                                 OptionSpec{'r', nullptr, true},
                                 OptionSpec{0, "source-image-opts", false},
                                 OptionSpec{0, "target-image-opts", false},
                                 OptionSpec{0, "salvage", false},
                                 OptionSpec{0, "target-is-zero", false},
                                 OptionSpec{0, "bitmaps", false},
                                 OptionSpec{0, "skip-broken-bitmaps", false},
                                 kObjectOption,
                                 kImageOptsOption,
                                 kForceShareOption};

class Convert {
  public:
    Convert(Session& session, const Arguments& arguments)
        : session_(session), arguments_(arguments) {}
    Result<int> run();

  private:
    Result<> read_numbers();
    Result<> check_options() const;
    Result<> open_sources();
    Result<> plan_target();
    Result<> check_compression() const;
    Result<> make_target();
    Result<> open_target();
    Result<std::vector<block::Bitmap>> read_bitmaps();
    Result<> copy();
    [[nodiscard]] bool flag(std::string_view name) const { return arguments_.has(name); }

    Session& session_;
    const Arguments& arguments_;
    block::CopyOptions options_;
    std::uint64_t speed_ = 0;
    Caching caching_, source_caching_;
    std::vector<block::NodePtr> sources_;
    std::uint64_t total_ = 0;
    NewImage image_;
    block::NodePtr target_;
};

Result<> Convert::read_numbers() {
    if (const auto text = arguments_.last("S")) {
        const std::uint64_t bytes =
            STRATA_TRY(parse_bytes("buffer size for sparse output", *text, 0, 16U << 20));
        if (bytes % kSector != 0) {
            return failure(
                fmt::format("Invalid buffer size for sparse output specified. Valid sizes are "
                            "multiples of {} up to {}. Select 0 to disable "
                            "sparse detection (fully allocates output).",
                            kSector, 16U << 20));
        }
        options_.sparse = bytes;
    }
    if (const auto text = arguments_.last("m")) {
        const auto count = bytes_of(*text);
        if (!count || *count < 1 || *count > kMaxParallel) {
            return failure(fmt::format(
                "Invalid number of coroutines. Allowed number of coroutines is between 1 and {}",
                kMaxParallel));
        }
        options_.parallel = static_cast<unsigned>(*count);
    }
    if (const auto text = arguments_.last("r")) {
        speed_ = STRATA_TRY(parse_bytes("rate limit", *text));
    }
    options_.in_order = !flag("W");
    options_.salvage = flag("salvage");
    options_.offload = flag("C");
    options_.compress = flag("c");
    return ok();
}

Result<> Convert::check_options() const {
    if (flag("skip-broken-bitmaps") && !flag("bitmaps")) {
        return failure("Use of --skip-broken-bitmaps requires --bitmaps");
    }
    if (flag("c") && flag("C")) {
        return failure("Cannot enable copy offloading when -c is used");
    }
    if (flag("S") && flag("C")) {
        return failure("Cannot enable copy offloading when -S is used");
    }
    if (flag("C") && flag("salvage")) {
        return failure("Cannot use copy offloading in salvaging mode");
    }
    if (flag("target-image-opts") && !flag("n")) {
        return failure("--target-image-opts requires use of -n flag");
    }
    if (flag("n") && flag("o")) {
        return failure("-o has no effect when skipping image creation");
    }
    if (flag("target-is-zero") && !flag("n")) {
        return failure("--target-is-zero requires use of -n flag");
    }
    return ok();
}

Result<> Convert::open_sources() {
    const auto& names = arguments_.positionals();
    for (std::size_t i = 0; i + 1 < names.size(); ++i) {
        const ImageSpec spec = STRATA_TRY(image_spec(arguments_, names[i], "f"));
        sources_.push_back(STRATA_TRY(
            session_.open(spec, {.share = flag("force-share"), .caching = source_caching_})));
        total_ += sources_.back()->size();
    }
    if (const auto snapshot = arguments_.last("l")) {
        if (sources_.size() > 1) {
            return failure("No support for concatenating multiple snapshot");
        }
        Result<> loaded =
            session_.run(sources_[0]->load_snapshot(STRATA_TRY(snapshot_name(*snapshot))));
        if (!loaded.ok()) {
            return failure(loading_failure(loaded.error(), *sources_[0]));
        }
        total_ = sources_[0]->size();
    }
    return ok();
}

/// What the target is to be, if it is to be made.
Result<> Convert::plan_target() {
    const std::string file = arguments_.positionals().back();
    if (!flag("n")) {
        STRATA_TRY_VOID(image_.use_format(arguments_.last_or("O", "raw")));
        image_.path = STRATA_TRY(plain_path(file));
        STRATA_TRY_VOID(image_.take_options(arguments_.all("o")));
        const auto backing = arguments_.last("B");
        STRATA_TRY_VOID(image_.take_backing(backing, arguments_.last("backing-format")));
        image_.size = total_;
    }
    options_.keep_unallocated = arguments_.has("B") || image_.has("backing_file");
    if (flag("target-is-zero") && options_.keep_unallocated) {
        return failure("Cannot use --target-is-zero when the destination image has a backing file");
    }
    if (sources_.size() > 1 && options_.keep_unallocated) {
        return failure(
            "Having a backing file for the target makes no sense when concatenating multiple input "
            "images");
    }
    if (image_.has("backing_file") && image_.option("backing_fmt").empty()) {
        return failure("Use of backing file requires explicit backing format");
    }
    return ok();
}

Result<> Convert::check_compression() const {
    if (!options_.compress || image_.driver == nullptr) {
        return ok();
    }
    if (image_.driver->compresses == nullptr) {  // known before what is there is lost
        return failure("Compression not supported for this file format");
    }
    if (!image_.option("encryption").empty() && image_.option("encryption") != "off") {
        return failure("Compression and encryption not supported at the same time");
    }
    if (!image_.option("encrypt.format").empty()) {
        return failure("Compression and encryption not supported at the same time");
    }
    const std::string preallocation = image_.option("preallocation");
    if (!preallocation.empty() && preallocation != "off") {
        return failure("Compression and preallocation not supported at the same time");
    }
    return ok();
}

Result<> Convert::make_target() {
    if (flag("n")) {
        return ok();
    }
    Result<> made = image_.create(session_);
    if (!made.ok()) {
        return failure(fmt::format("{}: error while converting {}: {}",
                                   arguments_.positionals().back(), image_.driver->name,
                                   made.error().text()));
    }
    return ok();
}

Result<> Convert::open_target() {
    ImageSpec spec{arguments_.positionals().back(), arguments_.last("O"),
                   flag("target-image-opts")};
    if (!spec.options && !spec.format) {
        spec.format = "raw";
    }
    OpenMode mode{.write = true, .unmap = options_.sparse != 0, .caching = caching_};
    std::ranges::copy_if(image_.options, std::back_inserter(mode.extra),
                         [](const auto& one) { return one.first.ends_with("key-secret"); });
    target_ = STRATA_TRY(session_.open(spec, mode));
    if (options_.compress && !target_->traits().compressed_writes) {
        return failure("Compression not supported for this file format");
    }
    if (target_->size() < total_) {
        return failure("output file is smaller than input file");
    }
    const bool made = !flag("n");
    options_.target_zero = flag("target-is-zero") || (made && target_->traits().zero_initialised &&
                                                      !options_.keep_unallocated);
    if (options_.keep_unallocated) {
        options_.base = sources_[0]->backing();
        options_.backing_size =
            made && target_->backing() != nullptr ? target_->backing()->size() : ~0ULL;
    }
    return ok();
}

/// Those of the source, if they are wanted.
Result<std::vector<block::Bitmap>> Convert::read_bitmaps() {
    std::vector<block::Bitmap> bitmaps;
    if (!flag("bitmaps")) {
        return bitmaps;
    }
    if (sources_.size() > 1) {
        return failure("Copying bitmaps only possible with single source");
    }
    const auto known = session_.run(sources_[0]->bitmaps());
    if (sources_[0]->format() != "qcow2" || !known.ok()) {
        return failure(
            fmt::format("Format driver '{}' does not support bitmaps", sources_[0]->format()));
    }
    for (auto info = known->rbegin(); info != known->rend(); ++info) {
        if (info->in_use && !flag("skip-broken-bitmaps")) {
            return failure(
                fmt::format("Cannot copy inconsistent bitmap '{}'\nTry --skip-broken-bitmaps, or "
                            "use 'qemu-img bitmap --remove' to delete it",
                            info->name));
        }
        if (info->in_use) {
            report_warning(fmt::format("Skipping inconsistent bitmap '{}'", info->name));
        }
    }
    for (const block::BitmapInfo& info : *known) {
        if (!info.in_use) {
            bitmaps.push_back(STRATA_TRY(session_.run(sources_[0]->read_bitmap(info.name))));
        }
    }
    return bitmaps;
}

Result<> Convert::copy() {
    const bool shown = flag("p") && !flag("q");
    ProgressLine line(shown, 1.0);
    std::function<void(std::uint64_t, std::uint64_t)> report;
    if (shown) {
        report = [&](std::uint64_t done, std::uint64_t total) { line.show(done, total); };
    }
    block::JobControl control(std::move(report));
    control.set_speed(speed_);
    if (!flag("q")) {
        options_.warn = [](const std::string& text) { report_warning(text); };
    }
    std::vector<block::Node*> nodes;
    for (const block::NodePtr& source : sources_) {
        nodes.push_back(source.get());
    }
    Result<> done = session_.run(block::copy_image(nodes, *target_, options_, control));
    if (done.ok()) {
        line.show(1, 1);
    }
    return done;
}

Result<int> Convert::run() {
    STRATA_TRY_VOID(read_numbers());
    STRATA_TRY_VOID(check_options());
    if (STRATA_TRY(asks_for_help(arguments_.all("o")))) {
        return print_option_help(arguments_.last_or("O", "raw"),
                                 arguments_.positionals().size() > 1);
    }
    if (arguments_.positionals().size() < 2) {
        return failure("Must specify image file name");
    }
    source_caching_ = STRATA_TRY(
        parse_caching("Invalid source cache option", arguments_.last_or("T", "writeback")));
    caching_ = STRATA_TRY(parse_caching("Invalid cache option", arguments_.last_or("t", "unsafe")));
    STRATA_TRY_VOID(open_sources());
    STRATA_TRY_VOID(plan_target());
    STRATA_TRY_VOID(check_compression());
    const auto bitmaps = STRATA_TRY(read_bitmaps());
    STRATA_TRY_VOID(make_target());
    STRATA_TRY_VOID(open_target());
    if (flag("bitmaps") &&
        (target_->format() != "qcow2" || !session_.run(target_->bitmaps()).ok())) {
        return failure(
            fmt::format("Format driver '{}' does not support bitmaps", target_->format()));
    }
    STRATA_TRY_VOID(copy());
    for (const block::Bitmap& bitmap : bitmaps) {
        STRATA_TRY_VOID(session_.run(target_->store_bitmap(bitmap)));
    }
    STRATA_TRY_VOID(session_.close(target_));
    for (block::NodePtr& source : sources_) {
        STRATA_TRY_VOID(session_.close(source));
    }
    return 0;
}

Result<int> run(Session& session, std::span<char*> words) {
    const Arguments arguments = STRATA_TRY(Arguments::parse(words, kOptions));
    if (arguments.help()) {
        print_help();
        return 0;
    }
    STRATA_TRY_VOID(take_objects(session, arguments));
    return Convert(session, arguments).run();
}

}  // namespace

const Command kConvert = {"convert",
                          "[--object objectdef] [--image-opts] [--target-image-opts] "
                          "[--target-is-zero] [--bitmaps] [-U] [-C] [-c] [-p] [-q] [-n] "
                          "[-f fmt] [-t cache] [-T src_cache] [-O output_fmt] [-B backing_file [-F "
                          "backing_fmt]] [-o options] [-l snapshot_param] "
                          "[-S sparse_size] [-r rate_limit] [-m num_coroutines] [-W] [--salvage] "
                          "filename [filename2 [...]] output_filename",
                          run};

}  // namespace strata::qemu_img
