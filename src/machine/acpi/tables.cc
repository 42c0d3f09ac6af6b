// ACPI tables: structures of ACPI 6.4, chapter 5, HPET 1.0a 3.2.4, and PCI Firmware 3.2 4.1.2
// (MCFG).
#include "machine/acpi/tables.h"

#include <array>
#include <cstring>
#include <numeric>
#include <span>
#include <string_view>

#include "base/endian.h"
#include "machine/acpi/dsdt.h"

namespace strata::machine::acpi {
namespace {

struct TableHeader {
    std::array<char, 4> signature{};
    Le32 length;
    std::uint8_t revision = 0;
    std::uint8_t checksum = 0;
    std::array<char, 6> oem{};
    std::array<char, 8> oem_table{};
    Le32 oem_revision;
    std::array<char, 4> creator{};
    Le32 creator_revision;
};
static_assert(sizeof(TableHeader) == 36);

/// Generic address structure, 5.2.3.2.
struct GenericAddress {
    std::uint8_t space = 0;
    std::uint8_t bits = 0;
    std::uint8_t offset = 0;
    std::uint8_t access = 0;  ///< 1 byte, 2 word, 3 dword
    Le64 address;
};
static_assert(sizeof(GenericAddress) == 12);
constexpr std::uint8_t kSystemMemory = 0, kSystemIo = 1;

struct Rsdp {
    std::array<char, 8> signature{};
    std::uint8_t checksum = 0;
    std::array<char, 6> oem{};
    std::uint8_t revision = 0;
    Le32 rsdt;
    Le32 length;
    Le64 xsdt;
    std::uint8_t extended_checksum = 0;
    std::array<std::uint8_t, 3> reserved{};
};
static_assert(sizeof(Rsdp) == 36);

struct Facs {
    std::array<char, 4> signature{};
    Le32 length, hardware_signature, waking_vector, global_lock, flags;
    Le64 waking_vector64;
    std::uint8_t version = 0;
    std::array<std::uint8_t, 31> reserved{};
};
static_assert(sizeof(Facs) == 64);

struct Fadt {
    Le32 facs, dsdt;
    std::uint8_t reserved0 = 0, profile = 0;
    Le16 sci_interrupt;
    Le32 smi_command;
    std::uint8_t acpi_enable = 0, acpi_disable = 0, s4bios = 0, pstate_control = 0;
    Le32 pm1a_event, pm1b_event, pm1a_control, pm1b_control, pm2_control, pm_timer, gpe0, gpe1;
    std::uint8_t pm1_event_length, pm1_control_length, pm2_control_length, pm_timer_length,
        gpe0_length, gpe1_length, gpe1_base, cst_control;
    Le16 c2_latency, c3_latency, flush_size, flush_stride;
    std::uint8_t duty_offset = 0, duty_width = 0, day_alarm = 0, month_alarm = 0, century = 0;
    Le16 boot_architecture;
    std::uint8_t reserved1 = 0;
    Le32 flags;
    GenericAddress reset_register;
    std::uint8_t reset_value = 0;
    Le16 arm_boot;
    std::uint8_t minor_version = 0;
    Le64 x_facs, x_dsdt;
    GenericAddress x_pm1a_event, x_pm1b_event, x_pm1a_control, x_pm1b_control, x_pm2_control,
        x_pm_timer, x_gpe0, x_gpe1, sleep_control, sleep_status;
    Le64 hypervisor;
};
static_assert(sizeof(Fadt) + sizeof(TableHeader) == 276);

struct Madt {
    Le32 local_apic, flags;
};
struct MadtLocalApic {
    std::uint8_t type = 0, length = 0, uid = 0, apic_id = 0;
    Le32 flags;
};
struct MadtX2Apic {
    std::uint8_t type = 0, length = 0;
    Le16 reserved;
    Le32 apic_id, flags, uid;
};
struct MadtIoApic {
    std::uint8_t type = 0, length = 0, id = 0, reserved = 0;
    Le32 address, first_gsi;
};
struct MadtOverride {
    std::uint8_t type = 0, length = 0, bus = 0, source = 0;
    Le32 gsi;
    Le16 flags;
};
struct MadtLocalNmi {
    std::uint8_t type = 0, length = 0, uid = 0;
    Le16 flags;
    std::uint8_t lint = 0;
};
struct MadtX2Nmi {
    std::uint8_t type = 0, length = 0;
    Le16 flags;
    Le32 uid;
    std::uint8_t lint = 0;
    std::array<std::uint8_t, 3> reserved{};
};
static_assert(sizeof(MadtLocalApic) == 8 && sizeof(MadtX2Apic) == 16 && sizeof(MadtIoApic) == 12);
static_assert(sizeof(MadtOverride) == 10 && sizeof(MadtLocalNmi) == 6 && sizeof(MadtX2Nmi) == 12);

struct HpetTable {
    Le32 block_id;
    GenericAddress address;
    std::uint8_t number = 0;
    Le16 minimum_tick;
    std::uint8_t protection = 0;
};
static_assert(sizeof(HpetTable) + sizeof(TableHeader) == 56);

struct Mcfg {
    Le64 reserved, base;
    Le16 segment;
    std::uint8_t first_bus = 0, last_bus = 0;
    Le32 reserved2;
};
static_assert(sizeof(Mcfg) == 24);

using Bytes = std::vector<std::byte>;

template <typename T>
void append(Bytes& out, const T& value) {
    const auto bytes = std::as_bytes(std::span(&value, 1));
    out.insert(out.end(), bytes.begin(), bytes.end());
}

std::uint8_t checksum(std::span<const std::byte> bytes) {
    unsigned sum = 0;
    for (const std::byte byte : bytes) {
        sum += std::to_integer<unsigned>(byte);
    }
    return static_cast<std::uint8_t>(0U - sum);
}

Bytes table(std::string_view signature, std::uint8_t revision, const Bytes& body) {
    TableHeader header{};
    std::memcpy(header.signature.data(), signature.data(), 4);
    header.length = static_cast<std::uint32_t>(sizeof(header) + body.size());
    header.revision = revision;
    header.oem = {'S', 'T', 'R', 'A', 'T', 'A'};
    header.oem_table = {'S', 'T', 'R', 'A', 'T', 'A', 'P', 'C'};
    header.oem_revision = 1U;
    header.creator = {'S', 'T', 'R', 'A'};
    header.creator_revision = 1U;
    Bytes out;
    append(out, header);
    out.insert(out.end(), body.begin(), body.end());
    out[offsetof(TableHeader, checksum)] = static_cast<std::byte>(checksum(out));
    return out;
}

/// The block of tables while it grows.
class Block {
  public:
    explicit Block(std::uint64_t address) : address_(address) {}
    /// Appends, aligned; answers the guest address.
    std::uint64_t add(const Bytes& bytes, std::size_t alignment = 16) {
        bytes_.resize((bytes_.size() + alignment - 1) & ~(alignment - 1));
        const std::uint64_t at = address_ + bytes_.size();
        bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
        return at;
    }
    Bytes& bytes() { return bytes_; }

