// compare_images: walks both images' extents side by side and reads only where one of them has
// data.
#include "block/jobs/compare.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "block/jobs/buffer_pool.h"
#include "block/jobs/direct_compare.h"
#include "block/sync.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kChunk = 1U << 20;
constexpr std::size_t kSector = 512, kScan = 65536;
constexpr std::size_t kParallel = 8, kBatch = 64;

/// The first place where they differ, rounded down to a sector.
std::optional<std::size_t> first_difference(std::span<const std::byte> first,
                                            std::span<const std::byte> second) {
    if (std::memcmp(first.data(), second.data(), first.size()) == 0) {
        return std::nullopt;
    }
    for (std::size_t at = 0; at < first.size(); at += kSector) {
        const std::size_t count = std::min(kSector, first.size() - at);
        if (std::memcmp(first.data() + at, second.data() + at, count) != 0) {
            return at;
        }
    }
    return std::nullopt;
}

std::optional<std::size_t> first_nonzero(std::span<const std::byte> bytes) {
    for (std::size_t at = 0; at < bytes.size(); at += kScan) {
        if (!is_zero(bytes.subspan(at, std::min(kScan, bytes.size() - at)))) {
            while (is_zero(bytes.subspan(at, std::min(kSector, bytes.size() - at)))) {
                at += kSector;
            }
            return at;
        }
    }
    return std::nullopt;
}

bool same_status(const Extent& first, const Extent& second) {
    return first.kind == second.kind;
}

class Comparer {
  public:
    Comparer(Node& first, Node& second, bool strict, JobControl& control, CompareFailure* failure)
        : nodes_{&first, &second},
          files_(shows_files(first) && shows_files(second)),
          strict_(strict),
          control_(control),
          failure_(failure) {}
    Task<Comparison> run();

  private:
    Task<Extent> extent(unsigned which, std::uint64_t at, std::uint64_t end);
    Task<std::uint64_t> step(std::uint64_t at, std::uint64_t end, TaskGroup& group);
    /// What one side of a chunk is compared by.
    struct Side {
        bool has = false;                   ///< else zeros
        std::optional<FileStretch> direct;  ///< where a worker thread may read it
    };
    using Sides = std::array<Side, 2>;
    Side side_of(const Extent& extent) const;
    Task<> compare_chunk(std::uint64_t at, std::uint64_t length, std::array<bool, 2> has);
    Task<> compare_direct(std::vector<StretchPair> pairs);
    Task<> fetch(unsigned which, std::uint64_t at, std::span<std::byte> buffer);
    void differs(Comparison::Verdict verdict, std::uint64_t offset);
    void failed(CompareFailure::What what, unsigned which, std::uint64_t offset);

    std::array<Node*, 2> nodes_;
    bool files_;  ///< what has a place in a file may be read there
    std::array<Extent, 2> extents_{};
    std::array<std::uint64_t, 2> known_{};  ///< up to where extents_ tell
    bool strict_;
    JobControl& control_;
    CompareFailure* failure_;
    Comparison result_;
    BufferPool pool_;
    std::vector<StretchPair> batch_;  ///< the next job for a worker
    std::uint64_t batched_ = 0;
};

void Comparer::differs(Comparison::Verdict verdict, std::uint64_t offset) {
    if (result_.verdict == Comparison::Verdict::Same || offset < result_.offset) {
        result_.verdict = verdict;
        result_.offset = offset;
    }
}

void Comparer::failed(CompareFailure::What what, unsigned which, std::uint64_t offset) {
    if (failure_ != nullptr) {
        *failure_ = {what, which == 1, offset};
    }
}

/// What `which` has at `at`: beyond its end zeros.
Task<Extent> Comparer::extent(unsigned which, std::uint64_t at, std::uint64_t end) {
    Node& node = *nodes_[which];
    if (at >= known_[which]) {
        if (at >= node.size()) {
            extents_[which] = {Extent::Kind::Unallocated, end - at};
        } else {
            auto found = co_await status_of_chain(node, nullptr, at, node.size() - at);
            if (!found.ok()) {
                failed(CompareFailure::What::Status, which, at);
                co_return found.error();
            }
            extents_[which] = found.value();
        }
        known_[which] = at + extents_[which].length;
    }
    Extent left = extents_[which];
    left.length = known_[which] - at;
    left.offset += extents_[which].length - left.length;
    co_return left;
}

Task<> Comparer::fetch(unsigned which, std::uint64_t at, std::span<std::byte> buffer) {
    Result<> done = co_await nodes_[which]->read(at, Buffers(buffer));
    if (!done.ok()) {
        failed(CompareFailure::What::Read, which, at);
    }
    co_return done;
}

