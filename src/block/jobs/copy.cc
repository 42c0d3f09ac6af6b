// The copy job: one scanner cuts the disk into chunks, several transfers carry them.
#include "block/jobs/copy.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "block/jobs/buffer_pool.h"
#include "block/jobs/direct_compare.h"
#include "block/jobs/direct_unpack.h"
#include "block/jobs/zero_runs.h"
#include "block/packed_target.h"
#include "block/sync.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kChunk = 1U << 20;
// Where compression costs more than transfers; what was unpacked is written while it is still in
// the processor's cache.
constexpr std::uint64_t kPackedChunk = 128U << 10;
constexpr std::uint64_t kSector = 512;

struct Part {
    Node* node = nullptr;
    std::uint64_t start = 0;  ///< of the source, in the target
    std::uint64_t size = 0;
};

enum class ChunkKind : std::uint8_t { Data, Zero, Keep };

struct Chunk {
    ChunkKind kind = ChunkKind::Data;
    std::uint64_t offset = 0, length = 0;
    std::uint64_t ticket = 0;
    PackedSource* packed = nullptr;  ///< the layer that has it compressed, if workers may read it
    std::optional<FileStretch> plain{};  ///< where it lies in a file, if workers may read it there
};

class Copier {
  public:
    Copier(const std::vector<Node*>& sources, Node& target, CopyOptions options,
           JobControl& control)
        : target_(target), options_(std::move(options)), control_(control), turn_(target.loop()) {
        for (Node* node : sources) {
            parts_.push_back({node, total_, node->size()});
            total_ += node->size();
        }
        options_.compress = options_.compress || target.traits().whole_clusters;
        options_.in_order = options_.in_order || target.traits().whole_clusters;
        if (options_.start == 0) {
            packer_ = dynamic_cast<PackedTarget*>(&target_);
        }
        cluster_ =
            options_.compress ? std::max<std::uint64_t>(target.traits().cluster_size, kSector) : 1;
    }
    Task<> run();

  private:
    Task<std::uint64_t> count_data();
    Task<Chunk> next_chunk(std::uint64_t at);
    void shape(Chunk& chunk) const;
    Task<> transfer(Chunk chunk);
    Task<> carry(Chunk chunk);
    Task<> read(std::uint64_t offset, std::span<std::byte> into);
    Task<> read_part(const Part& part, std::uint64_t offset, std::span<std::byte> into);
    Task<> write(Chunk chunk, std::span<const std::byte> bytes);
    Task<> write_clusters(Chunk chunk, std::span<const std::byte> bytes);
    Task<> zero(std::uint64_t offset, std::uint64_t length);
    Task<bool> offload(const Chunk& chunk);
    Task<bool> unpack(const Chunk& chunk);
    Task<bool> copy_plain(const Chunk& chunk);
    Task<> scan(TaskGroup& group, std::uint64_t& at);
    Task<> keep(TaskGroup& group, std::uint64_t at);
    [[nodiscard]] const Part& part_at(std::uint64_t offset) const;

    Node& target_;
    CopyOptions options_;
    JobControl& control_;
    std::vector<Part> parts_;
    std::uint64_t total_ = 0;
    std::uint64_t cluster_ = 1;
    Extent extent_;                 ///< of the source, with what is left of it
    std::uint64_t extent_end_ = 0;  ///< where it ends in the target
    std::uint64_t tickets_ = 0, turn_of_ = 0;
    bool counted_ = false;  ///< progress is told in bytes of data, else in bytes of the disk
    bool failed_ = false;
    WaitQueue turn_;
    BufferPool pool_;
    std::optional<DirectTarget> direct_;  ///< workers may write to it
    PackedTarget* packer_ = nullptr;      ///< takes several clusters at once, where none is yet
};

const Part& Copier::part_at(std::uint64_t offset) const {
    const auto after =
        std::upper_bound(parts_.begin(), parts_.end(), offset,
                         [](std::uint64_t place, const Part& part) { return place < part.start; });
    return *std::prev(after);  // empty sources share a start with the next: the last of them is the
                               // one with content
}

Error at_byte(const Error& error, const char* what, std::uint64_t offset) {
    return {error.kind(), fmt::format("error while {} at byte {}: {}", what, offset, error.text()),
            error.system_errno()};
}

/// The reason in a few words: a salvage may have to tell of thousands.
std::string why(const Error& error) {
    return error.system_errno() != 0 ? std::strerror(error.system_errno()) : error.text();
}

