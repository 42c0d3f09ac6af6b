// Making VMDK images: descriptor, extents, empty tables.
#include "block/formats/vmdk/create.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <random>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/formats/common/new_image.h"
#include "block/formats/common/wire.h"
#include "block/formats/vmdk/descriptor.h"
#include "block/formats/vmdk/sparse_header.h"
#include "block/formats/vmdk/vmdk_node.h"
#include "block/wording.h"

namespace strata::block::vmdk {
namespace {

constexpr std::uint64_t kSplit = 2ULL << 30;
constexpr std::uint64_t kDescriptorSectors = 20;
constexpr std::uint64_t kMaxSize = 1ULL << 46;

constexpr std::array kOptions{
    CreateOption{"size", CreateOption::Kind::Size, "Virtual disk size"},
    CreateOption{
        "adapter_type", CreateOption::Kind::Text,
        "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX",
        "ide"},
    CreateOption{"backing_file", CreateOption::Kind::Text, "File name of a base image"},
    CreateOption{"backing_fmt", CreateOption::Kind::Text, "Must be 'vmdk' if present"},
    CreateOption{"compat6", CreateOption::Kind::Flag, "VMDK version 6 image", "off"},
    CreateOption{"hwversion", CreateOption::Kind::Text, "VMDK hardware version", "4"},
    CreateOption{"toolsversion", CreateOption::Kind::Text, "VMware guest tools version",
                 "2147483647"},
    CreateOption{"subformat", CreateOption::Kind::Text,
                 "VMDK flat extent format, can be one of {monolithicSparse (default) | "
                 "monolithicFlat | twoGbMaxExtentSparse | twoGbMaxExtentFlat | "
                 "streamOptimized} ",
                 "monolithicSparse"},
    CreateOption{"zeroed_grain", CreateOption::Kind::Flag,
                 "Enable efficient zero writes using the zeroed-grain GTE feature", "off"},
};
constexpr std::array<std::string_view, 5> kSubformats = {"monolithicSparse", "monolithicFlat",
                                                         "twoGbMaxExtentSparse",
                                                         "twoGbMaxExtentFlat", "streamOptimized"};
constexpr std::array<std::string_view, 4> kAdapters = {"ide", "lsilogic", "buslogic", "legacyESX"};

struct Plan {
    std::string path;
    std::string_view subformat;
    std::uint64_t size = 0;
    bool zeroed_grain = false;
    [[nodiscard]] bool flat() const { return subformat.ends_with("Flat"); }
    [[nodiscard]] bool split() const { return subformat.starts_with("twoGb"); }
    [[nodiscard]] bool stream() const { return subformat == "streamOptimized"; }
};

Error wrong(std::string text) {
    return {ErrorKind::InvalidArgument, std::move(text)};
}

/// Header and empty tables of a sparse extent; `descriptor` lies inside, or is empty. `length`: of
/// the file.
Pieces sparse_pieces(const Plan& plan, std::uint64_t size, std::string_view descriptor,
                     std::uint64_t& length) {
    SparseHeader h;
    h.flags = kFlagNewline | kFlagRedundant | (plan.zeroed_grain ? kFlagZeroGrain : 0);
    h.version = plan.zeroed_grain ? 2 : 1;
    h.capacity = size / 512;
    std::uint64_t at = 1;
    if (!descriptor.empty()) {
        h.descriptor_offset = at;
        h.descriptor_sectors = kDescriptorSectors;
    }
    at += kDescriptorSectors;
    const std::uint64_t directory_sectors = divide_up(h.tables() * 4, 512),
                        table_sectors = h.table_entries * 4 / 512;
    Pieces pieces(1);
    for (std::uint64_t* place : {&h.redundant_directory, &h.directory}) {
        *place = at;
        std::vector<std::byte> directory(directory_sectors * 512);
        for (std::uint64_t i = 0; i < h.tables(); ++i) {
            put(directory, i * 4,
                Le32(static_cast<std::uint32_t>(at + directory_sectors + i * table_sectors)));
        }
        pieces.emplace_back(at * 512, std::move(directory));
        at += directory_sectors + h.tables() * table_sectors;
    }
    h.overhead = round_up(at, h.grain);
    if (!descriptor.empty()) {
        const auto text = std::as_bytes(std::span(descriptor));
        pieces.emplace_back(512, std::vector<std::byte>(text.begin(), text.end()));
    }
    pieces[0] = {0, serialise_sparse_header(h)};
    length = h.overhead * 512;
    return pieces;
}

Pieces stream_pieces(const Plan& plan, std::string_view descriptor, std::uint64_t& length) {
    SparseHeader h;
    h.version = 3;
    h.flags = kFlagNewline | kFlagCompressed | kFlagMarkers;
    h.compression = 1;
    h.capacity = plan.size / 512;
    h.descriptor_offset = 1;
    h.descriptor_sectors = kDescriptorSectors;
    h.directory = kDirectoryAtEnd;
    h.overhead = h.grain;
    Pieces pieces;
    pieces.emplace_back(0, serialise_sparse_header(h));
    const auto text = std::as_bytes(std::span(descriptor));
    pieces.emplace_back(512, std::vector<std::byte>(text.begin(), text.end()));
    length = h.overhead * 512;
    return pieces;
}

Result<Descriptor> describe(const CreateRequest& request, const Plan& plan) {
    Descriptor d;
    d.create_type = plan.subformat;
    std::random_device random;
    d.cid = random() & 0xFFFFFFF0U;
    const std::string_view adapter = STRATA_TRY(choice(request, "adapter_type", kAdapters));
    const bool compat6 = STRATA_TRY(request.flag("compat6", false));
    if (compat6 && !request.option("hwversion").empty()) {
        return wrong("compat6 cannot be enabled with hwversion set");
    }
    const std::uint64_t heads = adapter == "ide" ? 16 : 255;
    const std::uint64_t cylinders = plan.size / (63 * heads * 512);
    d.disk_database = {
        {"ddb.virtualHWVersion", compat6 ? "6" : std::string(request.option("hwversion", "4"))},
        {"ddb.geometry.cylinders", std::to_string(cylinders)},
        {"ddb.geometry.heads", std::to_string(heads)},
        {"ddb.geometry.sectors", "63"},
        {"ddb.adapterType", std::string(adapter)},
        {"ddb.toolsVersion", std::string(request.option("toolsversion", "2147483647"))}};
    return d;
}

/// "disk-s001.vmdk" of "/a/disk.vmdk" and "-s001".
std::string extent_name(const std::string& path, std::string_view what) {
    const std::filesystem::path name = std::filesystem::path(path).filename();
    return fmt::format("{}{}{}", name.stem().string(), what, name.extension().string());
}

struct Parent {
    std::uint32_t cid = kNoParent;
    std::uint64_t size = 0;
};

/// The image that the new one is to lie over, if any.
Task<Parent> examine_parent(Loop& loop, const CreateRequest& request) {
    const std::string_view name = request.option("backing_file");
    if (name.empty()) {
        co_return Parent{};
    }
    if (request.option("backing_fmt", "vmdk") != "vmdk") {
        co_return wrong("a VMDK image lies over a VMDK image only");
    }
    if (name.size() > 1023 || name.find_first_of("\"\n\r") != std::string_view::npos) {
        co_return wrong(fmt::format("'{:.200}' cannot be named in a VMDK image", name));
    }
    OpenOptions options;
    options.path = request.path;
    options.references = request.references != nullptr ? request.references : follow_references();
    Reference reference{.kind = Reference::Kind::Backing,
                        .name = std::string(name),
                        .format = "vmdk",
                        .referrer = request.path};
    STRATA_CO_TRY(const NodePtr node, co_await open_reference(loop, options, std::move(reference)));
    const auto* parent = dynamic_cast<const VmdkNode*>(node.get());
    if (parent == nullptr) {
        co_return wrong("a VMDK image lies over a VMDK image only");
    }
    const Parent found{parent->cid(), node->size()};
    STRATA_CO_TRY_VOID(co_await node->close());
    co_return found;
}

/// Makes the extents' files and lists them; of a monolithic sparse image there is none but the
/// image itself.
Task<> create_extents(Loop& loop, const Plan& plan, Descriptor& d) {
    const auto folder = std::filesystem::path(plan.path).parent_path();
    const std::uint64_t step = plan.split() ? kSplit : plan.size;
    unsigned number = 0;
    for (std::uint64_t at = 0; at < plan.size; at += step) {
        const std::uint64_t size = std::min(step, plan.size - at);
        ExtentLine line{.sectors = size / 512,
                        .type = plan.flat() ? ExtentType::Flat : ExtentType::Sparse};
        line.type_name = plan.flat() ? "FLAT" : "SPARSE";
        line.file = extent_name(
            plan.path,
            plan.split() ? fmt::format("-{}{:03}", plan.flat() ? 'f' : 's', ++number) : "-flat");
        std::uint64_t length = size;
        Pieces pieces = plan.flat() ? Pieces() : sparse_pieces(plan, size, "", length);
        STRATA_CO_TRY_VOID(co_await write_new_image(loop, (folder / line.file).string(),
                                                    std::move(pieces), length));
        d.extents.push_back(std::move(line));
    }
    co_return ok();
}

}  // namespace

std::span<const CreateOption> create_options() {
    return kOptions;
}

Task<> create(Loop& loop, CreateRequest request) {
    Plan plan;
    plan.path = request.path;
    STRATA_CO_TRY(plan.subformat, choice(request, "subformat", kSubformats));
    STRATA_CO_TRY(plan.zeroed_grain, request.flag("zeroed_grain", false));
    if (plan.flat() && (plan.zeroed_grain || !request.option("backing_file").empty())) {
        co_return wrong(worded("a flat VMDK image has no grains and no backing file",
                               plan.zeroed_grain ? "Flat image can't enable zeroed grain"
                                                 : "Flat image can't have backing file"));
    }
    STRATA_CO_TRY(const Parent parent, co_await examine_parent(loop, request));
    request.size = request.size == 0 ? parent.size : request.size;
    STRATA_CO_TRY(plan.size, disk_size_of(request, "vmdk", kMaxSize));
    STRATA_CO_TRY(Descriptor descriptor, describe(request, plan));
    descriptor.parent_cid = parent.cid;
    descriptor.parent = request.option("backing_file");
    if (extent_name(plan.path, "").find_first_of("\"\n\r") != std::string::npos) {
        co_return wrong(fmt::format("'{}' cannot be the name of a VMDK image", plan.path));
    }
    if (plan.flat() || plan.split()) {
        STRATA_CO_TRY_VOID(co_await create_extents(loop, plan, descriptor));
        const std::string text = serialise_descriptor(descriptor);
        const auto bytes = std::as_bytes(std::span(text));
        Pieces pieces;
        pieces.emplace_back(0, std::vector<std::byte>(bytes.begin(), bytes.end()));
        co_return co_await write_new_image(loop, plan.path, std::move(pieces), text.size());
    }
    descriptor.extents.push_back({.sectors = plan.size / 512,
                                  .type = ExtentType::Sparse,
                                  .type_name = "SPARSE",
                                  .file = std::filesystem::path(plan.path).filename().string()});
    const std::string text = serialise_descriptor(descriptor);
    if (text.size() > kDescriptorSectors * 512) {
        co_return wrong("the names are too long for a VMDK image");
    }
    std::uint64_t length = 0;
    Pieces pieces = plan.stream() ? stream_pieces(plan, text, length)
                                  : sparse_pieces(plan, plan.size, text, length);
    co_return co_await write_new_image(loop, plan.path, std::move(pieces), length);
}

Result<std::vector<std::byte>> stream_start(const CreateRequest& request, std::string_view name) {
    Plan plan;
    plan.path = request.path;
    plan.subformat = "streamOptimized";
    plan.size = STRATA_TRY(disk_size_of(request, "vmdk", kMaxSize));
    Descriptor descriptor = STRATA_TRY(describe(request, plan));
    descriptor.parent_cid = kNoParent;
    descriptor.extents.push_back({.sectors = plan.size / 512,
                                  .type = ExtentType::Sparse,
                                  .type_name = "SPARSE",
                                  .file = std::string(name)});
    const std::string text = serialise_descriptor(descriptor);
    if (text.size() > kDescriptorSectors * 512) {
        return wrong("the names are too long for a VMDK image");
    }
    std::uint64_t length = 0;
    const Pieces pieces = stream_pieces(plan, text, length);
    std::vector<std::byte> start(length);
    for (const auto& [offset, bytes] : pieces) {
        std::copy(bytes.begin(), bytes.end(), start.begin() + static_cast<std::ptrdiff_t>(offset));
    }
    return start;
}

}  // namespace strata::block::vmdk
