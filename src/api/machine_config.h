// MachineConfig: what one machine is made of, as a type and as JSON. No behaviour.
//
// The command line fills it from options (api/option_text.h), the VMM receives it as JSON. Files
// are named for messages; whoever runs the VMM opens them and passes descriptors, so `fd` members
// are places in the list of descriptors that came with the request (kNoFile: none).
// docs/machine-config.md is the reference.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "api/json.h"
#include "base/result.h"

namespace strata::api {

inline constexpr std::int64_t kNoFile = -1;
inline constexpr std::uint32_t kMaxVcpus = 255;
inline constexpr std::uint64_t kMinMemory = 2ULL << 20;
inline constexpr std::uint64_t kMaxMemory = 4ULL << 40;
inline constexpr std::size_t kMaxDisks = 24;
inline constexpr std::uint32_t kMaxDiskQueues = 16;
inline constexpr std::size_t kMaxSerial = 20;  ///< characters: what every bus carries
inline constexpr std::size_t kMaxNets = 8;
inline constexpr std::size_t kMaxForwards = 64;
inline constexpr std::size_t kMaxAppend =
    2047;  ///< bytes of kernel command line (Linux' COMMAND_LINE_SIZE, less the NUL)

enum class EngineChoice : std::uint8_t { Auto, Kvm, Soft };
/// Who unpacks a bzImage: the loader if it can, the loader or nobody, the kernel's own stub.
enum class KernelEntry : std::uint8_t { Auto, Decompress, Stub };

/// What happens when a write to a disk's file fails: Enospc waits for room if the host's disk is
/// full and reports all else to the guest; Report reports, Stop waits, Ignore says that it was
/// written.
enum class WriteErrors : std::uint8_t { Enospc, Report, Stop, Ignore };
/// The same for reads.
enum class ReadErrors : std::uint8_t { Report, Stop };

/// What a disk hangs on: a function of its own, one adapter for all, one SATA controller for all.
enum class DiskBus : std::uint8_t { Virtio, Scsi, Sata };

struct CpuTopology {
    std::uint32_t sockets = 1;
    std::uint32_t cores = 1;
    std::uint32_t threads = 1;
    [[nodiscard]] std::uint64_t count() const { return std::uint64_t{sockets} * cores * threads; }
    bool operator==(const CpuTopology&) const = default;
};

/// A file that the VMM is handed open.
struct FileRef {
    std::string name;           ///< for messages
    std::int64_t fd = kNoFile;  ///< place in the descriptor list
    [[nodiscard]] bool present() const { return fd != kNoFile || !name.empty(); }
    bool operator==(const FileRef&) const = default;
};

/// A limit of a disk: "iops", "iops-read", "iops-write", "bps", "bps-read", "bps-write", each also
/// with "-max" (burst) and "-max-length" (its seconds), or "iops-size".
struct DiskLimit {
    std::string name;
    std::uint64_t value = 0;
    bool operator==(const DiskLimit&) const = default;
};
[[nodiscard]] bool is_disk_limit(std::string_view name);

struct DiskConfig {
    FileRef file;
    std::string format = "raw";
    DiskBus bus = DiskBus::Virtio;
    std::string serial{};      ///< none: its number
    std::uint32_t queues = 1;  ///< virtio and scsi
    bool cdrom = false;        ///< scsi and sata: a drive with this in it
    bool read_only = false;
    bool follow =
        false;  ///< open the files that the image names (backing files): for trusted images
    bool pinned = false;  ///< its layers stay as they are: nothing takes the top one's place, which
                          ///< is the run's own (or a folder)
    std::int64_t passphrase_fd =
        kNoFile;  ///< of an encrypted image: all of that file; never in a text
    WriteErrors write_errors = WriteErrors::Enospc;
    ReadErrors read_errors = ReadErrors::Report;
    /// Not a file but an NBD server's export: names and values of block/nbd/address.h. The file's
    /// descriptor is a channel to who connects (block/nbd/connector.h).
    std::vector<std::pair<std::string, std::string>> nbd{};
    std::vector<DiskLimit> limits{};  ///< none: as fast as the host
    std::string limit_group{};  ///< disks of one group have its limits together; the first of them
                                ///< says what these are
    bool operator==(const DiskConfig&) const = default;
};

enum class Protocol : std::uint8_t { Tcp, Udp };

/// Connections to host_address:host_port reach guest_port of the guest.
struct PortForward {
    Protocol protocol = Protocol::Tcp;
    std::string host_address = "127.0.0.1";
    std::uint16_t host_port = 0;
    std::uint16_t guest_port = 0;
    bool operator==(const PortForward&) const = default;
};

/// One network interface on the user-mode network.
struct NetConfig {
    std::vector<PortForward> forwards;
    bool operator==(const NetConfig&) const = default;
};

/// The paravirtual console; it exists if it leads somewhere.
struct ConsoleConfig {
    std::int64_t fd = kNoFile;   ///< a stream: what the guest says and hears there
    std::uint16_t columns = 80;  ///< the size that the guest is told
    std::uint16_t rows = 25;
    bool operator==(const ConsoleConfig&) const = default;
};

struct MachineConfig {
    std::string name = "strata";
    EngineChoice engine = EngineChoice::Auto;
    bool interpret_only = false;  ///< soft engine without its translator: for bisecting
    FileRef profile;  ///< soft engine: where its profile of guest code goes; "write" access
    std::string cpu_model = "host";  ///< "host", "x86-64-v3", … with +flag, -flag
    CpuTopology cpus;
    std::uint64_t memory_bytes = 1ULL << 30;
    FileRef kernel;
    FileRef initrd;
    KernelEntry kernel_entry = KernelEntry::Auto;
    std::string append;
    std::vector<DiskConfig> disks;
    std::vector<NetConfig> nets;
    std::int64_t serial_fd =
        kNoFile;  ///< a stream: what the guest's first serial port says and hears
    ConsoleConfig console;
    bool reboot = true;  ///< false: a guest reset ends the run
    bool debug_exit =
        false;  ///< the isa-debug-exit port exists, and its value becomes the exit status
    bool operator==(const MachineConfig&) const = default;
};

[[nodiscard]] std::string_view to_text(EngineChoice engine);
/// "auto", "kvm" or "soft".
Result<EngineChoice> engine_from_text(std::string_view text);
[[nodiscard]] std::string_view to_text(KernelEntry entry);
/// "auto", "decompress" or "stub".
Result<KernelEntry> kernel_entry_from_text(std::string_view text);
[[nodiscard]] std::string_view to_text(DiskBus bus);
/// "virtio", "scsi" or "sata".
Result<DiskBus> disk_bus_from_text(std::string_view text);
[[nodiscard]] std::string_view to_text(ReadErrors policy);
/// "report" or "stop".
Result<ReadErrors> read_errors_from_text(std::string_view text);
[[nodiscard]] std::string_view to_text(WriteErrors policy);
/// "enospc", "report", "stop" or "ignore".
Result<WriteErrors> write_errors_from_text(std::string_view text);

/// Checks the limits above and what members mean together. What needs the host (files, CPU flags)
/// is checked where it is used.
Result<> validate(const MachineConfig& config);

Json to_json(const MachineConfig& config);
/// Reads, and validates. `fds` is how many descriptors came along: every place must be below it.
Result<MachineConfig> machine_config_from_json(const Json& json, std::size_t fds);

}  // namespace strata::api
