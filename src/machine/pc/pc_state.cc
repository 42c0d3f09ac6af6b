// PcMachine: pause, resume, save and load.
#include <fmt/core.h>

#include "machine/pc/pc_machine.h"

namespace strata::machine::pc {
namespace {

constexpr std::uint16_t kVersion = 1;
constexpr std::size_t kMaxName = 64;

}  // namespace

Result<> PcMachine::pause() {
    for (const Part& part : board_->parts()) {
        STRATA_TRY_VOID(part.pausable->pause());
    }
    clock_.pause();
    return ok();
}

Result<> PcMachine::resume() {
    clock_.resume();
    for (const Part& part : board_->parts()) {
        STRATA_TRY_VOID(part.pausable->resume());
    }
    return ok();
}

Result<> PcMachine::save(state::StateWriter& writer) const {
    writer.begin("machine", kVersion);
    writer.text(type_->name);
    writer.u64(config_.memory_bytes);
    writer.u32(static_cast<std::uint32_t>(vcpus_.size()));
    writer.u64(clock_.now());
    writer.end();
    STRATA_TRY_VOID(vm_->save_clock(writer));
    for (const auto& vcpu : vcpus_) {
        arch::x86::ArchState state;
        STRATA_TRY_VOID(vcpu->get_state(state));
        state.save(writer);
    }
    for (const Part& part : board_->parts()) {
        STRATA_TRY_VOID(part.snapshottable->save(writer));
    }
    return ok();
}

Result<> PcMachine::load(state::StateReader& reader) {
    STRATA_TRY_VOID(reader.begin("machine", kVersion));
    const std::string name = reader.text(kMaxName);
    const std::uint64_t memory = reader.u64();
    const std::uint32_t vcpus = reader.u32();
    const std::uint64_t now = reader.u64();
    STRATA_TRY_VOID(reader.end());
    if (name != type_->name || memory != config_.memory_bytes || vcpus != vcpus_.size()) {
        return Error(
            ErrorKind::InvalidArgument,
            fmt::format("the state is of another machine: {} with {} bytes of memory and {} vCPUs",
                        name, memory, vcpus));
    }
    if (power_on_state_.empty()) {
        STRATA_TRY_VOID(remember_power_on_state());
    }
    STRATA_TRY_VOID(pause());
    clock_.set(now);
    STRATA_TRY_VOID(vm_->load_clock(reader));
    for (const auto& vcpu : vcpus_) {
        arch::x86::ArchState state;
        STRATA_TRY_VOID(state.load(reader));
        STRATA_TRY_VOID(vcpu->set_state(state));
    }
    for (const Part& part : board_->parts()) {
        STRATA_TRY_VOID(part.snapshottable->load(reader));
    }
    return ok();
}

}  // namespace strata::machine::pc
