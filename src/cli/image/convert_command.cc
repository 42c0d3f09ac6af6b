// strata image convert: copies a disk image, with all its layers, into a new one of any format.
#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/text.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/image/disk_files.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

constexpr std::uint64_t kChunk = 2U << 20;
constexpr std::uint64_t kGrain = 4096;  // zeros of this size stay holes

constexpr std::array kPositionals = {Positional{"SOURCE", "The image to copy.", true, Completes::Files, ""},
                                     Positional{"TARGET", "The image to make; what it was is lost.", true, Completes::Files, ""}};

constexpr std::array kOptions = {
    Option{"--format", 'f', "raw|qcow2", "The source's format; it is never guessed.", Completes::Choices},
    Option{"--output-format", 'O', "raw|qcow2", "The target's format (default raw).", Completes::Choices},
    Option{"--option", 'o', "NAME=VALUE[,…]", "The target's options, as for 'strata image create'.", Completes::Nothing, true},
    Option{"--follow", 0, "", "Open the backing files that the source names: only if it is trusted."},
};

bool all_zero(std::span<const std::byte> bytes) {
    return bytes.empty() || (bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

/// Writes what is not zero; the target reads as zeros already.
Result<> write_sparse(block::BlockingImage& target, std::uint64_t offset, std::span<const std::byte> bytes) {
    std::size_t at = 0;
    while (at < bytes.size()) {
        const auto grain = [&](std::size_t place) { return bytes.subspan(place, std::min<std::size_t>(kGrain, bytes.size() - place)); };
        if (all_zero(grain(at))) {
            at += grain(at).size();
            continue;
        }
        std::size_t end = at;
        while (end < bytes.size() && !all_zero(grain(end))) {
            end += grain(end).size();
        }
        STRATA_TRY_VOID(target.write(offset + at, bytes.subspan(at, end - at)));
        at = end;
    }
    return ok();
}

Result<> copy(block::BlockingImage& source, block::BlockingImage& target) {
    std::vector<std::byte> buffer(kChunk);
    const std::uint64_t size = source.size();
    for (std::uint64_t at = 0; at < size;) {
        const block::Extent extent = STRATA_TRY(source.status(at, size - at));
        if (extent.kind != block::Extent::Kind::Data) {
            at += extent.length;
            continue;
        }
        const auto part = std::span(buffer).first(std::min(extent.length, kChunk));
        STRATA_TRY_VOID(source.read(at, part));
        STRATA_TRY_VOID(write_sparse(target, at, part));
        at += part.size();
    }
    return target.close();
}

Result<int> run_convert(const Arguments& arguments) {
    const auto format = arguments.value("--format");
    if (!format) {
        return Error{ErrorKind::InvalidArgument, "which format has the source? -f raw or -f qcow2: it is never guessed"};
    }
    auto source = STRATA_TRY(open_source(*arguments.positional(0), *format, arguments.flag("--follow")));
    NewDisk disk;
    disk.path = *arguments.positional(1);
    disk.format = arguments.value("--output-format").value_or("raw");
    disk.options = arguments.values("--option");
    disk.size = source->size();
    for (const block::Node* layer = &source->node(); layer != nullptr; layer = layer->backing()) {
        std::error_code code;
        if (std::filesystem::equivalent(layer->name(), disk.path, code)) {
            return Error{ErrorKind::InvalidArgument, fmt::format("the target '{}' is the source itself, or one of its layers", disk.path)};
        }
    }
    STRATA_TRY_VOID(make_disk(disk));
    block::OpenOptions options;
    options.path = disk.path;
    options.format = disk.format;
    auto target = STRATA_TRY(block::BlockingImage::open(std::move(options)));
    STRATA_TRY_VOID(copy(*source, *target));
    notice(fmt::format("image '{}': {}, {}", disk.path, disk.format, format_size(disk.size)));
    return 0;
}

}  // namespace

const Command kImageConvertCommand = {
    .name = "image convert",
    .summary = "Copy a disk image into another format",
    .description = "",
    .positionals = kPositionals,
    .options = kOptions,
    .examples = "  strata image convert -f qcow2 -O raw disk.qcow2 disk.raw\n"
                "  strata image convert -f qcow2 --follow -O qcow2 overlay.qcow2 flat.qcow2",
    .run = run_convert,
};

}  // namespace strata::cli
