// LocalApic, ApicBus: the local APICs of the software machine, xAPIC and x2APIC. SDM 3A,
// chapter 11.
//
// Registers are atomics, because interrupts arrive from other vCPUs and from device threads while
// the owner reads and writes. IRR and TMR are set by anyone; ISR, the timer and PV EOI belong to
// the owner's thread. An arrival sets the IRR bit, then kicks the vCPU (ApicHost::kick): the run
// loop comes and asks pending_vector(). Lower task priority, EOI and enabling raise the owner's own
// request bit. CpuState::cr8 is the upper half of TPR: whichever was written last is taken over.
//
// The APIC timer counts at 1 GHz before its divider. The host side is ApicHost::arm_timer; the
// owner's loop calls timer_expired() when it is due.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "arch/x86/arch_state.h"
#include "bus/interrupt.h"
#include "engine/soft/runtime/cpu_state.h"
#include "memory/guest_ram.h"

namespace strata::engine::soft {

inline constexpr std::uint64_t kNoDeadline = ~0ULL;

/// What local APICs need of the machine around them.
class ApicHost {
  public:
    virtual ~ApicHost() = default;
    /// Sets request bits of a vCPU and wakes it if it is parked. Any thread.
    virtual void kick(CpuState& cpu, std::uint32_t bits) noexcept = 0;
    /// A level-triggered interrupt ended. On the vCPU's thread.
    virtual void end_of_interrupt(std::uint8_t vector) noexcept = 0;
    /// Kick with kTimer at `deadline` (monotonic_ns()), replacing the one before; kNoDeadline:
    /// none. Owner's thread.
    virtual void arm_timer(CpuState& cpu, std::uint64_t deadline) noexcept = 0;
    [[nodiscard]] virtual std::uint64_t tsc_khz() const noexcept = 0;
};

enum class DeliveryMode : std::uint8_t {
    Fixed = 0,
    LowestPriority = 1,
    Smi = 2,
    Nmi = 4,
    Init = 5,
    Sipi = 6,
    ExtInt = 7
};

/// An interrupt message on its way to one or more local APICs.
struct ApicMessage {
    std::uint32_t destination = 0;
    bool logical = false;
    bool from_x2apic = false;  ///< broadcast is FFFF_FFFFh, not FFh
    DeliveryMode mode = DeliveryMode::Fixed;
    bool level = false;  ///< level-triggered
    std::uint8_t vector = 0;
};

class ApicBus;

class LocalApic {
  public:
    LocalApic(ApicBus& bus, ApicHost& host, CpuState& cpu, memory::GuestRam& ram,
              std::uint32_t apic_id, bool bootstrap);

    /// Registers in the xAPIC page; accesses that are no aligned 32-bit access to a register read
    /// as zero and write nothing.
    void mmio_read(std::uint32_t offset, std::span<std::byte> data) noexcept;
    void mmio_write(std::uint32_t offset, std::span<const std::byte> data) noexcept;
    /// x2APIC MSRs 800h to 8FFh; false: #GP(0).
    [[nodiscard]] bool read_msr(std::uint32_t index, std::uint64_t& value) noexcept;
    [[nodiscard]] bool write_msr(std::uint32_t index, std::uint64_t value) noexcept;

    /// IA32_APIC_BASE. A write that makes a forbidden transition, or sets reserved bits, is
    /// refused. The caller updates the MMU's APIC page.
    [[nodiscard]] std::uint64_t base() const noexcept {
        return base_.load(std::memory_order_relaxed);
    }
    [[nodiscard]] bool set_base(std::uint64_t value, bool x2apic_offered,
                                std::uint32_t physical_bits) noexcept;
    /// Guest physical page of the xAPIC registers, ~0 if they are not memory-mapped now.
    [[nodiscard]] std::uint64_t mmio_page() const noexcept;

    /// IA32_TSC_DEADLINE: ignored and zero unless the timer is in that mode.
    [[nodiscard]] std::uint64_t tsc_deadline() const noexcept;
    void set_tsc_deadline(std::uint64_t value) noexcept;

    /// Any thread: takes a message that was found to be for this APIC.
    void accept(const ApicMessage& message) noexcept;
    [[nodiscard]] bool matches(const ApicMessage& message) const noexcept;
    /// 0 to 255, for lowest-priority arbitration. Any thread.
    [[nodiscard]] std::uint32_t processor_priority() const noexcept {
        return ppr_.load(std::memory_order_relaxed);
    }
    /// Fixed interrupts are accepted (SVR bit 8, global enable).
    [[nodiscard]] bool enabled() const noexcept;
    [[nodiscard]] std::uint32_t id() const noexcept { return id_; }

    /// Owner's loop. The vector to deliver now: the highest requested one above the processor
    /// priority.
    [[nodiscard]] std::optional<std::uint8_t> pending_vector() noexcept;
    /// A requested vector waits for a lower priority only.
    [[nodiscard]] bool blocked_by_priority() noexcept;
    /// Moves `vector` from IRR to ISR: it is being delivered.
    void acknowledge(std::uint8_t vector) noexcept;
    /// Whether LINT0 passes the 8259's interrupt on.
    [[nodiscard]] bool accepts_external() const noexcept;
    [[nodiscard]] std::uint8_t sipi_vector() const noexcept {
        return sipi_.load(std::memory_order_acquire);
    }
    /// The timer's host deadline passed, maybe: checks, fires, re-arms.
    void timer_expired() noexcept;
    [[nodiscard]] std::uint64_t deadline() const noexcept { return deadline_; }

