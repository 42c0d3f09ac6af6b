// Task: where coroutine frames come from.
#include "block/task.h"

#include <array>
#include <cstdlib>
#include <new>
#include <vector>

namespace strata::block::detail {

#if defined(STRATA_SANITIZED)
// The sanitizers must see each frame's life.
void* allocate_frame(std::size_t bytes) {
    return ::operator new(bytes);
}
void free_frame(void* frame, std::size_t /*bytes*/) noexcept {
    ::operator delete(frame);
}
#else
namespace {

constexpr std::size_t kStep = 64, kSizes = 48, kKept = 256;

struct FreeFrames {
    std::array<std::vector<void*>, kSizes> lists;
    ~FreeFrames() {
        for (const std::vector<void*>& list : lists) {
            for (void* each : list) {
                ::operator delete(each);
            }
        }
    }
};

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables)
thread_local FreeFrames free_frames;

}  // namespace

void* allocate_frame(std::size_t bytes) {
    const std::size_t index = (bytes + kStep - 1) / kStep;
    if (index >= kSizes) {
        return ::operator new(bytes);
    }
    std::vector<void*>& list = free_frames.lists[index];
    if (list.empty()) {
        return ::operator new(index* kStep);
    }
    void* frame = list.back();
    list.pop_back();
    return frame;
}

void free_frame(void* frame, std::size_t bytes) noexcept {
    const std::size_t index = (bytes + kStep - 1) / kStep;
    if (index >= kSizes || free_frames.lists[index].size() >= kKept) {
        ::operator delete(frame);
        return;
    }
    free_frames.lists[index].push_back(frame);
}
#endif

}  // namespace strata::block::detail
