// FatNode: reading, and what is said on command lines.
#include "block/protocols/fat/fat_node.h"

#include <algorithm>
#include <cerrno>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "block/wording.h"

namespace strata::block::fat {
namespace {

constexpr std::string_view kPrefix = "fat:";
constexpr std::size_t kKeptOpen = 16;

struct Options {
    std::string folder;
    VolumeOptions volume;
};

Result<Options> take_options(NodeTree& tree, bool read_only) {
    Options options;
    const auto folder = tree.take("dir");
    if (!folder || folder->empty()) {
        return Error{ErrorKind::InvalidArgument, "vvfat block driver requires a 'dir' option",
                     EINVAL};
    }
    options.folder = *folder;
    options.volume.bits = static_cast<unsigned>(
        std::min<std::uint64_t>(STRATA_TRY(tree.take_number("fat-type", 0)), 64));
    options.volume.floppy = STRATA_TRY(tree.take_flag("floppy", false));
    options.volume.label =
        tree.take("label").value_or(wording() == Wording::Qemu ? "QEMU VVFAT" : "STRATA");
    const bool writes = STRATA_TRY(tree.take_flag("rw", false));
    STRATA_TRY_VOID(tree.finish("protocol", "vvfat"));
    if (writes) {
        return Error{ErrorKind::PermissionDenied,
                     read_only && wording() == Wording::Qemu
                         ? "Unable to set VVFAT to 'rw' when drive is read-only"
                         : fmt::format("the folder '{}' as a disk can only be read: leave out rw",
                                       options.folder),
                     EPERM};
    }
    return options;
}

/// What a disk is made of, off the loop's thread: folders may be large.
struct Made {
    FolderTree tree;
    FatVolume volume;
};
Result<Made> make(const Options& options) {
    auto tree = FolderTree::scan(options.folder);
    if (!tree.ok()) {
        return wording() == Wording::Qemu
                   ? Error{tree.error().kind(),
                           fmt::format("Could not read directory {}", options.folder),
                           tree.error().system_errno()}
                   : std::move(tree).error();
    }
    auto volume = FatVolume::build(*tree, options.volume);
    if (!volume.ok()) {
        return std::move(volume).error();
    }
    return Made{std::move(tree).value(), std::move(volume).value()};
}

Task<NodePtr> open(Loop& loop, NodeTree tree, OpenOptions common) {
    STRATA_CO_TRY(const Options options, take_options(tree, common.read_only));
    if (!common.read_only) {
        co_return Error{ErrorKind::PermissionDenied,
                        fmt::format("the folder '{}' as a disk can only be read: open it read-only",
                                    options.folder),
                        EROFS};
    }
    auto work = [&options] { return make(options); };
    auto made = co_await loop.offload(std::move(work));
    if (!made.ok()) {
        co_return std::move(made).error();
    }
    co_return NodePtr(std::make_shared<FatNode>(loop, options.folder, std::move(made->tree),
                                                std::move(made->volume)));
}

constexpr NodeDriver kDriver{.name = "vvfat", .open = &open, .named_by_images = false};

}  // namespace

const NodeDriver& driver() {
    return kDriver;
}

bool is_location(std::string_view name) {
    return name.starts_with(kPrefix);
}

OptionList location_options(std::string_view name) {
    constexpr std::string_view kLabel = "label=";
    OptionList options;
    name.remove_prefix(std::min(kPrefix.size(), name.size()));
    for (;;) {
        const std::string_view word = name.substr(0, name.find(':'));
        if (word.size() == name.size()) {
            break;
        }
        if (word == "12" || word == "16" || word == "32") {
            options.emplace_back("fat-type", word);
        } else if (word == "floppy" || word == "rw") {
            options.emplace_back(word, "on");
        } else if (word.starts_with(kLabel)) {
            options.emplace_back("label", word.substr(kLabel.size()));
        } else {
            break;
        }
        name.remove_prefix(word.size() + 1);
    }
    options.emplace_back("dir", name);
    return options;
}

FatNode::FatNode(Loop& loop, const std::string& folder, FolderTree tree, FatVolume volume)
    : ReadOnlyNode(loop, fmt::format("{}{}", kPrefix, folder)),
      tree_(std::move(tree)),
      volume_(std::move(volume)) {
    traits_.sparse = true;
}

FatNode::OpenFile FatNode::kept(std::size_t item) const {
    const auto found = std::ranges::find(open_, item, &std::pair<std::size_t, OpenFile>::first);
    return found == open_.end() ? nullptr : found->second;
}

void FatNode::keep(std::size_t item, OpenFile file) {
    if (kept(item) == nullptr) {
        open_.emplace_front(item, std::move(file));
        open_.resize(std::min(open_.size(), kKeptOpen));
    }
}

Task<> FatNode::read_file(std::size_t item, std::uint64_t offset, Buffers into) {
    OpenFile file = kept(item);
    if (file == nullptr) {
        auto open = [this, item] { return tree_.open(item); };  // never changes
        auto opened = co_await loop().offload(std::move(open));
        if (!opened.ok()) {
            co_return Error{ErrorKind::Failed, opened.error().text(), EIO};
        }
        file = std::make_shared<const UniqueFd>(std::move(opened).value());
        keep(item, file);
    }
    std::vector<iovec> pieces;
    into.append_to(pieces);
    auto transfer = [this, item, offset, &file, &pieces] {
        return tree_.read(item, *file, offset, pieces);
    };
    auto done = co_await loop().offload(std::move(transfer));
    if (!done.ok()) {
        into.fill(std::byte{0});  // nothing of another file stays there
        co_return Error{ErrorKind::Failed, done.error().text(), EIO};
    }
    co_return ok();
}

Task<> FatNode::read(std::uint64_t offset, Buffers into) {
    const std::uint64_t inside =
        offset >= size() ? 0 : std::min<std::uint64_t>(into.size(), size() - offset);
    into.from(inside).fill(std::byte{0});
    std::vector<std::byte> table;
    for (std::uint64_t done = 0; done < inside;) {
        const FatVolume::Piece piece = volume_.find(offset + done, inside - done);
        const Buffers part = into.slice(done, piece.length);
        switch (piece.kind) {
            case FatVolume::Piece::Kind::Zero:
                part.fill(std::byte{0});
                break;
            case FatVolume::Piece::Kind::Bytes:
                part.copy_from(piece.bytes);
                break;
            case FatVolume::Piece::Kind::Table:
                table.resize(piece.length);
                volume_.read_table(piece.offset, table);
                part.copy_from(table);
                break;
            case FatVolume::Piece::Kind::File:
                STRATA_CO_TRY_VOID(co_await read_file(piece.item, piece.offset, part));
                break;
        }
        done += piece.length;
    }
    co_return ok();
}

Task<Extent> FatNode::status(std::uint64_t offset, std::uint64_t length) {
    if (offset >= size()) {
        co_return Extent{.kind = Extent::Kind::Zero, .length = length, .owner = this};
    }
    const FatVolume::Piece first = volume_.find(offset, length);
    const bool zero = first.kind == FatVolume::Piece::Kind::Zero;
    std::uint64_t total = first.length;
    constexpr unsigned kMostPieces = 1024;
    for (unsigned i = 0; i < kMostPieces && total < length && offset + total < size(); ++i) {
        const FatVolume::Piece next = volume_.find(offset + total, length - total);
        if ((next.kind == FatVolume::Piece::Kind::Zero) != zero) {
            break;
        }
        total += next.length;
    }
    co_return Extent{.kind = zero ? Extent::Kind::Zero : Extent::Kind::Data,
                     .length = std::min(total, length),
                     .owner = this};
}

Task<std::uint64_t> FatNode::allocated_bytes() {
    co_return Error{ErrorKind::NotSupported, fmt::format("'{}' is a folder", name()), ENOTSUP};
}

}  // namespace strata::block::fat
