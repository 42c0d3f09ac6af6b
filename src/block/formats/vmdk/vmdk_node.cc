// VmdkNode: requests to extents.
#include "block/formats/vmdk/vmdk_node.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>
#include <set>

#include <fmt/format.h>

#include "block/formats/common/new_image.h"
#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"
#include "block/wording.h"

namespace strata::block::vmdk {

VmdkNode::VmdkNode(NodePtr file, std::string name, bool read_only, Descriptor descriptor,
                   DescriptorPlace place, std::vector<Extent> extents, NodePtr backing)
    : Node(file->loop(), std::move(name)),
      file_(std::move(file)),
      backing_(std::move(backing)),
      descriptor_(std::move(descriptor)),
      place_(place),
      extents_(std::move(extents)),
      beginning_(loop()) {
    traits_.read_only = read_only;
    traits_.fast_zeroes = true;
    traits_.zero_initialised = backing_ == nullptr;
    traits_.sparse = true;
    traits_.discard = true;
    for (const Extent& each : extents_) {
        size_ = std::max(size_, each.start + each.size);
        if (each.node != nullptr && !each.flat) {
            traits_.cluster_size = std::max(traits_.cluster_size, each.node->traits().cluster_size);
        }
        if (each.node == nullptr || each.node->traits().read_only) {
            traits_.read_only = true;
        }
    }
}

std::vector<Node*> VmdkNode::children() const {
    std::vector<Node*> all{file_.get()};
    for (const Extent& each : extents_) {
        if (each.node != nullptr && each.node->file() != file_.get()) {
            all.push_back(each.node.get());
        }
    }
    if (backing_ != nullptr) {
        all.push_back(backing_.get());
    }
    return all;
}

// `offset` lies inside the disk, and extents leave no gap.
const VmdkNode::Extent& VmdkNode::extent_at(std::uint64_t offset) const {
    const auto next =
        std::upper_bound(extents_.begin(), extents_.end(), offset,
                         [](std::uint64_t at, const Extent& each) { return at < each.start; });
    return *std::prev(next);
}

Result<> VmdkNode::check_opened(const Extent& extent) const {
    if (extent.closed) {
        return Error{
            ErrorKind::PermissionDenied,
            fmt::format("VMDK image '{}': its extent '{}' was not opened", name(), extent.file)};
    }
    return ok();
}

Task<> VmdkNode::read(std::uint64_t offset, Buffers into) {
    STRATA_CO_TRY_VOID(check_range(offset, into.size(), false));
    for (std::uint64_t done = 0; done < into.size();) {
        const Extent& extent = extent_at(offset + done);
        STRATA_CO_TRY_VOID(check_opened(extent));
        const std::uint64_t within = offset + done - extent.start;
        const Buffers part = into.slice(done, std::min(into.size() - done, extent.size - within));
        if (extent.node == nullptr) {
            part.fill(std::byte{0});
        } else {
            STRATA_CO_TRY_VOID(co_await extent.node->read(extent.offset + within, part));
        }
        done += part.size();
    }
    co_return ok();
}

Task<> VmdkNode::begin_write() {
    if (begun_) {
        co_return ok();
    }
    const auto lock = co_await beginning_.lock();
    if (begun_) {
        co_return ok();
    }
    std::random_device random;
    std::uint32_t cid =
        random() & 0xFFFFFFF0U;  // neither "none" nor the one of before the first writing
    cid = cid == descriptor_.cid ? cid ^ 0x10U : cid;
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(*file_, place_.offset, place_.length));
    std::string text(bytes.size(), '\0');
    std::memcpy(text.data(), bytes.data(), bytes.size());
    STRATA_CO_TRY(text, with_cid(std::move(text), cid, name()));
    if (text.size() > bytes.size() && place_.offset != 0) {
        co_return Error(
            ErrorKind::Failed,
            fmt::format(
                "VMDK image '{}': its descriptor has no room for a content id of eight digits",
                name()),
            EIO);
    }
    STRATA_CO_TRY_VOID(
        co_await file_->write(place_.offset, Buffers::of(std::as_bytes(std::span(text)))));
    STRATA_CO_TRY_VOID(co_await file_->flush());
    descriptor_.cid = cid;
    begun_ = true;
    co_return ok();
}

Task<> VmdkNode::write(std::uint64_t offset, Buffers from) {
    STRATA_CO_TRY_VOID(check_range(offset, from.size(), true));
    STRATA_CO_TRY_VOID(co_await begin_write());
    for (std::uint64_t done = 0; done < from.size();) {
        const Extent& extent = extent_at(offset + done);
        const std::uint64_t within = offset + done - extent.start;
        const Buffers part = from.slice(done, std::min(from.size() - done, extent.size - within));
        STRATA_CO_TRY_VOID(co_await extent.node->write(extent.offset + within, part));
        done += part.size();
    }
    co_return ok();
}

