// map: which stretches of an image lie where.
#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include "block/jobs/extents.h"
#include "qemu_img/arguments.h"
#include "qemu_img/commands.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"

namespace strata::qemu_img {
namespace {

using block::MapEntry;

constexpr std::array kOptions = {OptionSpec{'f', "format", true},
                                 kOutputOption,
                                 kObjectOption,
                                 kImageOptsOption,
                                 kForceShareOption,
                                 OptionSpec{'s', "start-offset", true},
                                 OptionSpec{'l', "max-length", true}};

std::string hex(std::uint64_t value) {
    return value == 0 ? "0" : fmt::format("{:#x}", value);
}

std::string json_line(const MapEntry& entry) {
    std::string text = fmt::format(
        "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": "
        "{}",
        entry.start, entry.length, entry.depth, entry.present, entry.zero, entry.data);
    if (entry.has_offset) {
        text += fmt::format(", \"offset\": {}", entry.offset);
    }
    return text + "}";
}

/// The peer tells where a raw image's file ends in the middle of its last sector.
std::pair<MapEntry, MapEntry> cut_at_end(const block::Node& top, const MapEntry& entry) {
    MapEntry head = entry, tail = entry;
    tail.length = 0;
    const std::uint64_t end = entry.file != nullptr ? entry.file->size() : 0;
    if (top.format() == "raw" && entry.data && entry.has_offset && entry.offset < end &&
        end % 512 != 0 && end < entry.offset + entry.length) {
        head.length = end - entry.offset;
        tail.start += head.length;
        tail.offset += head.length;
        tail.length = entry.length - head.length;
        tail.zero = true;
        tail.data = false;
    }
    return {head, tail};
}

/// Prints entries as they come.
class Printer {
  public:
    explicit Printer(bool json) : json_(json) {}
    void head() {
        print(json_
                  ? std::string("[")
                  : fmt::format("{:<16}{:<16}{:<16}{}\n", "Offset", "Length", "Mapped to", "File"));
    }
    void entry(const MapEntry& entry) {
        if (json_) {
            print(std::string(first_ ? "" : ",\n") + json_line(entry));
            first_ = false;
            return;
        }
        if (!entry.data || unreadable_) {
            return;
        }
        unreadable_ = !entry.has_offset;
        if (!unreadable_) {
            print(fmt::format("{:<16}{:<16}{:<16}{}\n", hex(entry.start), hex(entry.length),
                              hex(entry.offset), entry.file != nullptr ? entry.file->name() : ""));
        }
    }
    Result<int> end() {
        if (unreadable_) {
            return failure("File contains external, encrypted or compressed clusters.");
        }
        print(json_ ? "]\n" : "");
        return 0;
    }

  private:
    bool json_;
    bool first_ = true;
    bool unreadable_ = false;
};

Result<int> run(Session& session, std::span<char*> words) {
    const Arguments arguments = STRATA_TRY(Arguments::parse(words, kOptions));
    if (arguments.help()) {
        print_help();
        return 0;
    }
    const std::uint64_t start =
        STRATA_TRY(parse_bytes("start offset", arguments.last_or("start-offset", "0")));
    const std::uint64_t length = STRATA_TRY(
        parse_bytes("max length", arguments.last_or("max-length", "9223372036854775807")));
    const std::string file = STRATA_TRY(arguments.only());
    const bool json = STRATA_TRY(wants_json(arguments));
    STRATA_TRY_VOID(take_objects(session, arguments));
    const ImageSpec spec = STRATA_TRY(image_spec(arguments, file, "format"));
    block::NodePtr node = STRATA_TRY(session.open(spec, {.share = arguments.has("force-share")}));
    Printer printer(json);
    printer.head();
    const std::uint64_t end = std::min(node->size(), start + length);
    Result<> done = session.run(block::map_image(*node, start, end, [&](const MapEntry& entry) {
        const auto [head, tail] = cut_at_end(*node, entry);
        printer.entry(head);
        if (tail.length != 0) {
            printer.entry(tail);
        }
    }));
    if (!done.ok()) {
        return failure(fmt::format("Could not read file metadata: {}", reason(done.error())));
    }
    STRATA_TRY_VOID(session.close(node));
    return printer.end();
}

}  // namespace

const Command kMap = {"map",
                      "[--object objectdef] [--image-opts] [-f fmt] [--start-offset=offset] "
                      "[--max-length=len] [--output=ofmt] [-U] filename",
                      run};

}  // namespace strata::qemu_img
