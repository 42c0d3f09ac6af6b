// BootPlan: collecting and checking of placements.
#include "machine/boot/boot_plan.h"

#include <algorithm>

#include <fmt/core.h>

#include "base/text.h"
#include "memory/guest_address.h"

namespace strata::machine::boot {
namespace {

constexpr std::size_t kMaxKernelParts = 256;

bool overlap(std::uint64_t start, std::uint64_t end, std::uint64_t other_start,
             std::uint64_t other_end) {
    return start < other_end && other_start < end;
}

}  // namespace

std::string_view kernel_kind_name(KernelKind kind) {
    switch (kind) {
        case KernelKind::LinuxBzImage:
            return "Linux bzImage";
        case KernelKind::Pvh:
            return "PVH";
        case KernelKind::Multiboot:
            return "multiboot";
    }
    return "";
}

bool PlanBuilder::is_ram(Range range) const {
    return std::any_of(environment_.memory_map.begin(), environment_.memory_map.end(),
                       [&](const MemoryMapEntry& entry) {
                           return entry.type == MemoryType::Ram && range.start >= entry.start &&
                                  range.start - entry.start <= entry.size &&
                                  range.end - range.start <=
                                      entry.size - (range.start - entry.start);
                       });
}

Result<> PlanBuilder::kernel_part(std::string_view what, std::uint64_t address,
                                  std::uint64_t file_offset, std::uint64_t file_size,
                                  std::uint64_t memory_size, Source source) {
    memory_size = std::max(memory_size, file_size);
    Range range{address, 0};
    if (__builtin_add_overflow(address, memory_size, &range.end)) {
        return Error(ErrorKind::Failed,
                     fmt::format("{} at {:#x} wraps around the end of memory", what, address));
    }
    if (kernel_.size() >= kMaxKernelParts) {
        return Error(ErrorKind::Failed, fmt::format("more than {} segments", kMaxKernelParts));
    }
    for (const Range& own : loader_area_) {
        if (overlap(range.start, std::max(range.end, range.start + 1), own.start, own.end)) {
            return Error(ErrorKind::Failed,
                         fmt::format("{} at {:#x} lies in the loader's area below {:#x}", what,
                                     address, own.end));
        }
    }
    if (!is_ram(range)) {
        return Error(
            ErrorKind::Failed,
            fmt::format("{} needs {} at {:#x}, where the machine has no RAM: give it more memory",
                        what, format_size(memory_size), address));
    }
    for (const Range& other : kernel_) {
        if (overlap(range.start, range.end, other.start, other.end)) {
            return Error(ErrorKind::Failed,
                         fmt::format("{} at {:#x} overlaps another one", what, address));
        }
    }
    if (memory_size == 0) {
        return ok();
    }
    kernel_.push_back(range);
    if (file_size != 0) {
        placements_.push_back({address, file_size, source, file_offset, {}});
    }
    return ok();
}

void PlanBuilder::loader_bytes(std::uint64_t address, std::span<const std::byte> bytes) {
    placements_.push_back({address, bytes.size(), Source::Bytes, 0, {bytes.begin(), bytes.end()}});
}

Result<> PlanBuilder::command_line(std::string_view text, std::uint64_t limit) {
    limit = std::min(limit, kCommandLineBytes - 1);
    if (text.size() > limit) {
        return Error(ErrorKind::InvalidArgument,
                     fmt::format("the command line has {} bytes, the kernel takes at most {}",
                                 text.size(), limit));
    }
    std::vector<std::byte> bytes(text.size() + 1);
    std::transform(text.begin(), text.end(), bytes.begin(),
                   [](char c) { return static_cast<std::byte>(c); });
    loader_bytes(kCommandLineAddress, bytes);
    return ok();
}

// The highest page-aligned place for `size` bytes in `ram`, below `end` and apart from the kernel.
std::optional<std::uint64_t> PlanBuilder::highest_gap(Range ram, std::uint64_t size,
                                                      std::uint64_t end) const {
    std::uint64_t top = std::min(ram.end, end);
    // Each round either succeeds or moves below one more kernel part, so it ends.
    while (top > ram.start && top - ram.start >= size) {
        const std::uint64_t start = (top - size) & ~(memory::kPageSize - 1);
        if (start < std::max(ram.start, kLoaderAreaEnd)) {
            return std::nullopt;
        }
        const auto hit = std::find_if(kernel_.begin(), kernel_.end(), [&](const Range& part) {
            return overlap(start, start + size, part.start, part.end);
        });
        if (hit == kernel_.end()) {
            return start;
        }
        top = hit->start;
    }
    return std::nullopt;
}

Result<std::uint64_t> PlanBuilder::initrd(std::uint64_t highest) {
    if (!environment_.initrd_size) {
        return std::uint64_t{0};
    }
    const std::uint64_t size = *environment_.initrd_size;
    if (size == 0) {
        return Error(ErrorKind::Failed, "the initrd is empty");
    }
    const std::uint64_t end = highest == ~0ULL ? highest : highest + 1;
    for (auto entry = environment_.memory_map.rbegin(); entry != environment_.memory_map.rend();
         ++entry) {
        if (entry->type != MemoryType::Ram || entry->start >= end) {
            continue;
        }
        if (const auto start = highest_gap({entry->start, entry->start + entry->size}, size, end)) {
            placements_.push_back({*start, size, Source::Initrd, 0, {}});
            return *start;
        }
    }
    return Error(ErrorKind::Failed, fmt::format("the initrd ({}) does not fit beside the kernel "
                                                "below {:#x}: give the machine more memory",
                                                format_size(size), end));
}

bool PlanBuilder::inside_kernel(std::uint64_t address, std::uint64_t size) const {
    return std::any_of(kernel_.begin(), kernel_.end(), [&](const Range& part) {
        return address >= part.start && address < part.end && size <= part.end - address;
    });
}

bool PlanBuilder::kernel_below(std::uint64_t address) const {
    return std::any_of(kernel_.begin(), kernel_.end(),
                       [&](const Range& part) { return part.start < address; });
}

BootPlan PlanBuilder::finish(KernelKind kind, const arch::x86::ArchState& entry) {
    return {kind, std::move(placements_), {}, entry};
}

}  // namespace strata::machine::boot
