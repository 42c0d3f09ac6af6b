// Session: the loop.
#include "differential/session.h"

#include <map>

#include <fmt/format.h>

#include "differential/compare.h"
#include "differential/generator.h"
#include "differential/guest_runner.h"
#include "differential/native_runner.h"
#include "engine/soft/soft_engine.h"

namespace strata::differential {
namespace {

constexpr std::uint8_t kBreakpoint = 3, kPageFault = 14;

// What was executed, by ISA set and instruction (the same mnemonic in two sets is two).
class Coverage {
  public:
    // An instruction counts if the host's run ended at or behind it. (One that a branch of the case
    // skipped counts too.)
    void add(const TestCase& test, const Outcome& host) {
        std::uint64_t at = test.start.rip;
        const bool inside = host.end.rip - test.start.rip <=
                            test.code.size() + 1;  // INT3 reports the address behind it
        for (std::size_t i = 0; i < test.lengths.size() && (!inside || at <= host.end.rip); ++i) {
            executions_[test.traits[i].isa_set][test.traits[i].mnemonic] += 1;
            at += test.lengths[i];
        }
    }
    [[nodiscard]] std::string table() const {
        std::string text =
            fmt::format("{:<20} {:>12} {:>12}\n", "ISA set", "instructions", "executions");
        std::size_t instructions = 0;
        std::uint64_t all = 0;
        for (const auto& [isa, rows] : executions_) {
            std::uint64_t sum = 0;
            for (const auto& [mnemonic, count] : rows) {
                sum += count;
            }
            text += fmt::format("{:<20} {:>12} {:>12}\n", isa, rows.size(), sum);
            instructions += rows.size();
            all += sum;
        }
        return text + fmt::format("{:<20} {:>12} {:>12}\n", "all", instructions, all);
    }

  private:
    std::map<std::string, std::map<std::string, std::uint64_t>> executions_;
};

struct Guest {
    const char* name;
    bool exact_flags;
    std::uint64_t every;  // of how many seeds it runs one
    std::unique_ptr<engine::soft::SoftEngine> engine;
    std::unique_ptr<GuestRunner> runner;
};

Result<Guest> make_guest(const char* name, bool translate, bool exact_flags, std::uint64_t every) {
    engine::soft::SoftOptions options;
    options.translate = translate;
    options.exact_flags = exact_flags;
    Guest guest{name, exact_flags, every, std::make_unique<engine::soft::SoftEngine>(options),
                nullptr};
    guest.runner = STRATA_TRY(GuestRunner::create(*guest.engine));
    return guest;
}

}  // namespace

Result<SessionResult> run_session(const SessionOptions& options) {
    // The child is forked first, before any engine starts threads.
    auto native = STRATA_TRY(NativeRunner::create());
    std::vector<Guest> guests;
    if (options.interpreter) {
        guests.push_back(STRATA_TRY(make_guest("interpreter", false, true, 1)));
    }
    if (options.translator) {
        guests.push_back(STRATA_TRY(make_guest("translator", true, false, 1)));
        guests.push_back(STRATA_TRY(make_guest("translator with exact flags", true, true, 4)));
    }
    arch::x86::ArchState vectors;
    NativeRunner::vector_start(vectors);
    Generator generator(
        engine::soft::IsaSupport(guests.front().engine->capabilities().supported_cpuid), vectors);
    SessionResult result;
    Coverage coverage;
    const auto end = std::chrono::steady_clock::now() + options.budget;
    for (std::uint64_t seed = options.first_seed;
         result.cases < options.cases && result.differing < options.stop_after; ++seed) {
        if (std::chrono::steady_clock::now() > end) {
            break;
        }
        const TestCase test = generator.make(seed, options.most_instructions);
        if (options.show) {
            fmt::print(stderr, "{}\n", describe(test));
        }
        const Outcome host = STRATA_TRY(native->run(test));
        result.cases += 1;
        if (host.timed_out) {
            result.not_compared += 1;
            continue;
        }
        result.faulted += host.vector == kBreakpoint ? 0 : 1;
        coverage.add(test, host);
        bool differs = false;
        bool comparable = true;
        for (Guest& guest : guests) {
            if (seed % guest.every != 0) {
                continue;
            }
            auto outcome = guest.runner->run(test);
            // As shipped, the translator does not compute flags that later code of the block
            // replaces; a fault in between shows old ones.
            const auto lines = outcome.ok() ? differences(test, *outcome, host, guest.name, "host",
                                                          guest.exact_flags)
                                            : std::vector<std::string>{outcome.error().text()};
            if (!lines.empty() && outcome.ok() && outcome->vector == kPageFault &&
                STRATA_TRY(native->has_own_memory_at(outcome->fault_address))) {
                comparable = false;
                break;
            }
            if (!lines.empty()) {
                differs = true;
                result.report += fmt::format("{} differs: {}  {}\n", guest.name, describe(test),
                                             fmt::join(lines, "\n  "));
            }
        }
        result.differing += differs ? 1 : 0;
        result.not_compared += comparable ? 0 : 1;
    }
    result.coverage = coverage.table();
    return result;
}

}  // namespace strata::differential
