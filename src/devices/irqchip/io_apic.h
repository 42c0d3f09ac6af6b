// IoApic: the I/O APIC with 24 pins and an EOI register (version 20h).
//
// Intel 82093AA datasheet (290566); the EOI register is of the ICH family (version 20h), 13.5. A
// pin's line carries assertion, not voltage: whoever drives it knows its own polarity, so the
// polarity bit is kept but changes nothing (as with KVM's in-kernel IOAPIC since
// KVM_CAP_IOAPIC_POLARITY_IGNORED). Edges at a masked pin are lost, as the datasheet says. A level
// pin delivers once, sets remote IRR, and delivers again at EOI if its line is still asserted.
// Threads: everything from any thread. Messages are sent with no lock held; the route listener is
// called with the lock held (so that tables arrive in order) and must not call back.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "bus/bus_device.h"
#include "bus/interrupt.h"
#include "state/snapshottable.h"

namespace strata::devices {

class IoApic final : public bus::BusDevice,
                     public bus::EoiListener,
                     public state::Pausable,
                     public state::Snapshottable {
  public:
    static constexpr unsigned kPins = 24;
    static constexpr std::uint64_t kDefaultAddress = 0xfec00000;
    static constexpr std::uint64_t kSize = 0x1000;

    /// All 24 routes, whenever one of them changed.
    using RouteListener = std::function<void(const std::vector<bus::IrqRoute>&)>;
    /// Pin n is GSI `first_gsi` + n. `sink` outlives this.
    IoApic(bus::MsiSink& sink, RouteListener listener, std::uint32_t first_gsi = 0);
    ~IoApic() override;

    /// The pin of global system interrupt `gsi`.
    bus::IrqLine& line(std::uint32_t gsi);
    /// The routes as they are now.
    [[nodiscard]] std::vector<bus::IrqRoute> routes() const;

    [[nodiscard]] std::string_view label() const override { return "ioapic"; }
    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;
    void end_of_interrupt(std::uint8_t vector) override;

    /// Power-on state; input lines keep their levels.
    void reset();
    Result<> pause() override { return ok(); }
    /// Tells the listener the routes again.
    Result<> resume() override;
    Result<> save(state::StateWriter& writer) const override;
    Result<> load(state::StateReader& reader) override;

  private:
    class Pin;
    using Messages = std::vector<bus::MsiMessage>;

    void set_pin(unsigned pin, bool asserted);
    void send(const Messages& messages);
    void write_register(std::uint32_t value, Messages& out) STRATA_REQUIRES(mutex_);
    void write_entry(unsigned index, std::uint32_t value, Messages& out) STRATA_REQUIRES(mutex_);
    void deliver(unsigned pin, Messages& out) STRATA_REQUIRES(mutex_);
    void end_vector(std::uint8_t vector, Messages& out) STRATA_REQUIRES(mutex_);
    [[nodiscard]] std::uint32_t read_register() const STRATA_REQUIRES(mutex_);
    [[nodiscard]] std::vector<bus::IrqRoute> routes_locked() const STRATA_REQUIRES(mutex_);
    [[nodiscard]] static bus::MsiMessage message_of(std::uint64_t entry);

    bus::MsiSink& sink_;
    const RouteListener listener_;
    const std::uint32_t first_gsi_;
    mutable Mutex mutex_;
    std::array<std::uint64_t, kPins> entries_ STRATA_GUARDED_BY(mutex_){};
    std::uint32_t levels_ STRATA_GUARDED_BY(mutex_) = 0;  ///< lines as they are now
    std::uint8_t select_ STRATA_GUARDED_BY(mutex_) = 0;
    std::uint8_t id_ STRATA_GUARDED_BY(mutex_) = 0;
    std::vector<std::unique_ptr<Pin>> pins_;
};

}  // namespace strata::devices
