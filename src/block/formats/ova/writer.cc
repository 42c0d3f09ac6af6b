// OvaWriter: the archive's parts.
#include "block/formats/ova/writer.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <filesystem>
#include <memory>

#include <fmt/format.h>

#include "base/text.h"
#include "block/formats/archive/tar.h"
#include "block/formats/common/first_failure.h"
#include "block/formats/common/new_image.h"
#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"
#include "block/formats/ova/appliance.h"
#include "block/formats/ova/digest.h"
#include "block/formats/vmdk/create.h"
#include "block/formats/vmdk/vmdk.h"

namespace strata::block::ova {
namespace {

using archive::kTarBlock;
using archive::Member;
using archive::tar_header;

using Kind = CreateOption::Kind;
constexpr std::array kOptions{
    CreateOption{"size", Kind::Size, "Virtual disk size"},
    CreateOption{"name", Kind::Text, "Name of the machine (default: the file's)"},
    CreateOption{"cpus", Kind::Number, "Processors of the machine", "1"},
    CreateOption{"memory", Kind::Size, "Memory of the machine", "1G"},
};

constexpr std::size_t kMaxName = 60;
constexpr std::string_view kNoSize = "ovf:size=\"0\"";

std::span<const std::byte> bytes_of(const std::string& text) {
    return std::as_bytes(std::span(text));
}

/// "SHA256(description)= …", "SHA256(disk)= …": as long whatever the digests are.
std::string manifest_of(const std::string& description, const std::string& description_sum,
                        const std::string& disk, const std::string& disk_sum) {
    return fmt::format("SHA256({})= {:0>64}\nSHA256({})= {:0>64}\n", description, description_sum,
                       disk, disk_sum);
}

/// Appends a member with its header, up to a whole block.
void append(std::vector<std::byte>& archive, const std::string& name,
            std::span<const std::byte> content) {
    const auto header =
        tar_header(name, content.size(), static_cast<std::uint64_t>(std::time(nullptr)));
    archive.insert(archive.end(), header.begin(), header.end());
    archive.insert(archive.end(), content.begin(), content.end());
    archive.resize(round_up(archive.size(), kTarBlock));
}

/// What the members are called: after the archive, without what names in archives should not have.
std::string base_name(const std::string& path) {
    std::string name = std::filesystem::path(path).stem().string();
    for (char& each : name) {
        const bool fine = (each >= 'a' && each <= 'z') || (each >= 'A' && each <= 'Z') ||
                          (each >= '0' && each <= '9') || each == '-' || each == '_' || each == '.';
        each = fine ? each : '_';
    }
    name.resize(std::min(name.size(), kMaxName));
    return name.empty() || name.starts_with('.') ? "appliance" : name;
}

/// The end of a file as a file: the disk's part of the archive.
class TailNode final : public Node {
  public:
    TailNode(NodePtr file, std::uint64_t start)
        : Node(file->loop(), file->name()), file_(std::move(file)), start_(start) {}
    [[nodiscard]] std::string_view format() const override { return "tail"; }
    [[nodiscard]] std::uint64_t size() const override { return file_->size() - start_; }
    [[nodiscard]] const NodeTraits& traits() const override { return file_->traits(); }
    Task<> read(std::uint64_t offset, Buffers into) override {
        return file_->read(start_ + offset, into);
    }
    Task<> write(std::uint64_t offset, Buffers from) override {
        return file_->write(start_ + offset, from);
    }
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override {
        return file_->write_zeroes(start_ + offset, length, options);
    }
    Task<> discard(std::uint64_t /*offset*/, std::uint64_t /*length*/) override { co_return ok(); }
    Task<> flush() override { return file_->flush(); }
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override {
        return file_->status(start_ + offset, length);
    }
    /// The archive is closed by its writer.
    Task<> close() override { return file_->flush(); }

  private:
    const NodePtr file_;
    const std::uint64_t start_;
};

class OvaWriter final : public Node {
  public:
    OvaWriter(NodePtr file, std::string name, NodePtr stream, std::array<Member, 3> members)
        : Node(file->loop(), std::move(name)),
          file_(std::move(file)),
          stream_(std::move(stream)),
          members_(std::move(members)) {}
    [[nodiscard]] std::string_view format() const override { return "ova"; }
    [[nodiscard]] std::uint64_t size() const override { return stream_->size(); }
    [[nodiscard]] const NodeTraits& traits() const override { return stream_->traits(); }
    [[nodiscard]] Node* file() const override { return file_.get(); }
    Task<> read(std::uint64_t offset, Buffers into) override { return stream_->read(offset, into); }
    Task<> write(std::uint64_t offset, Buffers from) override {
        return stream_->write(offset, from);
    }
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override {
        return stream_->write_zeroes(offset, length, options);
    }
    Task<> discard(std::uint64_t offset, std::uint64_t length) override {
        return stream_->discard(offset, length);
    }
    Task<> flush() override { return stream_->flush(); }
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override {
        return stream_->status(offset, length);
    }
    Task<> write_compressed(std::uint64_t offset, Buffers from) override {
        return stream_->write_compressed(offset, from);
    }
    Task<> close() override {
        if (closed_) {
            co_return failure_.so_far();
        }
        closed_ = true;
        const Result<> done = failure_.keep(co_await finish_all());
        const Result<> closed = failure_.keep(co_await file_->close());
        co_return done.ok() ? closed : done;
    }

