// AtaDevice: what hangs on a SATA port: commands in, statuses and data out. ATA8-ACS, SATA 3.0.
//
// A device knows no registers of its controller: that hands over a task with views of guest memory
// and reaps completions when completion_fd() polls readable. Threads: one at a time; the owner
// holds a lock of its own.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <sys/uio.h>

#include "block/disk_image.h"
#include "block/patient_queue.h"
#include "state/state_stream.h"

namespace strata::devices {

struct AtaStatus {
    static constexpr std::uint8_t kBusy = 0x80;
    static constexpr std::uint8_t kReady = 0x40;
    static constexpr std::uint8_t kFault = 0x20;
    static constexpr std::uint8_t kSeekDone = 0x10;
    static constexpr std::uint8_t kRequest = 0x08;
    static constexpr std::uint8_t kError = 0x01;
};
struct AtaError {
    static constexpr std::uint8_t kAbort = 0x04;
    static constexpr std::uint8_t kNoId = 0x10;
    static constexpr std::uint8_t kUncorrectable = 0x40;
};

/// The registers that a command sets or an answer brings.
struct AtaRegisters {
    std::uint8_t command = 0;
    std::uint16_t features = 0;
    std::uint16_t count = 0;
    std::uint64_t lba = 0;  ///< 48 bits
    std::uint8_t device = 0;
};

/// How a command's data goes, which decides how its end is told.
enum class AtaProtocol : std::uint8_t { None, PioIn, PioOut, Dma, Packet, Queued };

struct AtaTask {
    unsigned slot = 0;
    AtaRegisters registers{};
    std::array<std::uint8_t, 16> packet{};
    std::vector<iovec> views{};
    bool to_device = false;  ///< the views are what the device reads
};

struct AtaCompletion {
    unsigned slot = 0;
    AtaProtocol protocol = AtaProtocol::None;
    std::uint8_t status = AtaStatus::kReady | AtaStatus::kSeekDone;
    std::uint8_t error = 0;
    AtaRegisters registers{};  ///< as answered
    std::uint64_t moved = 0;   ///< bytes
    bool overflow = false;     ///< more was to be moved than the views hold
    bool dropped = false;      ///< a queued command that another one's error has ended: nothing is
                               ///< told of it
};

class AtaDevice {
  public:
    virtual ~AtaDevice() = default;
    /// What the port's signature register shows after a reset.
    [[nodiscard]] virtual std::uint32_t signature() const = 0;
    [[nodiscard]] virtual bool packet() const = 0;
    virtual void submit(AtaTask task) = 0;
    virtual void kick() = 0;
    /// -1: never has I/O under way.
    [[nodiscard]] virtual int completion_fd() const = 0;
    virtual void reap(std::vector<AtaCompletion>& out) = 0;
    virtual void wait() = 0;
    /// Disk requests under way: what wait() can wait for.
    [[nodiscard]] virtual bool busy() const = 0;
    /// Ends what waits for the host.
    virtual void cancel_all() = 0;
    virtual void reset() = 0;
    [[nodiscard]] virtual std::optional<block::DiskWait> waiting() const = 0;
    virtual void retry() = 0;
    /// The disk that the machine's owner may change while it is in use; null: none.
    [[nodiscard]] virtual block::DiskImage* image() const { return nullptr; }
    /// Requests at a time that the device wants of a queue of it.
    [[nodiscard]] virtual unsigned depth() const { return 1; }
    /// Goes on with `image`, which is the same disk, and `queue`, which is of it: completion_fd()
    /// is another one then. Only if there is an image(), and nothing is busy().
    virtual void exchange_image(std::unique_ptr<block::DiskImage> /*image*/,
                                std::unique_ptr<block::DiskQueue> /*queue*/) {}
    virtual void save(state::StateWriter& writer) const = 0;
    virtual void load(state::StateReader& reader) = 0;
};

}  // namespace strata::devices
