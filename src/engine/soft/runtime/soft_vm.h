// SoftVm: what the vCPUs of one software machine share, as its parts see it.
//
// The interpreter, the MMU and the translator reach the rest of the machine only through this: RAM,
// I/O, the local APICs, MSRs with machine-wide meaning, exclusive sections, and the translated code
// to invalidate.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "arch/x86/cpuid.h"
#include "engine/cpu_engine.h"
#include "engine/soft/runtime/cpu_state.h"
#include "memory/guest_ram.h"

namespace strata::engine::soft {

class LocalApic;

/// Implemented by the translator: forgets code made from RAM bytes.
class CodeInvalidator {
  public:
    virtual ~CodeInvalidator() = default;
    /// [ram_offset, +length) of RAM is about to change or has changed. From a vCPU thread (`cpu` is
    /// its state: if the running block itself is hit, it must leave after the store) or from a
    /// device thread (`cpu` null).
    virtual void invalidate(CpuState* cpu, std::uint64_t ram_offset,
                            std::uint64_t length) noexcept = 0;
};

/// The shared seam. The concrete class is runtime/soft_vm_impl.h's.
class SoftVm : public EngineVm {
  public:
    memory::GuestRam* ram = nullptr;
    IoDispatcher* io = nullptr;
    CodeInvalidator* code = nullptr;  ///< null: interpreter only

    /// Per-vCPU services, by CpuState.
    virtual LocalApic& local_apic(CpuState& cpu) noexcept = 0;
    virtual const arch::x86::CpuidTable& cpuid(const CpuState& cpu) const noexcept = 0;

    /// RDMSR/WRMSR of everything: false means #GP(0). Includes x2APIC, APIC base, TSC deadline,
    /// MTRRs, paravirtual MSRs; those that live in CpuState too.
    virtual bool read_msr(CpuState& cpu, std::uint32_t index, std::uint64_t& value) noexcept = 0;
    virtual bool write_msr(CpuState& cpu, std::uint32_t index, std::uint64_t value) noexcept = 0;

    /// VMCALL/VMMCALL with KVM's ABI: answers in rax.
    virtual std::uint64_t hypercall(CpuState& cpu, std::uint64_t number, std::uint64_t a0,
                                    std::uint64_t a1, std::uint64_t a2,
                                    std::uint64_t a3) noexcept = 0;

    /// Runs `work` while every vCPU is at a safe point (outside translated code and the
    /// interpreter, or halted). From a vCPU thread (`self` its state) or another (`self` null). Not
    /// reentrant.
    virtual void run_exclusive(CpuState* self, const std::function<void()>& work) = 0;

    /// Sets the flag PageFlags::kCode of a RAM page, cuts its write tags in every vCPU's TLB, and
    /// returns when no vCPU can write it through an old tag any more: only then may its bytes be
    /// read for translation.
    virtual void protect_code_page(CpuState& self, std::uint64_t ram_page) noexcept = 0;

    [[nodiscard]] virtual const std::vector<CpuState*>& cpus() const noexcept = 0;
};

}  // namespace strata::engine::soft
