// IoDispatcher: what a CPU engine needs of the machine around it.
//
// Called on vCPU threads, from several at once. The machine board implements it over its buses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace strata::engine {

class IoDispatcher {
  public:
    virtual ~IoDispatcher() = default;

    /// Memory-mapped access of 1 to 8 bytes at a guest physical address that is not RAM. Unclaimed:
    /// reads are all ones.
    virtual void mmio_read(std::uint64_t address, std::span<std::byte> data) = 0;
    virtual void mmio_write(std::uint64_t address, std::span<const std::byte> data) = 0;

    /// Port access of 1, 2 or 4 bytes.
    virtual void port_read(std::uint16_t port, std::span<std::byte> data) = 0;
    virtual void port_write(std::uint16_t port, std::span<const std::byte> data) = 0;

    /// INTA: the vector of the external interrupt controller (8259 pair).
    virtual std::uint8_t acknowledge_external_interrupt() = 0;
    /// A vCPU ended level-triggered interrupt `vector`: the IOAPIC looks whether the line is still
    /// asserted.
    virtual void end_of_interrupt(std::uint8_t vector) = 0;
};

}  // namespace strata::engine