  private:
    /// The stream tells of a write that failed: the archive gets no end then.
    Task<> finish_all() {
        STRATA_CO_TRY_VOID(co_await stream_->close());
        co_return co_await finish();
    }
    Task<> finish() {
        const auto& [description, manifest, started] = members_;
        Member disk = started;
        disk.size = file_->size() - disk.offset;
        std::string text(kDescriptionBytes, '\0');
        STRATA_CO_TRY_VOID(co_await file_->read(description.offset,
                                                Buffers(std::as_writable_bytes(std::span(text)))));
        const std::size_t place = text.find(kNoSize);
        if (place == std::string::npos) {
            co_return broken_image("OVA", name(),
                                   "its description is not the one it was made with");
        }
        text.replace(place, kNoSize.size(), fmt::format("ovf:size=\"{}\"", disk.size));
        if (text.find_last_not_of('\n') >= kDescriptionBytes) {
            co_return broken_image("OVA", name(),
                                   "its description has no room for the disk's size");
        }
        text.resize(kDescriptionBytes);  // blanks at the end go
        STRATA_CO_TRY_VOID(co_await file_->write(description.offset, Buffers::of(bytes_of(text))));
        STRATA_CO_TRY(const std::string first, co_await digest_of(*file_, description, "SHA256"));
        STRATA_CO_TRY(const std::string second, co_await digest_of(*file_, disk, "SHA256"));
        const std::string sums = manifest_of(description.name, first, disk.name, second);
        STRATA_CO_TRY_VOID(co_await file_->write(manifest.offset, Buffers::of(bytes_of(sums))));
        const auto header =
            tar_header(disk.name, disk.size, static_cast<std::uint64_t>(std::time(nullptr)));
        const std::vector<std::byte> end(2 * kTarBlock);
        STRATA_CO_TRY_VOID(co_await file_->write(disk.offset + disk.size, Buffers::of(end)));
        STRATA_CO_TRY_VOID(co_await file_->flush());
        STRATA_CO_TRY_VOID(co_await file_->write(disk.offset - kTarBlock, Buffers::of(header)));
        co_return co_await file_->flush();
    }

    const NodePtr file_, stream_;
    const std::array<Member, 3> members_;
    FirstFailure failure_;
    bool closed_ = false;
};

}  // namespace

std::span<const CreateOption> create_options() {
    return kOptions;
}

Task<> create(Loop& loop, CreateRequest request) {
    const std::string base = base_name(request.path);
    NewAppliance appliance;
    appliance.name = request.option("name", base);
    appliance.capacity = round_up(request.size, 512);
    STRATA_CO_TRY(appliance.cpus, parse_integer(request.option("cpus", "1"), 1, 4096));
    STRATA_CO_TRY(const std::uint64_t memory, request.number("memory", 1U << 30));
    appliance.memory_mib = std::max<std::uint64_t>(1, memory >> 20);
    const std::string description = base + ".ovf", disk = base + "-disk1.vmdk";
    STRATA_CO_TRY(const std::string text, describe_appliance(appliance, disk, 0));
    CreateRequest stream;
    stream.path = request.path;
    stream.size = appliance.capacity;
    stream.options = {{"adapter_type", "lsilogic"}, {"hwversion", "10"}};
    STRATA_CO_TRY(const std::vector<std::byte> start, vmdk::stream_start(stream, disk));
    std::vector<std::byte> archive;
    append(archive, description, bytes_of(text));
    append(archive, base + ".mf", bytes_of(manifest_of(description, "", disk, "")));
    append(archive, disk, start);
    const std::uint64_t length = archive.size();
    Pieces pieces;
    pieces.emplace_back(0, std::move(archive));
    co_return co_await write_new_image(loop, request.path, std::move(pieces), length);
}

Task<NodePtr> open_new_appliance(NodePtr file, OpenOptions options) {
    std::vector<Member> members;
    STRATA_CO_TRY_VOID(co_await archive::walk_tar(*file, 4, [&](const Member& each) {
        members.push_back(each);
        return ok();
    }));
    const Error refused =
        unsupported_image("OVA", options.path, "appliances can be read only; open it read-only");
    if (members.size() != 3 || !members[0].name.ends_with(".ovf") ||
        members[0].size != kDescriptionBytes || !members[1].name.ends_with(".mf") ||
        members[2].offset + members[2].size != file->size()) {
        co_return refused;
    }
    OpenOptions inner;
    inner.path = options.path;
    inner.format = "vmdk";
    auto tail = std::make_shared<TailNode>(file, members[2].offset);
    auto stream = co_await vmdk::driver().open(std::move(tail), std::move(inner));
    if (!stream.ok() || !(*stream)->traits().whole_clusters) {
        co_return refused;  // it has its content
    }
    std::array<Member, 3> places{members[0], members[1], members[2]};
    co_return NodePtr(std::make_shared<OvaWriter>(std::move(file), options.path, std::move(*stream),
                                                  std::move(places)));
}

}  // namespace strata::block::ova
