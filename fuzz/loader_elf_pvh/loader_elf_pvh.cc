// Fuzz target: the ELF parser and the PVH loader. Whatever the file says, every placement lies in
// RAM and in the file.
#include "machine/boot/elf.h"
#include "machine/boot/fuzz_check.h"
#include "machine/boot/pvh.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace strata::machine::boot;
    testing::check_plan({data, size},
                        [](auto kernel, const auto& environment) -> strata::Result<BootPlan> {
                            const ElfFile elf = STRATA_TRY(ElfFile::parse(kernel));
                            return plan_pvh(kernel, elf, environment);
                        });
    return 0;
}
