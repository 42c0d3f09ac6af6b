// The format "vpc": probing, opening with its parents, creating.
#include "block/formats/vhd/vhd.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/common/new_image.h"
#include "block/formats/vhd/vhd_node.h"
#include "block/wording.h"

namespace strata::block::vhd {
namespace {

constexpr std::uint64_t kEpoch = 946684800;  // 2000-01-01

unsigned probe(std::span<const std::byte> start, std::string_view /*path*/) {
    return is_footer(start) ? 100 : 0;
}

/// "C:\\disks\\base.vhd" or ".\\base.vhd" as a name beside the child: absolute places on a Windows
/// host mean nothing here.
std::string plain_name(std::string name) {
    std::replace(name.begin(), name.end(), '\\', '/');
    while (name.starts_with("./")) {
        name.erase(0, 2);
    }
    const bool absolute = name.starts_with("/") || (name.size() > 1 && name[1] == ':');
    return absolute ? name.substr(name.rfind('/') + 1) : name;
}

Task<std::string> parent_name(Node& file, const Header& header) {
    for (const Locator& each : header.locators) {
        if (each.platform == kRelativeLocator && each.length != 0 && each.length <= kMaxLocator &&
            each.offset < (1ULL << 48)) {
            STRATA_CO_TRY(const auto bytes, co_await read_bytes(file, each.offset, each.length));
            co_return plain_name(utf8_of_utf16(bytes, false));
        }
    }
    co_return plain_name(header.parent_name);
}

Task<NodePtr> open_parent(Node& file, const OpenOptions& options, const Header& header) {
    Reference reference{
        .kind = Reference::Kind::Backing, .name = {}, .format = "vpc", .referrer = options.path};
    STRATA_CO_TRY(reference.name, co_await parent_name(file, header));
    const std::string parent = reference.name;
    STRATA_CO_TRY(NodePtr node,
                  co_await open_reference(file.loop(), options, std::move(reference)));
    const auto* below = dynamic_cast<const VhdNode*>(node.get());
    if (below == nullptr || below->footer().uuid != header.parent) {
        co_return broken_image("VHD", options.path,
                               fmt::format("'{}' is not its parent: it lies over the image {}",
                                           parent, format_uuid(header.parent, false)));
    }
    co_return node;
}

Result<std::uint64_t> size_of(const Footer& footer, const OpenOptions& options) {
    const std::string_view how = options.extra_of("force_size_calc");
    if (how.empty()) {
        return footer.disk_size();
    }
    if (how != "chs" && how != "current_size") {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("force_size_calc={}: use chs or current_size", how)};
    }
    // Beyond the geometry's reach it says nothing.
    return how == "chs" && footer.geometry.bytes() < kMaxGeometry ? footer.geometry.bytes()
                                                                  : footer.current_size;
}

/// An image whose blocks are not wholly in its file was cut off: what is written to it next would
/// go into them.
Task<> find_end(Node& file, const OpenOptions& options, VhdNode::Layout& layout) {
    // Nothing new may land on the table, wherever it is.
    layout.end = std::max({layout.end, layout.header.table_offset + layout.header.table_bytes(),
                           layout.footer.data_offset + kHeaderBytes});
    if (options.read_only) {
        co_return ok();
    }
    STRATA_CO_TRY(const SlotSurvey survey,
                  co_await survey_slots(file, layout.footer, layout.header));
    layout.end = std::max(layout.end, survey.end);
    if (survey.damaged != 0 && !options.for_check) {
        co_return broken_image("VHD", options.path,
                               survey.messages.front() +
                                   "; it is damaged and cannot be written, but read and converted");
    }
    co_return ok();
}

Task<NodePtr> open(NodePtr file, OpenOptions options) {
    VhdNode::Layout layout;
    STRATA_CO_TRY(const auto start, co_await read_bytes(*file, 0, kFooterBytes + kHeaderBytes));
    const std::uint64_t tail =
        file->size() < kFooterBytes ? 0 : (file->size() - kFooterBytes) / 512 * 512;
    STRATA_CO_TRY(const auto end, co_await read_bytes(*file, tail, kFooterBytes));
    // A dynamic image's copy at the start is as good as the footer, and stays where it is.
    const bool at_start = is_footer(start);
    STRATA_CO_TRY(layout.footer,
                  parse_footer(at_start ? std::span(start).first(kFooterBytes) : std::span(end),
                               options.path));
    layout.end = is_footer(end) ? tail : file->size();
    STRATA_CO_TRY(layout.size, size_of(layout.footer, options));
    if (layout.footer.type == Type::Fixed) {
        if (at_start && tail == 0) {
            co_return broken_image("VHD", options.path, "a footer without a disk");
        }
        if (layout.size > tail) {
            co_return broken_image(
                "VHD", options.path,
                fmt::format("a fixed disk of {} bytes in a file of {}", layout.size, file->size()));
        }
        co_return NodePtr(std::make_shared<VhdNode>(std::move(file), options.path,
                                                    options.read_only, layout, nullptr));
    }
    if (layout.footer.data_offset >= (1ULL << 48)) {
        co_return broken_image("VHD", options.path,
                               fmt::format("a header at {} cannot be", layout.footer.data_offset));
    }
    STRATA_CO_TRY(const auto header,
                  co_await read_bytes(*file, layout.footer.data_offset, kHeaderBytes));
    STRATA_CO_TRY(layout.header, parse_header(header, layout.size, options.path));
    STRATA_CO_TRY_VOID(co_await find_end(*file, options, layout));
    NodePtr backing;
    if (layout.footer.type == Type::Differencing && options.open_backing) {
        STRATA_CO_TRY(backing, co_await open_parent(*file, options, layout.header));
    }
    co_return NodePtr(std::make_shared<VhdNode>(std::move(file), options.path, options.read_only,
                                                layout, std::move(backing)));
}

constexpr std::array kOptions{
    CreateOption{"size", CreateOption::Kind::Size, "Virtual disk size"},
    CreateOption{
        "subformat", CreateOption::Kind::Text,
        "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed}",
        "dynamic"},
    CreateOption{"force_size", CreateOption::Kind::Flag,
                 "Force disk size calculation to use the actual size specified, rather than using "
                 "the nearest CHS-based calculation",
                 "on"},
    CreateOption{"backing_file", CreateOption::Kind::Text,
                 "File name of a base image: makes a differencing image"},
    CreateOption{"backing_fmt", CreateOption::Kind::Text, "Image format of the base image", "vpc"},
};
constexpr std::array<std::string_view, 2> kSubformats = {"dynamic", "fixed"};

Footer new_footer(Type type, std::uint64_t size, bool exact) {
    Footer footer;
    footer.type = type;
    // "vpc " lets QEMU and old readers go by the geometry.
    footer.creator = exact ? "win " : "vpc ";
    const auto now = std::chrono::duration_cast<std::chrono::seconds>(
                         std::chrono::system_clock::now().time_since_epoch())
                         .count();
    footer.timestamp = static_cast<std::uint32_t>(static_cast<std::uint64_t>(now) - kEpoch);
    footer.data_offset = type == Type::Fixed ? ~0ULL : kFooterBytes;
    footer.current_size = size;
    footer.geometry = geometry_of(size);
    if (exact && wording() == Wording::Qemu) {
        footer.geometry = {65535, 16, 255};  // who goes by it is to take the exact size
    }
    footer.uuid = random_uuid();
    return footer;
}

/// Names the parent in `header` and answers the locator's bytes, which lie behind the table.
std::vector<std::byte> name_parent(Header& header, const std::string& name, const Footer& parent,
                                   std::uint64_t at) {
    header.parent = parent.uuid;
    header.parent_time = parent.timestamp;
    header.parent_name = std::filesystem::path(name).filename().string();
    std::string relative = name.starts_with("/") ? name : ".\\" + name;
    std::replace(relative.begin(), relative.end(), '/', '\\');
    std::vector<std::byte> bytes = utf16_of_utf8(relative, false);
    header.locators[0] = {kRelativeLocator, static_cast<std::uint32_t>(round_up(bytes.size(), 512)),
                          static_cast<std::uint32_t>(bytes.size()), at};
    bytes.resize(round_up(bytes.size(), 512));
    return bytes;
}

/// The parent's footer and size.
Task<std::pair<Footer, std::uint64_t>> examine_parent(Loop& loop, const CreateRequest& request,
                                                      std::string name) {
    OpenOptions options;
    options.path = (std::filesystem::path(request.path).parent_path() / name).string();
    options.format = "vpc";
    options.read_only = true;
    options.references = follow_references();
    STRATA_CO_TRY(const NodePtr node, co_await open_node(loop, std::move(options)));
    const auto* parent = dynamic_cast<const VhdNode*>(node.get());
    STRATA_CHECK(parent != nullptr, "a vpc image is no VhdNode");
    const std::pair<Footer, std::uint64_t> found(parent->footer(), parent->size());
    STRATA_CO_TRY_VOID(co_await node->close());
    co_return found;
}

Task<> create_fixed(Loop& loop, const CreateRequest& request, std::uint64_t size, bool exact) {
    Pieces pieces;
    pieces.emplace_back(size, serialise_footer(new_footer(Type::Fixed, size, exact)));
    co_return co_await write_new_image(loop, request.path, std::move(pieces), size + kFooterBytes);
}

Task<> create_dynamic(Loop& loop, const CreateRequest& request, std::uint64_t size, bool exact) {
    const std::string parent_file(request.option("backing_file"));
    Header header;
    header.table_offset = kFooterBytes + kHeaderBytes;
    std::vector<std::byte> locator;
    Footer parent;
    if (!parent_file.empty()) {
        STRATA_CO_TRY(const auto found, co_await examine_parent(loop, request, parent_file));
        parent = found.first;
        size = size == 0 ? found.second : size;
        exact = true;
    }
    header.entries = static_cast<std::uint32_t>(divide_up(size, header.block));
    const Footer footer =
        new_footer(parent_file.empty() ? Type::Dynamic : Type::Differencing, size, exact);
    std::uint64_t end = header.table_offset + header.table_bytes();
    Pieces pieces;
    pieces.emplace_back(0, serialise_footer(footer));
    if (!parent_file.empty()) {
        locator = name_parent(header, parent_file, parent, end);
        pieces.emplace_back(end, locator);
        end += locator.size();
    }
    STRATA_CO_TRY(auto header_bytes, serialise_header(header));
    pieces.emplace_back(kFooterBytes, std::move(header_bytes));
    pieces.emplace_back(header.table_offset,
                        std::vector<std::byte>(header.table_bytes(), std::byte{0xFF}));
    pieces.emplace_back(end, serialise_footer(footer));
    co_return co_await write_new_image(loop, request.path, std::move(pieces), end + kFooterBytes);
}

Task<> create(Loop& loop, CreateRequest request) {
    STRATA_CO_TRY(const std::string_view subformat, choice(request, "subformat", kSubformats));
    STRATA_CO_TRY(const bool exact, request.flag("force_size", true));
    const bool child = !request.option("backing_file").empty();
    if (child && (subformat == "fixed" || request.option("backing_fmt", "vpc") != "vpc")) {
        co_return Error{ErrorKind::InvalidArgument,
                        "a differencing VHD image is dynamic and lies over a VHD image"};
    }
    std::uint64_t size = 0;
    if (!child || request.size != 0) {
        STRATA_CO_TRY(size, disk_size_of(request, "vpc", kMaxSize));
    }
    if (!exact && size != 0 && size < kMaxGeometry) {
        // The nearest geometry that holds as many bytes.
        std::uint64_t grown = size;
        while (geometry_of(grown).bytes() < size) {
            grown += 512ULL * 16;
        }
        size = geometry_of(grown).bytes();
    }
    if (subformat == "fixed") {
        co_return co_await create_fixed(loop, request, size, exact);
    }
    co_return co_await create_dynamic(loop, request, size, exact);
}

constexpr FormatDriver kDriver{.name = "vpc",
                               .probe = &probe,
                               .open = &open,
                               .create = &create,
                               .create_options = kOptions,
                               .backing = true};

}  // namespace

const FormatDriver& driver() {
    return kDriver;
}

}  // namespace strata::block::vhd