Comparer::Side Comparer::side_of(const Extent& extent) const {
    Side side{.has = extent.kind == Extent::Kind::Data, .direct = std::nullopt};
    if (!side.has) {
        side.direct = FileStretch{};
    } else if (files_) {
        side.direct = stretch_of(extent);
    }
    return side;
}

/// What workers may read themselves; what they cannot read goes through the nodes, which tell why.
Task<> Comparer::compare_direct(std::vector<StretchPair> pairs) {
    for (std::span<const StretchPair> left = pairs; !left.empty();) {
        const StretchComparison found =
            co_await nodes_[0]->loop().offload([left] { return compare_stretches(left); });
        for (const StretchPair& each : left.first(found.same)) {
            control_.advance(each.length);
        }
        left = left.subspan(found.same);
        if (found.difference) {
            differs(Comparison::Verdict::Content, *found.difference);
            break;
        }
        if (!left.empty()) {
            const StretchPair& odd = left.front();
            STRATA_CO_TRY_VOID(co_await compare_chunk(odd.at, odd.length,
                                                      {odd.first.fd >= 0, odd.second.fd >= 0}));
            left = left.subspan(1);
        }
    }
    co_return ok();
}

Task<> Comparer::compare_chunk(std::uint64_t at, std::uint64_t length, std::array<bool, 2> has) {
    const auto first = pool_.take(length), second = pool_.take(length);
    for (unsigned which = 0; which < 2; ++which) {
        if (has[which]) {
            STRATA_CO_TRY_VOID(
                co_await fetch(which, at, which == 0 ? first.bytes() : second.bytes()));
        }
    }
    const auto place = has[0] && has[1] ? first_difference(first.bytes(), second.bytes())
                                        : first_nonzero(has[0] ? first.bytes() : second.bytes());
    if (place) {
        differs(Comparison::Verdict::Content, at + *place);
    }
    control_.advance(length);
    co_return ok();
}

/// Looks at one stretch where neither image changes its kind; answers its length.
Task<std::uint64_t> Comparer::step(std::uint64_t at, std::uint64_t end, TaskGroup& group) {
    STRATA_CO_TRY(const Extent first, co_await extent(0, at, end));
    STRATA_CO_TRY(const Extent second, co_await extent(1, at, end));
    const std::uint64_t length = std::min({first.length, second.length, end - at});
    const std::uint64_t shorter = std::min(nodes_[0]->size(), nodes_[1]->size());
    if (strict_ && at < shorter && !same_status(first, second)) {
        differs(Comparison::Verdict::Status, at);
    }
    const Sides sides{side_of(first), side_of(second)};
    if (!sides[0].has && !sides[1].has) {
        control_.advance(length);
        co_return length;
    }
    const std::uint64_t chunk = std::min(length, kChunk);
    STRATA_CO_TRY_VOID(co_await control_.pause_point(nodes_[0]->loop(), chunk));
    if (!sides[0].direct || !sides[1].direct) {
        (void)co_await group.add(compare_chunk(at, chunk, {sides[0].has, sides[1].has}));
        co_return chunk;
    }
    batch_.push_back({at, chunk, *sides[0].direct, *sides[1].direct});
    batched_ += chunk;
    if (batched_ >= kChunk || batch_.size() >= kBatch) {
        batched_ = 0;
        (void)co_await group.add(compare_direct(std::exchange(batch_, {})));
    }
    co_return chunk;
}

Task<Comparison> Comparer::run() {
    const std::uint64_t end = std::max(nodes_[0]->size(), nodes_[1]->size());
    result_.sizes_differ = nodes_[0]->size() != nodes_[1]->size();
    control_.begin(end);
    if (strict_ && result_.sizes_differ) {
        result_.verdict = Comparison::Verdict::Size;
        co_return result_;
    }
    TaskGroup group(nodes_[0]->loop(), kParallel);
    Result<> walked = ok();
    for (std::uint64_t at = 0;
         at < end && result_.verdict == Comparison::Verdict::Same && !group.failed();) {
        auto length = co_await step(at, end, group);
        if (!length.ok()) {
            walked = length.error();
            break;
        }
        at += length.value();
    }
    (void)co_await group.add(compare_direct(std::exchange(batch_, {})));
    Result<> read = co_await group.finish();
    STRATA_CO_TRY_VOID(std::move(walked));
    STRATA_CO_TRY_VOID(std::move(read));
    co_return result_;
}

}  // namespace

Task<Comparison> compare_images(Node& first, Node& second, bool strict, JobControl& control,
                                CompareFailure* failure) {
    Comparer comparer(first, second, strict, control, failure);
    co_return co_await comparer.run();
}

}  // namespace strata::block
