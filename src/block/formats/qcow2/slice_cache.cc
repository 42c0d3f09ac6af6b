// SliceCache: a list in order of use, and a table into it.
#include "block/formats/qcow2/slice_cache.h"

#include <algorithm>
#include <iterator>

#include "block/file_access.h"

namespace strata::block::qcow2 {

void SliceCache::make_room() {
    // Clean slices go; the owner sees to it that there are some.
    constexpr int kLook = 16;
    auto at = slices_.end();
    for (int i = 0; i < kLook && slices_.size() >= capacity_ && at != slices_.begin(); ++i) {
        --at;
        if (!at->dirty) {
            places_.erase(at->host);
            at = slices_.erase(at);
        }
    }
}

SliceCache::Place SliceCache::insert(std::uint64_t host) {
    make_room();
    slices_.push_front({host, false, std::vector<std::byte>(bytes_)});
    places_[host] = slices_.begin();
    return slices_.begin();
}

void SliceCache::taint(Slice& slice) {
    dirty_ += slice.dirty ? 0 : 1;
    slice.dirty = true;
}

Result<std::byte*> SliceCache::load(std::uint64_t host) {
    if (const auto found = places_.find(host); found != places_.end()) {
        slices_.splice(slices_.begin(), slices_, found->second);
        return found->second->content.data();
    }
    std::vector<std::byte> content(bytes_);
    STRATA_TRY_VOID(read_file(fd_, host, content, name_));
    const Place place = insert(host);
    place->content.swap(content);
    return place->content.data();
}

Result<std::byte*> SliceCache::change(std::uint64_t host) {
    std::byte* content = STRATA_TRY(load(host));
    taint(slices_.front());
    return content;
}

std::byte* SliceCache::fresh(std::uint64_t host) {
    const auto found = places_.find(host);
    const Place place = found != places_.end() ? found->second : insert(host);
    std::fill(place->content.begin(), place->content.end(), std::byte{0});
    taint(*place);
    return place->content.data();
}

Result<> SliceCache::write_back() {
    std::vector<Slice*> dirty;
    for (Slice& slice : slices_) {
        if (slice.dirty) {
            dirty.push_back(&slice);
        }
    }
    std::sort(dirty.begin(), dirty.end(), [](const Slice* a, const Slice* b) { return a->host < b->host; });
    for (Slice* slice : dirty) {
        STRATA_TRY_VOID(write_file(fd_, slice->host, slice->content, name_));
        slice->dirty = false;
        --dirty_;
    }
    return ok();
}

}  // namespace strata::block::qcow2
