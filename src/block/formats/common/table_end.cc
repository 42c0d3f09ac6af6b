// TableNode: files that were cut short.
#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSector = 512;

}  // namespace

std::uint64_t TableNode::readable_end() const {
    const std::uint64_t end = traits_.read_only ? file_->size() : std::max(end_, file_->size());
    return round_up(end, kSector);
}

Result<> TableNode::check_place(const Place& place, std::uint64_t offset) const {
    const std::uint64_t end = readable_end();
    bool there = place.kind != Place::Kind::Lost;
    if (past_end_ != PastEnd::Zeros && place.kind == Place::Kind::Data) {
        const std::uint64_t last = offset + place.length - 1;
        const std::uint64_t begin = place.offset + (last - last % unit_) - offset;
        there = past_end_ == PastEnd::Begun ? begin < end
                                            : lies_within(place.offset, place.length, end);
    } else if (past_end_ != PastEnd::Zeros && place.kind == Place::Kind::Packed) {
        there = lies_within(place.offset, place.packed, end);
    }
    if (there) {
        return ok();
    }
    return Error{
        ErrorKind::Failed,
        fmt::format("{} image '{}': {} at {} lies at {}, past the end of the file at {}: it "
                    "was cut short; copy the file again, or save what is left of it with "
                    "'convert --salvage'",
                    format(), name(),
                    place.kind == Place::Kind::Lost ? "what maps the block" : "the block",
                    offset - offset % unit_, place.offset, file_->size()),
        EIO};
}

Task<> TableNode::refuse_if_cut() {
    std::uint64_t blocks = 0;
    for (std::uint64_t offset = 0; offset < size_;) {
        STRATA_CO_TRY(const Place place, co_await find(offset, size_ - offset));
        STRATA_CO_TRY_VOID(check_place(place, offset));
        offset += place.length;
        if (++blocks % 4096 == 0) {
            co_await loop().yield();
        }
    }
    co_return ok();
}

}  // namespace strata::block
