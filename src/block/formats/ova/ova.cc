// OvaNode: one disk of an appliance, read only; a check compares the manifest's digests.
//
// The archive's names are looked up in the archive alone. A description that lies in no archive
// (.ovf) names files beside it, which are opened by the caller's leave, as backing files are: its
// disk; by a check the manifest, and what that names, one after another. A disk is opened without
// any leave to name files.
#include "block/formats/ova/ova.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>

#include <fmt/format.h>

#include "block/formats/archive/section_node.h"
#include "block/formats/archive/tar.h"
#include "block/formats/archive/xml.h"
#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"
#include "block/formats/ova/digest.h"
#include "block/formats/ova/envelope.h"
#include "block/formats/ova/writer.h"
#include "block/formats/vhd/vhd.h"
#include "block/formats/vmdk/vmdk.h"
#include "block/read_only_node.h"
#include "block/wording.h"

namespace strata::block::ova {
namespace {

using archive::Member;

constexpr std::uint64_t kMaxMembers = 1024;

/// A file of an appliance: a stretch of its archive, or one beside its description.
struct Part {
    Member member;
    NodePtr file;
};

struct Appliance {
    std::vector<Part> parts;
    std::vector<OvfDisk> disks;
    std::map<std::string, Digest> manifest;

    [[nodiscard]] const Part* find(std::string_view name) const {
        const auto found =
            std::ranges::find_if(parts, [&](const Part& each) { return each.member.name == name; });
        return found == parts.end() ? nullptr : &*found;
    }
};

Task<std::string> text_of(Node& file, Member member, std::string name) {
    if (member.size > archive::kMaxXml) {
        co_return broken_image("OVA", name,
                               fmt::format("'{:.100}' has {} bytes", member.name, member.size));
    }
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(file, member.offset, member.size));
    // SAFETY: bytes as characters.
    co_return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

/// A file beside a description, if the caller allows it.
Task<Part> open_beside(Loop& loop, const OpenOptions& options, std::string name) {
    Reference reference;
    reference.kind = Reference::Kind::Extent;
    reference.name = name;
    STRATA_CO_TRY(NodePtr file, co_await open_reference(loop, options, std::move(reference)));
    const std::uint64_t size = file->size();
    co_return Part{{.name = std::move(name), .offset = 0, .size = size}, std::move(file)};
}

/// What the manifest beside a description says; nothing if there is none.
Task<std::map<std::string, Digest>> read_manifest(Loop& loop, const OpenOptions& options) {
    std::string name = std::filesystem::path(options.path).stem().string() + ".mf";
    if (name.find(':') != std::string::npos) {
        name.insert(0, "./");  // a file's name, whatever it looks like
    }
    const auto part = co_await open_beside(loop, options, std::move(name));
    if (!part.ok() && part.error().kind() == ErrorKind::NotFound) {
        co_return std::map<std::string, Digest>();
    }
    if (!part.ok()) {
        co_return part.error();
    }
    const auto text = co_await text_of(*part->file, part->member, options.path);
    STRATA_CO_TRY_VOID(co_await part->file->close());
    if (!text.ok()) {
        co_return text.error();
    }
    auto manifest = parse_manifest(*text);
    if (manifest.size() > kMaxMembers) {
        co_return broken_image("OVF", options.path,
                               fmt::format("its manifest names {} files", manifest.size()));
    }
    co_return manifest;
}

class OvaNode final : public ReadOnlyNode {
  public:
    /// `beside`: how files beside a description are opened; nothing: it lies in an archive.
    OvaNode(NodePtr file, std::string name, NodePtr disk, Appliance appliance,
            std::optional<OpenOptions> beside)
        : ReadOnlyNode(file->loop(), std::move(name), disk->traits()),
          file_(std::move(file)),
          disk_(std::move(disk)),
          appliance_(std::move(appliance)),
          beside_(std::move(beside)) {}
    [[nodiscard]] std::string_view format() const override { return "ova"; }
    [[nodiscard]] std::uint64_t size() const override { return disk_->size(); }
    [[nodiscard]] Node* file() const override { return file_.get(); }
    [[nodiscard]] std::vector<Node*> children() const override { return {disk_.get()}; }
    Task<> read(std::uint64_t offset, Buffers into) override { return disk_->read(offset, into); }
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override {
        return disk_->status(offset, length);
    }
    Task<> close() override {
        Result<> done = co_await disk_->close();
        for (const Part& each : appliance_.parts) {  // of files beside it there are more
            Result<> closed = co_await each.file->close();
            done = done.ok() ? std::move(closed) : std::move(done);
        }
        co_return done;
    }
    Task<FormatInfo> info() override {
        STRATA_CO_TRY(FormatInfo info, co_await disk_->info());
        std::vector<std::string> disks;
        for (const OvfDisk& each : appliance_.disks) {
            disks.push_back(each.file);
        }
        info.specific.push_back({"disks", "disks", std::move(disks)});
        co_return info;
    }
    Task<CheckReport> check(Repair /*repair*/) override {
        CheckReport report;
        std::map<std::string, Digest> manifest = appliance_.manifest;
        if (beside_) {
            auto read = co_await read_manifest(loop(), *beside_);
            if (!read.ok()) {
                cannot_look("the manifest", read.error(), report);
                co_return report;
            }
            manifest = std::move(read).value();
        }
        for (const auto& each : manifest) {
            STRATA_CO_TRY_VOID(co_await check_part(each.first, each.second, report));
        }
        co_return report;
    }

