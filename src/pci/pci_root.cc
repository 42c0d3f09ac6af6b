// PciRoot: dispatch of configuration and BAR accesses, mapping, resource assignment.
#include "pci/pci_root.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "base/log.h"

namespace strata::pci {
namespace {

/// The bridge itself: an identity and nothing else.
class HostBridge final : public PciDevice {
  public:
    HostBridge()
        : PciDevice({.vendor = 0x1b36,
                     .device = 0x0008,
                     .class_code = 0x060000,
                     .subsystem_vendor = 0x1af4,
                     .subsystem = 0x1100}) {}
    [[nodiscard]] std::string_view label() const override { return "host-bridge"; }
    void bar_read(unsigned, std::uint64_t, std::span<std::byte>) override {}
    void bar_write(unsigned, std::uint64_t, std::span<const std::byte>) override {}
    Result<> pause() override { return ok(); }
    Result<> resume() override { return ok(); }
    Result<> save(state::StateWriter& writer) const override {
        save_pci(writer);
        return ok();
    }
    Result<> load(state::StateReader& reader) override { return load_pci(reader); }
};

constexpr std::uint16_t kPortBase = 0xcf8;

}  // namespace

/// The memory-mapped configuration mechanism. PCI Express 3.0, 7.2.2.
class PciRoot::Ecam final : public bus::BusDevice {
  public:
    explicit Ecam(PciRoot& root) : root_(root) {}
    [[nodiscard]] std::string_view label() const override { return "pci-ecam"; }
    void read(std::uint64_t offset, std::span<std::byte> data) override {
        if (function(offset) == 0) {
            root_.config_read(slot(offset), offset & 0xfff, data);
        }
    }
    void write(std::uint64_t offset, std::span<const std::byte> data) override {
        if (function(offset) == 0) {
            root_.config_write(slot(offset), offset & 0xfff, data);
        }
    }

  private:
    static unsigned slot(std::uint64_t offset) { return (offset >> 15) & 31; }
    static unsigned function(std::uint64_t offset) { return (offset >> 12) & 7; }
    PciRoot& root_;
};

/// The port mechanism: address at 0xcf8, data at 0xcfc. PCI 3.0, 3.2.2.3.2.
class PciRoot::Ports final : public bus::BusDevice {
  public:
    explicit Ports(PciRoot& root) : root_(root) {}
    [[nodiscard]] std::string_view label() const override { return "pci-ports"; }

    void read(std::uint64_t offset, std::span<std::byte> data) override {
        if (offset == 0 && data.size() == 4) {
            const Le32 wire(address());
            std::memcpy(data.data(), &wire, 4);
        } else if (offset == 1 && data.size() == 1 && root_.config_.reset_control != nullptr) {
            root_.config_.reset_control->read(0, data);
        } else if (offset >= 4 && selected()) {
            root_.config_read((address() >> 11) & 31, (address() & 0xfc) + (offset & 3), data);
        }
    }
    void write(std::uint64_t offset, std::span<const std::byte> data) override {
        if (offset == 0 && data.size() == 4) {
            Le32 wire;
            std::memcpy(&wire, data.data(), 4);
            set_address(wire);
        } else if (offset == 1 && data.size() == 1 && root_.config_.reset_control != nullptr) {
            root_.config_.reset_control->write(0, data);
        } else if (offset >= 4 && selected()) {
            root_.config_write((address() >> 11) & 31, (address() & 0xfc) + (offset & 3), data);
        }
    }
    // relaxed: the guest itself must keep its processors from mixing address and data accesses.
    [[nodiscard]] std::uint32_t address() const { return address_.load(std::memory_order_relaxed); }
    void set_address(std::uint32_t value) {
        address_.store(value & 0x80fffffc, std::memory_order_relaxed);
    }

