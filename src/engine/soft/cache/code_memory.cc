// CodeMemory: making the two mappings, and the patches.
#include "engine/soft/cache/code_memory.h"

#include <cstring>

#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"

namespace strata::engine::soft {

namespace {

constexpr std::uint64_t kHuge = 2U << 20U;
constexpr std::uint64_t kRegion = 4 * kHuge;
constexpr std::uint64_t kFewest = 4;  // regions
constexpr std::uint64_t kPage = 4096;
constexpr int kMadvCollapse = 25;  // MADV_COLLAPSE, which older headers lack

}  // namespace

Result<std::byte*> CodeMemory::map_aligned(int protection, MmapRegion& space) const {
    space = STRATA_TRY(MmapRegion::map(size_ + kHuge, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE));
    std::byte* start = space.data() + (0 - reinterpret_cast<std::uint64_t>(space.data())) % kHuge;
    // SAFETY: replaces address space that is this object's own, and goes with it.
    if (::mmap(start, size_, protection, MAP_SHARED | MAP_FIXED, fd_.get(), 0) != start) {
        return Error::from_errno("mapping the memory of translated code");
    }
    return start;
}

Result<std::unique_ptr<CodeMemory>> CodeMemory::create(std::uint64_t size) {
    std::unique_ptr<CodeMemory> memory(new CodeMemory());
    memory->fd_ = UniqueFd(memfd_create("strata-code", MFD_CLOEXEC));
    if (!memory->fd_.valid()) {
        return Error::from_errno("making the memory of translated code");
    }
    memory->region_size_ =
        std::min(kRegion, std::max<std::uint64_t>(size / kFewest, kFewest * kPage) / (2 * kPage) *
                              (2 * kPage));
    size = size / memory->region_size_ * memory->region_size_;
    if (ftruncate(memory->fd_.get(), static_cast<off_t>(size)) != 0) {
        return Error::from_errno("sizing the memory of translated code");
    }
    memory->size_ = size;
    memory->huge_.resize(size / kHuge);
    memory->write_ = STRATA_TRY(memory->map_aligned(PROT_READ | PROT_WRITE, memory->write_space_));
    memory->execute_ =
        STRATA_TRY(memory->map_aligned(PROT_READ | PROT_EXEC, memory->execute_space_));
    memory->begin_region(0);
    return memory;
}

// One huge page at a time, before it is written: there is nothing to copy then, and the host
// allocates no more than one ahead. A host that refuses goes on with small pages.
void CodeMemory::use_huge_pages(std::uint64_t at, std::uint64_t size, std::uint64_t end) {
    for (std::uint64_t page = at / kHuge; page * kHuge < at + size && (page + 1) * kHuge <= end;
         ++page) {
        if (!huge_[page]) {
            huge_[page] = true;
            write_[std::max(at, page * kHuge)] =
                std::byte{};  // some page of the range must be there
            (void)madvise(execute_ + page * kHuge, kHuge, kMadvCollapse);
        }
    }
}

void CodeMemory::begin_region(std::uint32_t index) {
    current_ = index;
    hot_ = index == 0 ? kept_ : index * region_size_;
    cold_ = hot_end();
}

std::uint64_t CodeMemory::append(std::uint64_t& at, std::span<const std::uint8_t> code,
                                 std::uint64_t end) {
    STRATA_CHECK(code.size() <= end - at, "code memory overrun");
    use_huge_pages(at, code.size(), end);
    const std::uint64_t address = base() + at;
    std::memcpy(write_ + at, code.data(), code.size());
    at = (at + code.size() + 15) & ~std::uint64_t{15};
    return address;
}

std::uint64_t CodeMemory::write(std::span<const std::uint8_t> code) {
    return append(hot_, code, hot_end());
}

std::uint64_t CodeMemory::write_cold(std::span<const std::uint8_t> code) {
    return append(cold_, code, hot_end() + region_size_ / 2);
}

void CodeMemory::patch32(std::uint64_t address, std::uint32_t value) {
    STRATA_CHECK(contains(address) && (address & 63) <= 60, "patch across cache lines");
    // SAFETY: a store within one cache line is seen whole by instruction fetch on x86; translated
    // code is the only reader.
    auto* to = reinterpret_cast<volatile std::uint32_t*>(write_ + (address - base()));
    *to = value;
}

void CodeMemory::patch64(std::uint64_t address, std::uint64_t value) {
    STRATA_CHECK(contains(address) && (address & 7) == 0, "patch not aligned");
    // SAFETY: as above.
    auto* to = reinterpret_cast<volatile std::uint64_t*>(write_ + (address - base()));
    *to = value;
}

}  // namespace strata::engine::soft
