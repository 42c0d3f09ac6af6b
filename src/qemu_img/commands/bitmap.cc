// bitmap: persistent dirty bitmaps of an image.
#include "block/bitmap.h"

#include <algorithm>
#include <array>
#include <bit>

#include <fmt/format.h>

#include "qemu_img/arguments.h"
#include "qemu_img/commands.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"

namespace strata::qemu_img {
namespace {

using block::Bitmap;

constexpr std::uint64_t kDefaultGranularity = 65536;
constexpr std::uint64_t kMinGranularity = 512;
constexpr std::uint64_t kMaxGranularity = 2ULL << 30;

constexpr std::array kOptions = {OptionSpec{'b', nullptr, true},
                                 OptionSpec{'F', nullptr, true},
                                 OptionSpec{'f', nullptr, true},
                                 OptionSpec{'g', "granularity", true},
                                 kObjectOption,
                                 kImageOptsOption,
                                 OptionSpec{0, "add", false},
                                 OptionSpec{0, "remove", false},
                                 OptionSpec{0, "clear", false},
                                 OptionSpec{0, "enable", false},
                                 OptionSpec{0, "disable", false},
                                 OptionSpec{0, "merge", true}};

bool is_action(std::string_view name) {
    return name == "add" || name == "remove" || name == "clear" || name == "enable" ||
           name == "disable" || name == "merge";
}

class Actions {
  public:
    Actions(Session& session, const Arguments& arguments, block::Node& node, block::Node* source,
            std::string name)
        : session_(session),
          arguments_(arguments),
          node_(node),
          source_(source != nullptr ? source : &node),
          name_(std::move(name)) {}
    Result<> run(const std::string& action, const std::string& value);

  private:
    Result<> add();
    Result<> merge(const std::string& other);
    Result<> change(const std::string& action);
    Session& session_;
    const Arguments& arguments_;
    block::Node& node_;
    block::Node* source_;
    std::string name_;
};

Result<> Actions::add() {
    std::uint64_t granularity = kDefaultGranularity;
    if (const auto text = arguments_.last("granularity")) {
        granularity = STRATA_TRY(parse_bytes("granularity", *text, 1));
    }
    if (!std::has_single_bit(granularity)) {
        return failure("Granularity must be power of 2");
    }
    if (granularity < kMinGranularity || granularity > kMaxGranularity) {
        return failure("Granularity must be at least 512 and at most 2 GiB");
    }
    for (const block::BitmapInfo& known : STRATA_TRY(session_.run(node_.bitmaps()))) {
        if (known.name == name_) {
            return failure(fmt::format("Bitmap already exists: {}", name_));
        }
    }
    return session_.run(
        node_.store_bitmap(block::empty_bitmap(name_, node_.size(), granularity, true)));
}

Result<> Actions::merge(const std::string& other) {
    Bitmap into = STRATA_TRY(session_.run(node_.read_bitmap(name_)));
    const Bitmap from = STRATA_TRY(session_.run(source_->read_bitmap(other)));
    if (from.size != into.size) {
        return failure("Bitmaps are of different sizes");
    }
    block::merge_bits(into, from);
    return session_.run(node_.store_bitmap(std::move(into)));
}

Result<> Actions::change(const std::string& action) {
    Bitmap bitmap = STRATA_TRY(session_.run(node_.read_bitmap(name_)));
    if (bitmap.info.in_use) {
        return failure(fmt::format("Bitmap '{}' is inconsistent and cannot be used", name_));
    }
    if (action == "clear") {
        std::ranges::fill(bitmap.bits, 0U);
    } else {
        bitmap.info.automatic = action == "enable";
    }
    return session_.run(node_.store_bitmap(std::move(bitmap)));
}

Result<> Actions::run(const std::string& action, const std::string& value) {
    if (action == "add") {
        return add();
    }
    if (action == "remove") {
        return session_.run(node_.remove_bitmap(name_));
    }
    return action == "merge" ? merge(value) : change(action);
}

Result<> check_arguments(const Arguments& arguments) {
    bool any = false;
    for (const auto& [key, value] : arguments.given()) {
        any = any || is_action(key);
    }
    if (!any) {
        return failure(
            "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
    }
    if (arguments.positionals().size() != 2) {
        return usage_error("Expecting filename and bitmap name");
    }
    if (arguments.has("granularity") && !arguments.has("add")) {
        return failure("granularity only supported with --add");
    }
    if (arguments.has("F") && !arguments.has("b")) {
        return failure("-F only supported with -b");
    }
    if (arguments.has("b") && !arguments.has("merge")) {
        return failure("Merge bitmap source file only supported with --merge");
    }
    return ok();
}

Result<int> run(Session& session, std::span<char*> words) {
    const Arguments arguments = STRATA_TRY(Arguments::parse(words, kOptions));
    if (arguments.help()) {
        print_help();
        return 0;
    }
    STRATA_TRY_VOID(check_arguments(arguments));
    STRATA_TRY_VOID(take_objects(session, arguments));
    const ImageSpec spec = STRATA_TRY(image_spec(arguments, arguments.positionals()[0], "f"));
    block::NodePtr node = STRATA_TRY(session.open(spec, {.write = true, .backing = false}));
    block::NodePtr source;
    if (const auto file = arguments.last("b")) {
        source = STRATA_TRY(session.open({*file, arguments.last("F"), false}, {.backing = false}));
    }
    const std::string& name = arguments.positionals()[1];
    Actions actions(session, arguments, *node, source.get(), name);
    for (const auto& [key, value] : arguments.given()) {
        if (!is_action(key)) {
            continue;
        }
        Result<> done = actions.run(key, value);
        if (!done.ok()) {
            return failure(fmt::format("Operation {} on bitmap {} failed: {}", key, name,
                                       done.error().text()));
        }
    }
    STRATA_TRY_VOID(session.close(node));
    return 0;
}

}  // namespace

const Command kBitmap = {
    "bitmap",
    "(--merge SOURCE | --add | --remove | --clear | --enable | --disable)... [-b source_file [-F "
    "source_fmt]] [-g granularity] [--object objectdef] [--image-opts | -f fmt] filename bitmap",
    run};

}  // namespace strata::qemu_img
