// Session: the loop.
#include "differential/session.h"

#include <map>
#include <set>

#include <fmt/format.h>

#include "differential/compare.h"
#include "differential/generator.h"
#include "differential/guest_runner.h"
#include "differential/native_runner.h"
#include "engine/soft/soft_engine.h"

namespace strata::differential {
namespace {

constexpr std::uint8_t kBreakpoint = 3;

std::string coverage_table(const Coverage& coverage) {
    struct Sum {
        std::size_t instructions = 0;
        std::uint64_t executions = 0;
    };
    std::map<std::string, Sum> sums;
    for (const auto& [mnemonic, row] : coverage.mnemonics) {
        sums[row.isa].instructions += 1;
        sums[row.isa].executions += row.tried;
    }
    std::string text = fmt::format("{:<20} {:>12} {:>12}\n", "ISA set", "instructions", "executions");
    for (const auto& [isa, sum] : sums) {
        text += fmt::format("{:<20} {:>12} {:>12}\n", isa, sum.instructions, sum.executions);
    }
    text += fmt::format("{:<20} {:>12}\n", "all", coverage.mnemonics.size());
    return text;
}

struct Guest {
    const char* name;
    std::unique_ptr<engine::soft::SoftEngine> engine;
    std::unique_ptr<GuestRunner> runner;
};

Result<Guest> make_guest(const char* name, bool translate) {
    engine::soft::SoftOptions options;
    options.translate = translate;
    Guest guest{name, std::make_unique<engine::soft::SoftEngine>(options), nullptr};
    guest.runner = STRATA_TRY(GuestRunner::create(*guest.engine));
    return guest;
}

}  // namespace

Result<SessionResult> run_session(const SessionOptions& options) {
    // The child is forked first, before any engine starts threads.
    auto native = STRATA_TRY(NativeRunner::create());
    std::vector<Guest> guests;
    if (options.interpreter) {
        guests.push_back(STRATA_TRY(make_guest("interpreter", false)));
    }
    if (options.translator) {
        guests.push_back(STRATA_TRY(make_guest("translator", true)));
    }
    arch::x86::ArchState vectors;
    NativeRunner::vector_start(vectors);
    Generator generator(engine::soft::IsaSupport(guests.front().engine->capabilities().supported_cpuid), vectors);
    SessionResult result;
    const auto end = std::chrono::steady_clock::now() + options.budget;
    for (std::uint64_t seed = options.first_seed; result.cases < options.cases && result.differing < options.stop_after; ++seed) {
        if (std::chrono::steady_clock::now() > end) {
            break;
        }
        const TestCase test = generator.make(seed, options.most_instructions);
        const Outcome host = STRATA_TRY(native->run(test));
        result.cases += 1;
        if (host.timed_out) {
            result.timed_out += 1;
            continue;
        }
        result.faulted += host.vector == kBreakpoint ? 0 : 1;
        bool differs = false;
        for (Guest& guest : guests) {
            auto outcome = guest.runner->run(test);
            const auto lines = outcome.ok() ? differences(test, *outcome, host, guest.name, "host") : std::vector<std::string>{outcome.error().text()};
            if (!lines.empty()) {
                differs = true;
                result.report += fmt::format("{} differs: {}  {}\n", guest.name, describe(test), fmt::join(lines, "\n  "));
            }
        }
        result.differing += differs ? 1 : 0;
    }
    result.coverage = coverage_table(generator.coverage());
    return result;
}

}  // namespace strata::differential
