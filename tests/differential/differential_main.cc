// strata-differential: the differential run as a program, for soaks and for reproducing a seed.
#include <cstdio>
#include <string_view>

#include "base/text.h"
#include "differential/session.h"

namespace {

constexpr const char* kUsage =
    "usage: strata-differential [--seed N] [--cases N] [--seconds N] [--most N] [--stop-after N] "
    "[--only interpreter|translator] [--show yes]\n"
    "Runs random user-mode code on the host CPU, the interpreter and the translator and compares "
    "everything.\n"
    "Exit status: 0 no difference, 1 differences (printed), 2 wrong usage.\n";

bool number(const char* text, std::uint64_t& out) {
    auto value = strata::parse_integer(text, 0, ~0ULL);
    out = value.ok() ? *value : 0;
    return value.ok();
}

bool parse(int argc, char** argv, strata::differential::SessionOptions& options) {
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string_view name = argv[i];
        std::uint64_t value = 0;
        if (name == "--only") {
            options.interpreter = std::string_view(argv[i + 1]) != "translator";
            options.translator = std::string_view(argv[i + 1]) != "interpreter";
        } else if (name == "--show") {
            options.show = std::string_view(argv[i + 1]) == "yes";
        } else if (!number(argv[i + 1], value)) {
            return false;
        } else if (name == "--seed") {
            options.first_seed = value;
        } else if (name == "--cases") {
            options.cases = value;
        } else if (name == "--seconds") {
            options.budget = std::chrono::seconds(value);
        } else if (name == "--most") {
            options.most_instructions = static_cast<unsigned>(value);
        } else if (name == "--stop-after") {
            options.stop_after = value;
        } else {
            return false;
        }
    }
    return argc % 2 == 1 && options.most_instructions > 0 && options.most_instructions < 16;
}

}  // namespace

int main(int argc, char** argv) {
    strata::differential::SessionOptions options;
    if (!parse(argc, argv, options)) {
        std::fputs(kUsage, stderr);
        return 2;
    }
    auto result = strata::differential::run_session(options);
    if (!result.ok()) {
        std::fprintf(stderr, "strata-differential: %s\n", result.error().text().c_str());
        return 1;
    }
    std::printf("%s%s%llu cases, %llu ended in a fault, %llu not compared, %llu differ\n",
                result->report.c_str(), result->coverage.c_str(),
                static_cast<unsigned long long>(result->cases),
                static_cast<unsigned long long>(result->faulted),
                static_cast<unsigned long long>(result->not_compared),
                static_cast<unsigned long long>(result->differing));
    return result->differing == 0 ? 0 : 1;
}
