// The format "vhdx": probing, opening with log and parents, creating.
#include "block/formats/vhdx/vhdx.h"

#include <algorithm>
#include <array>
#include <bit>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/common/new_image.h"
#include "block/formats/vhdx/log.h"
#include "block/formats/vhdx/patched_file.h"
#include "block/formats/vhdx/vhdx_node.h"

namespace strata::block::vhdx {
namespace {

unsigned probe(std::span<const std::byte> start, std::string_view /*path*/) {
    return is_image(start) ? 100 : 0;
}

/// Brings the log's writes into the file and empties it; of a file opened for reading, answers the
/// file as it would be.
Task<NodePtr> replay(NodePtr file, Header& header, const OpenOptions& options) {
    if (!lies_within(header.log_offset, header.log_length, file->size())) {
        co_return broken_image("VHDX", options.path,
                               fmt::format("its log of {} bytes at {} is cut off",
                                           header.log_length, header.log_offset));
    }
    STRATA_CO_TRY(const auto log, co_await read_bytes(*file, header.log_offset, header.log_length));
    STRATA_CO_TRY(LogPatch patch, replay_log(log, header.log, options.path));
    if (patch.flushed_size > file->size()) {
        co_return broken_image(
            "VHDX", options.path,
            fmt::format("it was cut off: its log speaks of {} bytes", patch.flushed_size));
    }
    if (options.read_only) {
        co_return NodePtr(std::make_shared<PatchedFile>(std::move(file), std::move(patch)));
    }
    // What lies behind the old end is zeros already: a hostile log may ask for petabytes of them.
    const std::uint64_t old_end = file->size();
    if (patch.file_size > old_end) {
        STRATA_CO_TRY_VOID(co_await file->resize(patch.file_size, Preallocation::Off));
    }
    for (const auto& [offset, range] : patch.ranges()) {
        if (range.data.empty()) {
            if (offset < old_end) {
                STRATA_CO_TRY_VOID(co_await file->write_zeroes(
                    offset, std::min(range.length, old_end - offset), {}));
            }
        } else {
            STRATA_CO_TRY_VOID(co_await file->write(offset, Buffers::of(range.data)));
        }
    }
    STRATA_CO_TRY_VOID(co_await file->flush());
    header.log = RawUuid{};
    STRATA_CO_TRY_VOID(co_await write_header(*file, header));
    co_return file;
}

Task<NodePtr> open_parent(Loop& loop, const OpenOptions& options, const Parameters& parameters) {
    std::string parent(parameters.parent_value("relative_path"));
    if (parent.empty()) {
        parent = parameters.parent_value("absolute_win32_path");
        parent = parent.substr(std::min(parent.size(), parent.rfind('\\') + 1));
    }
    std::replace(parent.begin(), parent.end(), '\\', '/');
    Reference reference{.kind = Reference::Kind::Backing,
                        .name = parent,
                        .format = "vhdx",
                        .referrer = options.path};
    STRATA_CO_TRY(NodePtr node, co_await open_reference(loop, options, std::move(reference)));
    const auto* below = dynamic_cast<const VhdxNode*>(node.get());
    const auto is = [&](std::string_view key) {
        std::string uuid(parameters.parent_value(key));
        std::transform(uuid.begin(), uuid.end(), uuid.begin(),
                       [](char c) { return c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c; });
        return below != nullptr &&
               uuid == fmt::format("{{{}}}", format_uuid(below->header().data_write, true));
    };
    if (!is("parent_linkage") && !is("parent_linkage2")) {
        co_return broken_image("VHDX", options.path,
                               fmt::format("'{}' is not its parent, or was written since", parent));
    }
    co_return node;
}

Task<NodePtr> open(NodePtr file, OpenOptions options) {
    STRATA_CO_TRY(const auto start, co_await read_bytes(*file, 0, kStartBytes));
    VhdxNode::Layout layout;
    STRATA_CO_TRY(layout.header, parse_headers(start, options.path));
    if (layout.header.dirty()) {
        STRATA_CO_TRY(file, co_await replay(std::move(file), layout.header, options));
        layout.replayed = !options.read_only;
    }
    STRATA_CO_TRY(const auto replayed, co_await read_bytes(*file, 0, kStartBytes));
    STRATA_CO_TRY(layout.regions, parse_regions(replayed, options.path));
    const std::size_t length = std::min<std::size_t>(layout.regions.metadata.length, kMaxMetadata);
    STRATA_CO_TRY(const auto metadata,
                  co_await read_bytes(*file, layout.regions.metadata.offset, length));
    STRATA_CO_TRY(layout.parameters, parse_metadata(metadata, options.path));
    if (layout.parameters.bat_entries() * 8 > layout.regions.bat.length) {
        co_return broken_image(
            "VHDX", options.path,
            fmt::format("its block table of {} bytes is too short", layout.regions.bat.length));
    }
    if (!lies_within(layout.regions.bat.offset, layout.parameters.bat_entries() * 8,
                     round_up(file->size(), 512))) {
        co_return broken_image(
            "VHDX", options.path,
            fmt::format("its block table at {} lies past the end of the file at {}: it was cut "
                        "short; copy the file again",
                        layout.regions.bat.offset, file->size()));
    }
    NodePtr backing;
    if (layout.parameters.has_parent) {
        if (!options.read_only) {
            co_return unsupported_image("VHDX", options.path,
                                        "differencing images can be read only; open it read-only");
        }
        if (options.open_backing) {
            STRATA_CO_TRY(backing, co_await open_parent(file->loop(), options, layout.parameters));
        }
    }
    co_return NodePtr(std::make_shared<VhdxNode>(std::move(file), options.path, options.read_only,
                                                 layout, std::move(backing)));
}

constexpr std::array kOptions{
    CreateOption{"size", CreateOption::Kind::Size, "Virtual disk size; max of 64TB."},
    CreateOption{"log_size", CreateOption::Kind::Size, "Log size; min 1MB.", "1048576"},
    CreateOption{"block_size", CreateOption::Kind::Size,
                 "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.",
                 "0"},
    CreateOption{"subformat", CreateOption::Kind::Text,
                 "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.",
                 "dynamic"},
    CreateOption{"block_state_zero", CreateOption::Kind::Flag,
                 "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not "
                 "set to 'off' when using 'qemu-img convert' with subformat=dynamic.",
                 "on"},
};
constexpr std::array<std::string_view, 2> kSubformats = {"dynamic", "fixed"};

std::uint64_t block_for(std::uint64_t size) {
    if (size > (32ULL << 40)) {
        return 64 * kMiB;
    }
    if (size > (100ULL << 30)) {
        return 32 * kMiB;
    }
    return size > (1ULL << 30) ? 16 * kMiB : 8 * kMiB;
}

std::vector<std::byte> table(const Parameters& p, std::uint64_t first) {
    std::vector<std::byte> out(round_up(p.bat_entries() * 8, 4096));
    for (std::uint64_t i = 0; p.leave_allocated && i < p.blocks(); ++i) {
        put(out, p.payload_entry(i) * 8,
            Le64((first + i * p.block) | static_cast<std::uint64_t>(State::Present)));
    }
    return out;
}

Task<> create(Loop& loop, CreateRequest request) {
    STRATA_CO_TRY(const std::uint64_t size, disk_size_of(request, "vhdx", kMaxSize));
    STRATA_CO_TRY(const std::string_view subformat, choice(request, "subformat", kSubformats));
    STRATA_CO_TRY(std::uint64_t block, request.number("block_size", 0));
    STRATA_CO_TRY(std::uint64_t log, request.number("log_size", kMiB));
    STRATA_CO_TRY_VOID(request.flag("block_state_zero", true));
    block = block == 0 ? block_for(size) : block;
    log = round_up(std::max<std::uint64_t>(log, kMiB), kMiB);
    if (!std::has_single_bit(block) || block < kMiB || block > 256 * kMiB || log > kMaxLog) {
        co_return Error{
            ErrorKind::InvalidArgument,
            fmt::format(
                "block_size={} and log_size={}: use a power of two from 1M to 256M, and at most {}",
                block, log, kMaxLog)};
    }
    Parameters parameters{.block = static_cast<std::uint32_t>(block),
                          .leave_allocated = subformat == "fixed",
                          .size = size};
    parameters.disk_id = random_uuid();
    Header header{
        .index = 1, .sequence = 1, .file_write = random_uuid(), .data_write = random_uuid()};
    header.log_length = static_cast<std::uint32_t>(log);
    header.log_offset = kMiB;
    Regions regions;
    regions.metadata = {kMiB + log, static_cast<std::uint32_t>(kMiB)};
    regions.bat = {2 * kMiB + log,
                   static_cast<std::uint32_t>(round_up(parameters.bat_entries() * 8, kMiB))};
    const std::uint64_t first = regions.bat.offset + regions.bat.length;
    Pieces pieces;
    pieces.emplace_back(0, serialise_identifier());
    pieces.emplace_back(kHeaderOffset[0], serialise_header(header));
    ++header.sequence;
    pieces.emplace_back(kHeaderOffset[1], serialise_header(header));
    pieces.emplace_back(kRegionOffset[0], serialise_regions(regions));
    pieces.emplace_back(kRegionOffset[1], serialise_regions(regions));
    pieces.emplace_back(regions.metadata.offset, serialise_metadata(parameters));
    pieces.emplace_back(regions.bat.offset, table(parameters, first));
    const std::uint64_t length =
        first + (parameters.leave_allocated ? parameters.blocks() * block : 0);
    co_return co_await write_new_image(loop, request.path, std::move(pieces), length);
}

constexpr FormatDriver kDriver{
    .name = "vhdx", .probe = &probe, .open = &open, .create = &create, .create_options = kOptions};

}  // namespace

const FormatDriver& driver() {
    return kDriver;
}

}  // namespace strata::block::vhdx