  private:
    /// Enabled, bus 0, function 0.
    [[nodiscard]] bool selected() const { return (address() & 0x80ff0700) == 0x80000000; }
    PciRoot& root_;
    std::atomic<std::uint32_t> address_{0};
};

/// A window on a bus, behind which the BARs lie.
class PciRoot::WindowDevice final : public bus::BusDevice {
  public:
    WindowDevice(PciRoot& root, const Window& window, bool io)
        : root_(root), window_(window), io_(io) {}
    [[nodiscard]] std::string_view label() const override { return "pci-window"; }
    [[nodiscard]] const Window& window() const { return window_; }
    [[nodiscard]] bool io() const { return io_; }

    void read(std::uint64_t offset, std::span<std::byte> data) override {
        const std::uint64_t address = window_.start + offset;
        if (const BarEntry* entry = root_.find(address, io_)) {
            const std::uint64_t inside = address & (entry->size - 1);
            entry->device->bar_read(entry->index, inside,
                                    data.first(std::min(data.size(), entry->size - inside)));
        }
    }
    void write(std::uint64_t offset, std::span<const std::byte> data) override {
        const std::uint64_t address = window_.start + offset;
        if (const BarEntry* entry = root_.find(address, io_)) {
            const std::uint64_t inside = address & (entry->size - 1);
            entry->device->bar_write(entry->index, inside,
                                     data.first(std::min(data.size(), entry->size - inside)));
        }
    }

  private:
    PciRoot& root_;
    const Window window_;
    const bool io_;
};

/// INTA# of a slot: swizzled and wire-ORed onto one of the four lines.
class PciRoot::Pin final : public bus::IrqLine {
  public:
    Pin(PciRoot& root, unsigned slot) : root_(root), slot_(slot) {}
    void set(bool asserted) override { root_.pin_changed(slot_, asserted); }

  private:
    PciRoot& root_;
    unsigned slot_;
};

PciRoot::PciRoot(const PciRootConfig& config, bus::MsiSink& msi)
    : config_(config),
      msi_(msi),
      ecam_(std::make_unique<Ecam>(*this)),
      ports_(std::make_unique<Ports>(*this)) {
    windows_[0] = std::make_unique<WindowDevice>(*this, config.mmio32, false);
    windows_[1] = std::make_unique<WindowDevice>(*this, config.mmio64, false);
    windows_[2] = std::make_unique<WindowDevice>(*this, config.io, true);
}

PciRoot::~PciRoot() {
    if (mmio_ == nullptr) {
        return;
    }
    mmio_->remove(config_.ecam_base);
    port_bus_->remove(kPortBase);
    for (const auto& window : windows_) {
        if (window->window().size != 0) {
            (window->io() ? port_bus_ : mmio_)->remove(window->window().start);
        }
    }
}

Result<std::unique_ptr<PciRoot>> PciRoot::create(const PciRootConfig& config, bus::Bus& mmio,
                                                 bus::Bus& ports, bus::MsiSink& msi) {
    std::unique_ptr<PciRoot> root(new PciRoot(config, msi));
    STRATA_TRY_VOID(root->claim(mmio, ports));
    root->slots_[0].device = std::make_unique<HostBridge>();
    return root;
}

Result<> PciRoot::claim(bus::Bus& mmio, bus::Bus& ports) {
    STRATA_TRY_VOID(mmio.add(config_.ecam_base, kEcamSize, *ecam_));
    STRATA_TRY_VOID(ports.add(kPortBase, 8, *ports_));
    for (const auto& window : windows_) {
        if (window->window().size != 0) {
            STRATA_TRY_VOID((window->io() ? ports : mmio)
                                .add(window->window().start, window->window().size, *window));
        }
    }
    mmio_ = &mmio;
    port_bus_ = &ports;
    return ok();
}

Result<> PciRoot::add(unsigned slot, std::unique_ptr<PciDevice> device) {
    if (slot == 0 || slot >= kSlots) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("PCI slot {} of {} is not 1 to 31", slot, device->label())};
    }
    if (slots_[slot].device) {
        return Error{ErrorKind::AlreadyExists,
                     fmt::format("PCI slot {} of {} is taken by {}", slot, device->label(),
                                 slots_[slot].device->label())};
    }
    slots_[slot].pin = std::make_unique<Pin>(*this, slot);
    device->connect(msi_, *slots_[slot].pin);
    for (unsigned index = 0; index < kBarCount; ++index) {
        const Bar bar = device->bar(index);
        if (bar.kind != BarKind::None) {
            BarEntry& entry = bars_[bar_count_++];
            entry.size = bar.size;
            entry.device = device.get();
            entry.index = index;
            entry.io = bar.kind == BarKind::Io;
        }
    }
    slots_[slot].device = std::move(device);
    return ok();
}

