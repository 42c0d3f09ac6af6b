// boot_kernel: boots a kernel on a PcMachine with its serial port on standard output: for
// developers, without VMM process or sandbox.
//
//   boot_kernel ENGINE KERNEL INITRD APPEND [VCPUS [MEMORY-MIB [SECONDS [UNTIL]]]]
#include <cstdio>
#include <cstdlib>

#include <fmt/core.h>

#include "base/text.h"
#include "engines.h"
#include "machine_runner.h"

namespace {

using namespace strata;

std::uint64_t number(int count, char** arguments, int index, std::uint64_t otherwise) {
    if (index >= count) {
        return otherwise;
    }
    const auto value = parse_integer(arguments[index], 1, 1U << 20);
    if (!value.ok()) {
        fmt::print(stderr, "boot_kernel: {}\n", value.error().text());
        std::exit(2);
    }
    return *value;
}

int run(int count, char** arguments) {
    if (count < 5) {
        fmt::print(stderr,
                   "usage: boot_kernel ENGINE KERNEL INITRD APPEND [VCPUS [MEMORY-MIB [SECONDS "
                   "[UNTIL]]]]\n");
        return 2;
    }
    auto engine = tests::make_engine(arguments[1]);
    if (!engine.ok()) {
        fmt::print(stderr, "boot_kernel: {}\n", engine.error().text());
        return 1;
    }
    tests::GuestRun options;
    options.kernel = arguments[2];
    options.initrd = arguments[3];
    options.append = arguments[4];
    options.vcpus = static_cast<std::uint32_t>(number(count, arguments, 5, 1));
    options.memory_bytes = number(count, arguments, 6, 256) << 20;
    options.limit = std::chrono::seconds(number(count, arguments, 7, 60));
    options.wait_for = count > 8 ? arguments[8] : "";
    options.echo = true;
    options.test_devices = false;
    const auto result = tests::run_guest(options, **engine);
    if (!result.ok()) {
        fmt::print(stderr, "boot_kernel: {}\n", result.error().text());
        return 1;
    }
    static constexpr const char* kEndings[] = {"timed out", "debug exit",   "power off",
                                               "panic",     "triple fault", "internal error"};
    fmt::print("\nboot_kernel: {} ({}) {} after {:.2f} s, {} resets, {} million instructions\n",
               kEndings[static_cast<int>(result->ending)], result->value, result->detail,
               result->seconds, result->resets, result->instructions / 1000000);
    return result->ending == tests::Ending::TimedOut ||
                   result->ending == tests::Ending::InternalError
               ? 1
               : 0;
}

}  // namespace

int main(int count, char** arguments) {
    return run(count, arguments);
}
