// Msix: the MSI-X capability of a function: vector table, pending bits, masking. PCI 3.0, 6.8.2.
//
// The table and the pending bits lie in a BAR of the device, which hands accesses to them to
// read()/write(). raise() may come from any thread; a vector that is masked is remembered in its
// pending bit and sent when the mask goes. Its lock is a leaf: messages are sent after it was
// released.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "bus/interrupt.h"
#include "pci/config_space.h"
#include "state/state_stream.h"

namespace strata::pci {

class Msix {
  public:
    static constexpr std::uint8_t kCapabilityId = 0x11;
    static constexpr unsigned kMaxVectors = 2048;
    static constexpr unsigned kEntrySize = 16;

    /// `vectors` from 1 to 2048; the table at `table_offset` of BAR `bar`, the pending bits at
    /// `pba_offset` of it.
    Msix(unsigned vectors, unsigned bar, std::uint32_t table_offset, std::uint32_t pba_offset);

    /// Adds the capability to `config`; remembers where its control register lies.
    void describe(ConfigSpace& config);
    /// To be called after the guest wrote configuration registers [offset, offset+size).
    void config_written(const ConfigSpace& config, unsigned offset, std::size_t size);
    void connect(bus::MsiSink& sink) { sink_ = &sink; }

    [[nodiscard]] unsigned vectors() const { return static_cast<unsigned>(vectors_); }
    [[nodiscard]] bool enabled() const;
    /// Sends vector `vector`, or remembers it if it is masked. Nothing while the capability is off
    /// or for vectors that do not exist. Any thread.
    void raise(unsigned vector);

    /// The guest's access to the table and the pending bits, by offset inside the BAR. False: not
    /// in either of them.
    bool read(std::uint64_t offset, std::span<std::byte> data) const;
    bool write(std::uint64_t offset, std::span<const std::byte> data);

    void reset();
    /// Inside a section of the caller. After load(), call config_written() for the whole space.
    void save(state::StateWriter& writer) const;
    void load(state::StateReader& reader);

  private:
    struct Entry {
        std::uint64_t address = 0;
        std::uint32_t data = 0;
        std::uint32_t control = 1;  ///< bit 0: masked
        bool pending = false;
    };
    [[nodiscard]] bool in_table(std::uint64_t offset) const;
    [[nodiscard]] bool in_pba(std::uint64_t offset) const;
    [[nodiscard]] std::byte table_byte(std::uint64_t offset) const STRATA_REQUIRES(mutex_);
    void set_table_byte(std::uint64_t offset, std::byte value) STRATA_REQUIRES(mutex_);
    /// Takes the messages of pending vectors that may go now out of the entries.
    std::vector<bus::MsiMessage> take_deliverable() STRATA_REQUIRES(mutex_);
    void send(const std::vector<bus::MsiMessage>& messages) const;

    const std::size_t vectors_;
    const unsigned bar_;
    const std::uint32_t table_offset_;
    const std::uint32_t pba_offset_;
    unsigned capability_ = 0;
    bus::MsiSink* sink_ = nullptr;  ///< set once, before the guest runs
    mutable Mutex mutex_;
    bool enabled_ STRATA_GUARDED_BY(mutex_) = false;
    bool function_masked_ STRATA_GUARDED_BY(mutex_) = false;
    std::vector<Entry> entries_ STRATA_GUARDED_BY(mutex_);
};

}  // namespace strata::pci
