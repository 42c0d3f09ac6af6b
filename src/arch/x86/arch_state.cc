// ArchState: power-on values and the "vcpu" section.
#include "arch/x86/arch_state.h"

#include "arch/x86/registers.h"

namespace strata::arch::x86 {
namespace {

constexpr std::uint16_t kVersion = 1;
constexpr std::size_t kMaxMsrs = 1024;
constexpr std::uint8_t kMaxNmis = 2;

void save_segment(state::StateWriter& writer, const Segment& segment) {
    writer.u16(segment.selector);
    writer.u16(segment.attributes);
    writer.u32(segment.limit);
    writer.u64(segment.base);
    writer.boolean(segment.unusable);
}

Segment load_segment(state::StateReader& reader) {
    Segment segment;
    segment.selector = reader.u16();
    segment.attributes = reader.u16();
    segment.limit = reader.u32();
    segment.base = reader.u64();
    segment.unusable = reader.boolean();
    return segment;
}

void save_events(state::StateWriter& writer, const PendingEvents& events) {
    writer.boolean(events.exception_pending);
    writer.u8(events.exception_vector);
    writer.boolean(events.exception_has_error);
    writer.u32(events.exception_error);
    writer.u8(events.nmis_pending);
    writer.boolean(events.nmi_masked);
    writer.boolean(events.interrupt_shadow);
    writer.boolean(events.interrupt_pending);
    writer.u8(events.interrupt_vector);
}

PendingEvents load_events(state::StateReader& reader) {
    PendingEvents events;
    events.exception_pending = reader.boolean();
    events.exception_vector = reader.u8();
    events.exception_has_error = reader.boolean();
    events.exception_error = reader.u32();
    events.nmis_pending = reader.u8();
    if (events.nmis_pending > kMaxNmis) {
        reader.reject("too many NMIs");
    }
    events.nmi_masked = reader.boolean();
    events.interrupt_shadow = reader.boolean();
    events.interrupt_pending = reader.boolean();
    events.interrupt_vector = reader.u8();
    return events;
}

// The 64-bit fields that are simply written one after the other.
template <typename State, typename Visit>
void for_each_word(State& state, Visit visit) {
    for (auto& reg : state.gpr) {
        visit(reg);
    }
    for (auto& reg : state.dr) {
        visit(reg);
    }
    for (auto* word :
         {&state.rip, &state.rflags, &state.cr0, &state.cr2, &state.cr3, &state.cr4, &state.cr8,
          &state.efer, &state.xcr0, &state.apic_base, &state.dr6, &state.dr7, &state.tsc}) {
        visit(*word);
    }
}

Segment real_mode_segment(std::uint16_t selector, std::uint64_t base, std::uint16_t attributes) {
    Segment segment;
    segment.selector = selector;
    segment.base = base;
    segment.limit = 0xffff;
    segment.attributes = attributes;
    return segment;
}

// SDM 3A, 11.4.7.1: everything zero but these.
void power_on_lapic(std::array<std::byte, kLapicBytes>& page, std::uint32_t apic_id) {
    constexpr std::uint32_t kVersion14With6Lvts = 0x00050014, kMasked = 0x10000;
    constexpr std::size_t kFirstLvt = 0x32, kLastLvt = 0x37;
    const auto set = [&page](std::size_t reg, std::uint32_t value) {
        for (std::size_t i = 0; i < sizeof(value); ++i) {
            page[reg * 16 + i] = static_cast<std::byte>(value >> (8 * i));
        }
    };
    set(0x02, apic_id << 24);  // the xAPIC form
    set(0x03, kVersion14With6Lvts);
    set(0x0e, 0xffffffff);  // destination format: flat
    set(0x0f, 0xff);        // spurious vector; software-disabled
    for (std::size_t reg = kFirstLvt; reg <= kLastLvt; ++reg) {
        set(reg, kMasked);
    }
}

}  // namespace

void ArchState::save(state::StateWriter& writer) const {
    writer.begin("vcpu", kVersion);
    for_each_word(*this, [&](const std::uint64_t& word) { writer.u64(word); });
    for (const Segment& segment : segments) {
        save_segment(writer, segment);
    }
    save_segment(writer, ldtr);
    save_segment(writer, tr);
    for (const DescriptorTable* table : {&gdtr, &idtr}) {
        writer.u64(table->base);
        writer.u16(table->limit);
    }
    save_events(writer, events);
    writer.u8(static_cast<std::uint8_t>(run_state));
    writer.raw(xsave);
    writer.raw(lapic);
    writer.u32(static_cast<std::uint32_t>(msrs.size()));
    for (const Msr& msr : msrs) {
        writer.u32(msr.index);
        writer.u64(msr.value);
    }
    writer.end();
}

Result<> ArchState::load(state::StateReader& reader) {
    STRATA_TRY_VOID(reader.begin("vcpu", kVersion));
    for_each_word(*this, [&](std::uint64_t& word) { word = reader.u64(); });
    for (Segment& segment : segments) {
        segment = load_segment(reader);
    }
    ldtr = load_segment(reader);
    tr = load_segment(reader);
    for (DescriptorTable* table : {&gdtr, &idtr}) {
        table->base = reader.u64();
        table->limit = reader.u16();
    }
    events = load_events(reader);
    const std::uint8_t running = reader.u8();
    if (running > static_cast<std::uint8_t>(RunState::WaitForInit)) {
        reader.reject("unknown run state");
    }
    run_state = static_cast<RunState>(running);
    reader.raw(xsave);
    reader.raw(lapic);
    const std::uint32_t count = reader.u32();
    if (count > kMaxMsrs) {
        reader.reject("too many MSRs");
        return reader.end();
    }
    msrs.resize(count);
    for (Msr& msr : msrs) {
        msr.index = reader.u32();
        msr.value = reader.u64();
    }
    return reader.end();
}

ArchState ArchState::power_on(std::uint32_t apic_id, bool bootstrap) {
    constexpr std::uint16_t kData = 0x93;
    constexpr std::uint16_t kCode = 0x9b;
    ArchState state;
    state.rip = 0xfff0;
    state.gpr[Rdx] = 0x600;
    state.cr0 = cr0::kEt | cr0::kNw | cr0::kCd;
    state.segments.fill(real_mode_segment(0, 0, kData));
    state.segments[Cs] = real_mode_segment(0xf000, 0xffff0000, kCode);
    state.ldtr = real_mode_segment(0, 0, 0x82);
    state.tr = real_mode_segment(0, 0, 0x8b);
    state.gdtr.limit = 0xffff;
    state.idtr.limit = 0xffff;
    // x87 FCW 0x40 after power-on (SDM 3A, table 9-1); MXCSR 0x1f80 at byte 24 of the image.
    state.xsave[0] = std::byte{0x40};
    state.xsave[24] = std::byte{0x80};
    state.xsave[25] = std::byte{0x1f};
    state.apic_base = 0xfee00000U | 0x800U | (bootstrap ? 0x100U : 0U);
    power_on_lapic(state.lapic, apic_id);
    state.run_state = bootstrap ? RunState::Running : RunState::WaitForInit;
    return state;
}

}  // namespace strata::arch::x86
