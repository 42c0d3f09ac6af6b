// Wire: registers and structures of AHCI. AHCI 1.3.1, 3 and 4.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/endian.h"

namespace strata::devices::ahci {

/// Offsets of the controller's registers, and their bits.
struct Global {
    static constexpr std::uint64_t kCapabilities = 0x00;
    static constexpr std::uint64_t kControl = 0x04;
    static constexpr std::uint64_t kInterrupts = 0x08;
    static constexpr std::uint64_t kPorts = 0x0c;
    static constexpr std::uint64_t kVersion = 0x10;
    static constexpr std::uint64_t kFirstPort = 0x100;
    static constexpr std::uint64_t kPortStride = 0x80;
    static constexpr std::uint32_t kReset = 1U << 0;
    static constexpr std::uint32_t kInterruptEnable = 1U << 1;
    static constexpr std::uint32_t kAhciEnable = 1U << 31;
};

/// Offsets of a port's registers.
struct PortRegister {
    static constexpr std::uint64_t kListLow = 0x00;
    static constexpr std::uint64_t kListHigh = 0x04;
    static constexpr std::uint64_t kFisLow = 0x08;
    static constexpr std::uint64_t kFisHigh = 0x0c;
    static constexpr std::uint64_t kStatus = 0x10;
    static constexpr std::uint64_t kEnable = 0x14;
    static constexpr std::uint64_t kCommand = 0x18;
    static constexpr std::uint64_t kTaskFile = 0x20;
    static constexpr std::uint64_t kSignature = 0x24;
    static constexpr std::uint64_t kLinkStatus = 0x28;
    static constexpr std::uint64_t kLinkControl = 0x2c;
    static constexpr std::uint64_t kLinkError = 0x30;
    static constexpr std::uint64_t kActive = 0x34;
    static constexpr std::uint64_t kIssue = 0x38;
};

/// Bits of a port's command register.
struct PortCommand {
    static constexpr std::uint32_t kStart = 1U << 0;
    static constexpr std::uint32_t kSpinUp = 1U << 1;
    static constexpr std::uint32_t kPower = 1U << 2;
    static constexpr std::uint32_t kOverride = 1U << 3;  ///< clears BSY and DRQ
    static constexpr std::uint32_t kFisEnable = 1U << 4;
    static constexpr std::uint32_t kFisRunning = 1U << 14;
    static constexpr std::uint32_t kRunning = 1U << 15;
    static constexpr std::uint32_t kAtapi = 1U << 24;
    static constexpr std::uint32_t kWritable =
        kStart | kSpinUp | kPower | kFisEnable | kAtapi | (1U << 25) | (1U << 26) | (1U << 27);
};

/// Bits of a port's interrupt status.
struct PortInterrupt {
    static constexpr std::uint32_t kRegisters = 1U << 0;
    static constexpr std::uint32_t kPioSetup = 1U << 1;
    static constexpr std::uint32_t kSetBits = 1U << 3;
    static constexpr std::uint32_t kOverflow = 1U << 24;
    static constexpr std::uint32_t kHostBus = 1U << 29;
    static constexpr std::uint32_t kTaskFile = 1U << 30;
    static constexpr std::uint32_t kAll = 0xfdc000ff;
};

/// Places in the memory for received FISes.
struct Received {
    static constexpr std::uint64_t kPioSetup = 0x20;
    static constexpr std::uint64_t kRegisters = 0x40;
    static constexpr std::uint64_t kSetBits = 0x58;
};

struct FisType {
    static constexpr std::uint8_t kHostToDevice = 0x27;
    static constexpr std::uint8_t kDeviceToHost = 0x34;
    static constexpr std::uint8_t kPioSetup = 0x5f;
    static constexpr std::uint8_t kSetBits = 0xa1;
};

/// An entry of the command list. AHCI 1.3.1, 4.2.2.
struct CommandHeader {
    Le16 flags;    ///< bits 0 to 4: words of the command FIS; 5: ATAPI; 6: write
    Le16 entries;  ///< of the table of memory
    Le32 moved;    ///< bytes: ours to fill
    Le64 table;
    Le32 reserved[4];
};
static_assert(sizeof(CommandHeader) == 32);

inline constexpr std::uint16_t kHeaderAtapi = 1U << 5;
inline constexpr std::uint16_t kHeaderWrite = 1U << 6;
inline constexpr std::uint64_t kPacketPlace = 0x40;   ///< in a command table
inline constexpr std::uint64_t kEntriesPlace = 0x80;  ///< in a command table

/// An entry of a table of memory.
struct MemoryEntry {
    Le64 address;
    Le32 reserved;
    Le32 length;  ///< bits 0 to 21: bytes less one, odd
};
static_assert(sizeof(MemoryEntry) == 16);

}  // namespace strata::devices::ahci
