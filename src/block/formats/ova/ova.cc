// OvaNode: one disk of an appliance, read only; a check compares the manifest's digests.
//
// The archive's names are looked up in the archive alone. A disk is opened without any leave to
// name files.
#include "block/formats/ova/ova.h"

#include <algorithm>
#include <cerrno>
#include <memory>

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

struct Appliance {
    std::vector<Member> members;
    std::vector<OvfDisk> disks;
    std::map<std::string, Digest> manifest;

    [[nodiscard]] const Member* find(std::string_view name) const {
        const auto found = std::ranges::find(members, name, &Member::name);
        return found == members.end() ? nullptr : &*found;
    }
};

class OvaNode final : public ReadOnlyNode {
  public:
    OvaNode(NodePtr file, std::string name, NodePtr disk, Appliance appliance)
        : ReadOnlyNode(file->loop(), std::move(name), disk->traits()),
          file_(std::move(file)),
          disk_(std::move(disk)),
          appliance_(std::move(appliance)) {}
    [[nodiscard]] std::string_view format() const override { return "ova"; }
    [[nodiscard]] std::uint64_t size() const override { return disk_->size(); }
    [[nodiscard]] Node* file() const override { return file_.get(); }
    [[nodiscard]] std::vector<Node*> children() const override { return {disk_.get()}; }
    Task<> read(std::uint64_t offset, Buffers into) override { return disk_->read(offset, into); }
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override {
        return disk_->status(offset, length);
    }
    Task<> close() override { return disk_->close(); }
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
        for (const auto& [name, digest] : appliance_.manifest) {
            const Member* member = appliance_.find(name);
            if (member == nullptr) {
                ++report.corruptions;
                report.messages.push_back(
                    fmt::format("ERROR the manifest names '{:.100}', which is not there", name));
                continue;
            }
            const Member copy = *member;
            STRATA_CO_TRY(const std::string sum,
                          co_await digest_of(*file_, copy, digest.algorithm));
            if (sum != digest.hex && !sum.empty()) {
                ++report.corruptions;
                report.messages.push_back(fmt::format(
                    "ERROR '{:.100}' is not what the manifest says ({})", name, digest.algorithm));
            }
        }
        co_return report;
    }

  private:
    const NodePtr file_, disk_;
    const Appliance appliance_;
};

unsigned probe(std::span<const std::byte> start, std::string_view /*path*/) {
    return wording() != Wording::Qemu && archive::name_in_header(start).ends_with(".ovf") ? 90 : 0;
}

Task<std::string> text_of(Node& file, Member member, std::string name) {
    if (member.size > archive::kMaxXml) {
        co_return broken_image("OVA", name,
                               fmt::format("'{:.100}' has {} bytes", member.name, member.size));
    }
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(file, member.offset, member.size));
    // SAFETY: bytes as characters.
    co_return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Task<Appliance> read_appliance(Node& file, std::string name) {
    Appliance appliance;
    STRATA_CO_TRY_VOID(co_await archive::walk_tar(file, kMaxMembers, [&](const Member& each) {
        appliance.members.push_back(each);
        if (appliance.members.back().name.starts_with("./")) {
            appliance.members.back().name.erase(0, 2);
        }
        return ok();
    }));
    const auto ends = [&](std::string_view ending) {
        return std::ranges::find_if(
            appliance.members, [&](const Member& each) { return each.name.ends_with(ending); });
    };
    const auto description = ends(".ovf"), manifest = ends(".mf");
    if (description == appliance.members.end()) {
        co_return broken_image("OVA", name, "no OVF description is in it");
    }
    STRATA_CO_TRY(const std::string text, co_await text_of(file, *description, name));
    STRATA_CO_TRY(appliance.disks, parse_ovf(text, name));
    if (manifest != appliance.members.end()) {
        STRATA_CO_TRY(const std::string lines, co_await text_of(file, *manifest, name));
        appliance.manifest = parse_manifest(lines);
    }
    co_return appliance;
}

/// The disk that was asked for, or the only one.
Result<OvfDisk> choose(const Appliance& appliance, const OpenOptions& options) {
    std::string all;
    for (const OvfDisk& each : appliance.disks) {
        all += fmt::format("{}{}", all.empty() ? "" : ", ", each.file);
        if (options.extra_of("disk") == each.file) {
            return each;
        }
    }
    if (options.extra_of("disk").empty() && appliance.disks.size() == 1) {
        return appliance.disks[0];
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
    if (!options.read_only) {
        co_return co_await open_new_appliance(std::move(file), std::move(options));
    }
    STRATA_CO_TRY(Appliance appliance, co_await read_appliance(*file, options.path));
    STRATA_CO_TRY(const OvfDisk disk, choose(appliance, options));
    const Member* member = appliance.find(disk.file);
    if (member == nullptr) {
        co_return broken_image("OVA", options.path,
                               fmt::format("its disk '{:.100}' is not in it", disk.file));
    }
    auto content = std::make_shared<archive::SectionNode>(file, member->offset, member->size);
    STRATA_CO_TRY(NodePtr inner, co_await open_disk(std::move(content), options, disk));
    co_return NodePtr(std::make_shared<OvaNode>(std::move(file), options.path, std::move(inner),
                                                std::move(appliance)));
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