  private:
    static void cannot_look(std::string_view what, const Error& error, CheckReport& report) {
        ++report.check_errors;
        report.messages.push_back(
            fmt::format("ERROR {:.100} cannot be looked at: {}", what, error.text()));
    }
    Task<> check_part(std::string name, Digest digest, CheckReport& report) {
        const Part* const known = appliance_.find(name);
        Part part = known == nullptr ? Part() : *known;
        if (known == nullptr && beside_ && name.find('/') == std::string::npos) {
            auto opened = co_await open_beside(loop(), *beside_, name);
            if (!opened.ok() && opened.error().kind() != ErrorKind::NotFound) {
                cannot_look(fmt::format("'{}'", name), opened.error(), report);
                co_return ok();
            }
            part = opened.ok() ? std::move(opened).value() : Part();
        }
        if (part.file == nullptr) {
            ++report.corruptions;
            report.messages.push_back(
                fmt::format("ERROR the manifest names '{:.100}', which is not there", name));
            co_return ok();
        }
        const auto sum = co_await digest_of(*part.file, part.member, digest.algorithm);
        if (known == nullptr) {
            STRATA_CO_TRY_VOID(co_await part.file->close());
        }
        if (!sum.ok()) {
            co_return sum.error();
        }
        if (*sum != digest.hex && !sum->empty()) {
            ++report.corruptions;
            report.messages.push_back(fmt::format(
                "ERROR '{:.100}' is not what the manifest says ({})", name, digest.algorithm));
        }
        co_return ok();
    }

