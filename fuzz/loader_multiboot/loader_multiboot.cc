// Fuzz target: the multiboot loader, plain and ELF. Whatever the file says, every placement lies in
// RAM and in the file.
#include "machine/boot/fuzz_check.h"
#include "machine/boot/multiboot.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    strata::machine::boot::testing::check_plan(
        {data, size}, [](auto kernel, const auto& environment) {
            return strata::machine::boot::plan_multiboot(kernel, environment);
        });
    return 0;
}
