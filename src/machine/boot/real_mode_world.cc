// RealModeWorld: vectors, handlers and the code before the kernel.
#include "machine/boot/real_mode_world.h"

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "arch/x86/registers.h"
#include "base/endian.h"

namespace strata::machine::boot {
namespace {

constexpr std::uint64_t kVectors = 0, kHandlers = 0x540, kFirstCode = 0x580;
constexpr std::uint32_t kMasterBase = 0x08, kSlaveBase = 0x70, kInputs = 8;
constexpr std::uint32_t kSlaveHandler = kHandlers, kMasterHandler = kHandlers + 3,
                        kReturn = kHandlers + 8;

// What a handler of the BIOS does at least: end the interrupt where it came from.
constexpr std::array<std::uint8_t, 17> kHandlerCode = {
    0x50, 0xeb, 0x06,              // slave: push ax; jmp +6
    0x50, 0xb0, 0x20, 0xeb, 0x05,  // master: push ax; mov al, 20; jmp +5
    0xcf,                          // iret
    0xb0, 0x20, 0xe6, 0xa0,        // mov al, 20; out a0, al
    0xe6, 0x20, 0x58, 0xcf,        // out 20, al; pop ax; iret
};
static_assert(kHandlers + kHandlerCode.size() <= kFirstCode);

struct PortWrite {
    std::uint8_t port;
    std::uint8_t value;
};
// The 8259As edge-triggered, cascaded, with the BIOS's vectors, IRQ 0 and the cascade open; the
// 8254's channel 0 as a square wave of the full count: 18.2 ticks a second.
constexpr std::array kFirmwareState = {
    PortWrite{0x20, 0x11},       PortWrite{0xa0, 0x11}, PortWrite{0x21, kMasterBase},
    PortWrite{0xa1, kSlaveBase}, PortWrite{0x21, 0x04}, PortWrite{0xa1, 0x02},
    PortWrite{0x21, 0x01},       PortWrite{0xa1, 0x01}, PortWrite{0x21, 0xfa},
    PortWrite{0xa1, 0xff},       PortWrite{0x43, 0x36}, PortWrite{0x40, 0x00},
    PortWrite{0x40, 0x00},
};

void add_le32(std::vector<std::byte>& code, std::uint32_t value) {
    for (unsigned shift = 0; shift < 32; shift += 8) {
        code.push_back(static_cast<std::byte>(value >> shift));
    }
}

std::vector<std::byte> first_code(const arch::x86::ArchState& entry) {
    std::vector<std::byte> code;
    for (const PortWrite& write : kFirmwareState) {
        for (const std::uint8_t byte :
             {std::uint8_t{0xb0}, write.value, std::uint8_t{0xe6}, write.port}) {  // mov al; out
            code.push_back(std::byte{byte});
        }
    }
    code.push_back(std::byte{0xb8});  // mov eax
    add_le32(code, static_cast<std::uint32_t>(entry.gpr[arch::x86::Rax]));
    code.push_back(std::byte{0xe9});  // jmp
    add_le32(code, static_cast<std::uint32_t>(entry.rip - (kFirstCode + code.size() + 4)));
    return code;
}

std::uint32_t handler_of(std::uint32_t vector) {
    if (vector - kMasterBase < kInputs) {
        return kMasterHandler;
    }
    return vector - kSlaveBase < kInputs ? kSlaveHandler : kReturn;
}

}  // namespace

void add_real_mode_world(PlanBuilder& plan, arch::x86::ArchState& entry) {
    std::array<Le32, 256> vectors;
    for (std::uint32_t vector = 0; vector < vectors.size(); ++vector) {
        vectors[vector] = handler_of(vector);  // segment 0
    }
    plan.loader_bytes(kVectors, std::as_bytes(std::span(vectors)));
    plan.loader_bytes(kHandlers, std::as_bytes(std::span(kHandlerCode)));
    const std::vector<std::byte> code = first_code(entry);
    plan.loader_bytes(kFirstCode, code);
    entry.rip = kFirstCode;
}

}  // namespace strata::machine::boot
