// Generated kernels for tests and fuzz seeds: the smallest files that each boot protocol accepts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "machine/boot/boot_plan.h"

namespace strata::machine::boot::testing {

using Bytes = std::vector<std::byte>;

template <typename T>
void put(Bytes& file, std::size_t at, T value) {
    if (file.size() < at + sizeof(T)) {
        file.resize(at + sizeof(T));
    }
    std::memcpy(file.data() + at, &value, sizeof(T));
}

/// 64 MiB of RAM with the PC's holes.
inline BootEnvironment environment() {
    BootEnvironment result;
    result.memory_map = {{0, 0x9fc00, MemoryType::Ram},
                         {0x9fc00, 0x60400, MemoryType::Reserved},
                         {0x100000, (64 << 20) - 0x100000, MemoryType::Ram}};
    result.rsdp = 0xe0000;
    result.command_line = "console=ttyS0";
    result.kernel_name = "k";
    return result;
}

/// A bzImage: 4 setup sectors, 4 KiB of code to be loaded at 16 MiB with 1 MiB of init_size.
inline Bytes bzimage() {
    Bytes file(5 * 512 + 4096);
    put<std::uint8_t>(file, 0x1f1, 4);
    put<std::uint32_t>(file, 0x1f4, 4096 / 16);
    put<std::uint16_t>(file, 0x1fe, 0xaa55);
    put<std::uint16_t>(file, 0x200, 0x6aeb);
    put<std::uint32_t>(file, 0x202, 0x53726448);
    put<std::uint16_t>(file, 0x206, 0x20f);
    put<std::uint8_t>(file, 0x211, 1);
    put<std::uint32_t>(file, 0x22c, 0x7fffffff);
    put<std::uint32_t>(file, 0x230, 0x200000);
    put<std::uint8_t>(file, 0x234, 1);
    put<std::uint16_t>(file, 0x236, 1);
    put<std::uint32_t>(file, 0x238, 2047);
    put<std::uint64_t>(file, 0x258, 0x1000000);
    put<std::uint32_t>(file, 0x260, 0x100000);
    return file;
}

/// Offsets in elf64() that tests overwrite.
inline constexpr std::size_t kElfEntry = 24, kElfHeaderCount = 56, kElfLoad = 64,
                             kElfNote = 64 + 56, kElfNoteBody = 0x200;

/// A 64-bit ELF with one segment at 1 MiB (file 0x1000, 16 bytes; 8 KiB in memory) and a PVH note
/// for entry 0x100000.
inline Bytes elf64() {
    Bytes file(0x1010);
    put<std::uint32_t>(file, 0, 0x464c457f);
    put<std::uint32_t>(file, 4, 0x00010102);
    put<std::uint16_t>(file, 16, 2);
    put<std::uint16_t>(file, 18, 62);
    put<std::uint32_t>(file, 20, 1);
    put<std::uint64_t>(file, kElfEntry, 0x100000);
    put<std::uint64_t>(file, 32, 64);
    put<std::uint16_t>(file, 54, 56);
    put<std::uint16_t>(file, kElfHeaderCount, 2);
    put<std::uint32_t>(file, kElfLoad, 1);
    put<std::uint64_t>(file, kElfLoad + 8, 0x1000);
    put<std::uint64_t>(file, kElfLoad + 16, 0xffffffff80100000);
    put<std::uint64_t>(file, kElfLoad + 24, 0x100000);
    put<std::uint64_t>(file, kElfLoad + 32, 16);
    put<std::uint64_t>(file, kElfLoad + 40, 0x2000);
    put<std::uint32_t>(file, kElfNote, 4);
    put<std::uint64_t>(file, kElfNote + 8, kElfNoteBody);
    put<std::uint64_t>(file, kElfNote + 32, 24);
    put<std::uint64_t>(file, kElfNote + 40, 24);
    put<std::uint64_t>(file, kElfNote + 48, 4);
    put<std::uint32_t>(file, kElfNoteBody, 4);
    put<std::uint32_t>(file, kElfNoteBody + 4, 8);
    put<std::uint32_t>(file, kElfNoteBody + 8, 18);
    put<std::uint32_t>(file, kElfNoteBody + 12, 0x006e6558);
    put<std::uint64_t>(file, kElfNoteBody + 16, 0x100000);
    return file;
}

/// elf64() without its PVH note, with a multiboot header instead.
inline Bytes multiboot_elf() {
    Bytes file = elf64();
    put<std::uint32_t>(file, kElfNote, 0);
    put<std::uint32_t>(file, 0x300, 0x1badb002);
    put<std::uint32_t>(file, 0x304, 0);
    put<std::uint32_t>(file, 0x308, 0U - 0x1badb002);
    return file;
}

/// A plain image with a multiboot header at 0x10 that carries its own addresses: loads at 1 MiB, 4
/// KiB of bss.
inline Bytes multiboot_plain() {
    Bytes file(0x100);
    put<std::uint32_t>(file, 0x10, 0x1badb002);
    put<std::uint32_t>(file, 0x14, 0x10000);
    put<std::uint32_t>(file, 0x18, 0U - 0x1badb002 - 0x10000);
    put<std::uint32_t>(file, 0x1c, 0x100010);
    put<std::uint32_t>(file, 0x20, 0x100000);
    put<std::uint32_t>(file, 0x24, 0x100100);
    put<std::uint32_t>(file, 0x28, 0x101100);
    put<std::uint32_t>(file, 0x2c, 0x100040);
    return file;
}

}  // namespace strata::machine::boot::testing