  private:
    std::uint64_t address_;
    Bytes bytes_;
};

GenericAddress ports(std::uint16_t port, unsigned bytes, std::uint8_t access) {
    return {kSystemIo, static_cast<std::uint8_t>(bytes * 8), 0, access, std::uint64_t{port}};
}

Bytes fadt(const AcpiConfig& config, std::uint64_t facs, std::uint64_t dsdt) {
    constexpr std::uint16_t kNoC2 = 0xfff, kNoC3 = 0xfff;
    constexpr std::uint16_t kLegacyDevices = 1, k8042 = 2, kNoVga = 4;
    // Flags, 5.2.9 table 5.10: WBINVD works, C1 on all CPUs, no fixed sleep button, RTC wakes not
    // by fixed hardware, 32-bit PM timer, reset register.
    constexpr std::uint32_t kFlags = 1U << 0 | 1U << 2 | 1U << 5 | 1U << 6 | 1U << 8 | 1U << 10;
    Fadt out{};
    out.facs = static_cast<std::uint32_t>(facs);
    out.dsdt = static_cast<std::uint32_t>(dsdt);
    out.x_dsdt = dsdt;
    out.sci_interrupt = std::uint16_t{config.sci_irq};
    out.pm1a_event = std::uint32_t{config.pm_event_port};
    out.pm1a_control = std::uint32_t{config.pm_control_port};
    out.pm_timer = std::uint32_t{config.pm_timer_port};
    out.gpe0 = std::uint32_t{config.gpe0_port};
    out.pm1_event_length = 4;
    out.pm1_control_length = 2;
    out.pm_timer_length = 4;
    out.gpe0_length = config.gpe0_size;
    out.x_pm1a_event = ports(config.pm_event_port, 4, 2);
    out.x_pm1a_control = ports(config.pm_control_port, 2, 2);
    out.x_pm_timer = ports(config.pm_timer_port, 4, 3);
    out.x_gpe0 = ports(config.gpe0_port, config.gpe0_size, 1);
    out.c2_latency = kNoC2;
    out.c3_latency = kNoC3;
    out.century = config.century_index;
    out.boot_architecture = static_cast<std::uint16_t>(kLegacyDevices | k8042 | kNoVga);
    out.flags = kFlags;
    out.reset_register = ports(config.reset_port, 1, 1);
    out.reset_value = config.reset_value;
    out.minor_version = 4;
    Bytes body;
    append(body, out);
    return table("FACP", 6, body);
}

void append_processors(Bytes& body, const AcpiConfig& config) {
    constexpr std::uint32_t kEnabled = 1;
    constexpr std::uint32_t kFirstX2Id = 255;
    bool any_x2 = false;
    for (std::size_t i = 0; i < config.apic_ids.size(); ++i) {
        const std::uint32_t id = config.apic_ids[i];
        const auto uid = static_cast<std::uint32_t>(i);
        if (id < kFirstX2Id && i < kFirstX2Id) {
            append(body, MadtLocalApic{0, 8, static_cast<std::uint8_t>(uid),
                                       static_cast<std::uint8_t>(id), kEnabled});
        } else {
            append(body, MadtX2Apic{9, 16, std::uint16_t{0}, id, kEnabled, uid});
            any_x2 = true;
        }
    }
    append(body, MadtLocalNmi{4, 6, 0xff, std::uint16_t{0}, 1});
    if (any_x2) {
        append(body, MadtX2Nmi{10, 12, std::uint16_t{0}, 0xffffffffU, 1, {}});
    }
}

Bytes madt(const AcpiConfig& config) {
    constexpr std::uint32_t kLegacyPicToo = 1;
    constexpr std::uint16_t kAsBus = 0, kActiveHighLevel = 0xd;
    Bytes body;
    append(body, Madt{config.local_apic, kLegacyPicToo});
    append_processors(body, config);
    append(body, MadtIoApic{1, 12, 0, 0, config.io_apic, 0U});
    append(body, MadtOverride{2, 10, 0, 0, 2U, kAsBus});  // the PIT is at pin 2
    append(body,
           MadtOverride{2, 10, 0, config.sci_irq, std::uint32_t{config.sci_irq}, kActiveHighLevel});
    return table("APIC", 5, body);
}

Bytes hpet(const AcpiConfig& config) {
    constexpr std::uint16_t kMinimumTick = 1000;
    Bytes body;
    append(body, HpetTable{config.hpet_block_id,
                           {kSystemMemory, 64, 0, 0, std::uint64_t{config.hpet}},
                           0,
                           kMinimumTick,
                           0});
    return table("HPET", 1, body);
}

Bytes mcfg(const AcpiConfig& config) {
    Bytes body;
    append(body, Mcfg{std::uint64_t{0}, config.ecam, std::uint16_t{0}, 0,
                      static_cast<std::uint8_t>((config.ecam_size >> 20) - 1), 0U});
    return table("MCFG", 1, body);
}

Bytes facs() {
    Facs out{};
    out.signature = {'F', 'A', 'C', 'S'};
    out.length = std::uint32_t{sizeof(Facs)};
    out.version = 2;
    Bytes bytes;
    append(bytes, out);
    return bytes;
}

Rsdp root_pointer(std::uint64_t xsdt) {
    Rsdp out{};
    out.signature = {'R', 'S', 'D', ' ', 'P', 'T', 'R', ' '};
    out.oem = {'S', 'T', 'R', 'A', 'T', 'A'};
    out.revision = 2;
    out.length = std::uint32_t{sizeof(Rsdp)};
    out.xsdt = xsdt;
    constexpr std::size_t kVersion1Length = 20;
    out.checksum = checksum(std::as_bytes(std::span(&out, 1)).first(kVersion1Length));
    out.extended_checksum = checksum(std::as_bytes(std::span(&out, 1)));
    return out;
}

}  // namespace

Result<AcpiTables> build_tables(const AcpiConfig& config, std::uint64_t address,
                                std::uint64_t limit) {
    Block block(address);
    block.add(Bytes(sizeof(Rsdp)));
    const std::uint64_t facs_at = block.add(facs(), 64);
    const std::uint64_t dsdt_at = block.add(table("DSDT", 2, dsdt_body(config)));
    Bytes entries;
    for (const Bytes& bytes :
         {fadt(config, facs_at, dsdt_at), madt(config), hpet(config), mcfg(config)}) {
        append(entries, Le64(block.add(bytes)));
    }
    const std::uint64_t xsdt_at = block.add(table("XSDT", 1, entries));
    const Rsdp rsdp = root_pointer(xsdt_at);
    // SAFETY: the block begins with room for an Rsdp, added first.
    std::memcpy(block.bytes().data(), &rsdp, sizeof(rsdp));
    if (block.bytes().size() > limit) {
        return Error(ErrorKind::Failed,
                     "the ACPI tables do not fit into their place: too many vCPUs");
    }
    return AcpiTables{address, address, std::move(block.bytes())};
}

}  // namespace strata::machine::acpi
