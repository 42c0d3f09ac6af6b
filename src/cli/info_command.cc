// strata info: what this host offers: each engine with its verdict and the reason.
//
// The engines are asked in a VMM process of their own (strata-vmm --probe), which answers in JSON.
#include <fmt/format.h>

#include "api/json.h"
#include "base/text.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/output.h"
#include "cli/run/vmm_link.h"
#include "host/tool.h"

namespace strata::cli {
namespace {

std::string text_of(const api::Json& json, const char* name) {
    const auto place = json.find(name);
    return place != json.end() && place->is_string() ? place->get<std::string>() : "?";
}

std::uint64_t number_of(const api::Json& json, const char* name) {
    const auto place = json.find(name);
    return place != json.end() && place->is_number() ? place->get<std::uint64_t>() : 0;
}

std::string table_of(const api::Json& info) {
    std::string out;
    if (const auto host = info.find("host"); host != info.end() && host->is_object()) {
        out += fmt::format("{:<10} {}\n", "Processor", text_of(*host, "cpu"));
        out += fmt::format("{:<10} {} ({} online)\n", "CPU level", text_of(*host, "cpu_level"),
                           number_of(*host, "cpus"));
        out += fmt::format("{:<10} {} ({} free)\n", "Memory",
                           format_size(number_of(*host, "memory_bytes")),
                           format_size(number_of(*host, "memory_available_bytes")));
        out += fmt::format("{:<10} Linux {}\n", "Kernel", text_of(*host, "kernel"));
    }
    const auto engines = info.find("engines");
    if (engines != info.end() && engines->is_array()) {
        for (const api::Json& engine : *engines) {
            const bool usable =
                engine.is_object() && engine.contains("usable") && engine["usable"] == true;
            out += fmt::format("{:<10} {}: {}\n", fmt::format("{} engine", text_of(engine, "name")),
                               usable ? "yes" : "no", text_of(engine, "reason"));
        }
    }
    if (const auto direct = info.find("direct_execution");
        direct != info.end() && direct->is_object()) {
        const bool usable = direct->contains("usable") && (*direct)["usable"] == true;
        out += fmt::format("{:<10} {}: {}\n", "direct", usable ? "yes" : "no",
                           text_of(*direct, "reason"));
    }
    out += fmt::format("{:<10} {}: {}\n", "auto", text_of(info, "auto_engine"),
                       text_of(info, "auto_reason"));
    return out;
}

Result<int> run(const Arguments& arguments) {
    const std::string program = STRATA_TRY(vmm_program());
    const std::string answer = STRATA_TRY(host::run_tool({.words = {program, "--probe"}}));
    const api::Json info = STRATA_TRY(api::parse_json(answer));
    print_out(arguments.flag("--json") ? api::dump_json_pretty(info) : table_of(info));
    return 0;
}

}  // namespace

const Command kInfoCommand = {
    .name = "info",
    .summary = "Show what this host offers: each engine with its verdict and the reason",
    .description =
        "The hardware engine is tried with a small probe guest, because a /dev/kvm that opens may "
        "still be emulated and slow.",
    .positionals = {},
    .options = {},
    .examples = "  strata info --json",
    .run = run,
};

}  // namespace strata::cli
