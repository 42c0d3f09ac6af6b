// Direct unpacking: run by run.
#include "block/jobs/direct_unpack.h"

#include <algorithm>

#include <unistd.h>

#include "block/aligned_buffer.h"
#include "block/jobs/direct_compare.h"
#include "block/jobs/zero_runs.h"
#include "block/protocols/file/file_node.h"

namespace strata::block {
namespace {

constexpr std::size_t kAtOnce = 128U << 10;  ///< unpacked: stays in the processor's cache
constexpr std::uint64_t kSector = 512, kPage = 4096;

bool cached(const FileNode& file) {
    return file.cache() == CacheMode::Writeback || file.cache() == CacheMode::Unsafe;
}

/// Zeros behind the file's end.
bool fill(int fd, std::uint64_t offset, std::span<std::byte> into) {
    while (!into.empty()) {
        const ssize_t got = ::pread(fd, into.data(), into.size(), static_cast<off_t>(offset));
        if (got < 0) {  // EINTR as well: the other way is slower, not wrong
            return false;
        }
        if (got == 0) {
            std::ranges::fill(into, std::byte{0});
            return true;
        }
        into = into.subspan(static_cast<std::size_t>(got));
        offset += static_cast<std::uint64_t>(got);
    }
    return true;
}

bool put(int fd, std::uint64_t offset, std::span<const std::byte> from) {
    while (!from.empty()) {
        const ssize_t done = ::pwrite(fd, from.data(), from.size(), static_cast<off_t>(offset));
        if (done <= 0) {
            return false;
        }
        from = from.subspan(static_cast<std::size_t>(done));
        offset += static_cast<std::uint64_t>(done);
    }
    return true;
}

/// Of `pieces` as many as one read takes: each begins and ends behind the one before, so that the
/// last one's end is the run's, whatever the image says.
std::size_t run_of(const UnpackRoute& route, std::span<const PackedPiece> pieces) {
    const std::size_t most = std::max<std::size_t>(kAtOnce / route.cluster, 1);
    std::size_t count = 1;
    while (count < std::min(most, pieces.size()) && pieces[count].follows(pieces[count - 1])) {
        ++count;
    }
    return count;
}

bool put_data(const DirectTarget& to, std::uint64_t sparse, std::uint64_t at,
              std::span<const std::byte> bytes) {
    if (sparse == 0) {
        return put(to.fd, to.start + at, bytes);
    }
    const std::uint64_t alignment = std::clamp(sparse, kSector, kPage);
    for (ZeroRuns runs(bytes, at, sparse, alignment); const auto run = runs.next();) {
        if (!run->zero &&
            !put(to.fd, to.start + at + run->offset, bytes.subspan(run->offset, run->length))) {
            return false;
        }
    }
    return true;
}

}  // namespace

Task<std::optional<DirectTarget>> direct_target(Node& target) {
    const auto* file = dynamic_cast<const FileNode*>(&target);
    DirectTarget found;
    if (file == nullptr && target.format() == "raw" && target.size() != 0) {
        file = dynamic_cast<const FileNode*>(target.file());
        STRATA_CO_TRY(const Extent start, co_await target.status(0, 1));
        if (!start.has_offset || start.file != file) {
            co_return std::nullopt;
        }
        found.start = start.offset;
    }
    if (file == nullptr || file->traits().read_only || !cached(*file) ||
        found.start + target.size() > file->size()) {
        co_return std::nullopt;
    }
    found.fd = file->fd();
    found.size = target.size();
    co_return found;
}

std::optional<UnpackRoute> unpack_route(const PackedSource& source, const DirectTarget& target,
                                        std::uint64_t sparse) {
    const auto* file = dynamic_cast<const FileNode*>(source.packed_file());
    if (file == nullptr || !file->traits().read_only || !cached(*file)) {
        return std::nullopt;
    }
    return UnpackRoute{file->fd(), target, source.packed_cluster(), source.unpacker(), sparse};
}

bool unpack_pieces(const UnpackRoute& route, std::span<const PackedPiece> pieces,
                   std::uint64_t at) {
    while (!pieces.empty()) {
        const auto run = pieces.first(run_of(route, pieces));
        const std::uint64_t begin = run.front().host;
        const AlignedBuffer packed(run.back().host + run.back().length - begin);
        const AlignedBuffer whole(run.size() * route.cluster);
        if (!fill(route.from, begin, packed.bytes())) {
            return false;
        }
        for (std::size_t i = 0; i < run.size(); ++i) {
            if (!route.unpack(packed.bytes().subspan(run[i].host - begin, run[i].length),
                              whole.bytes().subspan(i * route.cluster, route.cluster))) {
                return false;
            }
        }
        if (!put_data(route.to, route.sparse, at, whole.bytes())) {
            return false;
        }
        at += whole.size();
        pieces = pieces.subspan(run.size());
    }
    return true;
}

bool copy_stretch(FileStretch from, const DirectTarget& target, std::uint64_t at,
                  std::uint64_t length, std::uint64_t sparse) {
    thread_local const AlignedBuffer piece(kAtOnce);
    while (length != 0) {
        const auto bytes = piece.bytes().first(std::min<std::uint64_t>(length, kAtOnce));
        if (!fill(from.fd, from.offset, bytes) || !put_data(target, sparse, at, bytes)) {
            return false;
        }
        from.offset += bytes.size();
        at += bytes.size();
        length -= bytes.size();
    }
    return true;
}

}  // namespace strata::block
