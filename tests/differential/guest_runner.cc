// GuestRunner: the guest's tables, and one case after the other.
#include "differential/guest_runner.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include <fmt/format.h>

#include "arch/x86/registers.h"

namespace strata::differential {
namespace {

namespace x86 = arch::x86;
using memory::GuestAddress;

constexpr std::uint64_t kRam = 4ULL << 20;
constexpr std::uint64_t kPml4 = 0xf000;
// Supervisor pages: linear kSystem + n pages at physical kSystemPhysical + n pages: GDT and TSS,
// IDT, handlers, stack.
constexpr std::uint64_t kSystem = 0xffffffff80000000ULL;
constexpr std::uint64_t kSystemPhysical = 0x100000;
constexpr std::uint64_t kTss = kSystem + 0x800;
constexpr std::uint64_t kIdt = kSystem + kPage;
constexpr std::uint64_t kHandlers = kSystem + 2 * kPage;
constexpr std::uint64_t kStackTop = kSystem + 4 * kPage;
constexpr std::uint64_t kCodePhysical = 0x200000;
// Not in the order of their linear addresses, so that a page-crossing access meets two places.
constexpr std::uint64_t kDataPhysical[kDataPages] = {0x310000, 0x300000, 0x320000, 0x318000,
                                                     0x330000};
constexpr std::uint64_t kPresent = 1, kWritable = 2, kUser = 4, kNoExecute = 1ULL << 63;
constexpr std::uint8_t kExitPort = 0xe9;

void put64(std::vector<std::byte>& bytes, std::size_t at, std::uint64_t value) {
    std::memcpy(bytes.data() + at, &value, 8);
}

std::vector<std::byte> make_gdt_and_tss() {
    std::vector<std::byte> page(kPage);
    put64(page, 0x08, 0x00af9b000000ffff);  // kernel code, long
    put64(page, 0x10, 0x00cf93000000ffff);  // kernel data
    put64(page, 0x18, 0x00cff3000000ffff);  // user data
    put64(page, 0x20, 0x00affb000000ffff);  // user code, long
    // TSS descriptor, SDM 3A 8.2.3: base split over 39:16, 63:56 and the next word.
    put64(page, 0x28, 0x0000890000000067 | (kTss & 0xffffff) << 16 | (kTss >> 24 & 0xff) << 56);
    put64(page, 0x30, kTss >> 32);
    put64(page, 0x800 + 4, kStackTop);  // RSP0
    return page;
}

std::vector<std::byte> make_idt() {
    std::vector<std::byte> page(kPage);
    for (std::uint64_t vector = 0; vector < 256; ++vector) {
        const std::uint64_t handler = kHandlers + vector * 4;
        const std::uint64_t type = vector == 3 || vector == 4 ? 0xee00 : 0x8e00;
        put64(page, vector * 16,
              (handler & 0xffff) | 0x08ULL << 16 | type << 32 | (handler >> 16 & 0xffff) << 48);
        put64(page, vector * 16 + 8, handler >> 32);
    }
    return page;
}

std::vector<std::byte> make_handlers() {
    std::vector<std::byte> page(kPage, std::byte{0xf4});  // hlt
    for (std::size_t vector = 0; vector < 256; ++vector) {
        page[vector * 4] = std::byte{0xe6};  // out kExitPort, al
        page[vector * 4 + 1] = std::byte{kExitPort};
    }
    return page;
}

x86::Segment flat(std::uint16_t selector, std::uint16_t attributes) {
    x86::Segment segment;
    segment.selector = selector;
    segment.attributes = attributes;
    segment.limit = 0xffffffff;
    return segment;
}

x86::ArchState user_state(std::uint64_t xcr0) {
    x86::ArchState state = x86::ArchState::power_on(0, true);
    state.cr0 = x86::cr0::kPe | x86::cr0::kMp | x86::cr0::kEt | x86::cr0::kNe | x86::cr0::kWp |
                x86::cr0::kAm | x86::cr0::kPg;
    state.cr3 = kPml4;
    state.cr4 = x86::cr4::kPae | x86::cr4::kOsfxsr | x86::cr4::kOsxmmexcpt | x86::cr4::kOsxsave;
    state.efer = x86::efer::kSce | x86::efer::kLme | x86::efer::kLma | x86::efer::kNxe;
    state.xcr0 = xcr0;
    state.segments.fill(flat(0x1b, 0xc0f3));
    state.segments[x86::Cs] = flat(0x23, 0xa0fb);
    state.segments[x86::Fs].base = 0;
    state.tr = flat(0x28, 0x8b);
    state.tr.base = kTss;
    state.tr.limit = 0x67;
    state.gdtr = {kSystem, 0x37};
    state.idtr = {kIdt, 0xfff};
    return state;
}

}  // namespace

// Ends run() when a handler writes the port; nothing else is there.
class GuestRunner::Io final : public engine::IoDispatcher {
  public:
    void mmio_read(std::uint64_t, std::span<std::byte> data) override {
        std::fill(data.begin(), data.end(), std::byte{0xff});
    }
    void mmio_write(std::uint64_t, std::span<const std::byte>) override {}
    void port_read(std::uint16_t, std::span<std::byte> data) override {
        std::fill(data.begin(), data.end(), std::byte{0xff});
    }
    void port_write(std::uint16_t port, std::span<const std::byte>) override {
        if (port == kExitPort) {
            done.store(true, std::memory_order_release);
            vcpu->request_exit();
        }
    }
    std::uint8_t acknowledge_external_interrupt() override { return 0xff; }
    void end_of_interrupt(std::uint8_t) override {}

