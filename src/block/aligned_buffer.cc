// AlignedBuffer: what each thread keeps of it.
#include "block/aligned_buffer.h"

#include <array>
#include <bit>
#include <new>
#include <vector>

namespace strata::block::detail {
namespace {

constexpr std::align_val_t kPage{AlignedBuffer::kAlignment};

std::byte* fresh(std::size_t bytes) {
    return static_cast<std::byte*>(::operator new(bytes, kPage));
}

#if !defined(STRATA_SANITIZED)
// The sanitizers must see each buffer's life.
constexpr std::size_t kSizes = 7;  ///< kept: 4 KiB, 8 KiB, … 256 KiB
constexpr std::size_t kMostKept = 2U << 20;

/// Of the sizes that are kept the smallest that holds `bytes`; kSizes or more: none does.
std::size_t index_for(std::size_t bytes) {
    return bytes <= AlignedBuffer::kAlignment
               ? 0
               : static_cast<std::size_t>(std::bit_width((bytes - 1) / AlignedBuffer::kAlignment));
}

struct Kept {
    std::array<std::vector<std::byte*>, kSizes> lists;
    std::size_t bytes = 0;
    ~Kept();
};

/// This thread keeps nothing any more.
bool& ended() {
    thread_local bool value = false;
    return value;
}

Kept& kept() {
    thread_local Kept value;
    return value;
}

Kept::~Kept() {
    ended() = true;
    for (const std::vector<std::byte*>& list : lists) {
        for (std::byte* each : list) {
            ::operator delete(each, kPage);
        }
    }
}
#endif

}  // namespace

#if defined(STRATA_SANITIZED)
std::byte* allocate_aligned(std::size_t bytes) {
    return fresh(bytes);
}
void FreeAligned::operator()(std::byte* data) const noexcept {
    ::operator delete(data, kPage);
}
#else
std::byte* allocate_aligned(std::size_t bytes) {
    const std::size_t index = index_for(bytes);
    if (index >= kSizes) {
        return fresh(bytes);
    }
    const std::size_t size = AlignedBuffer::kAlignment << index;
    if (ended() || kept().lists[index].empty()) {
        return fresh(size);
    }
    Kept& mine = kept();
    std::byte* data = mine.lists[index].back();
    mine.lists[index].pop_back();
    mine.bytes -= size;
    return data;
}

void FreeAligned::operator()(std::byte* data) const noexcept {
    const std::size_t index = index_for(bytes);
    const std::size_t size = AlignedBuffer::kAlignment << index;
    if (index >= kSizes || ended() || kept().bytes + size > kMostKept) {
        ::operator delete(data, kPage);
        return;
    }
    kept().lists[index].push_back(data);
    kept().bytes += size;
}
#endif

}  // namespace strata::block::detail
