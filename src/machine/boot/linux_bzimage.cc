// Linux bzImage: checking of the setup header, filling of the zero page.
//
// A bzImage is: boot sector and setup code (setup_sects + 1 sectors, with the setup header at
// 0x1f1), then the 64-bit kernel, whose entry point lies 0x200 bytes in. We skip the real-mode
// setup code and enter there directly.
#include "machine/boot/linux_bzimage.h"

#include <algorithm>
#include <array>
#include <cstring>

#include <fmt/core.h>

#include "base/byte_reader.h"
#include "base/endian.h"
#include "base/log.h"
#include "base/text.h"
#include "machine/boot/entry_state.h"
#include "machine/boot/linux_payload.h"

namespace strata::machine::boot {
namespace {

constexpr std::size_t kHeaderOffset = 0x1f1;
constexpr std::size_t kMagicOffset = 0x202;
constexpr std::uint32_t kMagic = 0x53726448;       // "HdrS"
constexpr std::uint16_t kMinimumVersion = 0x020c;  // 2.12: xloadflags
constexpr std::uint16_t kRsdpVersion = 0x020e;     // 2.14: acpi_rsdp_addr
constexpr std::uint64_t kSectorBytes = 512;
constexpr std::uint8_t kLoadedHigh = 1;
constexpr std::uint8_t kRandomized = 1U << 1;  // KASLR_FLAG: the stub's word to the kernel
constexpr std::uint8_t kKeepSegments = 1U << 6;
constexpr std::uint16_t kXlfKernel64 = 1;
constexpr std::uint64_t kEntryOffset = 0x200;
constexpr std::uint8_t kUndefinedLoader = 0xff;
constexpr std::uint16_t kNormalVideo = 0xffff;
constexpr std::size_t kMaxE820 = 128;

/// struct setup_header of arch/x86/include/uapi/asm/bootparam.h.
struct SetupHeader {
    std::uint8_t setup_sects = 0;
    Le16 root_flags;
    Le32 syssize;
    Le16 ram_size;
    Le16 vid_mode;
    Le16 root_dev;
    Le16 boot_flag;
    Le16 jump;
    Le32 header;
    Le16 version;
    Le32 realmode_switch;
    Le16 start_sys_seg;
    Le16 kernel_version;
    std::uint8_t type_of_loader = 0;
    std::uint8_t loadflags = 0;
    Le16 setup_move_size;
    Le32 code32_start;
    Le32 ramdisk_image;
    Le32 ramdisk_size;
    Le32 bootsect_kludge;
    Le16 heap_end_ptr;
    std::uint8_t ext_loader_ver = 0;
    std::uint8_t ext_loader_type = 0;
    Le32 cmd_line_ptr;
    Le32 initrd_addr_max;
    Le32 kernel_alignment;
    std::uint8_t relocatable_kernel = 0;
    std::uint8_t min_alignment = 0;
    Le16 xloadflags;
    Le32 cmdline_size;
    Le32 hardware_subarch;
    Le64 hardware_subarch_data;
    Le32 payload_offset;
    Le32 payload_length;
    Le64 setup_data;
    Le64 pref_address;
    Le32 init_size;
    Le32 handover_offset;
    Le32 kernel_info_offset;
};
static_assert(sizeof(SetupHeader) == 0x7b &&
              offsetof(SetupHeader, header) == kMagicOffset - kHeaderOffset);
static_assert(offsetof(SetupHeader, pref_address) == 0x258 - kHeaderOffset);

struct E820Entry {
    Le64 address;
    Le64 size;
    Le32 type;
};
static_assert(sizeof(E820Entry) == 20);

/// struct boot_params: only what a loader fills.
struct ZeroPage {
    std::array<std::byte, 0x70> screen_info_and_more{};
    Le64 acpi_rsdp_addr;
    std::array<std::byte, 0x1e8 - 0x78> gap1{};
    std::uint8_t e820_entries = 0;
    std::array<std::byte, kHeaderOffset - 0x1e9> gap2{};
    SetupHeader header;
    std::array<std::byte, 0x2d0 - kHeaderOffset - sizeof(SetupHeader)> gap3{};
    std::array<E820Entry, kMaxE820> e820{};
    std::array<std::byte, 4096 - 0x2d0 - sizeof(E820Entry) * kMaxE820> rest{};
};
static_assert(sizeof(ZeroPage) == 4096 && offsetof(ZeroPage, e820) == 0x2d0 &&
              offsetof(ZeroPage, acpi_rsdp_addr) == 0x70 &&
              offsetof(ZeroPage, e820_entries) == 0x1e8);

Error refuse(std::string text) {
    return {ErrorKind::Failed, std::move(text)};
}

Result<> check_header(const SetupHeader& header) {
    if (header.version < kMinimumVersion) {
        return refuse(fmt::format("boot protocol {}.{:02} is too old, 2.12 or newer is needed",
                                  header.version >> 8, header.version & 0xff));
    }
    if ((header.loadflags & kLoadedHigh) == 0) {
        return refuse("a zImage that loads below 1 MiB is not supported");
    }
    if ((header.xloadflags & kXlfKernel64) == 0) {
        return refuse("the kernel has no 64-bit entry point (32-bit kernels are not supported)");
    }
    return ok();
}

/// The setup header as the file has it, cut at the length it declares for itself (the jump's
/// target), zeros after it.
Result<SetupHeader> read_header(std::span<const std::byte> kernel) {
    const ByteReader reader(kernel);
    const std::uint64_t declared =
        kMagicOffset + STRATA_TRY(reader.read_at<std::uint8_t>(kMagicOffset - 1)) - kHeaderOffset;
    const std::size_t length = std::min<std::uint64_t>(declared, sizeof(SetupHeader));
    SetupHeader header{};
    if (kernel.size() < kHeaderOffset + length) {
        return refuse("truncated inside the setup header");
    }
    // SAFETY: SetupHeader is trivially copyable and `length` is at most its size, checked against
    // the file just above.
    std::memcpy(static_cast<void*>(&header), kernel.data() + kHeaderOffset, length);
    return header;
}

/// `flags`: what to add to loadflags.
void fill_zero_page(PlanBuilder& plan, const SetupHeader& header, std::uint64_t initrd,
                    std::uint8_t flags) {
    const BootEnvironment& environment = plan.environment();
    ZeroPage page{};
    page.header = header;
    page.header.type_of_loader = kUndefinedLoader;
    page.header.vid_mode = kNormalVideo;
    page.header.loadflags = static_cast<std::uint8_t>(header.loadflags | kKeepSegments | flags);
    page.header.cmd_line_ptr = static_cast<std::uint32_t>(kCommandLineAddress);
    page.header.setup_data = std::uint64_t{0};
    page.header.ramdisk_image = static_cast<std::uint32_t>(initrd);
    page.header.ramdisk_size =
        static_cast<std::uint32_t>(initrd == 0 ? 0 : environment.initrd_size.value_or(0));
    if (header.version >= kRsdpVersion) {
        page.acpi_rsdp_addr = environment.rsdp;
    }
    const std::size_t count = std::min(environment.memory_map.size(), kMaxE820);
    for (std::size_t i = 0; i < count; ++i) {
        const MemoryMapEntry& entry = environment.memory_map[i];
        page.e820[i] = {entry.start, entry.size, static_cast<std::uint32_t>(entry.type)};
    }
    page.e820_entries = static_cast<std::uint8_t>(count);
    plan.loader_bytes(kZeroPageAddress, std::as_bytes(std::span(&page, 1)));
}

/// Where the code behind the setup sectors lies in the file, and whither it goes.
struct ProtectedPart {
    std::uint64_t offset = 0;   ///< in the file
    std::uint64_t present = 0;  ///< bytes of it in the file
    std::uint64_t load = 0;
};

Result<ProtectedPart> find_protected_part(std::span<const std::byte> kernel,
                                          const SetupHeader& header) {
    // A setup_sects of 0 means 4, for reasons of history.
    const std::uint64_t setup =
        (header.setup_sects == 0 ? 5U : header.setup_sects + 1U) * kSectorBytes;
    const std::uint64_t code = std::uint64_t{header.syssize} * 16;
    if (code <= kEntryOffset || kernel.size() <= setup + kEntryOffset) {
        return refuse("there is no kernel behind the setup code");
    }
    // syssize is rounded up to 16 bytes, and the last ones may be missing.
    if (kernel.size() + 15 < setup + code) {
        return refuse(fmt::format("truncated: {} of {} are there", format_size(kernel.size()),
                                  format_size(setup + code)));
    }
    const std::uint64_t load = header.pref_address;
    if (load > 0xffffffff || load + std::max<std::uint64_t>(header.init_size, code) > 0x100000000) {
        return refuse(fmt::format("wants to be loaded at {:#x}, which is not below 4 GiB", load));
    }
    return ProtectedPart{setup, std::min<std::uint64_t>(kernel.size() - setup, code), load};
}

/// Everything but the kernel itself: command line, initrd, zero page.
Result<> add_surroundings(PlanBuilder& plan, const SetupHeader& header, std::uint8_t flags) {
    STRATA_TRY_VOID(plan.command_line(plan.environment().command_line, header.cmdline_size));
    const std::uint64_t initrd = STRATA_TRY(plan.initrd(header.initrd_addr_max));
    fill_zero_page(plan, header, initrd, flags);
    return ok();
}

BootPlan finish(PlanBuilder& plan, std::uint64_t address) {
    arch::x86::ArchState entry = long_mode_entry(plan, address);
    entry.gpr[arch::x86::Rsi] = kZeroPageAddress;
    return plan.finish(KernelKind::LinuxBzImage, entry);
}

/// The file's own stub unpacks the kernel, in the guest.
Result<BootPlan> plan_stub(const ProtectedPart& part, const SetupHeader& header,
                           const BootEnvironment& environment) {
    PlanBuilder plan(environment);
    STRATA_TRY_VOID(
        plan.kernel_part("the kernel", part.load, part.offset, part.present, header.init_size));
    STRATA_TRY_VOID(add_surroundings(plan, header, 0));
    return finish(plan, part.load + kEntryOffset);
}

/// Unpacked here. startup_64 of the kernel proper wants what the stub's entry wants: 64-bit mode,
/// an identity map, the zero page in rsi.
Result<BootPlan> plan_unpacked(std::span<const std::byte> kernel, const ProtectedPart& part,
                               const SetupHeader& header, const BootEnvironment& environment) {
    const std::uint64_t offset = header.payload_offset;
    const std::uint64_t length = header.payload_length;
    if (length == 0 || offset > part.present || length > part.present - offset) {
        return refuse("its payload lies outside the file");
    }
    const LinuxPayload payload{kernel.subspan(part.offset + offset, length), part.load,
                               header.init_size, header.kernel_alignment};
    const bool fixed = has_word(environment.command_line, "nokaslr");
    UnpackedKernel unpacked = STRATA_TRY(
        unpack_kernel(payload, fixed ? std::nullopt : std::optional(environment.random)));
    PlanBuilder plan(environment);
    STRATA_TRY_VOID(unpacked.elf.load_into(plan, Source::Unpacked));
    STRATA_TRY_VOID(
        add_surroundings(plan, header, unpacked.randomized ? kRandomized : std::uint8_t{0}));
    BootPlan result = finish(plan, unpacked.elf.entry);
    result.unpacked = std::move(unpacked.image);
    return result;
}

}  // namespace

bool is_bzimage(std::span<const std::byte> kernel) {
    const auto magic = ByteReader(kernel).read_at<Le32>(kMagicOffset);
    return magic.ok() && *magic == kMagic;
}

Result<BootPlan> plan_bzimage(std::span<const std::byte> kernel,
                              const BootEnvironment& environment) {
    const SetupHeader header = STRATA_TRY(read_header(kernel));
    STRATA_TRY_VOID(check_header(header));
    const ProtectedPart part = STRATA_TRY(find_protected_part(kernel, header));
    if (environment.kernel_entry == KernelEntry::Stub) {
        return plan_stub(part, header, environment);
    }
    auto unpacked = plan_unpacked(kernel, part, header, environment);
    if (unpacked.ok()) {
        return unpacked;
    }
    if (environment.kernel_entry == KernelEntry::Decompress) {
        return std::move(unpacked).error().context(
            "the kernel cannot be unpacked by the loader (let its own stub do it: --kernel-entry "
            "stub)");
    }
    log::debug("the kernel's own stub unpacks it: {}", unpacked.error().text());
    return plan_stub(part, header, environment);
}

}  // namespace strata::machine::boot
