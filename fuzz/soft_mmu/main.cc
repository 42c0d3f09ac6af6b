// fuzz_soft_mmu: the software MMU under arbitrary page tables, control bits and addresses.
//
// The input is a list of operations: write a table entry, change control registers or rights,
// flush, access. As long as every change was followed by the flush that the architecture asks for,
// each access must have the outcome of the reference walk on a copy of memory: address, fault and
// error code, data, and the accessed and dirty bits, to the bit. When a flush was left out, stale
// answers are right too; then, and always, nothing may leave guest memory. Everything happens in
// the first 64 KiB; the rest of RAM stays zero.
#include <memory>
#include <vector>

#include "session.h"

namespace {

constexpr unsigned kMaxOperations = 400;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // One for all inputs: making RAM and TLB banks takes longer than an input.
    using namespace strata::fuzz;  // NOLINT(google-build-using-namespace): a program of its own
    static std::vector<std::byte> memory(kArena);
    static const std::unique_ptr<FakeSoftVm> vm = FakeSoftVm::create(kRamSize);
    Input input(data, size);
    Session session(*vm, memory);
    session.reset(input);
    for (unsigned count = 0; count < kMaxOperations && !input.empty(); ++count) {
        session.step(input);
    }
    session.check_rest_is_untouched();
    return 0;
}
