// Access: reading and writing guest memory at linear addresses, through the TLB, into RAM or to a
// device.
#include "arch/x86/registers.h"
#include "engine/io_dispatcher.h"
#include "engine/soft/apic/local_apic.h"
#include "engine/soft/mmu/mmu_state.h"
#include "engine/soft/runtime/soft_vm.h"

namespace strata::engine::soft {
namespace {

namespace x86 = arch::x86;

enum class Reach : std::uint8_t { Fault, Ram, Device };

struct Target {
    std::byte* host = nullptr;
    std::uint64_t physical = 0;
    bool code = false;  // RAM with translated code on it: tell the translator about the write
};

// In 16- and 32-bit modes linear addresses have 32 bits.
std::uint64_t truncate(const CpuState& cpu, std::uint64_t linear) {
    return (cpu.efer & x86::efer::kLma) != 0 ? linear : linear & 0xffffffffU;
}

bool has_code(const CpuState& cpu, const std::byte* host) {
    const auto page = static_cast<std::uint64_t>(host - cpu.vm->ram->base()) >> 12;
    // acquire pairs with the translator's setting of the flag; it then waits for us at a safe point
    // anyway.
    return (cpu.vm->ram->page_flags(page).load(std::memory_order_acquire) &
            memory::PageFlags::kCode) != 0;
}

// A write through an entry whose page may be written: grants the tag unless the page holds code.
void grant_write(CpuState& cpu, TlbEntry& entry, Target& target) {
    target.code = has_code(cpu, target.host);
    if (target.code) {
        return;
    }
    if (cpu.vm->ram->dirty_logging()) {
        cpu.vm->ram->dirty().mark(static_cast<std::uint64_t>(target.host - cpu.vm->ram->base()) >>
                                  12);
    }
    entry.tag_write = entry.tag_read;
}

// Finds what is at `linear` for `access` (Read or Write).
Reach reach(CpuState& cpu, std::uint64_t linear, MemAccess access, Rights rights, Target& target) {
    if (!check_canonical(cpu, linear)) {
        return Reach::Fault;
    }
    TlbBank& bank = current_slot(cpu).banks[static_cast<std::uint32_t>(rights)];
    TlbEntry& entry = bank.entries[tlb_index(linear)];
    const std::uint64_t page = linear & ~kPageMask;
    target.code = false;
    if (entry.tag_read == page) {
        target.host = reinterpret_cast<std::byte*>(entry.host_page + (linear & kPageMask));
        if (access == MemAccess::Read || entry.tag_write == page) {
            return Reach::Ram;
        }
        if ((entry.tag_execute_and_page & TlbFlags::kWritable) != 0) {
            grant_write(cpu, entry, target);
            return Reach::Ram;
        }
    }
    PageWalk walk;
    if (!walk_page_tables(cpu, linear, access, rights, walk)) {
        return Reach::Fault;
    }
    target.physical = walk.physical;
    const auto offset = cpu.vm->ram->ram_offset(memory::GuestAddress(walk.physical & ~kPageMask));
    if (!offset || (walk.physical >> 12) == cpu.mmu->apic_page) {
        return Reach::Device;
    }
    std::byte* host_page = cpu.vm->ram->base() + *offset;
    target.host = host_page + (linear & kPageMask);
    TlbEntry& filled = fill_tlb(cpu, bank, linear, walk, host_page);
    if (access == MemAccess::Write) {
        grant_write(cpu, filled, target);
    }
    fill_neighbours(cpu, bank, linear, walk, access);
    return Reach::Ram;
}

template <typename T>
void copy_as(void* to, const void* from) {
    // SAFETY: guest RAM changes under us; one atomic access of the operand's own width is what the
    // hardware would do.
    T value;
    __builtin_memcpy(&value, from, sizeof(T));
    __builtin_memcpy(to, &value, sizeof(T));
}

template <typename T>
void load_as(void* to, const std::byte* from) {
    const T value = __atomic_load_n(reinterpret_cast<const T*>(from), __ATOMIC_RELAXED);
    __builtin_memcpy(to, &value, sizeof(T));
}

template <typename T>
void store_as(std::byte* to, const void* from) {
    T value;
    __builtin_memcpy(&value, from, sizeof(T));
    __atomic_store_n(reinterpret_cast<T*>(to), value, __ATOMIC_RELAXED);
}

bool aligned(const std::byte* at, std::uint32_t size) {
    return (reinterpret_cast<std::uint64_t>(at) & (size - 1)) == 0;
}

// 16 bytes between 16-byte aligned RAM and any buffer, the RAM side in one access. Leaves xmm0 as
// it was: it may be the guest's.
void move_16(void* to, const void* from, bool to_ram) {
    alignas(16) std::byte saved[16];
    if (to_ram) {
        __asm__ volatile(
            "movups %%xmm0, %0\n\tmovups %1, %%xmm0\n\tmovaps %%xmm0, %2\n\tmovups %0, %%xmm0"
            : "+m"(saved)
            : "m"(*static_cast<const std::byte(*)[16]>(from)),
              "m"(*static_cast<std::byte(*)[16]>(to))
            : "memory");
    } else {
        __asm__ volatile(
            "movups %%xmm0, %0\n\tmovaps %1, %%xmm0\n\tmovups %%xmm0, %2\n\tmovups %0, %%xmm0"
            : "+m"(saved)
            : "m"(*static_cast<const std::byte(*)[16]>(from)),
              "m"(*static_cast<std::byte(*)[16]>(to))
            : "memory");
    }
}

void copy_bytes(std::byte* to, const std::byte* from, std::uint32_t size) {
    constexpr std::uint32_t kLong =
        256;  // from here on the host's own string instruction is faster
    if (size >= kLong) {
        std::uint64_t count = size;
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
        return;
    }
    for (; size >= 8; size -= 8, to += 8, from += 8) {
        copy_as<std::uint64_t>(to, from);
    }
    for (; size > 0; --size) {
        *to++ = *from++;
    }
}

void read_ram(void* out, const std::byte* from, std::uint32_t size) {
    if (aligned(from, size)) {
        switch (size) {
            case 1:
                return load_as<std::uint8_t>(out, from);
            case 2:
                return load_as<std::uint16_t>(out, from);
            case 4:
                return load_as<std::uint32_t>(out, from);
            case 8:
                return load_as<std::uint64_t>(out, from);
            case 16:
                return move_16(out, from, false);
            default:
                break;
        }
    }
    switch (size) {
        case 2:
            return copy_as<std::uint16_t>(out, from);
        case 4:
            return copy_as<std::uint32_t>(out, from);
        case 8:
            return copy_as<std::uint64_t>(out, from);
        default:
            return copy_bytes(static_cast<std::byte*>(out), from, size);
    }
}

void write_ram(std::byte* to, const void* data, std::uint32_t size) {
    if (aligned(to, size)) {
        switch (size) {
            case 1:
                return store_as<std::uint8_t>(to, data);
            case 2:
                return store_as<std::uint16_t>(to, data);
            case 4:
                return store_as<std::uint32_t>(to, data);
            case 8:
                return store_as<std::uint64_t>(to, data);
            case 16:
                return move_16(to, data, true);
            default:
                break;
        }
    }
    switch (size) {
        case 2:
            return copy_as<std::uint16_t>(to, data);
        case 4:
            return copy_as<std::uint32_t>(to, data);
        case 8:
            return copy_as<std::uint64_t>(to, data);
        default:
            return copy_bytes(to, static_cast<const std::byte*>(data), size);
    }
}

// Device accesses: at most 8 bytes each. Any C++ code may run below, so the guest's vector
// registers are put away first.
void read_device(CpuState& cpu, std::uint64_t physical, std::byte* out, std::uint32_t size) {
    save_vector_state(cpu);
    ++cpu.mmu->device_accesses;
    const bool apic = (physical >> 12) == cpu.mmu->apic_page;
    while (size > 0) {
        const std::uint32_t part = size < 8 ? size : 8;
        if (apic) {
            cpu.vm->local_apic(cpu).mmio_read(static_cast<std::uint32_t>(physical & kPageMask),
                                              {out, part});
        } else {
            cpu.vm->io->mmio_read(physical, {out, part});
        }
        physical += part;
        out += part;
        size -= part;
    }
}

void write_device(CpuState& cpu, std::uint64_t physical, const std::byte* data,
                  std::uint32_t size) {
    save_vector_state(cpu);
    ++cpu.mmu->device_accesses;
    const bool apic = (physical >> 12) == cpu.mmu->apic_page;
    while (size > 0) {
        const std::uint32_t part = size < 8 ? size : 8;
        if (apic) {
            cpu.vm->local_apic(cpu).mmio_write(static_cast<std::uint32_t>(physical & kPageMask),
                                               {data, part});
        } else {
            cpu.vm->io->mmio_write(physical, {data, part});
        }
        physical += part;
        data += part;
        size -= part;
    }
}

// Both ends of an access that crosses pages, before either page is touched: #GP goes before any
// page fault.
bool ends_canonical(CpuState& cpu, std::uint64_t linear, std::uint32_t size) {
    if ((linear & kPageMask) + size <= 0x1000) [[likely]] {
        return true;  // reach() checks
    }
    return check_canonical(cpu, truncate(cpu, linear)) &&
           check_canonical(cpu, truncate(cpu, linear + size - 1));
}

// How many of `size` bytes from `linear` on lie in its page.
std::uint32_t within_page(std::uint64_t linear, std::uint32_t size) {
    const auto room = static_cast<std::uint32_t>(0x1000 - (linear & kPageMask));
    return size < room ? size : room;
}

void write_target(CpuState& cpu, const Target& target, Reach where, const std::byte* data,
                  std::uint32_t size) {
    if (where == Reach::Device) {
        write_device(cpu, target.physical, data, size);
        return;
    }
    write_ram(target.host, data, size);
    if (target.code) {
        note_ram_write(cpu, static_cast<std::uint64_t>(target.host - cpu.vm->ram->base()), size);
    }
}

}  // namespace

bool check_canonical(CpuState& cpu, std::uint64_t linear) noexcept {
    const auto extended = static_cast<std::uint64_t>(static_cast<std::int64_t>(linear << 16) >> 16);
    if (extended == linear) [[likely]] {
        return true;
    }
    cpu.exception = {};
    cpu.exception.vector = x86::vector::kGp;
    cpu.exception.has_error = true;
    cpu.exception.pending = true;
    return false;
}

void note_ram_write(CpuState& cpu, std::uint64_t ram_offset, std::uint64_t length) noexcept {
    const memory::GuestRam& ram = *cpu.vm->ram;
    const std::uint64_t page = ram_offset >> 12;
    if (ram.dirty_logging()) {
        ram.dirty().mark(page);
    }
    if (cpu.vm->code != nullptr &&
        (ram.page_flags(page).load(std::memory_order_acquire) & memory::PageFlags::kCode) != 0) {
        save_vector_state(cpu);
        cpu.vm->code->invalidate(&cpu, ram_offset, length);
    }
}

void finish_pending_rewrite(CpuState& cpu) noexcept {
    if (cpu.mmu->rewrite_pending) {
        cpu.mmu->rewrite_pending = false;
        note_ram_write(cpu, cpu.mmu->rewrite_offset, cpu.mmu->rewrite_length);
    }
}

bool read_linear(CpuState& cpu, std::uint64_t linear, void* out, std::uint32_t size,
                 Privilege privilege) noexcept {
    if (!ends_canonical(cpu, linear, size)) {
        return false;
    }
    const Rights rights = access_rights(cpu, privilege);
    auto* to = static_cast<std::byte*>(out);
    while (size > 0) {
        linear = truncate(cpu, linear);
        const std::uint32_t part = within_page(linear, size);
        Target target;
        switch (reach(cpu, linear, MemAccess::Read, rights, target)) {
            case Reach::Fault:
                return false;
            case Reach::Ram:
                read_ram(to, target.host, part);
                break;
            case Reach::Device:
                // A device read has effects: the rest of the access must not fault after it.
                if (part < size) {
                    Target rest;
                    if (reach(cpu, truncate(cpu, linear + part), MemAccess::Read, rights, rest) ==
                        Reach::Fault) {
                        return false;
                    }
                }
                read_device(cpu, target.physical, to, part);
                break;
        }
        linear += part;
        to += part;
        size -= part;
    }
    return true;
}

bool write_linear(CpuState& cpu, std::uint64_t linear, const void* data, std::uint32_t size,
                  Privilege privilege) noexcept {
    if (!ends_canonical(cpu, linear, size)) {
        return false;
    }
    const Rights rights = access_rights(cpu, privilege);
    const auto* from = static_cast<const std::byte*>(data);
    linear = truncate(cpu, linear);
    std::uint32_t part = within_page(linear, size);
    Target target;
    Reach where = reach(cpu, linear, MemAccess::Write, rights, target);
    if (where == Reach::Fault) {
        return false;
    }
    for (std::uint32_t probed = part; probed < size;) {
        const std::uint64_t at = truncate(cpu, linear + probed);
        Target rest;
        if (reach(cpu, at, MemAccess::Write, rights, rest) == Reach::Fault) {
            return false;
        }
        probed += within_page(at, size - probed);
    }
    for (;;) {
        write_target(cpu, target, where, from, part);
        size -= part;
        if (size == 0) {
            return true;
        }
        from += part;
        linear = truncate(cpu, linear + part);
        part = within_page(linear, size);
        // Fails only if another vCPU took the page away after the probe, as it could between two
        // accesses of the hardware.
        where = reach(cpu, linear, MemAccess::Write, rights, target);
        if (where == Reach::Fault) {
            return false;
        }
    }
}

std::byte* host_pointer(CpuState& cpu, std::uint64_t linear, std::uint32_t size, MemAccess access,
                        Privilege privilege) noexcept {
    linear = truncate(cpu, linear);
    if (access == MemAccess::Execute) {
        // Fetch rights are not data rights: the data TLB has no say, and learns nothing.
        std::uint64_t physical = 0;
        if (!translate_linear(cpu, linear, access, privilege, physical) ||
            (physical >> 12) == cpu.mmu->apic_page) {
            return nullptr;
        }
        const auto offset = cpu.vm->ram->ram_offset(memory::GuestAddress(physical));
        return offset ? cpu.vm->ram->base() + *offset : nullptr;
    }
    Target target;
    if (reach(cpu, linear, access, access_rights(cpu, privilege), target) != Reach::Ram) {
        return nullptr;
    }
    if (target.code) {
        // The store comes after this call, so the code is forgotten now, and once more at the next
        // poll.
        const auto offset = static_cast<std::uint64_t>(target.host - cpu.vm->ram->base());
        finish_pending_rewrite(cpu);
        note_ram_write(cpu, offset, size);
        cpu.mmu->rewrite_pending = true;
        cpu.mmu->rewrite_offset = offset;
        cpu.mmu->rewrite_length = size;
        cpu.request.fetch_or(Request::kFlushTlb, std::memory_order_relaxed);
    }
    return target.host;
}

std::uint32_t fetch_code(CpuState& cpu, std::uint64_t linear, std::uint8_t* out,
                         std::uint32_t wanted) noexcept {
    std::uint32_t done = 0;
    while (done < wanted) {
        const std::uint64_t at = truncate(cpu, linear + done);
        const std::uint32_t part = within_page(at, wanted - done);
        std::uint64_t physical = 0;
        const PendingException before = cpu.exception;
        if (!translate_linear(cpu, at, MemAccess::Execute, Privilege::Current, physical)) {
            if (done > 0) {
                cpu.exception = before;  // the bytes of the first page may be a whole instruction
            }
            return done;
        }
        const auto offset = cpu.vm->ram->ram_offset(memory::GuestAddress(physical));
        if (offset) {
            copy_bytes(reinterpret_cast<std::byte*>(out) + done, cpu.vm->ram->base() + *offset,
                       part);
        } else {
            read_device(cpu, physical, reinterpret_cast<std::byte*>(out) + done, part);
        }
        done += part;
    }
    return done;
}

}  // namespace strata::engine::soft