/// Cuts the chunk to what one transfer carries, compressed targets to whole clusters.
void Copier::shape(Chunk& chunk) const {
    const bool carried =
        chunk.kind == ChunkKind::Data || (chunk.kind == ChunkKind::Zero && options_.sparse == 0);
    if (carried) {
        const std::uint64_t wanted =
            chunk.packed != nullptr
                ? std::max<std::uint64_t>(kChunk, chunk.packed->packed_cluster())
            : options_.compress || extent_.compressed ? kPackedChunk
                                                      : kChunk;
        const std::uint64_t step = std::max(wanted, cluster_);
        chunk.length = std::min(chunk.length, step - chunk.offset % step);
    }
    if (cluster_ > 1) {
        const std::uint64_t left = total_ - chunk.offset;
        if (chunk.length < std::min(cluster_, left)) {
            chunk.kind = ChunkKind::Data;
            chunk.length = std::min(cluster_, left);
        } else if (chunk.length != left) {
            chunk.length -= chunk.length % cluster_;
        }
    }
}

/// What lies at `at`, as the source's extents tell.
Task<Chunk> Copier::next_chunk(std::uint64_t at) {
    if (at >= extent_end_) {
        const Part& part = part_at(at);
        const Node* base = options_.keep_unallocated ? options_.base : nullptr;
        const std::uint64_t inside = at - part.start;
        std::uint64_t asked = part.size - inside;
        auto extent = co_await status_of_chain(*part.node, base, inside, asked);
        while (!extent.ok() && options_.salvage && asked > kSector) {
            asked = std::max(asked / kSector / 4, std::uint64_t{1}) *
                    kSector;  // the trouble may lie farther on
            extent = co_await status_of_chain(*part.node, base, inside, asked);
        }
        if (!extent.ok() && !options_.salvage) {
            const int number = extent.error().system_errno();
            co_return Error(extent.error().kind(),
                            fmt::format("error while reading block status at offset {}: {}", inside,
                                        extent.error().text()),
                            number);
        }
        extent_ = extent.ok() ? extent.value()
                              : Extent{Extent::Kind::Data, std::min(kSector, part.size - inside)};
        if (!extent.ok() && options_.warn) {
            options_.warn(fmt::format("error while reading block status at offset {}: {}", inside,
                                      why(extent.error())));
        }
        if (base != nullptr && extent_.kind == Extent::Kind::Unallocated) {
            if (inside >= base->size()) {
                extent_.kind = Extent::Kind::Zero;  // beyond the end of what lies below
            } else {
                extent_.length = std::min(extent_.length, base->size() - inside);
            }
        }
        extent_end_ = at + extent_.length;
    }
    Chunk chunk{ChunkKind::Data, at, extent_end_ - at};
    if (extent_.kind == Extent::Kind::Unallocated) {
        chunk.kind = options_.keep_unallocated ? ChunkKind::Keep : ChunkKind::Zero;
    } else if (extent_.kind == Extent::Kind::Zero) {
        const bool beyond = options_.keep_unallocated && at >= options_.backing_size;
        chunk.kind = beyond ? ChunkKind::Keep : ChunkKind::Zero;
        if (options_.keep_unallocated && !beyond) {
            chunk.length = std::min(chunk.length, options_.backing_size - at);
        }
    }
    // The start goes the usual way: what a raw disk's first sector becomes is its node's to judge.
    if (direct_ && at != 0 && extent_.kind == Extent::Kind::Data &&
        shows_files(*part_at(at).node)) {
        // SAFETY: a layer of a source, which is not const.
        chunk.packed = extent_.compressed
                           ? dynamic_cast<PackedSource*>(const_cast<Node*>(extent_.owner))
                           : nullptr;
        if (extent_.file != nullptr && extent_.file->traits().read_only) {
            chunk.plain = stretch_of(extent_);
        }
        if (chunk.plain) {
            chunk.plain->offset += extent_.length - (extent_end_ - at);
        }
    }
    shape(chunk);
    co_return chunk;
}

Task<> Copier::read_part(const Part& part, std::uint64_t offset, std::span<std::byte> into) {
    Result<> done = co_await part.node->read(offset, Buffers(into));
    if (done.ok() || !options_.salvage) {
        co_return done;
    }
    for (std::size_t at = 0; at < into.size(); at += kSector) {
        const auto sector = into.subspan(at, std::min<std::size_t>(kSector, into.size() - at));
        Result<> one = co_await part.node->read(offset + at, Buffers(sector));
        if (!one.ok()) {
            std::ranges::fill(sector, std::byte{0});
            if (options_.warn) {
                options_.warn(fmt::format("error while reading offset {}: {}", offset + at,
                                          why(one.error())));
            }
        }
    }
    co_return ok();
}

Task<> Copier::read(std::uint64_t offset, std::span<std::byte> into) {
    while (!into.empty()) {
        const Part& part = part_at(offset);
        const std::uint64_t inside = offset - part.start;
        const std::size_t count = std::min<std::uint64_t>(into.size(), part.size - inside);
        STRATA_CO_TRY_VOID(co_await read_part(part, inside, into.first(count)));
        into = into.subspan(count);
        offset += count;
    }
    co_return ok();
}