    engine::Vcpu* vcpu = nullptr;
    std::atomic<bool> done{false};
};

GuestRunner::~GuestRunner() = default;

Result<> GuestRunner::map(std::uint64_t linear, std::uint64_t physical, std::uint64_t flags) {
    std::uint64_t table = kPml4;
    for (int level = 3; level > 0; --level) {
        const GuestAddress slot(table + (linear >> (12 + 9 * level) & 511) * 8);
        auto entry = STRATA_TRY(ram_->load<std::uint64_t>(slot));
        if ((entry & kPresent) == 0) {
            entry = next_table_ | kPresent | kWritable | kUser;
            next_table_ += kPage;
            STRATA_TRY_VOID(ram_->store(slot, entry));
        }
        table = entry & 0x000ffffffffff000;
    }
    return ram_->store(GuestAddress(table + (linear >> 12 & 511) * 8), physical | flags | kPresent);
}

Result<> GuestRunner::build_tables() {
    const std::vector<std::byte> pages[] = {make_gdt_and_tss(), make_idt(), make_handlers(),
                                            std::vector<std::byte>(kPage)};
    for (std::uint64_t n = 0; n < 4; ++n) {
        STRATA_TRY_VOID(ram_->write(GuestAddress(kSystemPhysical + n * kPage), pages[n]));
        STRATA_TRY_VOID(map(kSystem + n * kPage, kSystemPhysical + n * kPage, kWritable));
    }
    for (std::uint64_t n = 0; n < Layout::kCodePages; ++n) {
        STRATA_TRY_VOID(map(Layout::kCode + n * kPage, kCodePhysical + n * kPage, kUser));
    }
    for (std::size_t n = 0; n < kDataPages; ++n) {
        const bool writable = kDataPageAddress[n] != Layout::kReadOnly;
        STRATA_TRY_VOID(map(kDataPageAddress[n], kDataPhysical[n],
                            kUser | kNoExecute | (writable ? kWritable : 0)));
    }
    return ok();
}

Result<std::unique_ptr<GuestRunner>> GuestRunner::create(engine::CpuEngine& engine) {
    std::unique_ptr<GuestRunner> runner(new GuestRunner);
    runner->ram_ = STRATA_TRY(memory::GuestRam::create(kRam, kRam));
    STRATA_TRY_VOID(runner->build_tables());
    runner->io_ = std::make_unique<Io>();
    runner->vm_ = STRATA_TRY(engine.create_vm(*runner->ram_, *runner->io_));
    engine::VcpuConfig config;
    config.bootstrap = true;
    config.cpuid = engine.capabilities().supported_cpuid;
    runner->vcpu_ = STRATA_TRY(runner->vm_->create_vcpu(config));
    runner->io_->vcpu = runner->vcpu_.get();
    std::uint32_t low = 0;
    std::uint32_t high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    runner->base_ = user_state(low & 0xe7U);
    return runner;
}

Result<> GuestRunner::place(const TestCase& test) {
    std::vector<std::byte> code(Layout::kCodePages * kPage, std::byte{0xcc});
    std::memcpy(code.data() + (test.start.rip - Layout::kCode), test.code.data(), test.code.size());
    STRATA_TRY_VOID(ram_->write(GuestAddress(kCodePhysical), code));
    for (std::size_t n = 0; n < kDataPages; ++n) {
        STRATA_TRY_VOID(ram_->write(GuestAddress(kDataPhysical[n]), test.data[n]));
    }
    x86::ArchState state = base_;
    state.gpr = test.start.gpr;
    state.rip = test.start.rip;
    state.rflags = test.start.rflags;
    state.xsave = test.start.xsave;
    state.segments[x86::Gs].base = test.gs_base;
    return vcpu_->set_state(state);
}

Result<Outcome> GuestRunner::collect(const x86::ArchState& state) {
    Outcome outcome;
    outcome.end.gpr = state.gpr;
    outcome.end.xsave = state.xsave;
    outcome.vector = static_cast<std::uint8_t>((state.rip - kHandlers) / 4);
    std::uint64_t frame = state.gpr[x86::Rsp];
    auto word = [&]() -> Result<std::uint64_t> {
        const std::uint64_t at = frame - kSystem + kSystemPhysical;
        frame += 8;
        return ram_->load<std::uint64_t>(GuestAddress(at));
    };
    if (kStackTop - frame == 48) {
        outcome.error = STRATA_TRY(word());
    }
    if (state.rip - kHandlers >= 1024 || kStackTop - frame != 40) {
        return Error{
            ErrorKind::Failed,
            fmt::format("guest ended at {:#x} with rsp {:#x}: not in a handler", state.rip, frame)};
    }
    outcome.end.rip = STRATA_TRY(word());
    (void)STRATA_TRY(word());  // CS: always the user's
    outcome.end.rflags = STRATA_TRY(word());
    outcome.end.gpr[x86::Rsp] = STRATA_TRY(word());
    outcome.fault_address = state.cr2;
    for (std::size_t n = 0; n < kDataPages; ++n) {
        STRATA_TRY_VOID(ram_->read(GuestAddress(kDataPhysical[n]), outcome.data[n]));
    }
    return outcome;
}

Result<Outcome> GuestRunner::run(const TestCase& test) {
    STRATA_TRY_VOID(place(test));
    io_->done.store(false, std::memory_order_release);
    while (!io_->done.load(std::memory_order_acquire)) {
        const engine::VcpuExit exit = vcpu_->run();
        if (exit.reason != engine::ExitReason::Interrupted) {
            return Error{ErrorKind::Failed,
                         fmt::format("the vCPU stopped: reason {}, {}",
                                     static_cast<int>(exit.reason), exit.detail)};
        }
    }
    x86::ArchState state;
    STRATA_TRY_VOID(vcpu_->get_state(state));
    return collect(state);
}

}  // namespace strata::differential
