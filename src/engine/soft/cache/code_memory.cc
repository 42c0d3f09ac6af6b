// CodeMemory: making the two mappings, and the patches.
#include "engine/soft/cache/code_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "base/check.h"

namespace strata::engine::soft {

Result<std::unique_ptr<CodeMemory>> CodeMemory::create(std::uint64_t size) {
    std::unique_ptr<CodeMemory> memory(new CodeMemory());
    memory->fd_ = UniqueFd(memfd_create("strata-code", MFD_CLOEXEC));
    if (!memory->fd_.valid()) {
        return Error::from_errno("making the memory of translated code");
    }
    if (ftruncate(memory->fd_.get(), static_cast<off_t>(size)) != 0) {
        return Error::from_errno("sizing the memory of translated code");
    }
    memory->write_ = STRATA_TRY(MmapRegion::map(size, PROT_READ | PROT_WRITE, MAP_SHARED, memory->fd_.get()));
    memory->execute_ = STRATA_TRY(MmapRegion::map(size, PROT_READ | PROT_EXEC, MAP_SHARED, memory->fd_.get()));
    return memory;
}

std::uint64_t CodeMemory::write(std::span<const std::uint8_t> code) {
    STRATA_CHECK(code.size() <= free(), "code memory overrun");
    const std::uint64_t address = next();
    std::memcpy(write_.data() + used_, code.data(), code.size());
    used_ = (used_ + code.size() + 15) & ~std::uint64_t{15};
    if (used_ > size()) {
        used_ = size();
    }
    return address;
}

void CodeMemory::patch32(std::uint64_t address, std::uint32_t value) {
    STRATA_CHECK(contains(address) && (address & 63) <= 60, "patch across cache lines");
    // SAFETY: a store within one cache line is seen whole by instruction fetch on x86; translated code is the only reader.
    auto* to = reinterpret_cast<volatile std::uint32_t*>(write_.data() + (address - base()));
    *to = value;
}

void CodeMemory::patch64(std::uint64_t address, std::uint64_t value) {
    STRATA_CHECK(contains(address) && (address & 7) == 0, "patch not aligned");
    // SAFETY: as above.
    auto* to = reinterpret_cast<volatile std::uint64_t*>(write_.data() + (address - base()));
    *to = value;
}

}  // namespace strata::engine::soft
