// SliceCache: a list in order of use, and a table into it.
#include "block/formats/qcow2/slice_cache.h"

#include <algorithm>
#include <iterator>

namespace strata::block::qcow2 {
namespace {

constexpr std::size_t kWritesAtATime = 8, kSlicesAWrite = 256;

}  // namespace

void SliceCache::make_room() {
    // Clean slices go; the owner sees to it that there are some.
    constexpr int kLook = 16;
    auto at = slices_.end();
    for (int i = 0; i < kLook && slices_.size() >= capacity_ && at != slices_.begin(); ++i) {
        --at;
        if (!at->dirty && at->writing == 0) {
            places_.erase(at->host);
            at = slices_.erase(at);
        }
    }
}

SliceCache::Place SliceCache::insert(std::uint64_t host) {
    make_room();
    slices_.push_front(Slice{
        .host = host, .dirty = false, .writing = 0, .content = std::vector<std::byte>(bytes_)});
    places_[host] = slices_.begin();
    return slices_.begin();
}

void SliceCache::taint(Slice& slice) {
    dirty_ += slice.dirty ? 0 : 1;
    slice.dirty = true;
}

void SliceCache::taint(std::uint64_t host) {
    taint(*places_.at(host));
}

std::byte* SliceCache::find(std::uint64_t host) {
    const auto found = places_.find(host);
    if (found == places_.end()) {
        return nullptr;
    }
    if (found->second != slices_.begin()) {
        slices_.splice(slices_.begin(), slices_, found->second);
    }
    return found->second->content.data();
}

Task<std::byte*> SliceCache::load(std::uint64_t host) {
    while (loading_.contains(host)) {
        co_await loaded_.wait();
    }
    if (std::byte* here = find(host)) {
        co_return here;
    }
    loading_.insert(host);
    std::vector<std::byte> content(bytes_);
    Result<> read = co_await file_.read(host, Buffers(std::span(content)));
    loading_.erase(host);
    loaded_.wake_all();
    STRATA_CO_TRY_VOID(std::move(read));
    if (std::byte* here = find(host)) {
        co_return here;  // made anew meanwhile
    }
    const Place place = insert(host);
    place->content.swap(content);
    co_return place->content.data();
}

std::byte* SliceCache::fresh(std::uint64_t host) {
    const auto found = places_.find(host);
    const Place place = found != places_.end() ? found->second : insert(host);
    std::fill(place->content.begin(), place->content.end(), std::byte{0});
    taint(*place);
    return place->content.data();
}

void SliceCache::forget(std::uint64_t host, std::uint64_t length) {
    for (std::uint64_t at = host; at < host + length; at += bytes_) {
        const auto found = places_.find(at);
        if (found != places_.end() && found->second->writing == 0) {
            dirty_ -= found->second->dirty ? 1 : 0;
            slices_.erase(found->second);
            places_.erase(found);
        }
    }
}

void SliceCache::clear() {
    slices_.clear();
    places_.clear();
    dirty_ = 0;
}

SliceCache::Batch SliceCache::take_dirty() {
    Batch batch;
    if (dirty_ == 0) {
        return batch;
    }
    for (Slice& slice : slices_) {
        if (slice.dirty) {
            batch.pieces.push_back({slice.host, slice.content});
            slice.dirty = false;
            ++slice.writing;
        }
    }
    dirty_ = 0;
    std::sort(batch.pieces.begin(), batch.pieces.end(),
              [](const auto& a, const auto& b) { return a.host < b.host; });
    return batch;
}

void SliceCache::put_back(const Batch& batch) {
    for (const Batch::Piece& piece : batch.pieces) {
        Slice& slice = *places_.at(piece.host);
        --slice.writing;
        taint(slice);
    }
}

Task<> SliceCache::write_run(const Batch& batch, std::size_t first, std::size_t count) {
    std::vector<iovec> vectors;
    for (std::size_t i = first; i < first + count; ++i) {
        // SAFETY: a write never stores through the view.
        vectors.push_back({const_cast<std::byte*>(batch.pieces[i].content.data()), bytes_});
    }
    Result<> written =
        co_await file_.write(batch.pieces[first].host, Buffers(std::span<const iovec>(vectors)));
    for (std::size_t i = first; i < first + count; ++i) {
        Slice& slice = *places_.at(batch.pieces[i].host);
        --slice.writing;
        if (!written.ok()) {
            taint(slice);
        }
    }
    co_return written;
}

Task<> SliceCache::write(Batch batch) {
    const auto turn = co_await order_.lock();
    TaskGroup group(file_.loop(), kWritesAtATime);
    for (std::size_t at = 0, count = 0; at < batch.pieces.size(); at += count) {
        count = 1;
        while (at + count < batch.pieces.size() && count < kSlicesAWrite &&
               batch.pieces[at + count].host == batch.pieces[at].host + count * bytes_) {
            ++count;
        }
        (void)co_await group.add(write_run(batch, at, count));
    }
    co_return co_await group.finish();
}

}  // namespace strata::block::qcow2
