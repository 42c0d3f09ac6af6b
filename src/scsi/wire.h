// Wire: numbers of the SCSI command sets: operation codes, statuses, sense keys and codes. SPC-4,
// SBC-3, MMC-6.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace strata::scsi {

enum class Status : std::uint8_t {
    Good = 0x00,
    CheckCondition = 0x02,
    Busy = 0x08,
    TaskSetFull = 0x28,
};

/// Types of peripheral devices. SPC-4, 6.6.2.
enum class DeviceKind : std::uint8_t { Disk = 0x00, CdRom = 0x05 };

struct Opcode {
    static constexpr std::uint8_t kTestUnitReady = 0x00;
    static constexpr std::uint8_t kRequestSense = 0x03;
    static constexpr std::uint8_t kRead6 = 0x08;
    static constexpr std::uint8_t kWrite6 = 0x0a;
    static constexpr std::uint8_t kInquiry = 0x12;
    static constexpr std::uint8_t kModeSelect6 = 0x15;
    static constexpr std::uint8_t kModeSense6 = 0x1a;
    static constexpr std::uint8_t kStartStopUnit = 0x1b;
    static constexpr std::uint8_t kPreventAllowRemoval = 0x1e;
    static constexpr std::uint8_t kReadCapacity10 = 0x25;
    static constexpr std::uint8_t kRead10 = 0x28;
    static constexpr std::uint8_t kWrite10 = 0x2a;
    static constexpr std::uint8_t kSeek10 = 0x2b;
    static constexpr std::uint8_t kWriteAndVerify10 = 0x2e;
    static constexpr std::uint8_t kVerify10 = 0x2f;
    static constexpr std::uint8_t kSynchronizeCache10 = 0x35;
    static constexpr std::uint8_t kWriteSame10 = 0x41;
    static constexpr std::uint8_t kUnmap = 0x42;
    static constexpr std::uint8_t kReadToc = 0x43;
    static constexpr std::uint8_t kGetConfiguration = 0x46;
    static constexpr std::uint8_t kGetEventStatus = 0x4a;
    static constexpr std::uint8_t kReadDiscInformation = 0x51;
    static constexpr std::uint8_t kModeSelect10 = 0x55;
    static constexpr std::uint8_t kModeSense10 = 0x5a;
    static constexpr std::uint8_t kRead16 = 0x88;
    static constexpr std::uint8_t kWrite16 = 0x8a;
    static constexpr std::uint8_t kWriteAndVerify16 = 0x8e;
    static constexpr std::uint8_t kVerify16 = 0x8f;
    static constexpr std::uint8_t kSynchronizeCache16 = 0x91;
    static constexpr std::uint8_t kWriteSame16 = 0x93;
    static constexpr std::uint8_t kServiceActionIn16 = 0x9e;
    static constexpr std::uint8_t kReportLuns = 0xa0;
    static constexpr std::uint8_t kMaintenanceIn = 0xa3;
    static constexpr std::uint8_t kRead12 = 0xa8;
    static constexpr std::uint8_t kWrite12 = 0xaa;
    static constexpr std::uint8_t kWriteAndVerify12 = 0xae;
    static constexpr std::uint8_t kVerify12 = 0xaf;
    static constexpr std::uint8_t kSetCdSpeed = 0xbb;
    static constexpr std::uint8_t kMechanismStatus = 0xbd;
    static constexpr std::uint8_t kReadCd = 0xbe;
};

/// Service actions.
struct ServiceAction {
    static constexpr std::uint8_t kReadCapacity16 = 0x10;          ///< of SERVICE ACTION IN(16)
    static constexpr std::uint8_t kReportSupportedOpcodes = 0x0c;  ///< of MAINTENANCE IN
};

enum class SenseKey : std::uint8_t {
    NoSense = 0x0,
    NotReady = 0x2,
    MediumError = 0x3,
    HardwareError = 0x4,
    IllegalRequest = 0x5,
    UnitAttention = 0x6,
    DataProtect = 0x7,
    AbortedCommand = 0xb,
    Miscompare = 0xe,
};

/// Why a command failed, or what happened to the unit: key, additional code and its qualifier.
/// SPC-4, 4.5.
struct Sense {
    SenseKey key = SenseKey::NoSense;
    std::uint8_t code = 0;
    std::uint8_t qualifier = 0;
    bool operator==(const Sense&) const = default;
};

namespace sense {
inline constexpr Sense kNone{};
inline constexpr Sense kNoMedium{SenseKey::NotReady, 0x3a, 0x00};
inline constexpr Sense kNoMediumTrayOpen{SenseKey::NotReady, 0x3a, 0x02};
inline constexpr Sense kWriteError{SenseKey::MediumError, 0x0c, 0x00};
inline constexpr Sense kReadError{SenseKey::MediumError, 0x11, 0x00};
inline constexpr Sense kInternalFailure{SenseKey::HardwareError, 0x44, 0x00};
inline constexpr Sense kInvalidOpcode{SenseKey::IllegalRequest, 0x20, 0x00};
inline constexpr Sense kParameterListLength{SenseKey::IllegalRequest, 0x1a, 0x00};
inline constexpr Sense kOutOfRange{SenseKey::IllegalRequest, 0x21, 0x00};
inline constexpr Sense kInvalidField{SenseKey::IllegalRequest, 0x24, 0x00};
inline constexpr Sense kNoSuchUnit{SenseKey::IllegalRequest, 0x25, 0x00};
inline constexpr Sense kInvalidParameter{SenseKey::IllegalRequest, 0x26, 0x00};
inline constexpr Sense kSavingNotSupported{SenseKey::IllegalRequest, 0x39, 0x00};
inline constexpr Sense kRemovalPrevented{SenseKey::IllegalRequest, 0x53, 0x02};
inline constexpr Sense kIllegalTrackMode{SenseKey::IllegalRequest, 0x64, 0x00};
inline constexpr Sense kWriteProtected{SenseKey::DataProtect, 0x27, 0x00};
inline constexpr Sense kNoSpace{SenseKey::DataProtect, 0x27, 0x07};
inline constexpr Sense kMiscompare{SenseKey::Miscompare, 0x1d, 0x00};
inline constexpr Sense kMediumChanged{SenseKey::UnitAttention, 0x28, 0x00};
inline constexpr Sense kPowerOn{SenseKey::UnitAttention, 0x29, 0x00};
inline constexpr Sense kReset{SenseKey::UnitAttention, 0x29, 0x03};
inline constexpr Sense kCapacityChanged{SenseKey::UnitAttention, 0x2a, 0x09};
inline constexpr Sense kLunsChanged{SenseKey::UnitAttention, 0x3f, 0x0e};
}  // namespace sense

/// Reads and stores big-endian numbers at a place of a command or of parameter data; the caller
/// knows that they are there.
[[nodiscard]] inline std::uint64_t get_be(std::span<const std::uint8_t> bytes, std::size_t at,
                                          std::size_t size) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < size; ++i) {
        value = (value << 8) | bytes[at + i];
    }
    return value;
}
inline void put_be(std::span<std::uint8_t> bytes, std::size_t at, std::size_t size,
                   std::uint64_t value) {
    for (std::size_t i = size; i-- != 0; value >>= 8) {
        bytes[at + i] = static_cast<std::uint8_t>(value);
    }
}

}  // namespace strata::scsi
