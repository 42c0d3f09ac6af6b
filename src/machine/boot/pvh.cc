// PVH: the entry note and hvm_start_info (xen/include/public/arch-x86/hvm/start_info.h).
#include "machine/boot/pvh.h"

#include <fmt/core.h>

#include "base/byte_reader.h"
#include "base/endian.h"
#include "machine/boot/entry_state.h"

namespace strata::machine::boot {
namespace {

constexpr std::uint32_t kPhys32EntryNote = 18;
constexpr std::uint32_t kStartMagic = 0x336ec578;
constexpr std::uint64_t kModuleListAddress = kBootInfoAddress + 0x100;
constexpr std::uint64_t kMapAddress = kBootInfoAddress + 0x200;
constexpr std::size_t kMaxMapEntries = (kZeroPageAddress - kMapAddress) / 24;

struct StartInfo {
    Le32 magic, version, flags, module_count;
    Le64 module_list, command_line, rsdp, memory_map;
    Le32 memory_map_entries, reserved;
};
struct Module {
    Le64 address, size, command_line, reserved;
};
struct MapEntry {
    Le64 address, size;
    Le32 type, reserved;
};
static_assert(sizeof(StartInfo) == 56 && sizeof(Module) == 32 && sizeof(MapEntry) == 24);

Result<std::uint64_t> entry_point(std::span<const std::byte> kernel, const ElfFile& elf) {
    const auto note = elf.note(kernel, "Xen", kPhys32EntryNote);
    if (!note) {
        return Error(ErrorKind::Failed, "no PVH entry note");
    }
    const ByteReader reader(*note);
    if (note->size() >= sizeof(Le64)) {
        return STRATA_TRY(reader.read_at<Le64>(0)).value();
    }
    return std::uint64_t{STRATA_TRY(reader.read_at<Le32>(0))};
}

void add_start_info(PlanBuilder& plan, std::uint64_t initrd) {
    const BootEnvironment& environment = plan.environment();
    std::vector<MapEntry> map;
    for (const MemoryMapEntry& entry : environment.memory_map) {
        map.push_back({entry.start, entry.size, static_cast<std::uint32_t>(entry.type), 0U});
    }
    map.resize(std::min(map.size(), kMaxMapEntries));
    StartInfo info{};
    info.magic = kStartMagic;
    info.version = 1U;
    info.command_line = kCommandLineAddress;
    info.rsdp = environment.rsdp;
    info.memory_map = kMapAddress;
    info.memory_map_entries = static_cast<std::uint32_t>(map.size());
    if (initrd != 0) {
        const Module module{initrd, environment.initrd_size.value_or(0), std::uint64_t{0},
                            std::uint64_t{0}};
        plan.loader_bytes(kModuleListAddress, std::as_bytes(std::span(&module, 1)));
        info.module_count = 1U;
        info.module_list = kModuleListAddress;
    }
    plan.loader_bytes(kBootInfoAddress, std::as_bytes(std::span(&info, 1)));
    plan.loader_bytes(kMapAddress, std::as_bytes(std::span(map)));
}

}  // namespace

bool is_pvh(std::span<const std::byte> kernel, const ElfFile& elf) {
    return elf.note(kernel, "Xen", kPhys32EntryNote).has_value();
}

Result<BootPlan> plan_pvh(std::span<const std::byte> kernel, const ElfFile& elf,
                          const BootEnvironment& environment) {
    const std::uint64_t entry = STRATA_TRY(entry_point(kernel, elf));
    PlanBuilder plan(environment);
    STRATA_TRY_VOID(elf.load_into(plan));
    if (entry > 0xffffffff || !plan.inside_kernel(entry, 1)) {
        return Error(ErrorKind::Failed,
                     fmt::format("the PVH entry point {:#x} lies outside its segments", entry));
    }
    STRATA_TRY_VOID(plan.command_line(environment.command_line, kCommandLineBytes - 1));
    const std::uint64_t initrd = STRATA_TRY(plan.initrd(0xffffffff));
    add_start_info(plan, initrd);
    arch::x86::ArchState state = protected_mode_entry(plan, static_cast<std::uint32_t>(entry));
    state.gpr[arch::x86::Rbx] = kBootInfoAddress;
    return plan.finish(KernelKind::Pvh, state);
}

}  // namespace strata::machine::boot
