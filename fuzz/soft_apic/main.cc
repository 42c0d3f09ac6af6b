// fuzz_soft_apic: four local APICs of the software CPU: registers by MMIO and MSR, IPIs among them,
// messages, timers, paravirtual EOI, state.
//
// After each operation the APICs must hang together: priorities, what is requested and in service,
// who got an IPI (against a plain model of destinations), and that RAM changed in the flags of
// paravirtual EOI alone.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <memory>
#include <optional>

#include <fmt/format.h>

#include "../input.h"
#include "arch/x86/registers.h"
#include "base/check.h"
#include "engine/soft/apic/apic_registers.h"
#include "engine/soft/apic/local_apic.h"
#include "engine/soft/runtime/tsc_clock.h"

namespace {

using namespace strata;                // NOLINT(google-build-using-namespace): a program of its own
using namespace strata::engine::soft;  // NOLINT(google-build-using-namespace)

constexpr std::uint32_t kCount = 4;
constexpr std::array<std::uint32_t, kCount> kIds = {0, 1, 2, 0x11};
constexpr std::uint64_t kRamSize = 1U << 20;
constexpr std::uint64_t kFlags = 0x1000;  // where paravirtual EOI flags lie, mostly
constexpr unsigned kMaxOperations = 500;
constexpr unsigned kMaxKicks = 64;  // in one operation: more would be a storm

class Host final : public ApicHost {
  public:
    void kick(CpuState& cpu, std::uint32_t bits) noexcept override {
        cpu.request.fetch_or(bits);
        ++kicks;
    }
    void end_of_interrupt(std::uint8_t /*vector*/) noexcept override { ++ends; }
    void arm_timer(CpuState& /*cpu*/, std::uint64_t /*deadline*/) noexcept override { ++armed; }
    [[nodiscard]] std::uint64_t tsc_khz() const noexcept override { return host_tsc_khz(); }
    unsigned kicks = 0, ends = 0, armed = 0;
};

class Bench {
  public:
    explicit Bench(memory::GuestRam& ram) : ram_(ram) {
        for (std::uint32_t i = 0; i < kCount; ++i) {
            cpus_[i] = std::make_unique<CpuState>();
            apics_[i] = std::make_unique<LocalApic>(bus_, host_, *cpus_[i], ram_, kIds[i], i == 0);
            bus_.add(*apics_[i]);
            write(i, apic::kSpurious, 0x1ff);
            write(i, apic::kLdr, (1U << i) << 24);
        }
    }

    void step(fuzz::Input& input) {
        const std::uint64_t what = input.take(1);
        const auto i = static_cast<std::uint32_t>((what >> 4) & 3);
        host_ = {};
        switch (what & 15) {
            case 0:
            case 1:
                mmio(i, input);
                break;
            case 2:
            case 3:
                msr(i, input);
                break;
            case 4:
                base(i, input);
                break;
            case 5:
                ipi(i, input);
                break;
            case 6:
                message(input);
                break;
            case 7:
            case 8:
                deliver(i);
                break;
            case 9:
                write(i, apic::kEoi, 0);
                break;
            case 10:
                timer(i, input);
                break;
            case 11:
                pv_eoi(i, input);
                break;
            case 12:
                cpus_[i]->cr8 = input.take(1) & 15;
                break;
            case 13:
                save_and_load(i, input);
                break;
            case 14:
                apics_[i]->reset((input.take(1) & 1) != 0);
                break;
            default:
                external(i, input);
                break;
        }
        STRATA_CHECK(host_.kicks <= kMaxKicks, "a storm of kicks");
        for (std::uint32_t each = 0; each < kCount; ++each) {
            check(each);
        }
    }

    void check_ram() {
        for (const auto& flag : flags_) {
            if (flag) {
                STRATA_CHECK(std::to_integer<unsigned>(ram_.base()[*flag]) <= 1,
                             "a paravirtual EOI flag is 0 or 1");
            }
        }
        for (const std::uint64_t used : all_flags_) {
            ram_.base()[used] = std::byte{0};
        }
        STRATA_CHECK(fuzz::all_zero({ram_.base(), kRamSize}), "a stray write");
    }

