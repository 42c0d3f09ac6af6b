// Direct comparison: piece by piece.
#include "block/jobs/direct_compare.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <span>

#include <unistd.h>

#include "block/protocols/file/file_node.h"
#include "block/registry.h"

namespace strata::block {
namespace {

constexpr std::size_t kPiece = 128U << 10, kSector = 512;
using Piece = std::array<std::byte, kPiece>;

bool fill(FileStretch from, std::span<std::byte> into) {
    std::size_t done = 0;
    while (done < into.size()) {
        const ssize_t got = ::pread(from.fd, into.data() + done, into.size() - done,
                                    static_cast<off_t>(from.offset + done));
        if (got <= 0) {  // EINTR as well: the other way is slower, not wrong
            return false;
        }
        done += static_cast<std::size_t>(got);
    }
    return true;
}

/// Of the first sector where they differ; an empty `other` stands for zeros.
std::optional<std::size_t> difference(std::span<const std::byte> one,
                                      std::span<const std::byte> other) {
    const auto same = [&](std::size_t at, std::size_t count) {
        return other.empty() ? is_zero(one.subspan(at, count))
                             : std::memcmp(one.data() + at, other.data() + at, count) == 0;
    };
    if (same(0, one.size())) {
        return std::nullopt;
    }
    for (std::size_t at = 0; at < one.size(); at += kSector) {
        if (!same(at, std::min(kSector, one.size() - at))) {
            return at;
        }
    }
    return std::nullopt;
}

/// False: it cannot be read.
bool compare_pair(const StretchPair& pair, std::optional<std::uint64_t>& place) {
    thread_local const auto one = std::make_unique<Piece>(), other = std::make_unique<Piece>();
    FileStretch first = pair.first, second = pair.second;
    if (first.fd < 0) {
        std::swap(first, second);
    }
    for (std::size_t at = 0; at < pair.length && !place; at += kPiece) {
        const std::size_t part = std::min(kPiece, pair.length - at);
        const auto here = std::span(*one).first(part);
        const auto there = std::span(*other).first(second.fd < 0 ? 0 : part);
        if (!fill({first.fd, first.offset + at}, here) ||
            !fill({second.fd, second.offset + at}, there)) {
            return false;
        }
        if (const auto found = difference(here, there)) {
            place = pair.at + at + *found;
        }
    }
    return true;
}

}  // namespace

bool shows_files(const Node& top) {
    if (dynamic_cast<const FileNode*>(&top) != nullptr) {
        return true;
    }
    const std::vector<Node*> children = top.children();
    return find_format(top.format()).ok() &&
           std::all_of(children.begin(), children.end(),
                       [](const Node* each) { return shows_files(*each); });
}

std::optional<FileStretch> stretch_of(const Extent& extent) {
    const auto* file = extent.has_offset && !extent.compressed
                           ? dynamic_cast<const FileNode*>(extent.file)
                           : nullptr;
    if (file == nullptr || file->cache() == CacheMode::None) {
        return std::nullopt;
    }
    return FileStretch{file->fd(), extent.offset};
}

StretchComparison compare_stretches(std::span<const StretchPair> pairs) {
    for (std::size_t i = 0; i < pairs.size(); ++i) {
        std::optional<std::uint64_t> place;
        if (!compare_pair(pairs[i], place) || place) {
            return {i, place};
        }
    }
    return {pairs.size(), std::nullopt};
}

}  // namespace strata::block