Task<> Copier::zero(std::uint64_t offset, std::uint64_t length) {
    if (options_.target_zero) {
        co_return ok();
    }
    co_return co_await target_.write_zeroes(
        offset, length, ZeroOptions{.may_unmap = options_.sparse != 0, .no_fallback = false});
}

/// Compressed targets take whole clusters; one of zeros only stays a hole.
Task<> Copier::write_clusters(Chunk chunk, std::span<const std::byte> bytes) {
    for (std::size_t at = 0, part = 0; at < bytes.size(); at += part) {
        const auto cluster_at = [&](std::size_t place) {
            return bytes.subspan(place, std::min<std::size_t>(cluster_, bytes.size() - place));
        };
        part = cluster_at(at).size();
        if (options_.sparse != 0 && is_zero(cluster_at(at))) {
            STRATA_CO_TRY_VOID(co_await zero(chunk.offset + at, part));
            continue;
        }
        // One by one where some may be there: a cluster that is came there whole, when this copy
        // was killed, and says nothing of those beside it.
        while (packer_ != nullptr && options_.start == 0 && at + part < bytes.size() &&
               (options_.sparse == 0 || !is_zero(cluster_at(at + part)))) {
            part += cluster_at(at + part).size();
        }
        const Buffers from = Buffers::of(bytes.subspan(at, part));
        Result<> packed = ok();
        if (packer_ != nullptr) {
            packed = co_await packer_->write_packed(chunk.offset + at, from);
        } else {
            packed = co_await target_.write_compressed(chunk.offset + at, from);
        }
        const bool there =
            !packed.ok() && options_.start != 0 && packed.error().system_errno() == EEXIST;
        if (!packed.ok() && !there) {
            co_return packed;
        }
    }
    co_return ok();
}

Task<> Copier::write(Chunk chunk, std::span<const std::byte> bytes) {
    if (options_.compress) {
        co_return co_await write_clusters(chunk, bytes);
    }
    if (options_.sparse == 0) {
        co_return co_await target_.write(chunk.offset, Buffers::of(bytes));
    }
    const std::uint64_t alignment =
        std::max<std::uint64_t>(std::min<std::uint64_t>(options_.sparse, 4096), kSector);
    for (ZeroRuns runs(bytes, chunk.offset, options_.sparse, alignment);
         const auto run = runs.next();) {
        if (run->zero) {
            STRATA_CO_TRY_VOID(co_await zero(chunk.offset + run->offset, run->length));
        } else {
            STRATA_CO_TRY_VOID(co_await target_.write(
                chunk.offset + run->offset, Buffers::of(bytes.subspan(run->offset, run->length))));
        }
    }
    co_return ok();
}

/// True: the host has copied it.
Task<bool> Copier::offload(const Chunk& chunk) {
    const Part& part = part_at(chunk.offset);
    const std::uint64_t inside = chunk.offset - part.start;
    if (!options_.offload || chunk.kind != ChunkKind::Data || inside + chunk.length > part.size) {
        co_return false;
    }
    Result<> done = co_await target_.copy_from(*part.node, inside, chunk.offset, chunk.length);
    if (!done.ok()) {
        options_.offload = false;  // the first refusal stands for all
    }
    co_return done.ok();
}

/// True: workers have unpacked it. What they cannot goes the usual way, which tells why.
Task<bool> Copier::unpack(const Chunk& chunk) {
    const auto route = unpack_route(*chunk.packed, *direct_, options_.sparse);
    if (!route) {
        co_return false;
    }
    const std::vector<PackedPiece> pieces =
        chunk.packed->packed_pieces(chunk.offset - part_at(chunk.offset).start, chunk.length);
    if (pieces.size() * route->cluster != chunk.length) {
        co_return false;
    }
    const std::uint64_t at = chunk.offset;
    co_return co_await target_.loop().offload(
        [&route, &pieces, at] { return unpack_pieces(*route, pieces, at); });
}

/// True: a worker has copied it from file to file.
Task<bool> Copier::copy_plain(const Chunk& chunk) {
    const DirectTarget target = *direct_;
    const std::uint64_t sparse = options_.sparse;
    co_return co_await target_.loop().offload([&chunk, target, sparse] {
        return copy_stretch(*chunk.plain, target, chunk.offset, chunk.length, sparse);
    });
}

