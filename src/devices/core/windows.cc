// ByteWindow: cutting accesses into bytes.
#include "devices/core/windows.h"

#include <algorithm>
#include <utility>

namespace strata::devices {

ByteWindow::ByteWindow(std::string label, Read read, Write write)
    : label_(std::move(label)), read_(std::move(read)), write_(std::move(write)) {}

void ByteWindow::read(std::uint64_t offset, std::span<std::byte> data) {
    for (std::byte& byte : data) {
        byte = static_cast<std::byte>(read_(offset++));
    }
}

void ByteWindow::write(std::uint64_t offset, std::span<const std::byte> data) {
    for (const std::byte byte : data) {
        write_(offset++, static_cast<std::uint8_t>(byte));
    }
}

std::uint64_t to_integer(std::span<const std::byte> data) {
    std::uint64_t value = 0;
    const std::size_t size = std::min(data.size(), sizeof(value));
    for (std::size_t index = 0; index < size; ++index) {
        value |= static_cast<std::uint64_t>(data[index]) << (8 * index);
    }
    return value;
}

void from_integer(std::uint64_t value, std::span<std::byte> data) {
    for (std::byte& byte : data) {
        byte = static_cast<std::byte>(value);
        value >>= 8;
    }
}

}  // namespace strata::devices
