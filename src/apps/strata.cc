// strata: the command line program.
#include <csignal>
#include <string_view>
#include <vector>

#include "cli/command.h"

int main(int argc, char** argv) {
    // A closed pipe is an error of write(2), not our death: terminals are restored first.
    (void)std::signal(SIGPIPE, SIG_IGN);
    const std::vector<std::string_view> words(argv + 1, argv + argc);
    return strata::cli::run_command_line(words);
}