    const NodePtr file_, disk_;
    const Appliance appliance_;
    const std::optional<OpenOptions> beside_;
};

/// A description in no archive begins as XML does.
bool is_bare(std::span<const std::byte> start) {
    constexpr std::array<std::byte, 3> kMark{std::byte{0xef}, std::byte{0xbb}, std::byte{0xbf}};
    if (start.size() >= kMark.size() && std::ranges::equal(start.first(kMark.size()), kMark)) {
        start = start.subspan(kMark.size());
    }
    return !start.empty() && start[0] == std::byte{'<'};
}

unsigned probe(std::span<const std::byte> start, std::string_view path) {
    const bool found = archive::name_in_header(start).ends_with(".ovf") ||
                       (path.ends_with(".ovf") && is_bare(start));
    return wording() != Wording::Qemu && found ? 90 : 0;
}

Task<Appliance> read_appliance(NodePtr file, std::string name) {
    Appliance appliance;
    STRATA_CO_TRY_VOID(co_await archive::walk_tar(*file, kMaxMembers, [&](const Member& each) {
        appliance.parts.push_back({each, file});
        std::string& own = appliance.parts.back().member.name;
        own.erase(0, own.starts_with("./") ? 2 : 0);
        return ok();
    }));
    const auto ends = [&](std::string_view ending) {
        return std::ranges::find_if(
            appliance.parts, [&](const Part& each) { return each.member.name.ends_with(ending); });
    };
    const auto description = ends(".ovf"), manifest = ends(".mf");
    if (description == appliance.parts.end()) {
        co_return broken_image("OVA", name, "no OVF description is in it");
    }
    STRATA_CO_TRY(const std::string text, co_await text_of(*file, description->member, name));
    STRATA_CO_TRY(appliance.disks, parse_ovf(text, name));
    if (manifest != appliance.parts.end()) {
        STRATA_CO_TRY(const std::string lines, co_await text_of(*file, manifest->member, name));
        appliance.manifest = parse_manifest(lines);
    }
    co_return appliance;
}

/// What a description in no archive says.
Task<Appliance> read_description(NodePtr file, const OpenOptions& options) {
    Appliance appliance;
    const std::filesystem::path path(options.path);
    const Member self{.name = path.filename().string(), .offset = 0, .size = file->size()};
    STRATA_CO_TRY(const std::string text, co_await text_of(*file, self, options.path));
    STRATA_CO_TRY(appliance.disks, parse_ovf(text, options.path));
    appliance.parts.push_back({self, std::move(file)});
    co_return appliance;
}

/// The disk that was asked for, by its name or number, or the only one.
Result<OvfDisk> choose(const Appliance& appliance, const OpenOptions& options) {
    const std::string_view wanted = options.extra_of("disk");
    std::string all;
    for (std::size_t i = 0; i < appliance.disks.size(); ++i) {
        const OvfDisk& each = appliance.disks[i];
        all += fmt::format("{}{} ({})", all.empty() ? "" : ", ", i + 1, each.file);
        if (wanted == each.file) {
            return each;
        }
    }
    if (wanted.empty() && appliance.disks.size() == 1) {
        return appliance.disks[0];
    }
    if (const auto number = archive::number(wanted);
        number.ok() && *number >= 1 && *number <= appliance.disks.size()) {
        return appliance.disks[*number - 1];
    }
    return Error{ErrorKind::NotFound,
                 appliance.disks.empty()
                     ? fmt::format("'{}': no disk is in it", options.path)
                     : fmt::format("'{}': which disk? It has {}: strata image convert --disk NAME",
                                   options.path, all),
                 ENOENT};
}

/// `content`, which is the disk's file, as a disk.
Task<NodePtr> open_disk(NodePtr content, const OpenOptions& options, OvfDisk disk) {
    OpenOptions inner;
    inner.path = fmt::format("{}:{}", options.path, disk.file);
    inner.read_only = true;
    inner.open_backing = options.open_backing;
    const bool vhd = disk.file.ends_with(".vhd") || disk.format.find("vhd") != std::string::npos;
    const FormatDriver& driver = vhd ? vhd::driver() : vmdk::driver();
    inner.format = driver.name;
    co_return co_await driver.open(std::move(content), std::move(inner));
}

Task<NodePtr> open(NodePtr file, OpenOptions options) {
    STRATA_CO_TRY(const auto start,
                  co_await read_bytes(*file, 0, std::min<std::uint64_t>(file->size(), 4)));
    const bool bare = is_bare(start);
    if (!options.read_only && !bare) {
        co_return co_await open_new_appliance(std::move(file), std::move(options));
    }
    if (!options.read_only) {
        co_return unsupported_image("OVF", options.path,
                                    "descriptions can be read only; open it read-only");
    }
    Task<Appliance> read =
        bare ? read_description(file, options) : read_appliance(file, options.path);
    STRATA_CO_TRY(Appliance appliance, co_await read);
    STRATA_CO_TRY(const OvfDisk disk, choose(appliance, options));
    if (bare && appliance.find(disk.file) == nullptr) {
        STRATA_CO_TRY(Part beside, co_await open_beside(file->loop(), options, disk.file));
        appliance.parts.push_back(std::move(beside));
    }
    const Part* part = appliance.find(disk.file);
    if (part == nullptr) {
        co_return broken_image("OVA", options.path,
                               fmt::format("its disk '{:.100}' is not in it", disk.file));
    }
    auto content =
        std::make_shared<archive::SectionNode>(part->file, part->member.offset, part->member.size);
    STRATA_CO_TRY(NodePtr inner, co_await open_disk(std::move(content), options, disk));
    std::string name = options.path;
    co_return NodePtr(std::make_shared<OvaNode>(
        std::move(file), std::move(name), std::move(inner), std::move(appliance),
        bare ? std::optional(std::move(options)) : std::nullopt));
}

}  // namespace

const FormatDriver& driver() {
    static const FormatDriver kDriver{.name = "ova",
                                      .probe = &probe,
                                      .open = &open,
                                      .create = &create,
                                      .create_options = create_options()};
    return kDriver;
}

}  // namespace strata::block::ova
