// PcIo: forwarding, and the answer of empty addresses.
#include "machine/pc/pc_io.h"

#include <algorithm>

namespace strata::machine::pc {

void PcIo::connect(bus::ExtIntSource& pic, bus::EoiListener& io_apic) {
    pic_ = &pic;
    io_apic_ = &io_apic;
}

void PcIo::mmio_read(std::uint64_t address, std::span<std::byte> data) {
    std::fill(data.begin(), data.end(), std::byte{0xff});
    (void)mmio_.read(address, data);  // nobody there: all ones, as filled
}

void PcIo::mmio_write(std::uint64_t address, std::span<const std::byte> data) {
    (void)mmio_.write(address, data);  // nobody there: dropped, as on hardware
}

void PcIo::port_read(std::uint16_t port, std::span<std::byte> data) {
    std::fill(data.begin(), data.end(), std::byte{0xff});
    (void)ports_.read(port, data);  // nobody there: all ones, as filled
}

void PcIo::port_write(std::uint16_t port, std::span<const std::byte> data) {
    (void)ports_.write(port, data);  // nobody there: dropped, as on hardware
}

std::uint8_t PcIo::acknowledge_external_interrupt() {
    return pic_->acknowledge();
}

void PcIo::end_of_interrupt(std::uint8_t vector) {
    io_apic_->end_of_interrupt(vector);
}

}  // namespace strata::machine::pc