    /// KVM_HC / MSR 4B564D04h: bit 0 enables, the rest is the address of the flag. False: #GP(0).
    [[nodiscard]] bool set_pv_eoi(std::uint64_t value) noexcept;
    [[nodiscard]] std::uint64_t pv_eoi() const noexcept { return pv_eoi_; }

    /// Registers as after INIT (`keep_base`) or power-on. Owner's thread, or while it does not run.
    void reset(bool keep_base) noexcept;
    /// KVM_GET_LAPIC's page. While the vCPU does not run.
    void save(std::span<std::byte, arch::x86::kLapicBytes> page) noexcept;
    void load(std::span<const std::byte, arch::x86::kLapicBytes> page, std::uint64_t base) noexcept;
    /// After loading: starts the timer again from the registers and `deadline_tsc` (0: none).
    void restart_timer(std::uint64_t deadline_tsc) noexcept;

  private:
    enum class TimerMode : std::uint8_t { OneShot, Periodic, TscDeadline, Reserved };

    [[nodiscard]] std::uint32_t get(std::uint32_t reg) const noexcept {
        return registers_[reg].load(std::memory_order_relaxed);
    }
    void set(std::uint32_t reg, std::uint32_t value) noexcept {
        registers_[reg].store(value, std::memory_order_relaxed);
    }
    [[nodiscard]] bool x2apic() const noexcept;
    [[nodiscard]] bool globally_enabled() const noexcept;
    [[nodiscard]] std::uint32_t read_register(std::uint32_t reg) noexcept;
    void write_register(std::uint32_t reg, std::uint32_t value) noexcept;
    void write_lvt(std::uint32_t reg, std::uint32_t value) noexcept;
    void write_spurious(std::uint32_t value) noexcept;
    void send_ipi(std::uint32_t low, std::uint32_t destination) noexcept;
    void end_of_interrupt() noexcept;
    void raise_error(std::uint32_t bit) noexcept;
    void fire_lvt(std::uint32_t reg) noexcept;
    void request_interrupt(std::uint8_t vector, bool level) noexcept;
    void sync_task_priority() noexcept;
    void sync_pv_eoi() noexcept;
    [[nodiscard]] int highest(std::uint32_t first_register) const noexcept;
    std::uint32_t update_priority() noexcept;

    [[nodiscard]] TimerMode timer_mode() const noexcept;
    [[nodiscard]] std::uint64_t tick_ns() const noexcept;
    [[nodiscard]] std::uint64_t initial_ns() const noexcept;
    [[nodiscard]] std::uint32_t current_count() const noexcept;
    void start_counting() noexcept;
    void arm(std::uint64_t deadline) noexcept;
    [[nodiscard]] std::uint64_t deadline_of_tsc(std::uint64_t tsc) const noexcept;

    ApicBus& bus_;
    ApicHost& host_;
    CpuState& cpu_;
    memory::GuestRam& ram_;
    std::uint32_t id_;
    bool bootstrap_;
    std::atomic<std::uint64_t> base_{0};
    /// Register N of the page (byte N * 16).
    std::array<std::atomic<std::uint32_t>, 64> registers_{};
    std::atomic<std::uint32_t> ppr_{0};
    std::atomic<std::uint32_t> pending_errors_{0};
    std::atomic<std::uint8_t> sipi_{0};
    std::uint64_t icr_high_ = 0;  // the x2APIC's 32-bit destination
    std::uint64_t seen_cr8_ = 0;
    std::uint64_t deadline_ = kNoDeadline;  // host nanoseconds
    std::uint64_t count_started_ = 0;       // host nanoseconds at which the count was initial
    std::uint64_t tsc_deadline_ = 0;
    std::uint64_t pv_eoi_ = 0;
    std::atomic<std::uint8_t>* pv_eoi_flag_ = nullptr;
    bool pv_eoi_set_ = false;  // we set the flag; the guest has not been seen to clear it
};

/// All local APICs of one machine. Filled before any vCPU runs; then read by any thread.
class ApicBus {
  public:
    void add(LocalApic& apic) { apics_.push_back(&apic); }
    /// To everyone whom the destination names.
    void deliver(const ApicMessage& message) noexcept;
    /// To all, or all but `self`.
    void broadcast(const ApicMessage& message, const LocalApic* except) noexcept;
    /// An interrupt message of IOAPIC or PCI function. Address outside FEEx_xxxxh: dropped.
    void deliver_msi(const bus::MsiMessage& message) noexcept;
    [[nodiscard]] LocalApic* find(std::uint32_t apic_id) const noexcept;

  private:
    std::vector<LocalApic*> apics_;
    std::atomic<std::uint32_t> turn_{0};  // breaks ties of lowest priority
};

}  // namespace strata::engine::soft