  private:
    void write(std::uint32_t i, std::uint32_t reg, std::uint32_t value) {
        apics_[i]->mmio_write(reg * 16, std::as_bytes(std::span(&value, 1)));
    }
    std::uint32_t read(std::uint32_t i, std::uint32_t reg) {
        std::uint32_t value = 0;
        apics_[i]->mmio_read(reg * 16, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }
    bool bit(std::uint32_t i, std::uint32_t first, std::uint32_t vector) {
        return ((read(i, first + vector / 32) >> (vector % 32)) & 1) != 0;
    }
    int highest(std::uint32_t i, std::uint32_t first) {
        for (int word = 7; word >= 0; --word) {
            if (const std::uint32_t bits = read(i, first + static_cast<std::uint32_t>(word));
                bits != 0) {
                return word * 32 + std::bit_width(bits) - 1;
            }
        }
        return -1;
    }

    void mmio(std::uint32_t i, fuzz::Input& input) {
        if (apics_[i]->mmio_page() == ~0ULL) {
            return;  // nobody reaches them
        }
        const std::uint64_t shape = input.take(1);
        const auto offset = static_cast<std::uint32_t>(
            (shape & 0x40) != 0 ? input.take(2) & 0xfff : (input.take(1) & 0x3f) * 16);
        constexpr std::array<std::size_t, 8> kSizes = {4, 4, 4, 1, 2, 8, 16, 3};
        std::array<std::byte, 16> data{};
        const auto part = std::span(data).first(kSizes[shape & 7]);
        if ((shape & 0x80) != 0) {
            return apics_[i]->mmio_read(offset, part);
        }
        const std::uint64_t value = input.take(4);
        std::memcpy(data.data(), &value, 8);
        apics_[i]->mmio_write(offset, part);
    }

    void msr(std::uint32_t i, fuzz::Input& input) {
        const std::uint64_t shape = input.take(1);
        const auto index = static_cast<std::uint32_t>(
            arch::x86::msr::kX2apicFirst + ((shape & 0x40) != 0 ? input.take(1) : shape & 0x3f));
        std::uint64_t value = input.take((shape & 0x80) != 0 ? 8 : 4);
        if ((value & 1) != 0) {
            (void)apics_[i]->write_msr(index, value);  // either answer is right
        } else {
            (void)apics_[i]->read_msr(index, value);
        }
    }

    void base(std::uint32_t i, fuzz::Input& input) {
        constexpr std::uint64_t kModes = apic::kBaseEnable | apic::kBaseX2apic;
        const std::uint64_t shape = input.take(1);
        std::uint64_t value = (apics_[i]->base() & ~kModes) | ((shape & 3) << 10);
        if ((shape & 0x80) != 0) {
            value = input.take(8);
        }
        const bool set = apics_[i]->set_base(value, (shape & 0x40) == 0, 46);
        STRATA_CHECK(!set || apics_[i]->base() == value, "a base that was taken is there");
        STRATA_CHECK((apics_[i]->base() & kModes) != apic::kBaseX2apic,
                     "no mode has x2APIC without being enabled");
    }

    [[nodiscard]] bool x2apic(std::uint32_t i) const {
        return (apics_[i]->base() & (apic::kBaseEnable | apic::kBaseX2apic)) ==
               (apic::kBaseEnable | apic::kBaseX2apic);
    }

    // SDM 3A, 11.6.2 and 11.12.10, in the words of the manual.
    bool addressed(std::uint32_t i, std::uint32_t to, bool logical, bool from_x2apic) {
        if (to == (from_x2apic ? 0xffffffffU : 0xffU)) {
            return true;
        }
        if (!logical) {
            return to == (x2apic(i) ? kIds[i] : read(i, apic::kId) >> 24);
        }
        if (x2apic(i)) {
            return to >> 16 == kIds[i] >> 4 && ((to >> (kIds[i] & 15)) & 1) != 0;
        }
        const std::uint32_t mine = read(i, apic::kLdr) >> 24;
        const std::uint32_t model = read(i, apic::kDfr) >> 28;
        if (model == 0xf) {
            return (mine & to) != 0;
        }
        const bool cluster = (to >> 4) == 0xf || (to >> 4) == (mine >> 4);
        return model == 0 && cluster && (mine & to & 0xf) != 0;
    }

    // A fixed or lowest-priority IPI: exactly the right ones have it requested afterwards.
    void ipi(std::uint32_t i, fuzz::Input& input) {
        const auto vector = static_cast<std::uint32_t>(input.take(1));
        const std::uint64_t shape = input.take(1);
        auto to = static_cast<std::uint32_t>(input.take(1));
        const bool from_x2apic = x2apic(i);
        if (from_x2apic && (shape & 0x40) != 0) {
            to = (shape & 0x80) != 0 ? 0xffffffffU
                                     : to << 16 | static_cast<std::uint32_t>(input.take(1));
        }
        const auto shorthand = static_cast<std::uint32_t>((shape >> 2) & 3);
        const bool logical = (shape & 2) != 0;
        const bool lowest = (shape & 1) != 0;
        const std::uint32_t low =
            vector | (lowest ? 0x100U : 0) | (logical ? 0x800U : 0) | shorthand << 18;
        std::array<bool, kCount> before{}, meant{}, now{};
        for (std::uint32_t each = 0; each < kCount; ++each) {
            before[each] = bit(each, apic::kIrr, vector);
            const bool named = shorthand == 0   ? addressed(each, to, logical, from_x2apic)
                               : shorthand == 1 ? each == i
                               : shorthand == 2 ? true
                                                : each != i;
            meant[each] = named && vector >= 16 && apics_[each]->enabled();
        }
        // Sending an illegal vector is an error, which may raise an interrupt of its own.
        if (from_x2apic) {
            STRATA_CHECK(apics_[i]->write_msr(0x830, std::uint64_t{to} << 32 | low),
                         "ICR takes this");
        } else {
            write(i, apic::kIcrHigh, to << 24);
            write(i, apic::kIcrLow, low);
        }
        if (vector < 16) {
            return;
        }
        unsigned got = 0, candidates = 0;
        for (std::uint32_t each = 0; each < kCount; ++each) {
            now[each] = bit(each, apic::kIrr, vector);
            candidates += meant[each] ? 1 : 0;
            got += now[each] && !before[each] ? 1 : 0;
            STRATA_CHECK(now[each] == (before[each] || meant[each]) || (lowest && shorthand == 0),
                         fmt::format("IPI to {}", each));
            STRATA_CHECK(!now[each] || before[each] || meant[each],
                         fmt::format("an IPI that {} was not meant to get", each));
        }
        STRATA_CHECK(!lowest || shorthand != 0 || got <= 1, "lowest priority is one");
        STRATA_CHECK(!lowest || shorthand != 0 || got == 1 || candidates == 0 ||
                         std::equal(now.begin(), now.end(), before.begin()),
                     "lowest priority reaches somebody");
    }

    void message(fuzz::Input& input) {
        const std::uint64_t shape = input.take(1);
        bus::MsiMessage message;
        message.address = (shape & 0x80) != 0 ? input.take(8)
                                              : 0xfee00000U | (input.take(1) << 12) | (shape & 0xc);
        message.data = static_cast<std::uint32_t>(input.take(2));
        bus_.deliver_msi(message);
    }

    void deliver(std::uint32_t i) {
        const auto vector = apics_[i]->pending_vector();
        if (!vector) {
            return;
        }
        apics_[i]->acknowledge(*vector);
        STRATA_CHECK(apics_[i]->pending_vector() != *vector,
                     "a vector that was acknowledged is not pending");
    }

    void timer(std::uint32_t i, fuzz::Input& input) {
        const std::uint64_t shape = input.take(1);
        switch (shape & 3) {
            case 0:
                return apics_[i]->timer_expired();
            case 1:
                return apics_[i]->set_tsc_deadline(
                    (shape & 0x80) != 0 ? input.take(8) : host_tsc() + input.take(2));
            case 2:
                return apics_[i]->restart_timer(input.take(8));
            default:
                break;
        }
        STRATA_CHECK(read(i, apic::kCurrentCount) <= read(i, apic::kInitialCount),
                     "the count does not exceed its start");
        (void)apics_[i]->tsc_deadline();
    }

    void pv_eoi(std::uint32_t i, fuzz::Input& input) {
        const std::uint64_t shape = input.take(1);
        if ((shape & 0x80) != 0) {
            if (flags_[i]) {
                ram_.base()[*flags_[i]] = std::byte{0};  // the guest ends its interrupt
            }
            return;
        }
        const std::uint64_t address =
            (shape & 0x40) != 0 ? input.take(8) & ~3ULL : kFlags + (input.take(1) << 2);
        const std::uint64_t value = address | (shape & 3);
        const bool taken = apics_[i]->set_pv_eoi(value);
        if (!taken) {
            return;
        }
        STRATA_CHECK(apics_[i]->pv_eoi() == value, "the MSR reads as written");
        flags_[i].reset();
        if ((value & 1) != 0) {
            STRATA_CHECK(address < kRamSize, "a flag outside of RAM was taken");
            flags_[i] = address;
            all_flags_.push_back(address);
        }
    }

    // What was saved loads, and saves the same again; anything else loads too, and leaves an APIC
    // that works.
    void save_and_load(std::uint32_t i, fuzz::Input& input) {
        std::array<std::byte, arch::x86::kLapicBytes> page{}, again{};
        apics_[i]->save(page);
        const std::uint64_t changes = input.take(1);
        for (std::uint64_t count = 0; count < (changes & 7); ++count) {
            page[input.take(2) % page.size()] = static_cast<std::byte>(input.take(1));
        }
        const std::uint64_t base = apics_[i]->base();
        apics_[i]->load(page, base);
        apics_[i]->restart_timer(0);
        if ((changes & 7) == 0) {
            apics_[i]->save(again);
            std::memset(page.data() + apic::kCurrentCount * 16, 0, 4);
            std::memset(again.data() + apic::kCurrentCount * 16, 0, 4);
            const auto differ =
                std::mismatch(page.begin(), page.end(), again.begin()).first - page.begin();
            STRATA_CHECK(
                page == again,
                fmt::format("state that was loaded saves the same, register {:#x}", differ / 16));
        }
    }

    void external(std::uint32_t i, fuzz::Input& input) {
        ApicMessage message;
        message.mode = static_cast<DeliveryMode>(input.take(1) & 7);
        message.vector = static_cast<std::uint8_t>(input.take(1));
        message.level = (message.vector & 1) != 0;
        apics_[i]->accept(message);
        (void)apics_[i]->accepts_external();
        (void)apics_[i]->sipi_vector();
    }

    void check(std::uint32_t i) {
        LocalApic& local = *apics_[i];
        const auto pending = local.pending_vector();
        const std::uint32_t priority = read(i, apic::kPpr);
        const int in_service = highest(i, apic::kIsr);
        STRATA_CHECK(in_service < 0 || priority >> 4 >= static_cast<std::uint32_t>(in_service) >> 4,
                     "priority covers what is in service");
        STRATA_CHECK(read(i, apic::kTpr) >> 4 == (cpus_[i]->cr8 & 15), "CR8 and TPR are one");
        STRATA_CHECK(priority >> 4 >= read(i, apic::kTpr) >> 4, "priority covers the task's");
        for (const std::uint32_t first : {apic::kIsr, apic::kIrr, apic::kTmr}) {
            STRATA_CHECK((read(i, first) & 0xffff) == 0, "vectors below 16 do not exist");
        }
        if (!pending) {
            const int requested = local.enabled() ? highest(i, apic::kIrr) : -1;
            STRATA_CHECK(
                requested < 0 || static_cast<std::uint32_t>(requested) >> 4 <= priority >> 4,
                "an interrupt is withheld");
            return;
        }
        STRATA_CHECK(*pending >= 16 && local.enabled() && bit(i, apic::kIrr, *pending),
                     "pending means requested");
        STRATA_CHECK(static_cast<std::uint32_t>(*pending) >> 4 > priority >> 4,
                     "pending means above the priority");
    }

    memory::GuestRam& ram_;
    Host host_;
    ApicBus bus_;
    std::array<std::unique_ptr<CpuState>, kCount> cpus_;
    std::array<std::unique_ptr<LocalApic>, kCount> apics_;
    std::array<std::optional<std::uint64_t>, kCount> flags_;
    std::vector<std::uint64_t> all_flags_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const std::unique_ptr<memory::GuestRam> ram =
        memory::GuestRam::create(kRamSize, 3ULL << 30).value();
    fuzz::Input input(data, size);
    Bench bench(*ram);
    for (unsigned count = 0; count < kMaxOperations && !input.empty(); ++count) {
        bench.step(input);
    }
    bench.check_ram();
    return 0;
}