Task<> VmdkNode::write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) {
    STRATA_CO_TRY_VOID(check_range(offset, length, true));
    STRATA_CO_TRY_VOID(co_await begin_write());
    while (length != 0) {
        const Extent& extent = extent_at(offset);
        const std::uint64_t part = std::min(length, extent.start + extent.size - offset);
        STRATA_CO_TRY_VOID(co_await extent.node->write_zeroes(
            extent.offset + (offset - extent.start), part, options));
        offset += part;
        length -= part;
    }
    co_return ok();
}

Task<> VmdkNode::discard(std::uint64_t offset, std::uint64_t length) {
    STRATA_CO_TRY_VOID(check_range(offset, length, true));
    STRATA_CO_TRY_VOID(co_await begin_write());
    while (length != 0) {
        const Extent& extent = extent_at(offset);
        const std::uint64_t part = std::min(length, extent.start + extent.size - offset);
        STRATA_CO_TRY_VOID(
            co_await extent.node->discard(extent.offset + (offset - extent.start), part));
        offset += part;
        length -= part;
    }
    co_return ok();
}

Task<> VmdkNode::flush() {
    for (const Extent& each : extents_) {
        if (each.node != nullptr) {
            STRATA_CO_TRY_VOID(co_await each.node->flush());
        }
    }
    co_return ok();
}

Task<block::Extent> VmdkNode::status(std::uint64_t offset, std::uint64_t length) {
    STRATA_CO_TRY_VOID(check_range(offset, length, false));
    const Extent& extent = extent_at(offset);
    STRATA_CO_TRY_VOID(check_opened(extent));
    const std::uint64_t within = offset - extent.start;
    length = std::min(length, extent.size - within);
    if (extent.node == nullptr) {
        co_return block::Extent{.kind = block::Extent::Kind::Zero, .length = length, .owner = this};
    }
    STRATA_CO_TRY(block::Extent found,
                  co_await extent.node->status(extent.offset + within, length));
    found.owner = this;
    co_return found;
}

Task<> VmdkNode::close() {
    if (closed_) {
        co_return ok();
    }
    closed_ = true;
    for (const Extent& each : extents_) {
        if (each.node != nullptr) {
            STRATA_CO_TRY_VOID(co_await each.node->flush());
            STRATA_CO_TRY_VOID(co_await each.node->close());
        }
    }
    if (backing_ != nullptr) {
        STRATA_CO_TRY_VOID(co_await backing_->close());
    }
    co_return co_await file_->close();
}

std::vector<InfoField> VmdkNode::extent_info(const Extent& extent) const {
    const bool embedded = extent.node != nullptr && extent.node->file() == file_.get();
    std::vector<InfoField> fields;
    fields.push_back(info_field(
        "filename", "filename",
        extent.node != nullptr ? std::string(extent.node->name()) : std::string(extent.file)));
    // The peer knows the type of an extent in a file of its own alone.
    const bool nameless = embedded && wording() == Wording::Qemu;
    fields.push_back(
        info_field("format", "format", nameless ? std::string() : std::string(extent.type_name)));
    fields.push_back(
        info_field("virtual-size", "virtual size", static_cast<std::int64_t>(extent.size)));
    if (extent.node != nullptr && !extent.flat) {
        fields.push_back(info_field("cluster-size", "cluster size",
                                    static_cast<std::int64_t>(extent.node->traits().cluster_size)));
    }
    if (extent.compressed) {
        fields.push_back(info_field("compressed", "compressed", true));
    }
    return fields;
}

Task<FormatInfo> VmdkNode::info() {
    FormatInfo info;
    info.cluster_size = traits_.cluster_size;
    info.backing_name = descriptor_.parent;
    info.backing_format = descriptor_.parent.empty() ? "" : "vmdk";
    info.specific.push_back(info_field("cid", "cid", static_cast<std::int64_t>(descriptor_.cid)));
    info.specific.push_back(
        info_field("parent-cid", "parent cid", static_cast<std::int64_t>(descriptor_.parent_cid)));
    info.specific.push_back(info_field("create-type", "create type", descriptor_.create_type));
    std::vector<std::vector<InfoField>> extents;
    for (const Extent& each : extents_) {
        extents.push_back(extent_info(each));
    }
    info.specific.push_back(info_field("extents", "extents", std::move(extents)));
    co_return info;
}

Task<CheckReport> VmdkNode::check(Repair repair) {
    CheckReport all;
    for (const Extent& each : extents_) {
        STRATA_CO_TRY_VOID(check_opened(each));
        if (each.node == nullptr || each.flat) {
            continue;
        }
        STRATA_CO_TRY(CheckReport report, co_await each.node->check(repair));
        all.corruptions += report.corruptions;
        all.total_clusters += report.total_clusters;
        all.allocated_clusters += report.allocated_clusters;
        all.fragmented_clusters += report.fragmented_clusters;
        all.compressed_clusters += report.compressed_clusters;
        all.image_end_offset = std::max(all.image_end_offset, report.image_end_offset);
        all.messages.insert(all.messages.end(), report.messages.begin(), report.messages.end());
    }
    co_return all;
}

}  // namespace strata::block::vmdk
