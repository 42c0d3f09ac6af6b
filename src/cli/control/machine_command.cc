// strata machine, strata job: a running machine's life, and the jobs on its disks.
#include <algorithm>
#include <array>
#include <string>

#include <fmt/format.h>

#include "base/text.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/control/control_client.h"
#include "cli/control/control_place.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

using api::ControlOperation;
using api::Json;

constexpr std::array kMachinePositionals = {
    Positional{"ACTION", "What to do.", true, Completes::Choices,
               "list|show|pause|resume|power-button|stop"},
    Positional{"MACHINE", "Its name, or the path of its control socket.", false, Completes::Nothing,
               ""}};
constexpr std::array kJobPositionals = {
    Positional{"ACTION", "What to do.", true, Completes::Choices, "list|cancel|speed|complete"},
    Positional{"MACHINE", "Its name, or the path of its control socket.", true, Completes::Nothing,
               ""},
    Positional{"JOB", "The job, from the list.", false, Completes::Nothing, ""}};
constexpr std::array kJobOptions = {
    Option{"--speed", 'r', "SIZE", "speed: bytes a second, e.g. 50M; 0: as fast as it goes."},
    Option{"--pivot", 0, "", "complete: the guest goes on with the copy."},
    Option{"--keep", 0, "", "complete: the guest goes on with its disk."}};

Result<int> list_machines(bool as_json) {
    Json list = Json::array();
    std::string table = fmt::format("{:<24} {:<10} {:<8}\n", "NAME", "STATE", "ENGINE");
    for (const std::string& name : control_names()) {
        auto client = ControlClient::connect(name);
        if (!client) {
            continue;  // it was killed, or has just ended
        }
        Json one = STRATA_TRY(client->ask({.operation = ControlOperation::QueryMachine}));
        table += fmt::format("{:<24} {:<10} {:<8}\n", name, one.value("state", "?"),
                             one.value("engine", "?"));
        Json entry{{"name", name}};
        entry.update(one);
        list.push_back(std::move(entry));
    }
    print_out(as_json ? api::dump_json_pretty(list) : table);
    return 0;
}

Result<int> run_machine(const Arguments& arguments) {
    const std::string_view action = *arguments.positional(0);
    if (action == "list") {
        return list_machines(arguments.flag("--json"));
    }
    struct Action {
        std::string_view name;
        ControlOperation operation;
    };
    constexpr std::array kActions = {Action{"show", ControlOperation::QueryMachine},
                                     Action{"pause", ControlOperation::Pause},
                                     Action{"resume", ControlOperation::Resume},
                                     Action{"power-button", ControlOperation::PowerButton},
                                     Action{"stop", ControlOperation::Stop}};
    const auto* const found = std::ranges::find(kActions, action, &Action::name);
    if (found == kActions.end() || !arguments.positional(1)) {
        return Error{ErrorKind::InvalidArgument,
                     "use list, or show, pause, resume, power-button, stop with a machine"};
    }
    ControlClient client = STRATA_TRY(ControlClient::connect(*arguments.positional(1)));
    const Json answer = STRATA_TRY(client.ask({.operation = found->operation}));
    if (found->operation == ControlOperation::PowerButton && !answer.value("heard", true)) {
        notice("the guest does not listen to its power button");
    }
    if (action == "show") {
        print_out(arguments.flag("--json")
                      ? api::dump_json_pretty(answer)
                      : fmt::format("{}: {}, {} engine\n", client.machine(),
                                    answer.value("state", "?"), answer.value("engine", "?")));
    }
    return 0;
}

Result<int> list_jobs(ControlClient& client, bool as_json) {
    const Json list = STRATA_TRY(client.ask({.operation = ControlOperation::JobList}));
    std::string table = fmt::format("{:<8} {:<8} {:<8} {:<10} {:>10} {:>10}\n", "JOB", "KIND",
                                    "DISK", "STATE", "DONE", "OF");
    for (const Json& job : list) {
        table += fmt::format("{:<8} {:<8} {:<8} {:<10} {:>10} {:>10}{}\n", job.value("job", ""),
                             job.value("kind", ""), job.value("disk", ""), job.value("state", ""),
                             format_size(job.value("done", std::uint64_t{0})),
                             format_size(job.value("total", std::uint64_t{0})),
                             job.contains("error") ? "  " + job.value("error", "") : "");
    }
    print_out(as_json ? api::dump_json_pretty(list) : table);
    return 0;
}

Result<int> run_job(const Arguments& arguments) {
    const std::string_view action = *arguments.positional(0);
    ControlClient client = STRATA_TRY(ControlClient::connect(*arguments.positional(1)));
    if (action == "list") {
        return list_jobs(client, arguments.flag("--json"));
    }
    api::ControlRequest request;
    request.job = arguments.positional(2).value_or("");
    if (request.job.empty()) {
        return Error{ErrorKind::InvalidArgument, "which job? It comes last"};
    }
    if (action == "cancel") {
        request.operation = ControlOperation::JobCancel;
    } else if (action == "speed" && arguments.value("--speed")) {
        request.operation = ControlOperation::JobSpeed;
        request.speed = STRATA_TRY(parse_size(*arguments.value("--speed")));
    } else if (action == "complete" && arguments.flag("--pivot") != arguments.flag("--keep")) {
        request.operation = ControlOperation::JobComplete;
        request.end = arguments.flag("--pivot") ? api::MirrorEnd::Pivot : api::MirrorEnd::Keep;
    } else {
        return Error{ErrorKind::InvalidArgument,
                     "use list, cancel, speed --speed SIZE, or complete with --pivot or --keep"};
    }
    (void)STRATA_TRY(client.ask(std::move(request)));
    return 0;
}

}  // namespace

const Command kMachineCommand = {
    .name = "machine",
    .summary = "See, pause, resume and end machines that run",
    .description =
        "Machines are reached by the name that 'strata run --name' gave them, by the "
        "user who runs them and by root.",
    .positionals = kMachinePositionals,
    .options = {},
    .examples = "  strata machine list\n  strata machine pause web\n",
    .run = run_machine,
};

const Command kJobCommand = {
    .name = "job",
    .summary = "See, cancel, slow down and complete jobs on a running machine's disks",
    .description = "A cancelled job leaves the guest's disk as it is; its target is of no use.",
    .positionals = kJobPositionals,
    .options = kJobOptions,
    .examples = "  strata job list web\n  strata job complete web job1 --pivot\n",
    .run = run_job,
};

}  // namespace strata::cli