void PciRoot::config_read(unsigned slot, unsigned offset, std::span<std::byte> data) const {
    if (slots_[slot].device) {
        slots_[slot].device->config_read(offset, data);
    }
}

void PciRoot::config_write(unsigned slot, unsigned offset, std::span<const std::byte> data) {
    if (!slots_[slot].device) {
        return;
    }
    slots_[slot].device->config_write(offset, data);
    const unsigned end = offset + static_cast<unsigned>(data.size());
    const bool command = offset < Register::kCommand + 2 && end > Register::kCommand;
    const bool bars = offset < Register::kBar0 + 4 * kBarCount && end > Register::kBar0;
    if (command || bars) {
        remap();
    }
}

const PciRoot::BarEntry* PciRoot::find(std::uint64_t address, bool io) const {
    for (std::size_t at = 0; at < bar_count_; ++at) {
        const BarEntry& entry = bars_[at];
        // acquire: pairs with the release in remap().
        const std::uint64_t start = entry.start.load(std::memory_order_acquire);
        if (entry.io == io && start != BarEntry::kUnmapped && address - start < entry.size) {
            return &entry;
        }
    }
    return nullptr;
}

bool PciRoot::may_map(const BarEntry& entry, std::uint64_t start) const {
    const bool inside = std::any_of(windows_.begin(), windows_.end(), [&](const auto& device) {
        const Window& window = device->window();
        return device->io() == entry.io && start >= window.start && entry.size <= window.size &&
               start - window.start <= window.size - entry.size;
    });
    const auto* end = bars_.data() + bar_count_;
    return inside && std::none_of(bars_.data(), end, [&](const BarEntry& other) {
               const std::uint64_t taken = other.start.load(std::memory_order_relaxed);
               return &other != &entry && other.io == entry.io && taken != BarEntry::kUnmapped &&
                      start < taken + other.size && taken < start + entry.size;
           });
}

void PciRoot::remap() {
    static log::RateLimit limit;
    const MutexLock lock(mutex_);
    std::array<std::uint64_t, kSlots * kBarCount> wanted{};
    for (std::size_t at = 0; at < bar_count_; ++at) {
        BarEntry& entry = bars_[at];
        wanted[at] = entry.device->decoded_bar(entry.index).value_or(BarEntry::kUnmapped);
        if (entry.start.load(std::memory_order_relaxed) != wanted[at]) {
            entry.start.store(BarEntry::kUnmapped, std::memory_order_release);
        }
    }
    for (std::size_t at = 0; at < bar_count_; ++at) {
        BarEntry& entry = bars_[at];
        if (wanted[at] == BarEntry::kUnmapped ||
            entry.start.load(std::memory_order_relaxed) == wanted[at]) {
            continue;
        }
        if (may_map(entry, wanted[at])) {
            entry.start.store(wanted[at], std::memory_order_release);
        } else {
            log::guest(limit,
                       "a BAR stays unmapped: it overlaps another or lies outside the windows "
                       "device={} bar={} address={:#x}",
                       entry.device->label(), entry.index, wanted[at]);
        }
    }
}

