// Multiboot 1: the header, the a.out kludge, the information structure.
#include "machine/boot/multiboot.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include <fmt/core.h>

#include "base/byte_reader.h"
#include "base/endian.h"
#include "machine/boot/elf.h"
#include "machine/boot/entry_state.h"
#include "machine/boot/real_mode_world.h"

namespace strata::machine::boot {
namespace {

constexpr std::uint32_t kHeaderMagic = 0x1badb002;
constexpr std::uint32_t kLoaderMagic = 0x2badb002;
constexpr std::size_t kSearchBytes = 8192;
constexpr std::uint32_t kOwnAddresses = 1U << 16;
/// Requirement bits we can meet: page-aligned modules, memory information. Bit 2 (video mode) we
/// cannot.
constexpr std::uint32_t kRequirementsMet = 3;
constexpr std::uint32_t kRequirementBits = 0xffff;
constexpr std::uint64_t kModuleAddress = kBootInfoAddress + 0x100;
constexpr std::uint64_t kLoaderNameAddress = kBootInfoAddress + 0x140;
constexpr std::uint64_t kMapAddress = kBootInfoAddress + 0x200;
constexpr std::uint32_t kInfoMemory = 1U << 0, kInfoCommandLine = 1U << 2, kInfoModules = 1U << 3,
                        kInfoMap = 1U << 6, kInfoLoaderName = 1U << 9;

struct Header {
    Le32 magic, flags, checksum;
    Le32 header_address, load_address, load_end, bss_end, entry;
};
constexpr std::size_t kShortHeader = 12;

struct Info {
    Le32 flags, memory_lower, memory_upper, boot_device, command_line, module_count, modules;
    std::array<Le32, 4> symbols;
    Le32 map_length, map;
    Le32 drives_length, drives, config_table, loader_name, apm_table;
    std::array<Le32, 8> video;
};
struct Module {
    Le32 start, end, text, reserved;
};
struct MapEntry {
    Le32 size;
    Le64 address, length;
    Le32 type;
};
static_assert(sizeof(Header) == 32 && sizeof(Info) == 104 && sizeof(Module) == 16 &&
              sizeof(MapEntry) == 24);
constexpr std::size_t kMaxMapEntries = (kZeroPageAddress - kMapAddress) / sizeof(MapEntry);

Error refuse(std::string text) {
    return {ErrorKind::Failed, std::move(text)};
}

/// Offset of the header, 4-byte aligned, wholly within the first 8 KiB.
std::optional<std::size_t> find_header(std::span<const std::byte> kernel) {
    const ByteReader reader(kernel);
    const std::size_t end = std::min(kernel.size(), kSearchBytes);
    for (std::size_t at = 0; at + kShortHeader <= end; at += 4) {
        const auto words = reader.read_at<std::array<Le32, 3>>(at);
        if (words.ok() && (*words)[0] == kHeaderMagic &&
            std::uint32_t{(*words)[0]} + (*words)[1] + (*words)[2] == 0) {
            return at;
        }
    }
    return std::nullopt;
}

/// Loads by the addresses in the header; answers the entry point. Specification, 3.1.3.
Result<std::uint32_t> load_plain(PlanBuilder& plan, std::span<const std::byte> kernel,
                                 std::size_t at) {
    const auto header = STRATA_TRY(ByteReader(kernel).read_at<Header>(at));
    const std::uint64_t before = std::uint64_t{header.header_address} - header.load_address;
    if (header.load_address > header.header_address || before > at) {
        return refuse(
            "the multiboot header's load address does not match its own place in the file");
    }
    const std::uint64_t offset = at - before;
    const std::uint64_t size = header.load_end == 0
                                   ? kernel.size() - offset
                                   : std::uint64_t{header.load_end} - header.load_address;
    if ((header.load_end != 0 && header.load_end < header.load_address) ||
        size > kernel.size() - offset) {
        return refuse("the multiboot header asks for more than the file holds (truncated?)");
    }
    if (header.bss_end != 0 && header.bss_end < header.load_address + size) {
        return refuse("the multiboot header's bss ends before its data");
    }
    const std::uint64_t memory =
        header.bss_end == 0 ? size : std::uint64_t{header.bss_end} - header.load_address;
    STRATA_TRY_VOID(plan.kernel_part("the image", header.load_address, offset, size, memory));
    return header.entry.value();
}

Result<std::uint32_t> load_elf(PlanBuilder& plan, std::span<const std::byte> kernel) {
    const ElfFile elf = STRATA_TRY(ElfFile::parse(kernel));
    STRATA_TRY_VOID(elf.load_into(plan));
    // Kernels linked high give a virtual entry address; boot loaders translate it by the segment it
    // lies in.
    const std::uint64_t entry =
        plan.inside_kernel(elf.entry, 1) ? elf.entry : elf.to_physical(elf.entry);
    if (entry > 0xffffffff) {
        return refuse(fmt::format("the entry point {:#x} lies above 4 GiB", entry));
    }
    return static_cast<std::uint32_t>(entry);
}

/// KiB of RAM from 1 MiB on, up to the first hole.
std::uint32_t upper_memory_kib(const MemoryMap& map) {
    for (const MemoryMapEntry& entry : map) {
        if (entry.type == MemoryType::Ram && entry.start == 0x100000) {
            return static_cast<std::uint32_t>(
                std::min<std::uint64_t>(entry.size >> 10, 0xffffffff));
        }
    }
    return 0;
}

void add_info(PlanBuilder& plan, std::uint64_t initrd) {
    const BootEnvironment& environment = plan.environment();
    constexpr std::array<char, 8> kName = {'S', 't', 'r', 'a', 't', 'a', 0, 0};
    std::vector<MapEntry> map;
    for (const MemoryMapEntry& entry : environment.memory_map) {
        map.push_back({std::uint32_t{sizeof(MapEntry) - sizeof(Le32)}, entry.start, entry.size,
                       static_cast<std::uint32_t>(entry.type)});
    }
    map.resize(std::min(map.size(), kMaxMapEntries));
    Info info{};
    info.flags = kInfoMemory | kInfoCommandLine | kInfoMap | kInfoLoaderName |
                 (initrd == 0 ? 0U : kInfoModules);
    info.memory_lower = environment.memory_map.empty()
                            ? 0U
                            : static_cast<std::uint32_t>(environment.memory_map[0].size >> 10);
    info.memory_upper = upper_memory_kib(environment.memory_map);
    info.command_line = static_cast<std::uint32_t>(kCommandLineAddress);
    info.loader_name = static_cast<std::uint32_t>(kLoaderNameAddress);
    info.map = static_cast<std::uint32_t>(kMapAddress);
    info.map_length = static_cast<std::uint32_t>(map.size() * sizeof(MapEntry));
    if (initrd != 0) {
        const Module module{
            static_cast<std::uint32_t>(initrd),
            static_cast<std::uint32_t>(initrd + environment.initrd_size.value_or(0)), 0U, 0U};
        plan.loader_bytes(kModuleAddress, std::as_bytes(std::span(&module, 1)));
        info.module_count = 1U;
        info.modules = static_cast<std::uint32_t>(kModuleAddress);
    }
    plan.loader_bytes(kLoaderNameAddress, std::as_bytes(std::span(kName)));
    plan.loader_bytes(kBootInfoAddress, std::as_bytes(std::span(&info, 1)));
    plan.loader_bytes(kMapAddress, std::as_bytes(std::span(map)));
}

}  // namespace

bool is_multiboot(std::span<const std::byte> kernel) {
    return find_header(kernel).has_value();
}

Result<BootPlan> plan_multiboot(std::span<const std::byte> kernel,
                                const BootEnvironment& environment) {
    const auto at = find_header(kernel);
    if (!at) {
        return refuse("no multiboot header");
    }
    const std::uint32_t flags = STRATA_TRY(ByteReader(kernel).read_at<Le32>(*at + 4));
    if ((flags & kRequirementBits & ~kRequirementsMet) != 0) {
        return refuse(fmt::format(
            "its multiboot header requires what Strata does not offer (flags {:#x})", flags));
    }
    PlanBuilder plan(environment, {{0, kZeroPageAddress}, {kCommandLineAddress, kLoaderAreaEnd}});
    const std::uint32_t entry = (flags & kOwnAddresses) != 0
                                    ? STRATA_TRY(load_plain(plan, kernel, *at))
                                    : STRATA_TRY(load_elf(plan, kernel));
    if (!plan.inside_kernel(entry, 1)) {
        return refuse(fmt::format("the entry point {:#x} lies outside what is loaded", entry));
    }
    std::string command_line = environment.kernel_name;
    if (!environment.command_line.empty()) {
        command_line += " " + environment.command_line;
    }
    STRATA_TRY_VOID(plan.command_line(command_line, kCommandLineBytes - 1));
    const std::uint64_t initrd = STRATA_TRY(plan.initrd(0xffffffff));
    add_info(plan, initrd);
    arch::x86::ArchState state = protected_mode_entry(plan, entry);
    state.gpr[arch::x86::Rax] = kLoaderMagic;
    state.gpr[arch::x86::Rbx] = kBootInfoAddress;
    if (plan.kernel_below(0x100000)) {
        add_real_mode_world(plan, state);
    }
    return plan.finish(KernelKind::Multiboot, state);
}

}  // namespace strata::machine::boot
