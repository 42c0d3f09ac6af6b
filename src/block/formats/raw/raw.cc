// RawNode: a window on a file.
#include "block/formats/raw/raw.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include <fmt/format.h>

#include "base/text.h"
#include "block/protocols/file/file_node.h"

namespace strata::block::raw {
namespace {

constexpr std::array kOptions{
    CreateOption{"size", CreateOption::Kind::Size, "Virtual disk size"},
    CreateOption{"preallocation", CreateOption::Kind::Text,
                 "Preallocation mode (allowed values: off, falloc, full)", "off"},
};

constexpr std::size_t kFirstBlock = 4096;

unsigned probe(std::span<const std::byte> /*start*/, std::string_view /*path*/) {
    return 1;
}

Task<NodePtr> open(NodePtr file, OpenOptions options) {
    std::uint64_t start = 0, size = (file->size() + kSectorSize - 1) / kSectorSize * kSectorSize;
    if (const std::string_view text = options.extra_of("offset"); !text.empty()) {
        STRATA_CO_TRY(start, parse_size(text));
    }
    if (start > size) {
        co_return Error{
            ErrorKind::InvalidArgument,
            fmt::format("'{}' has {} bytes, offset={} is past them", options.path, size, start)};
    }
    size -= start;
    if (const std::string_view text = options.extra_of("size"); !text.empty()) {
        STRATA_CO_TRY(const std::uint64_t wanted, parse_size(text));
        if (wanted > size) {
            co_return Error{ErrorKind::InvalidArgument,
                            fmt::format("'{}' has {} bytes from {} on, size={} is more",
                                        options.path, size, start, wanted)};
        }
        size = wanted;
    }
    const bool guessed = options.extra_of("guessed") == "on";
    co_return NodePtr(std::make_shared<RawNode>(std::move(file), start, size, guessed));
}

Result<Preallocation> preallocation_of(const CreateRequest& request) {
    const std::string_view mode = request.option("preallocation", "off");
    if (mode == "off") {
        return Preallocation::Off;
    }
    if (mode == "falloc") {
        return Preallocation::Falloc;
    }
    if (mode == "full") {
        return Preallocation::Full;
    }
    return Error{ErrorKind::InvalidArgument,
                 fmt::format("preallocation={}: use off, falloc or full", mode)};
}

Task<> create(Loop& loop, CreateRequest request) {
    STRATA_CO_TRY(const Preallocation preallocation, preallocation_of(request));
    const std::uint64_t size = (request.size + kSectorSize - 1) / kSectorSize * kSectorSize;
    const bool plain = preallocation == Preallocation::Off;
    STRATA_CO_TRY(const NodePtr file, co_await open_new(loop, request.path, plain ? size : 0));
    if (!plain) {
        STRATA_CO_TRY_VOID(co_await file->resize(size, preallocation));
    } else if (const auto* made = dynamic_cast<const FileNode*>(file.get());
               size != 0 && made != nullptr && !made->is_device()) {
        // A first block that is there tells programs quickly which alignment direct transfers want.
        const std::array<std::byte, kFirstBlock> zeros{};
        STRATA_CO_TRY_VOID(co_await file->write(
            0, Buffers::of(std::span(zeros).first(std::min<std::uint64_t>(size, kFirstBlock)))));
    }
    co_return co_await file->close();
}

Task<Measurement> measure(Node* source, CreateRequest request) {
    const std::uint64_t size = source != nullptr
                                   ? source->size()
                                   : (request.size + kSectorSize - 1) / kSectorSize * kSectorSize;
    co_return Measurement{.required = size, .fully_allocated = size};
}

constexpr FormatDriver kDriver{.name = "raw",
                               .probe = &probe,
                               .open = &open,
                               .create = &create,
                               .create_options = kOptions,
                               .measure = &measure};

}  // namespace

const FormatDriver& driver() {
    return kDriver;
}

RawNode::RawNode(NodePtr file, std::uint64_t start, std::uint64_t size, bool guessed)
    : Node(file->loop(), file->name()),
      file_(std::move(file)),
      start_(start),
      size_(size),
      guessed_(guessed) {}

Task<> RawNode::check_start(std::uint64_t offset, Buffers from) {
    std::array<std::byte, kSectorSize> sector{};
    STRATA_CO_TRY_VOID(co_await file_->read(0, Buffers(std::span(sector))));
    const std::size_t part = std::min<std::uint64_t>(from.size(), kSectorSize - offset);
    from.slice(0, part).copy_to(std::span(sector).subspan(offset));
    for (const FormatDriver& each : format_drivers()) {
        if (each.name != "raw" && each.probe != nullptr && each.probe(sector, "") > 1) {
            co_return Error{ErrorKind::PermissionDenied,
                            fmt::format("'{}': its format was guessed to be raw, and its first "
                                        "sector is not made one of {}",
                                        name(), each.name),
                            EPERM};
        }
    }
    co_return ok();
}

Task<> RawNode::read(std::uint64_t offset, Buffers into) {
    STRATA_CO_TRY_VOID(check_range(offset, into.size(), false));
    file_->note(NodeEvent::ReadAio);
    co_return co_await file_->read(start_ + offset, into);
}

Task<> RawNode::write(std::uint64_t offset, Buffers from) {
    STRATA_CO_TRY_VOID(check_range(offset, from.size(), true));
    if (guessed_ && start_ + offset < kSectorSize && !from.empty()) {
        STRATA_CO_TRY_VOID(co_await check_start(start_ + offset, from));
    }
    file_->note(NodeEvent::WriteAio);
    co_return co_await file_->write(start_ + offset, from);
}

Task<> RawNode::write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) {
    STRATA_CO_TRY_VOID(check_range(offset, length, true));
    co_return co_await file_->write_zeroes(start_ + offset, length, options);
}

Task<> RawNode::discard(std::uint64_t offset, std::uint64_t length) {
    STRATA_CO_TRY_VOID(check_range(offset, length, true));
    co_return co_await file_->discard(start_ + offset, length);
}

Task<Extent> RawNode::status(std::uint64_t offset, std::uint64_t length) {
    STRATA_CO_TRY_VOID(check_range(offset, length, false));
    STRATA_CO_TRY(Extent extent, co_await file_->status(start_ + offset, length));
    // The file's last sector may be cut off: what lacks belongs to what is there.
    const std::uint64_t end = start_ + offset + extent.length;
    if (end == file_->size() && end % kSectorSize != 0 && end < start_ + size_) {
        extent.length = std::min(length, size_ - offset);
    }
    extent.owner = this;
    co_return extent;
}

Task<> RawNode::resize(std::uint64_t size, Preallocation preallocation) {
    if (start_ != 0) {
        co_return lacks("resizing while they are a part of a file");
    }
    STRATA_CO_TRY_VOID(co_await file_->resize(size, preallocation));
    size_ = (size + kSectorSize - 1) / kSectorSize * kSectorSize;
    co_return ok();
}

Task<> RawNode::copy_from(Node& source, std::uint64_t from, std::uint64_t to,
                          std::uint64_t length) {
    STRATA_CO_TRY_VOID(check_range(to, length, true));
    co_return co_await file_->copy_from(source, from, start_ + to, length);
}

}  // namespace strata::block::raw