Result<> PciRoot::assign_resources() {
    struct Cursor {
        std::uint64_t next;
        std::uint64_t end;
    };
    std::array<Cursor, 3> cursors{};
    std::transform(windows_.begin(), windows_.end(), cursors.begin(), [](const auto& device) {
        return Cursor{device->window().start, device->window().start + device->window().size};
    });
    std::vector<BarEntry*> order;
    std::transform(bars_.begin(), bars_.begin() + static_cast<std::ptrdiff_t>(bar_count_),
                   std::back_inserter(order), [](BarEntry& entry) { return &entry; });
    // Largest first: natural alignment then leaves no holes.
    std::stable_sort(order.begin(), order.end(),
                     [](const auto* a, const auto* b) { return a->size > b->size; });
    for (BarEntry* entry : order) {
        const bool wide = entry->device->bar(entry->index).kind == BarKind::Memory64;
        bool placed = false;
        for (std::size_t at = entry->io ? 2 : 0; at < (entry->io ? 3U
                                                       : wide    ? 2U
                                                                 : 1U) &&
                                                 !placed;
             ++at) {
            const std::uint64_t start = (cursors[at].next + entry->size - 1) & ~(entry->size - 1);
            placed = start >= cursors[at].next && start <= cursors[at].end &&
                     entry->size <= cursors[at].end - start;
            if (placed) {
                entry->device->assign_bar(entry->index, start);
                cursors[at].next = start + entry->size;
            }
        }
        if (!placed) {
            return Error{ErrorKind::Failed,
                         fmt::format("no room in the PCI windows for BAR {} of {} ({:#x} bytes)",
                                     entry->index, entry->device->label(), entry->size)};
        }
    }
    for (unsigned slot = 1; slot < kSlots; ++slot) {
        if (PciDevice* device = slots_[slot].device.get()) {
            device->assign_interrupt_line(config_.intx_gsi[swizzle(slot, 0)]);
            device->set_command(Command::kIo | Command::kMemory | Command::kBusMaster);
        }
    }
    remap();
    return ok();
}

void PciRoot::pin_changed(unsigned slot, bool asserted) {
    const unsigned line = swizzle(slot, 0);
    const MutexLock lock(pin_mutex_);
    const std::uint32_t before = pin_slots_[line];
    pin_slots_[line] = asserted ? before | 1U << slot : before & ~(1U << slot);
    // Under the lock, so that two devices' changes reach the line in order.
    if ((before != 0) != (pin_slots_[line] != 0) && config_.intx[line] != nullptr) {
        config_.intx[line]->set(pin_slots_[line] != 0);
    }
}

void PciRoot::reset() {
    ports_->set_address(0);
    for (const Slot& slot : slots_) {
        if (slot.device) {
            slot.device->reset();
        }
    }
    remap();
}

Result<> PciRoot::pause() {
    for (const Slot& slot : slots_) {
        if (slot.device) {
            STRATA_TRY_VOID(slot.device->pause());
        }
    }
    return ok();
}

Result<> PciRoot::resume() {
    for (const Slot& slot : slots_) {
        if (slot.device) {
            STRATA_TRY_VOID(slot.device->resume());
        }
    }
    return ok();
}

Result<> PciRoot::save(state::StateWriter& writer) const {
    std::uint32_t present = 0;
    for (unsigned slot = 0; slot < kSlots; ++slot) {
        present |= slots_[slot].device ? 1U << slot : 0U;
    }
    writer.begin("pci-root", 1);
    writer.u32(ports_->address());
    writer.u32(present);
    writer.end();
    for (const Slot& slot : slots_) {
        if (slot.device) {
            STRATA_TRY_VOID(slot.device->save(writer));
        }
    }
    return ok();
}

Result<> PciRoot::load(state::StateReader& reader) {
    STRATA_TRY_VOID(reader.begin("pci-root", 1));
    ports_->set_address(reader.u32());
    const std::uint32_t present = reader.u32();
    for (unsigned slot = 0; slot < kSlots; ++slot) {
        if ((slots_[slot].device != nullptr) != (((present >> slot) & 1) != 0)) {
            reader.reject(fmt::format("PCI slot {} is filled on one side only", slot));
        }
    }
    STRATA_TRY_VOID(reader.end());
    for (const Slot& slot : slots_) {
        if (slot.device) {
            STRATA_TRY_VOID(slot.device->load(reader));
        }
    }
    remap();
    return ok();
}

}  // namespace strata::pci
