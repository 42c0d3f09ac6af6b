// map_image: walks the chain's extents and merges neighbours.
#include "block/jobs/extents.h"

namespace strata::block {
namespace {

MapEntry entry_of(const Extent& extent, std::uint64_t start, unsigned depth) {
    MapEntry entry;
    entry.start = start;
    entry.length = extent.length;
    entry.depth = depth;
    entry.present = extent.kind != Extent::Kind::Unallocated && extent.owner != nullptr;
    entry.data = extent.kind == Extent::Kind::Data;
    entry.zero = extent.kind != Extent::Kind::Data;
    entry.has_offset = extent.has_offset;
    entry.offset = extent.offset;
    entry.file = extent.has_offset ? extent.file : nullptr;
    entry.compressed = extent.compressed;
    if (extent.context >= 0) {  // as the peer shows it: bit 0 is "hole", bit 1 "zero", whatever the
                                // context means by them
        entry.data = (extent.context & 1) == 0;
        entry.zero = (extent.context & 2) != 0;
        entry.present = entry.data || entry.zero;
        entry.has_offset = entry.present;
        entry.file = entry.present ? extent.file : nullptr;
    }
    return entry;
}

bool continues(const MapEntry& before, const MapEntry& next) {
    return before.length != 0 && before.zero == next.zero && before.data == next.data &&
           before.depth == next.depth && before.present == next.present &&
           before.has_offset == next.has_offset && before.file == next.file &&
           before.compressed == next.compressed &&
           (!before.has_offset || before.offset + before.length == next.offset);
}

}  // namespace

Task<> map_image(Node& top, std::uint64_t start, std::uint64_t end,
                 std::function<void(const MapEntry&)> visit) {
    MapEntry current;
    while (start < end) {
        unsigned depth = 0;
        STRATA_CO_TRY(const Extent extent,
                      co_await status_of_chain(top, nullptr, start, end - start, &depth));
        const MapEntry next = entry_of(extent, start, depth);
        start += next.length;
        if (continues(current, next)) {
            current.length += next.length;
            continue;
        }
        if (current.length != 0) {
            visit(current);
        }
        current = next;
    }
    if (current.length != 0) {
        visit(current);
    }
    co_return ok();
}

}  // namespace strata::block