/// Reads, waits for its turn if there are turns, and writes.
Task<> Copier::carry(Chunk chunk) {
    STRATA_CO_TRY(bool copied, co_await offload(chunk));
    if (!copied && chunk.packed != nullptr) {
        STRATA_CO_TRY(copied, co_await unpack(chunk));
    }
    if (!copied && chunk.plain) {
        STRATA_CO_TRY(copied, co_await copy_plain(chunk));
    }
    std::optional<BufferPool::Lease> buffer;
    std::span<std::byte> bytes;
    const bool carries =
        chunk.kind == ChunkKind::Data || (chunk.kind == ChunkKind::Zero && options_.sparse == 0);
    if (!copied && carries) {
        buffer.emplace(pool_.take(chunk.length));
        bytes = buffer->bytes();
        if (chunk.kind == ChunkKind::Zero) {
            std::ranges::fill(bytes, std::byte{0});
        } else {
            Result<> done = co_await read(chunk.offset, bytes);
            if (!done.ok()) {
                co_return at_byte(done.error(), "reading", chunk.offset);
            }
        }
    }
    while (options_.in_order && turn_of_ != chunk.ticket && !failed_) {
        co_await turn_.wait();
    }
    Result<> done = ok();
    if (!copied && carries) {
        done = co_await write(chunk, bytes);
        buffer.reset();
    } else if (chunk.kind == ChunkKind::Zero) {
        done = co_await zero(chunk.offset, chunk.length);
    }
    if (!done.ok()) {
        co_return at_byte(done.error(), "writing", chunk.offset);
    }
    co_return ok();
}

Task<> Copier::transfer(Chunk chunk) {
    Result<> done = ok();
    if (!failed_) {
        done = co_await carry(chunk);
    }
    failed_ = failed_ || !done.ok();
    turn_of_ = std::max(turn_of_, chunk.ticket + 1);
    turn_.wake_all();
    if (chunk.kind == ChunkKind::Data || !counted_) {
        control_.advance(chunk.length);
    }
    co_return done;
}

/// Bytes to carry: what progress is told in.
Task<std::uint64_t> Copier::count_data() {
    std::uint64_t bytes = 0;
    for (std::uint64_t at = options_.start; at < total_;) {
        STRATA_CO_TRY(const Chunk chunk, co_await next_chunk(at));
        bytes += chunk.kind == ChunkKind::Data ? chunk.length : 0;
        at += chunk.length;
    }
    extent_end_ = 0;
    co_return bytes;
}

/// What is on its way arrives and is made durable; then it is put down.
Task<> Copier::keep(TaskGroup& group, std::uint64_t at) {
    STRATA_CO_TRY_VOID(co_await group.finish());
    STRATA_CO_TRY_VOID(co_await target_.flush());
    co_return options_.checkpoint(at);
}

/// Starts the transfers; `at` is where the next one would begin.
Task<> Copier::scan(TaskGroup& group, std::uint64_t& at) {
    auto due = std::chrono::steady_clock::now() + options_.checkpoint_every;
    while (at < total_ && !failed_) {
        STRATA_CO_TRY(Chunk chunk, co_await next_chunk(at));
        if (chunk.kind == ChunkKind::Data) {
            STRATA_CO_TRY_VOID(co_await control_.pause_point(target_.loop(), chunk.length));
        }
        at += chunk.length;
        chunk.ticket = tickets_++;
        (void)co_await group.add(transfer(chunk));
        if (options_.checkpoint && !failed_ && std::chrono::steady_clock::now() >= due) {
            STRATA_CO_TRY_VOID(co_await keep(group, at));
            due = std::chrono::steady_clock::now() + options_.checkpoint_every;
        }
    }
    co_return ok();
}

Task<> Copier::run() {
    std::uint64_t bytes = total_ - std::min(total_, options_.start);
    counted_ = control_.watched() || options_.salvage;
    if (counted_) {
        STRATA_CO_TRY(bytes, co_await count_data());
    }
    control_.begin(bytes);
    if (!options_.salvage && !options_.compress && (options_.target_zero || options_.sparse == 0)) {
        STRATA_CO_TRY(direct_, co_await direct_target(target_));
    }
    // A salvage goes straight through: its warnings come in order, and a failing disk is not asked
    // for more than it must.
    TaskGroup group(target_.loop(), options_.salvage ? 1 : std::max(1U, options_.parallel));
    std::uint64_t at = options_.start;
    Result<> scanned = co_await scan(group, at);
    if (!scanned.ok() && !failed_ && options_.checkpoint) {
        // Of a copy that was told to stop nothing is to be done again. What stopped it is told.
        (void)co_await keep(group, at);
    }
    failed_ = failed_ || !scanned.ok();
    turn_.wake_all();
    Result<> carried = co_await group.finish();
    STRATA_CO_TRY_VOID(std::move(carried));
    STRATA_CO_TRY_VOID(std::move(scanned));
    if (options_.compress) {
        STRATA_CO_TRY_VOID(co_await target_.write_compressed(total_, Buffers()));
    }
    co_return ok();
}

}  // namespace

Task<> copy_image(std::vector<Node*> sources, Node& target, CopyOptions options,
                  JobControl& control) {
    Copier copier(sources, target, std::move(options), control);
    co_return co_await copier.run();
}

}  // namespace strata::block
